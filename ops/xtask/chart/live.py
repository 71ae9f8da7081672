"""A real Prometheus scrapes a real node under a little load, and every query of every panel is asked; so are the rules."""

import json
import math
import re
import urllib.parse
import urllib.request

import yaml

from common import ALERTS, DASHBOARDS, PROMETHEUS, SCRATCH, Failures, free_ports, golden_metrics, metrics_not_live, metrics_of, started, until
from dashboards import queries
from load import answers, crowd, node

# Alerts that a node on this machine may have: they are about its kernel and its disk.
MAY_FIRE = {"RoadsteadEpollFallback", "RoadsteadEngineSlow"}
# What this node is not.
ELSEWHERE = {"epoll"}
# Enough scrapes for every range of a query.
SCRAPES = 12


class Prometheus:
    """Asks a Prometheus."""

    def __init__(self, port):
        self.address = f"http://127.0.0.1:{port}"

    def ask(self, path, **parameters):
        """The data of an answer; SystemExit with the error there was none."""
        address = f"{self.address}{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(address, timeout=30) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            return {"error": error.read().decode(), "result": []}

    def values(self, expression):
        """Numbers that a query has now."""
        result = self.ask("/api/v1/query", query=expression)
        return [float(series["value"][1]) for series in result["result"]], result.get("error", "")


def configuration(monitoring):
    """Scrapes the node each second, with the rules."""
    path = SCRATCH / "prometheus.yml"
    job = {"job_name": "roadstead", "static_configs": [{"targets": [f"127.0.0.1:{monitoring}"]}]}
    settings = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    path.write_text(yaml.safe_dump({"global": settings, "rule_files": [str(ALERTS / "rules.yaml")], "scrape_configs": [job]}))
    return path


def panels(failures, prometheus):
    """Each query has data; those of metrics that a single node does not have are listed."""
    waiting, asked = [], 0
    for path in sorted(DASHBOARDS.glob("*.json")):
        for title, expression in queries(json.loads(path.read_text())):
            if metrics_of(expression) & metrics_not_live():
                waiting.append(f"{path.stem}: {title}")
                continue
            numbers, error = prometheus.values(expression)
            good = any(not math.isnan(number) for number in numbers)
            failures.check(good, f"{path.stem}: {title}: no data for {expression} {error}")
            asked += 1
    print(f"{asked} queries asked; {len(waiting)} are of clusters or wait for metrics that are to come, and were not:")
    for line in waiting:
        print(f"  {line}")


def matchers(failures, prometheus):
    """Each value of a label that an alert looks for is one that a node has: with another it would never fire."""
    for group in yaml.safe_load((ALERTS / "rules.yaml").read_text())["groups"]:
        for rule in group["rules"]:
            for metric, selectors in re.findall(r"(\w+)\{([^}]*)\}", rule["expr"]):
                if metric in metrics_not_live():
                    continue
                for label, values in re.findall(r'(\w+)[=!]~?"([^"]*)"', selectors):
                    for value in set(values.split("|")) - ELSEWHERE:
                        numbers, error = prometheus.values(f'{metric}{{{label}="{value}"}}')
                        failures.check(numbers, f'{rule.get("alert")}: no node has {metric}{{{label}="{value}"}} {error}')


def rules(failures, prometheus):
    """All rules are evaluated without an error, recording rules have data, and a node that is well has no alert."""
    evaluated = 0
    for group in prometheus.ask("/api/v1/rules")["groups"]:
        for rule in group["rules"]:
            failures.check(rule["health"] == "ok", f"{rule['name']}: {rule['health']}: {rule.get('lastError')}")
            evaluated += 1
            if rule["type"] == "recording":
                numbers, error = prometheus.values(rule["name"])
                failures.check(numbers, f"{rule['name']}: no data {error}")
            else:
                states = {alert["state"] for alert in rule["alerts"]}
                failures.check(not states or rule["name"] in MAY_FIRE, f"{rule['name']} is {states} for a node that is well: {rule['alerts']}")
    failures.check(evaluated > 30, f"only {evaluated} rules")


def main():
    failures = Failures()
    port = free_ports(7)[-1]
    with node("live") as (_, ports, _), crowd(ports) as clients:
        folder = SCRATCH / "prometheus"
        arguments = [f"--config.file={configuration(ports['monitoring'])}", f"--storage.tsdb.path={folder}", f"--web.listen-address=127.0.0.1:{port}"]
        with started("prometheus", PROMETHEUS, *arguments):
            prometheus = Prometheus(port)
            until(lambda: answers(f"{prometheus.address}/-/ready"), 30, "Prometheus is ready")
            scraped = 'count_over_time(roadstead_ready{job="roadstead"}[1m])'
            until(lambda: sum(prometheus.values(scraped)[0]) >= SCRAPES, 60, "scrapes")
            panels(failures, prometheus)
            matchers(failures, prometheus)
            rules(failures, prometheus)
        print(f"{sum(each.received for each in clients)} messages came through meanwhile")
        failures.check(all(each.received for each in clients), f"clients that received nothing: {[each.received for each in clients]}")
    failures.end("live")


if __name__ == "__main__":
    main()

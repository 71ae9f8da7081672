"""Alerts and recording rules: promtool's own checks and tests, and what it does not look at."""

import re

import yaml

from common import ALERTS, CHART, PROMTOOL, ROOT, RUNBOOKS, Failures, golden_metrics, kept, lint_metrics, metrics_to_come, run

SEVERITIES = {"critical", "warning", "info"}
HEADINGS = ["## Who is hurt", "## Look", "## Do"]


def main():
    failures = Failures()
    rules = yaml.safe_load((ALERTS / "rules.yaml").read_text())
    tests = yaml.safe_load((ALERTS / "rules.test.yaml").read_text())["tests"]
    every = [rule for group in rules["groups"] for rule in group["rules"]]
    recorded = [rule["record"] for rule in every if "record" in rule]
    for verb in (["check", "rules", "rules.yaml"], ["test", "rules", "rules.test.yaml"]):
        code, said, errors = run(PROMTOOL, *verb, cwd=ALERTS)
        failures.check(code == 0, f"promtool {' '.join(verb)}: {said}{errors}")
    for rule in every:
        name = rule.get("alert") or rule["record"]
        lint_metrics(failures, name, rule["expr"], recorded)
        if "alert" in rule:
            alert(failures, rule, tests)
    for name in recorded:
        failures.check(re.fullmatch(r"\w+:\w+:\w+", name), f"{name}: a record is called level:metric:operation")
    runbooks(failures, [rule for rule in every if "alert" in rule])
    known = golden_metrics()
    for name in metrics_to_come():
        failures.check(name not in known, f"{name} exists now: take it out of ops/alerts/metrics-to-come.txt")
    kept(failures, CHART / "files/rules.yaml", (ALERTS / "rules.yaml").read_text())
    alerts = sum("alert" in rule for rule in every)
    print(f"{alerts} alerts, {len(recorded)} recording rules, {len(tests)} cases")
    failures.end("rules")


def alert(failures, rule, tests):
    """One alert says what an operator needs, fires when it should, and is silent when it should."""
    name = rule["alert"]
    annotations = rule.get("annotations", {})
    failures.check(name.startswith("Roadstead"), f"{name}: begin with Roadstead")
    failures.check(rule.get("labels", {}).get("severity") in SEVERITIES, f"{name}: severity is one of {SEVERITIES}")
    for field in ("summary", "description", "runbook_url"):
        failures.check(annotations.get(field), f"{name}: no {field}")
    page = ROOT / annotations.get("runbook_url", "none")
    failures.check(page == RUNBOOKS / f"{name}.md" and page.exists(), f"{name}: its page is ops/runbooks/{name}.md")
    outcomes = [
        bool(case["exp_alerts"])
        for test in tests
        for case in test.get("alert_rule_test", [])
        if case["alertname"] == name
    ]
    failures.check(True in outcomes, f"{name}: no case in which it fires")
    failures.check(False in outcomes, f"{name}: no case in which it is silent")


def runbooks(failures, alerts):
    """A page for each alert and none besides, all of the same shape, and a table of them."""
    names = {rule["alert"] for rule in alerts}
    index = (RUNBOOKS / "README.md").read_text()
    for page in RUNBOOKS.glob("*.md"):
        if page.name == "README.md":
            continue
        text = page.read_text()
        failures.check(page.stem in names, f"{page.name}: there is no such alert")
        failures.check(text.startswith(f"# {page.stem}\n"), f"{page.name}: its heading is the alert")
        at = [text.find(heading) for heading in HEADINGS]
        failures.check(-1 not in at and at == sorted(at), f"{page.name}: it has {HEADINGS}, in this order")
        lint_page(failures, page.name, text)
    for rule in alerts:
        line = f"| [{rule['alert']}]({rule['alert']}.md) | {rule['labels']['severity']} |"
        failures.check(line in index, f"ops/runbooks/README.md: no line `{line} …`")
        page = (RUNBOOKS / f"{rule['alert']}.md").read_text()
        severity = f"Severity **{rule['labels']['severity']}**."
        failures.check(severity in page, f"{rule['alert']}.md: it does not say `{severity}`")


def lint_page(failures, where, text):
    """Metrics that a page names exist or are to come."""
    known = set(golden_metrics()) | metrics_to_come()
    for name in set(re.findall(r"\broadstead_\w+", text)):
        if name.endswith("_"):
            continue  # `roadstead_deliveries_*`
        failures.check(name in known, f"{where}: there is no metric {name}")


if __name__ == "__main__":
    main()

"""The container of a rendering, as the kubelet would start it: its command line, its variables, its files, its probes."""

import math
import os
import pathlib
import re
import urllib.error
import urllib.request

import yaml

from common import CHART, NODE, SCRATCH, Failures, free_ports, run, started, until
from configuration import toml_of, written
from manifests import rendered
from refusals import with_values

# What the downward API tells.
FIELDS = {"metadata.name": "gateway-roadstead-0", "status.podIP": "127.0.0.1"}


def resource(container, name):
    """A resource of a container with the divisor 1, as the kubelet rounds it."""
    kind, what = name.split(".")
    return str(math.ceil(float(container["resources"][kind][what])))


def environment(container):
    """Variables and their values."""
    made = {}
    for variable in container["env"]:
        source = variable.get("valueFrom", {})
        if "fieldRef" in source:
            made[variable["name"]] = FIELDS[source["fieldRef"]["fieldPath"]]
        elif "resourceFieldRef" in source:
            made[variable["name"]] = resource(container, source["resourceFieldRef"]["resource"])
        else:
            made[variable["name"]] = variable["value"]
    return made


def on_this_machine(name):
    """The values of a file with ports that are free here."""
    base = CHART / f"ci/{name}-values.yaml"
    listeners = [key for key, value in yaml.safe_load((CHART / "values.yaml").read_text())["listeners"].items() if value]
    ports = free_ports(len(listeners) + 2)
    more = {"bindAddress": "127.0.0.1", "admin": {"port": ports[-1], "monitoringPort": ports[-2]}}
    more["listeners"] = {key: {"port": port} for key, port in zip(listeners, ports)}
    return with_values(f"pod-{name}", base, more)


def probe(container, name):
    """The status that a probe gets, or 0."""
    get = container[name]["httpGet"]
    port = next(port["containerPort"] for port in container["ports"] if port["name"] == get["port"])
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{get['path']}", timeout=container[name]["timeoutSeconds"]) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def lives(failures, name):
    """The pod of a values file becomes ready, knows what it was told, and can be asked by `kubectl exec`."""
    manifests = rendered(on_this_machine(name))
    workload = next(manifest for manifest in manifests if manifest["kind"] == "StatefulSet")
    container = workload["spec"]["template"]["spec"]["containers"][0]
    data = SCRATCH / f"pod-{name}-data"
    run("rm", "-rf", data)
    config = written(toml_of(manifests).replace("/var/lib/roadstead", str(data)), manifests)
    arguments = [argument.replace("/etc/roadstead/config/roadstead.toml", str(config)) for argument in container["args"]]
    failures.check(str(config) in " ".join(arguments), f"{name}: the arguments do not name the configuration: {container['args']}")
    variables = {key: value for key, value in os.environ.items() if not key.startswith("ROADSTEAD_")} | environment(container)
    with started(f"pod-{name}", NODE, *arguments, env=variables) as (child, log):

        def ready():
            failures.check(child.poll() is None, f"{name}: ended: {log.read_text()}")
            return child.poll() is not None or probe(container, "startupProbe") == 200

        until(ready, 30, f"{name} is ready: {log.read_text()}")
        for which in ("readinessProbe", "livenessProbe"):
            failures.check(probe(container, which) == 200, f"{name}: {which}: {probe(container, which)}")
        # As NOTES.txt has it.
        command = [NODE if word == "roadstead" else word for word in [*container["command"], "ctl", "status"]]
        code, said, errors = run(*command, env=variables)
        failures.check(code == 0 and "gateway-roadstead-0" in said, f"{name}: ctl status: {code} {said}{errors}")
        cores = len(re.findall(r"^ +\d+ ", said, re.M))
        failures.check(cores == int(variables["ROADSTEAD_NODE_CORES"]), f"{name}: {cores} cores: {said}")
        wanted = {str(port["containerPort"]) for port in container["ports"]}
        listening = set(re.findall(r"127\.0\.0\.1:(\d+)", log.read_text()))
        failures.check(wanted <= listening, f"{name}: ports {wanted - listening} are named, and nobody listens: {log.read_text()}")


def main():
    failures = Failures()
    pathlib.Path(SCRATCH).mkdir(parents=True, exist_ok=True)
    for name in ("default", "secrets"):
        lives(failures, name)
    failures.end("pod")


if __name__ == "__main__":
    main()

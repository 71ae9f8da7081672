"""What the objects have to be for one another: names that meet, pods that may run anywhere, changes that restart what they must and
nothing else."""

import json
import re
import shutil

import yaml

from common import CHART, HELM, SCRATCH, Failures, run
from manifests import RELEASE, VALUES, identity, objects, rendered, shown
from refusals import CLUSTER, SINGLE, with_values

WORKLOADS = ("Deployment", "StatefulSet")
WRITABLE = {"/var/lib/roadstead", "/scratch"}


def of_kind(manifests, *kinds):
    """Objects of these kinds."""
    return [manifest for manifest in manifests if manifest["kind"] in kinds]


def pods(manifests):
    """(name, labels, spec) of each pod that the objects make."""
    for manifest in of_kind(manifests, *WORKLOADS):
        template = manifest["spec"]["template"]
        yield identity(manifest), template["metadata"]["labels"], template["spec"]
    for manifest in of_kind(manifests, "Pod"):
        yield identity(manifest), manifest["metadata"]["labels"], manifest["spec"]


def selects(selector, labels):
    """True when all labels of a selector are there."""
    return selector.items() <= labels.items()


def restricted(failures, where, spec):
    """The pod security standard "restricted", and what we promise beyond it. Containers of others are theirs to look after."""
    pod = spec["securityContext"]
    failures.check(pod["runAsNonRoot"] is True and pod["runAsUser"] > 0, f"{where}: may run as root")
    failures.check(pod["seccompProfile"]["type"] in ("RuntimeDefault", "Localhost"), f"{where}: no seccomp profile")
    failures.check(spec["automountServiceAccountToken"] is False, f"{where}: has a token of Kubernetes")
    for container in spec["containers"]:
        if container["name"] not in ("roadstead", "publish", "subscribe"):
            continue
        context = container["securityContext"]
        good = context["allowPrivilegeEscalation"] is False and context["capabilities"] == {"drop": ["ALL"]}
        failures.check(good and context["readOnlyRootFilesystem"] is True, f"{where}: {container['name']} may do too much")
        writable = {mount["mountPath"] for mount in container.get("volumeMounts", []) if not mount.get("readOnly")}
        failures.check(writable <= WRITABLE, f"{where}: may write {writable}")
    for volume in spec.get("volumes", []):
        allowed = {"configMap", "secret", "emptyDir", "persistentVolumeClaim"}
        failures.check(set(volume) - {"name"} <= allowed, f"{where}: volume {volume}")


def names_meet(failures, where, manifests):
    """Services and policies name ports that the node has, and select the node and nothing else."""
    workload = of_kind(manifests, *WORKLOADS)[0]
    labels = workload["spec"]["template"]["metadata"]["labels"]
    container = workload["spec"]["template"]["spec"]["containers"][0]
    ports = {(port["name"], port["protocol"]) for port in container["ports"]}
    failures.check(selects(workload["spec"]["selector"]["matchLabels"], labels), f"{where}: the workload does not select its pods")
    for service in of_kind(manifests, "Service"):
        failures.check(selects(service["spec"]["selector"], labels), f"{where}: {identity(service)} selects no node")
        for _, others, _ in pods(of_kind(manifests, "Pod")):
            failures.check(not selects(service["spec"]["selector"], others), f"{where}: {identity(service)} takes the test for a node")
        for port in service["spec"]["ports"]:
            failures.check((port["targetPort"], port["protocol"]) in ports, f"{where}: {identity(service)}: no port {port}")
    for policy in of_kind(manifests, "NetworkPolicy"):
        allowed = {(port["port"], port["protocol"]) for rule in policy["spec"]["ingress"] for port in rule["ports"]}
        failures.check(allowed == ports, f"{where}: the NetworkPolicy speaks of {allowed} and the node of {ports}")
    mounts = {mount["name"] for mount in container["volumeMounts"]}
    volumes = {volume["name"] for volume in workload["spec"]["template"]["spec"]["volumes"]}
    volumes |= {claim["metadata"]["name"] for claim in workload["spec"].get("volumeClaimTemplates", [])}
    failures.check(mounts == volumes, f"{where}: mounts {mounts}, volumes {volumes}")


def stops_well(failures, where, manifests, draining):
    """A node of a cluster drains before it stops, has the time, and is asked nothing that says no meanwhile."""
    workload = of_kind(manifests, *WORKLOADS)[0]
    spec = workload["spec"]["template"]["spec"]
    container = spec["containers"][0]
    if workload["kind"] == "StatefulSet":
        failures.check("lifecycle" not in container and workload["spec"]["replicas"] == 1, f"{where}: not a single node")
        return
    command = container.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command")
    failures.check(command == (["roadstead", "ctl", "cluster", "drain", "--wait"] if draining else None), f"{where}: preStop is {command}")
    failures.check(spec["terminationGracePeriodSeconds"] >= (300 if draining else 30), f"{where}: too little time to stop")
    failures.check(container["readinessProbe"]["httpGet"]["path"] == "/readyz", f"{where}: its readiness is something else")
    rolling = workload["spec"]["strategy"]["rollingUpdate"]
    failures.check(rolling["maxUnavailable"] == 0 and rolling["maxSurge"], f"{where}: nodes go before new ones come: {rolling}")
    environment = {variable["name"]: variable for variable in container["env"]}
    address = environment["ROADSTEAD_CLUSTER_ADVERTISE_ADDRESS"]["valueFrom"]["fieldRef"]["fieldPath"]
    failures.check(address == "status.podIP", f"{where}: it tells the others {address}")


def template_of(manifests):
    """The pods' template: nodes are replaced when and only when it changes."""
    return json.dumps(of_kind(manifests, *WORKLOADS)[0]["spec"]["template"], sort_keys=True)


def restarts(failures):
    """What replaces nodes, and what must not."""
    before = template_of(rendered(CLUSTER))
    cases = [
        ({"access": {"rules": "[[rule]]\nallow = [\"publish\"]\nusers = [\"*\"]\ntopics = [\"#\"]\n"}}, False),
        ({"service": {"type": "ClusterIP"}}, False),
        ({"monitoring": {"rules": {"enabled": True}}}, False),
        ({"replicas": 5}, False),
        ({"config": {"mqtt": {"keep_alive_max": "5m"}}}, True),
        ({"engine": {"urls": ["redis://other:6379"]}}, True),
        ({"resources": {"requests": {"cpu": "2"}}}, True),
    ]
    for more, replaced in cases:
        after = template_of(rendered(with_values("restarts", CLUSTER, more)))
        failures.check((after != before) == replaced, f"{more}: nodes are {'not ' if replaced else ''}replaced")
    newer = SCRATCH / "newer"
    shutil.rmtree(newer, ignore_errors=True)
    shutil.copytree(CHART, newer)
    chart = yaml.safe_load((newer / "Chart.yaml").read_text())
    (newer / "Chart.yaml").write_text(yaml.safe_dump(chart | {"version": "0.2.0"}))
    code, said, errors = run(HELM["helm 4"], "template", RELEASE[0], newer, *RELEASE[2:], "--values", CLUSTER)
    failures.check(code == 0, errors)
    failures.check(template_of(objects(said)) == before, "a new version of the chart alone replaces all nodes")


def odd_values(failures):
    """Values that are seldom set and have to render."""
    long = "r" * 53
    cases = [
        (["--set", "resources=null"], lambda text: "ROADSTEAD_NODE_CORES\n              value: \"1\"" in text),
        (["--set", "resources.limits.cpu=1500m"], lambda text: "resource: limits.cpu" in text),
        (["--set", "config.io.connections_max=2000000,config.mqtt.inflight_max=64"], lambda text: "connections_max = 2000000" in text and "inflight_max = 64" in text),
        (["--set", "global.anything=1,nameOverride=x,fullnameOverride=gw"], lambda text: "name: gw-headless" in text),
        (["--set", "service.type=LoadBalancer,service.loadBalancerSourceRanges={10.0.0.0/8}"], lambda text: "10.0.0.0/8" in text),
        (["--set", "persistence.enabled=false"], lambda text: "volumeClaimTemplates" not in text and "emptyDir" in text),
    ]
    for helm in HELM:
        for arguments, expected in cases:
            code, said, errors = run(HELM[helm], "template", *RELEASE, "--values", SINGLE, *arguments)
            failures.check(code == 0 and expected(said), f"{helm} {arguments}: {errors or said}")
        code, said, errors = run(HELM[helm], "template", long, CHART, "--values", CHART / "ci/everything-values.yaml")
        names = [manifest["metadata"]["name"] for manifest in objects(said) if manifest["kind"] != "ConfigMap"] if code == 0 else []
        failures.check(names and max(map(len, names)) <= 63, f"{helm}: a long name of a release: {errors}{names}")


def packaged(failures):
    """What is in the package renders the same, with nothing in it that is for those who work on the chart."""
    for helm, program in HELM.items():
        code, _, errors = run(program, "package", CHART, "--destination", SCRATCH)
        failures.check(code == 0, f"{helm} package: {errors}")
        version = yaml.safe_load((CHART / "Chart.yaml").read_text())["version"]
        package = SCRATCH / f"roadstead-{version}.tgz"
        _, names, _ = run("tar", "-tzf", package)
        failures.check("roadstead/ci/" not in names and "roadstead/README.md" in names, f"{helm}: the package has {names}")
        for values in VALUES:
            _, said, errors = run(program, "template", RELEASE[0], package, *RELEASE[2:], "--values", values)
            same = shown(objects(said)) == shown(rendered(values))
            failures.check(same, f"{helm}: {values.name} renders otherwise from the package: {errors}")


def as_the_page_says(failures):
    """Who types what README.md says gets what is tested."""
    page = (CHART / "README.md").read_text()
    typed = re.search(r"helm install mqtt helm/roadstead --namespace messaging --create-namespace((?:[^\n]*\\\n)*[^\n]*)", page)[1]
    flags = typed.replace("\\\n", " ").split()
    code, said, errors = run(HELM["helm 4"], "template", *RELEASE, *flags)
    same = code == 0 and shown(objects(said)) == shown(rendered(SINGLE))
    failures.check(same, f"README.md: {flags} is not ci/default-values.yaml: {errors}")
    block = yaml.safe_load(re.search(r"```yaml\n(mode: cluster\n.*?)```", page, re.S)[1])
    failures.check(block == yaml.safe_load(CLUSTER.read_text()), "README.md: the values of a cluster are not ci/cluster-values.yaml")


def everything_is_described(failures, manifests):
    """`everything-values.yaml` makes each kind of object that the chart has in that mode."""
    kinds = {manifest["kind"] for manifest in manifests}
    wanted = {"ConfigMap", "Deployment", "HorizontalPodAutoscaler", "NetworkPolicy", "Pod", "PodDisruptionBudget", "PodMonitor", "PrometheusRule", "Service", "ServiceAccount"}
    failures.check(wanted <= kinds, f"everything-values.yaml: no {wanted - kinds}")


def main():
    failures = Failures()
    for values in VALUES:
        manifests = rendered(values)
        for where, _, spec in pods(manifests):
            restricted(failures, f"{values.name}: {where}", spec)
        names_meet(failures, values.name, manifests)
        stops_well(failures, values.name, manifests, draining=values.name != "split-values.yaml")
        if values.name == "everything-values.yaml":
            everything_is_described(failures, manifests)
    restarts(failures)
    odd_values(failures)
    packaged(failures)
    as_the_page_says(failures)
    failures.end("shape")


if __name__ == "__main__":
    main()

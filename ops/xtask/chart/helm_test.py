"""What `helm test` runs, against a node that runs here: it passes when messages go through, and fails when they do not."""

import os
import subprocess

from common import TOOLS, Failures
from load import CERTIFICATES, node
from manifests import rendered
from refusals import CLUSTER, SINGLE, with_values

PROGRAMS = TOOLS / "mosquitto/usr/bin"
LIBRARIES = ":".join(str(path) for path in (TOOLS / "mosquitto").glob("*/lib/*-linux-gnu")) + ":" + ":".join(
    str(path) for path in (TOOLS / "mosquitto/usr/lib").glob("*-linux-gnu")
)


def commands(values):
    """Name and command line of each container of the test."""
    pod = next(manifest for manifest in rendered(values) if manifest["kind"] == "Pod")
    for container in pod["spec"]["containers"]:
        yield container["name"], container["command"] + container["args"]


def here(words, port, password):
    """A command line of the test, for the node on this machine."""
    words = list(words)
    words[0] = PROGRAMS / words[0]
    words[words.index("-h") + 1] = "localhost"
    words[words.index("-p") + 1] = str(port)
    places = {"$(USERNAME)": "alice", "$(PASSWORD)": password, "/ca/ca.crt": str(CERTIFICATES / "authority.pem")}
    # It would publish for 20 s, so that the other one has time to come.
    words = ["3" if word == "20" else "5" if word == "60" else word for word in words]
    return [places.get(word, word) for word in words]


def passes(values, port, password="secret"):
    """True when all containers end well."""
    environment = os.environ | {"LD_LIBRARY_PATH": LIBRARIES}
    programs = [subprocess.Popen(here(words, port, password), env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) for _, words in commands(values)]
    ends = [(program.wait(60), program.stdout.read().decode()) for program in programs]
    print("; ".join(f"{code}: {said.strip()}" for code, said in ends))
    return all(code == 0 for code, _ in ends)


def main():
    failures = Failures()
    secure = with_values("test-tls", CLUSTER, {"test": {"existingSecret": "test-user", "caSecret": "ca"}})
    with node("helm-test") as (_, ports, _):
        failures.check(passes(SINGLE, ports["tcp"]), "over TCP it fails")
        failures.check(passes(secure, ports["tls"]), "over TLS, with a password, it fails")
        failures.check(not passes(secure, ports["tls"], password="wrong"), "with a wrong password it passes")
        failures.check(not passes(secure, ports["tcp"]), "where nobody speaks TLS it passes")
    without = [manifest["kind"] for manifest in rendered(CLUSTER)]
    failures.check("Pod" not in without, "there is a test where it has no listener that it knows how to use")
    failures.end("helm test")


if __name__ == "__main__":
    main()

"""What the checks of chart, rules and dashboards share: where things are, and how programs are run and ended."""

import contextlib
import ctypes
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[3]
CHART = ROOT / "helm/roadstead"
DASHBOARDS = ROOT / "ops/dashboards"
ALERTS = ROOT / "ops/alerts"
RUNBOOKS = ROOT / "ops/runbooks"
TOOLS = ROOT / ".tools"
# Set by `cargo xtask chart`.
NODE = pathlib.Path(os.environ.get("CHART_NODE", ROOT / "target/release/roadstead"))
SCRATCH = pathlib.Path(os.environ.get("CHART_SCRATCH", ROOT / "target/xtask/chart"))
UPDATE = bool(os.environ.get("UPDATE_GOLDEN"))

HELM = {"helm 3": TOOLS / "helm/3/helm", "helm 4": TOOLS / "helm/4/helm"}
PROMETHEUS = TOOLS / "prometheus/usr/bin/prometheus"
PROMTOOL = TOOLS / "prometheus/usr/bin/promtool"
KUBERNETES = ["1.29.0", "1.33.0", "1.37.0"]

# What the kernel does to a child when we die (PR_SET_PDEATHSIG).
_PR_SET_PDEATHSIG = 1


class Failures:
    """What is wrong, gathered so that all of it is told at once."""

    def __init__(self):
        self.found = []
        self.checked = 0

    def check(self, good, message):
        """Counts one thing that was looked at."""
        self.checked += 1
        if not good:
            self.found.append(message)
        return good

    def end(self, what):
        """Prints the sum and ends the program."""
        for message in self.found:
            print(f"FAILED {message}")
        print(f"{what}: {self.checked} checks, {len(self.found)} failed")
        sys.exit(1 if self.found else 0)


def run(*arguments, **options):
    """A program, to its end: its code, and what it said."""
    words = [str(argument) for argument in arguments]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False, **options)
    return done.returncode, done.stdout, done.stderr


def kept(failures, path, text):
    """Compares a file of the repository with what it should be; UPDATE_GOLDEN=1 writes it."""
    if UPDATE:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    found = path.read_text() if path.exists() else ""
    name = path.relative_to(ROOT)
    failures.check(found == text, f"{name} is not current: UPDATE_GOLDEN=1 cargo xtask chart, and look at the difference")


def until(condition, seconds, what):
    """Looks again and again until something is so; what it was then."""
    deadline = time.monotonic() + seconds
    pause = threading.Event()
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > deadline:
            raise SystemExit(f"after {seconds} s still not so: {what}")
        pause.wait(0.05)


def free_ports(count):
    """Ports below the ephemeral range that nobody listens on, over TCP and UDP."""
    ports, first = [], os.getpid() % 6000
    for offset in range(6000):
        port = 4000 + (first + offset) % 6000
        with socket.socket() as stream, socket.socket(type=socket.SOCK_DGRAM) as datagram:
            with contextlib.suppress(OSError):
                stream.bind(("127.0.0.1", port))
                datagram.bind(("127.0.0.1", port))
                ports.append(port)
        if len(ports) == count:
            return ports
    raise SystemExit(f"no {count} free ports between 4000 and 10000")


@contextlib.contextmanager
def started(name, *arguments, **options):
    """A program for a while, with its output in a file; killed in the end, also when we are."""
    SCRATCH.mkdir(parents=True, exist_ok=True)
    log = SCRATCH / f"{name}.log"
    libc = ctypes.CDLL(None, use_errno=True)
    before = options.pop("before", None)

    def in_child():
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if before:
            before()

    with log.open("w") as output:
        words = [str(argument) for argument in arguments]
        child = subprocess.Popen(words, stdout=output, stderr=output, stdin=subprocess.DEVNULL, preexec_fn=in_child, **options)
    try:
        yield child, log
    finally:
        child.kill()
        child.wait()


def golden_metrics():
    """Metrics that a node has, with their kinds, from the table that the gateway's tests write."""
    text = (ROOT / "docs/OPERATIONS.md").read_text()
    table = text.split("<!-- metrics:", 1)[1].split("<!-- end of metrics -->", 1)[0]
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \|", table, re.M)
    assert len(rows) > 50, "the table of metrics in docs/OPERATIONS.md has moved"
    return dict(rows)


def metrics_to_come():
    """Metrics that will be built."""
    lines = (ALERTS / "metrics-to-come.txt").read_text().splitlines()
    return {line for line in lines if line and not line.startswith("#")}


# Metrics that a node has only in a cluster: one that is alone, as the live check has it, does not show them.
OF_CLUSTERS = {
    "roadstead_bus_dropped_total", "roadstead_bus_links", "roadstead_bus_received_bytes_total", "roadstead_bus_sent_bytes_total",
    "roadstead_bus_unacknowledged_bytes", "roadstead_draining", "roadstead_fenced", "roadstead_gossip_refused_total",
    "roadstead_handover_seconds", "roadstead_nodes_refused_total", "roadstead_partitions", "roadstead_view_epoch", "roadstead_view_members",
}


def metrics_not_live():
    """Metrics that the node of the live check does not have."""
    return metrics_to_come() | OF_CLUSTERS


def metrics_of(expression, recorded=()):
    """Names of the metrics in an expression, without the suffixes of histograms."""
    import promql_parser

    promql_parser.parse(expression)  # It raises what is wrong.
    names = set(re.findall(r"\b(?:roadstead|process)_\w+", re.sub(r'"[^"]*"', '""', expression)))
    names -= {part for name in recorded for part in re.findall(r"\w+", name)}
    return {re.sub(r"_(bucket|sum|count)$", "", name) for name in names}


def lint_metrics(failures, where, expression, recorded=()):
    """Each metric exists, or is to come."""
    try:
        names = metrics_of(expression, recorded)
    except ValueError as error:
        return failures.check(False, f"{where}: {expression}: {error}")
    known = set(golden_metrics()) | metrics_to_come()
    for name in sorted(names):
        failures.check(name in known, f"{where}: there is no metric {name} in docs/OPERATIONS.md, nor is it to come")
    return names

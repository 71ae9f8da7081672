"""Values that must not render, each with the sentence that says why; and Secrets that must be made once and never again."""

import base64
import http.server
import json
import re
import threading

import yaml

from common import CHART, HELM, SCRATCH, Failures, run
from manifests import RELEASE, objects, template

# (what is set on top of the cluster's or the single node's values, what the error has to say)
CLUSTER = CHART / "ci/cluster-values.yaml"
SINGLE = CHART / "ci/default-values.yaml"
CASES = [
    (SINGLE, {"replicas": 2}, "replicas is 2 and mode is single"),
    (SINGLE, {"image": {"repository": ""}}, "image.repository is empty"),
    (SINGLE, {"autoscaling": {"enabled": True}}, "autoscaling.enabled needs mode cluster"),
    (SINGLE, {"engine": {"urls": ["redis://a:1"]}}, "engine.urls is set and mode is single"),
    (SINGLE, {"engine": {"durability": "aof"}}, 'engine.durability is "aof" and mode is single'),
    (SINGLE, {"access": {"anonymous": "nowhere"}}, "nobody could connect"),
    (SINGLE, {"service": {"type": "LoadBalancer"}}, "whoever comes is let in, and service.type LoadBalancer may be reached"),
    (SINGLE, {"service": {"type": "NodePort", "loadBalancerSourceRanges": ["10.0.0.0/8"]}}, "whoever comes is let in, and service.type NodePort"),
    (SINGLE, {"listeners": {"tls": {"enabled": True}}}, "a TLS or QUIC listener is on and there is no certificate"),
    (SINGLE, {"listeners": {"tcp": {"enabled": False}}}, "no listener is on"),
    (SINGLE, {"listeners": {"websocket": {"enabled": True, "port": 1883}}}, "listeners.tcp.port and listeners.websocket.port are both 1883"),
    (SINGLE, {"listeners": {"websocket": {"enabled": True, "servicePort": 1883}}}, "listeners.tcp.servicePort and listeners.websocket.servicePort are both 1883"),
    (SINGLE, {"listeners": {"tcp": {"port": 9884}}}, "admin.monitoringPort and listeners.tcp.port are both 9884"),
    (SINGLE, {"listeners": {"tcp": {"proxyProtocol": True}}}, "listeners.tcp.proxyProtocol is on and nobody is trusted"),
    (SINGLE, {"access": {"methods": ["password"]}}, "access.passwords.existingSecret is empty"),
    (SINGLE, {"access": {"methods": ["token"]}}, "access.methods has token and there are no keys"),
    (SINGLE, {"access": {"methods": ["http"]}}, "access.methods has http and there is no service"),
    (SINGLE, {"access": {"methods": ["certificate"]}}, "access.methods has certificate and clients are asked for none"),
    (SINGLE, {"access": {"token": {"existingSecret": "a"}}}, "none of its keys is named"),
    (SINGLE, {"access": {"rules": "a", "rulesConfigMap": "b"}}, "access.rules and access.rulesConfigMap are both set"),
    (SINGLE, {"tls": {"clientCertificates": "required"}}, "tls.clientCertificates is required and nobody could be verified"),
    (SINGLE, {"tls": {"existingSecret": "a", "certManager": {"enabled": True}}}, "tls.existingSecret and tls.certManager.enabled are both set"),
    (SINGLE, {"tls": {"certManager": {"enabled": True}}}, "tls.certManager needs issuerRef.name and dnsNames"),
    (SINGLE, {"tls": {"ticketSecrets": {"existingSecret": "a", "generate": True}}}, "tls.ticketSecrets has both existingSecret and generate"),
    (SINGLE, {"config": {"listeners": {"tcp": ["0.0.0.0:1"]}}}, "config.listeners.tcp is written by the chart: use listeners.tcp"),
    (SINGLE, {"config": {"node": {"name": "a"}}}, "config.node.name is always the name of the pod"),
    (SINGLE, {"config": {"mqtt": {"keepAlive": "5m"}}}, "config.mqtt.keepAlive is no key of the configuration"),
    (SINGLE, {"monitoring": {"podMonitor": {"enabled": True}, "serviceMonitor": {"enabled": True}}}, "each node would be scraped twice"),
    (CLUSTER, {"engine": {"urls": []}}, "mode is cluster and engine.urls is empty"),
    (CLUSTER, {"engine": {"durability": "sync"}}, 'engine.durability is "sync" and mode is cluster'),
    (CLUSTER, {"engine": {"user": "gateway"}}, "engine.user needs engine.password.existingSecret"),
    (CLUSTER, {"engine": {"authorities": {"existingSecret": "a"}}}, "engine.authorities verifies servers at rediss://"),
    (CLUSTER, {"cluster": {"key": {"existingSecret": ""}}}, "mode is cluster and there is no key: `openssl rand"),
    (CLUSTER, {"cluster": {"key": {"generate": True}}}, "cluster.key has both existingSecret and generate"),
    (CLUSTER, {"cluster": {"key": {"existingSecret": "", "generate": True}}}, "need the cluster at hand"),
    (CLUSTER, {"tls": {"ticketSecrets": {"generate": True}}}, "need the cluster at hand"),
    (CLUSTER, {"cluster": {"busPort": 8883}}, "cluster.busPort and listeners.tls.port are both 8883"),
    (CLUSTER, {"autoscaling": {"enabled": True, "minReplicas": 9, "maxReplicas": 3}}, "autoscaling.minReplicas is more than"),
    (CLUSTER, {"rollout": {"maxSurge": 0}}, "no node could ever be replaced"),
    # The schema.
    (SINGLE, {"mode": "standalone"}, "mode"),
    (SINGLE, {"replcas": 1}, "replcas"),
    (SINGLE, {"listeners": {"quic": {"proxyProtocol": True}}}, "proxyProtocol"),
    (SINGLE, {"listeners": {"tcp": {"port": 80}}}, "port"),
    (SINGLE, {"image": {"digest": "latest"}}, "digest"),
    (SINGLE, {"podSecurity": {"runAsUser": 0}}, "runAsUser"),
    (SINGLE, {"commonLabels": {"version": 1}}, "version"),
    (CLUSTER, {"engine": {"urls": ["redis://user:secret@valkey:6379"]}}, "urls"),
]


def merged(base, more):
    """Values on top of others."""
    if not (isinstance(base, dict) and isinstance(more, dict)):
        return more
    return base | {key: merged(base.get(key), value) for key, value in more.items()}


def with_values(name, base, more):
    """A file with values on top of those of another."""
    SCRATCH.mkdir(parents=True, exist_ok=True)
    path = SCRATCH / f"{name}.yaml"
    path.write_text(yaml.safe_dump(merged(yaml.safe_load(base.read_text()), more)))
    return path


def refused(failures):
    """Each case fails with its sentence; several mistakes are told together."""
    for number, (base, more, sentence) in enumerate(CASES):
        for helm in HELM:
            code, _, errors = template(helm, "--values", with_values("refused", base, more))
            failures.check(code != 0, f"case {number} {json.dumps(more)}: {helm} renders it")
            flat = re.sub(r"\s+", " ", errors)
            failures.check(sentence in flat, f"case {number} {json.dumps(more)}: {helm} does not say `{sentence}` but: {flat}")
    both = with_values("refused", SINGLE, {"replicas": 2, "image": {"repository": ""}})
    _, _, errors = template("helm 4", "--values", both)
    failures.check("replicas is 2" in errors and "image.repository" in errors, f"two mistakes are not told together: {errors}")


# The kinds that the fake API server knows, by the path of their group.
KINDS = {
    "/api/v1": ["secrets Secret", "services Service", "configmaps ConfigMap", "serviceaccounts ServiceAccount"],
    "/apis/apps/v1": ["deployments Deployment", "statefulsets StatefulSet"],
    "/apis/policy/v1": ["poddisruptionbudgets PodDisruptionBudget"],
    "/apis/networking.k8s.io/v1": ["networkpolicies NetworkPolicy"],
}


class Kubernetes(http.server.BaseHTTPRequestHandler):
    """As much of an API server as `lookup` asks: what kinds there are, a Service that every cluster has, and the Secrets in `secrets`."""

    secrets = {}

    def do_GET(self):
        answers = {
            "/version": {"major": "1", "minor": "33", "gitVersion": "v1.33.0"},
            "/api": {"kind": "APIVersions", "versions": ["v1"]},
            "/api/v1/namespaces/default/services/kubernetes": {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "kubernetes"}},
        }
        groups = []
        for path, kinds in KINDS.items():
            version = path.removeprefix("/apis/").removeprefix("/api/")
            words = [kind.split() for kind in kinds]
            resources = [{"name": name, "kind": kind, "namespaced": True, "singularName": "", "verbs": ["get"]} for name, kind in words]
            answers[path] = {"kind": "APIResourceList", "groupVersion": version, "resources": resources}
            if path.startswith("/apis/"):
                preferred = {"groupVersion": version, "version": "v1"}
                groups.append({"name": version.split("/")[0], "versions": [preferred], "preferredVersion": preferred})
        answers["/apis"] = {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}
        for name, data in self.secrets.items():
            # As Helm left it, also after the release went.
            annotations = {"meta.helm.sh/release-name": "gateway", "meta.helm.sh/release-namespace": "messaging"}
            metadata = {"name": name, "labels": {"app.kubernetes.io/managed-by": "Helm"}, "annotations": annotations}
            secret = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": data}
            answers[f"/api/v1/namespaces/messaging/secrets/{name}"] = secret
        found = answers.get(self.path.split("?")[0])
        status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}
        body = json.dumps(found or status).encode()
        self.send_response(200 if found else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """Requests are not printed."""


def kubeconfig(port):
    """How Helm finds the server."""
    path = SCRATCH / "kubeconfig"
    cluster = {"name": "here", "cluster": {"server": f"http://127.0.0.1:{port}"}}
    context = {"name": "here", "context": {"cluster": "here", "user": "somebody"}}
    config = {"apiVersion": "v1", "kind": "Config", "current-context": "here"}
    config |= {"clusters": [cluster], "contexts": [context], "users": [{"name": "somebody", "user": {}}]}
    path.write_text(yaml.safe_dump(config))
    return path


def secret_of(failures, helm, config, values, *more):
    """The Secret that a rendering with a cluster at hand makes."""
    arguments = [HELM[helm], "template", *RELEASE, "--values", values, "--dry-run=server", "--disable-openapi-validation", "--kubeconfig", config, *more]
    code, said, errors = run(*arguments)
    if not failures.check(code == 0, f"{helm}: {errors}"):
        return {}, {}
    secrets = [manifest for manifest in objects(said) if manifest["kind"] == "Secret"]
    failures.check(len(secrets) == 1, f"{helm}: {len(secrets)} Secrets")
    return secrets[0]["metadata"], secrets[0]["data"]


def made_once(failures):
    """A Secret is made when there is none, and kept byte for byte when there is one; a key that is new is added."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Kubernetes)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    config = kubeconfig(server.server_port)
    only_key = with_values("generate-key", CLUSTER, {"cluster": {"key": {"existingSecret": "", "generate": True}}})
    both = with_values("generate-both", CLUSTER, {"cluster": {"key": {"existingSecret": "", "generate": True}}, "tls": {"ticketSecrets": {"generate": True}}})
    for helm in HELM:
        Kubernetes.secrets = {}
        metadata, first = secret_of(failures, helm, config, only_key)
        _, again = secret_of(failures, helm, config, only_key)
        name = metadata.get("name")
        failures.check(metadata.get("annotations", {}).get("helm.sh/resource-policy") == "keep", f"{helm}: the Secret goes with the release")
        failures.check(first != again, f"{helm}: two clusters would have the same key")
        line = base64.b64decode(first.get("cluster.key", "")).decode()
        key = base64.b64decode(line.strip() or "x", validate=True) if line.endswith("\n") else b""
        failures.check(len(key) == 32, f"{helm}: the key is no line of 32 bytes in base64: {line!r}")
        # What is there, with a key of somebody who rotates, stays as it is.
        rotated = {"cluster.key": base64.b64encode(b"old\nnew\n").decode(), "note": "aGVsbG8="}
        Kubernetes.secrets = {name: rotated}
        for more in ([], ["--is-upgrade"]):
            _, kept = secret_of(failures, helm, config, only_key, *more)
            failures.check(kept == rotated, f"{helm} {more}: the Secret that is there is changed: {kept}")
        _, added = secret_of(failures, helm, config, both)
        secret = base64.b64decode(added.pop("ticket.secret", ""))
        failures.check(added == rotated and len(secret) >= 32, f"{helm}: a ticket secret is not added to what is there: {added}, {secret!r}")
    server.shutdown()


def main():
    failures = Failures()
    refused(failures)
    made_once(failures)
    print(f"{len(CASES)} values that must not render")
    failures.end("refusals")


if __name__ == "__main__":
    main()

"""Rendering the chart, and the objects that come of it."""

import yaml

from common import CHART, HELM, run

RELEASE = ["gateway", str(CHART), "--namespace", "messaging"]
VALUES = sorted((CHART / "ci").glob("*-values.yaml"))


class Loader(yaml.SafeLoader):
    """As Kubernetes reads YAML: no date becomes anything but text."""


Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def identity(manifest):
    """What names an object."""
    metadata = manifest["metadata"]
    return f"{manifest['apiVersion']} {manifest['kind']} {metadata.get('namespace', 'messaging')}/{metadata['name']}"


def objects(text):
    """All objects of a rendering, in the order of their names."""
    found = [manifest for manifest in yaml.load_all(text, Loader=Loader) if manifest]
    return sorted(found, key=identity)


def template(helm, *arguments, **options):
    """`helm template`: its code, its objects as text, and what it said."""
    return run(HELM[helm], "template", *RELEASE, *arguments, **options)


def rendered(values, helm="helm 4", version="1.33.0"):
    """The objects of a values file that has to render."""
    code, text, errors = template(helm, "--values", values, "--kube-version", version)
    if code:
        raise SystemExit(f"{values.name} with {helm} for {version}: {errors}")
    return objects(text)


def shown(manifests):
    """Objects as text that differs only when they do."""
    return yaml.safe_dump_all(manifests, width=1000, sort_keys=True, allow_unicode=True)


def brief(manifests):
    """The objects with a word in place of each file that is in them unchanged."""
    for manifest in manifests:
        if manifest["kind"] != "ConfigMap":
            yield manifest
            continue
        data = dict(manifest.get("data", {}))
        for name, text in data.items():
            path = CHART / "files/dashboards" / name
            if path.exists() and path.read_text() == text:
                data[name] = f"(files/dashboards/{name})"
        yield manifest | ({"data": data} if data else {})


def named(values):
    """`cluster` of `cluster-values.yaml`."""
    return values.name.removesuffix("-values.yaml")

"""The configuration in the ConfigMap is one that the node accepts, with the files that it names."""

import os
import pathlib
import re
import shutil
import subprocess
import tomllib

from common import CHART, NODE, SCRATCH, Failures, run
from manifests import VALUES, identity, rendered
from refusals import SINGLE, with_values

CERTIFICATES = pathlib.Path(os.environ.get("CHART_CERTIFICATES", "."))
# Any Ed25519 key; it signs nothing.
PUBLIC_KEY = """-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=
-----END PUBLIC KEY-----
"""
RULES = '[[rule]]\nallow = ["publish", "subscribe"]\nusers = ["*"]\ntopics = ["u/%u/#"]\n'
HEADERS = "Authorization: Bearer 0123456789\n"


def known_keys():
    """`section.key` of every key that the node has."""
    code, example, errors = run(NODE, "config", "example")
    assert code == 0, errors
    section, keys = "", set()
    for line in example.splitlines():
        if match := re.fullmatch(r"\[(\w+)\]", line):
            section = match[1]
        elif match := re.match(r"# ([a-z_0-9]+) = ", line):
            keys.add(f"{section}.{match[1]}")
    return keys


def file_for(path, manifests):
    """What is to be in a file that the configuration names."""
    name, folder = path.name, path.parent.name
    if name == "tls.crt":
        return (CERTIFICATES / "server.pem").read_text()
    if name == "tls.key":
        return (CERTIFICATES / "server.key").read_text()
    if folder in ("client-authorities", "authorities", "engine-authorities"):
        return (CERTIFICATES / "authority.pem").read_text()
    if folder == "rules":
        inline = [manifest["data"] for manifest in manifests if manifest["kind"] == "ConfigMap" and name in manifest.get("data", {})]
        return inline[0][name] if inline else RULES
    if folder == "token" and name.endswith(".pem"):
        return PUBLIC_KEY
    if folder == "http":
        return HEADERS
    if folder == "cluster":
        return "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=\n"
    return "0123456789abcdef0123456789abcdef"


def written(text, manifests):
    """The configuration in a folder of ours, with all files that it names."""
    root = SCRATCH / "etc"
    shutil.rmtree(root, ignore_errors=True)
    for name in re.findall(r'"/etc/roadstead/([^"]+)"', text):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.parent.name == "passwords":
            subprocess.run([NODE, "passwd", path, "alice"], input="secret\n", text=True, check=True, capture_output=True)
        else:
            path.write_text(file_for(path, manifests))
    root.mkdir(exist_ok=True)
    config = root / "roadstead.toml"
    config.write_text(text.replace("/etc/roadstead", str(root)))
    return config


def toml_of(manifests):
    """The configuration of a rendering."""
    return next(manifest["data"]["roadstead.toml"] for manifest in manifests if "roadstead.toml" in manifest.get("data", {}))


def checked(failures, values, known):
    """A rendering's configuration, by `roadstead config check`; and the variables of its pods."""
    manifests = rendered(values)
    text = toml_of(manifests)
    for section, keys in tomllib.loads(text).items():
        for key in keys:
            path = f"{section}.{key}"
            failures.check(path in known, f"{values.name}: there is no key {path}")
    code, said, errors = run(NODE, "config", "check", written(text, manifests))
    failures.check(code == 0, f"{values.name}: roadstead config check: {said}{errors}")
    for manifest in manifests:
        if manifest["kind"] not in ("Deployment", "StatefulSet"):
            continue
        for variable in manifest["spec"]["template"]["spec"]["containers"][0]["env"]:
            name = variable["name"]
            if name.startswith("ROADSTEAD_") and name != "ROADSTEAD_ADDRESS":
                path = name.removeprefix("ROADSTEAD_").lower().replace("_", ".", 1)
                failures.check(path in known, f"{identity(manifest)}: {name} sets no key")


def own_keys(failures, known):
    """The keys that the chart keeps to itself exist."""
    text = (CHART / "templates/_config.tpl").read_text().split('define "roadstead.ownKeys"')[1].split("{{- end -}}")[0]
    for path in re.findall(r"^([a-z_]+\.[a-z_]+):", text, re.M):
        failures.check(path in known, f"_config.tpl: ownKeys: there is no key {path}")


def main():
    failures = Failures()
    known = known_keys()
    own_keys(failures, known)
    for values in VALUES:
        checked(failures, values, known)
    # The check finds what it looks for.
    bad = rendered(with_values("bad", SINGLE, {"config": {"mqtt": {"keep_alive_max": "5 parsecs"}}}))
    code, _, errors = run(NODE, "config", "check", written(toml_of(bad), bad))
    failures.check(code != 0 and "keep_alive_max" in errors, f"a wrong value is accepted: {errors}")
    failures.end("configuration")


if __name__ == "__main__":
    main()

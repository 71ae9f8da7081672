"""values.yaml is where every value is described, once: values.schema.json and the table in README.md are made of it."""

import json
import re

import yaml

from common import CHART, ROOT, Failures, kept

KEY = re.compile(r"^( *)([A-Za-z0-9_]+):(.*)$")
BEGIN = "<!-- values: written by `UPDATE_GOLDEN=1 cargo xtask chart` -->\n"
END = "<!-- end of values -->"
# Groups of values whose keys are not ours: what Kubernetes has there.
OPEN = {"autoscaling.behavior", "resources.requests", "resources.limits", "monitoring.dashboards.labels", "monitoring.dashboards.annotations"}


def described(text):
    """(path, description, addition to the schema) of each value, from the comments above it."""
    stack, comment, addition = [], [], {}
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith("# -- "):
            comment, addition = [stripped[5:]], {}
        elif stripped.startswith("# @schema "):
            addition = json.loads(stripped[10:])
        elif match := KEY.match(line):
            depth = len(match[1]) // 2
            stack = stack[:depth] + [match[2]]
            yield ".".join(stack), " ".join(comment), addition
            comment, addition = [], {}
        elif not stripped:
            comment, addition = [], {}


def schema_of(value, path, notes):
    """The schema of a value: what its default shows, and what its comment adds."""
    _, addition = notes.get(path, ("", {}))
    if isinstance(value, bool):
        made = {"type": "boolean"}
    elif isinstance(value, int):
        made = {"type": "integer", "minimum": 0}
    elif isinstance(value, str):
        made = {"type": "string"}
    elif isinstance(value, list):
        made = {"type": "array"}
    elif isinstance(value, dict) and path in OPEN:
        made = {"type": "object", "additionalProperties": {"type": "string"}}
    elif isinstance(value, dict) and value:
        inner = {key: schema_of(child, f"{path}.{key}" if path else key, notes) for key, child in value.items()}
        made = {"type": "object", "properties": inner, "additionalProperties": False}
    elif isinstance(value, dict):
        made = {"type": "object", "additionalProperties": {"type": "string"}}
    else:
        made = {}
    if notes.get(path, ("", {}))[0]:
        made["description"] = notes[path][0]
    return made | addition


def default_of(value):
    """A default as one would write it."""
    if value is None:
        return ""
    return f"`{json.dumps(value, ensure_ascii=False)}`" if not isinstance(value, str) else f'`"{value}"`'


def leaves(values, path=""):
    """(path, default) of each value that is not a group."""
    for key, value in values.items():
        inner = f"{path}.{key}" if path else key
        if isinstance(value, dict) and value and inner not in OPEN:
            yield from leaves(value, inner)
        else:
            yield inner, value


def version(failures):
    """The chart installs the release that it comes with."""
    ours = re.search(r'^version = "([^"]+)"', (ROOT / "Cargo.toml").read_text(), re.M)[1]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    failures.check(chart["appVersion"] == ours, f"Chart.yaml: appVersion is {chart['appVersion']}, and this is {ours}")


def main():
    failures = Failures()
    text = (CHART / "values.yaml").read_text()
    values = yaml.safe_load(text)
    notes = {path: (description, addition) for path, description, addition in described(text)}
    schema = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Values of the chart roadstead",
        "description": "Made of values.yaml: see there.",
    } | schema_of(values, "", notes)
    # Charts that this one is a part of hand these down.
    schema["properties"]["global"] = {"type": "object"}
    kept(failures, CHART / "values.schema.json", json.dumps(schema, indent=2, ensure_ascii=False) + "\n")
    table = ["| value | default | meaning |", "|---|---|---|"]
    for path, default in leaves(values):
        description = notes.get(path, ("", {}))[0]
        failures.check(description, f"values.yaml: {path} has no description")
        shown = default_of(default).replace("|", "\\|")
        table.append(f"| `{path}` | {shown} | {description.replace('|', chr(92) + '|')} |")
    page = CHART / "README.md"
    before, rest = page.read_text().split(BEGIN)
    after = rest.split(END)[1]
    kept(failures, page, before + BEGIN + "\n" + "\n".join(table) + "\n\n" + END + after)
    links(failures, page.read_text(), text)
    version(failures)
    failures.end(f"values: {len(table) - 2} described")


def links(failures, page, values):
    """What the descriptions point at in the page is there, and every value that the page names exists."""
    anchors = {re.sub(r"[^a-z0-9_ -]", "", heading.lower()).replace(" ", "-") for heading in re.findall(r"^#+ (.*)$", page, re.M)}
    for anchor in re.findall(r"\]\(#([a-z0-9_-]+)\)", page + values):
        failures.check(anchor in anchors, f"README.md: there is no heading for #{anchor}")
    known = {path for path, _, _ in described(values)}
    groups = {path.split(".")[0] for path in known}
    for path in re.findall(r"--set ([a-zA-Z0-9_.]+)=", page):
        failures.check(path in known or path.startswith("config."), f"README.md: there is no value {path}")
    for path in re.findall(r"`([a-zA-Z]+(?:\.[a-zA-Z]+)+)`", page):
        if path.split(".")[0] in groups - {"config"} and not path.endswith((".toml", ".json", ".yaml")):
            failures.check(path in known, f"README.md: there is no value {path}")


if __name__ == "__main__":
    main()

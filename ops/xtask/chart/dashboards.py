"""The dashboards: made here, kept as JSON in ops/dashboards, and held against what Grafana and the metrics are."""

import json
import sys

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard as grafana

from common import CHART, DASHBOARDS, Failures, kept, lint_metrics
from panels_cluster import CLUSTER
from panels_node import NODE_DASHBOARD

# What Grafana reads without changing it; newer ones read older ones.
SCHEMA_VERSION = 39
WIDTH = 24
UNITS = {"short", "none", "bytes", "Bps", "s", "percentunit", "ops", "reqps", "dateTimeFromNow", "bool_yes_no"}
# What a query is asked with in a test: a variable, and its value.
VARIABLES = {"$job": "roadstead", "$instance": ".+", "$__rate_interval": "10s", "$__range": "1m"}


def target(at, expression, legend, kind):
    """One query of a panel."""
    instant = kind in ("stat", "table")
    return {
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "editorMode": "code",
        "expr": expression,
        "format": "table" if kind == "table" else "time_series",
        "instant": instant,
        "range": not instant,
        "legendFormat": legend,
        "refId": chr(ord("A") + at),
    }


def field_config(panel):
    """Unit, colours and lines."""
    defaults = {
        "unit": panel["unit"],
        "mappings": [],
        "color": {"mode": "palette-classic"},
        "thresholds": {"mode": "absolute", "steps": [{"color": "green", "value": None}]},
        "custom": {},
    }
    if panel["kind"] == "timeseries":
        defaults["min"] = 0
        defaults["custom"] = {"lineWidth": 1, "fillOpacity": 10, "showPoints": "never", "spanNulls": False}
        if panel["stacked"]:
            defaults["custom"]["stacking"] = {"mode": "normal", "group": "A"}
    for value, colour in panel["thresholds"]:
        defaults["thresholds"]["steps"].append({"color": colour, "value": value})
    if panel["thresholds"]:
        defaults["color"] = {"mode": "thresholds"}
    return {"defaults": defaults, "overrides": []}


def options(panel):
    """What each kind of panel wants to know."""
    if panel["kind"] == "stat":
        return {
            "colorMode": "value",
            "graphMode": "none",
            "justifyMode": "auto",
            "orientation": "auto",
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "textMode": "auto",
        }
    if panel["kind"] == "table":
        return {"showHeader": True, "cellHeight": "sm", "footer": {"show": False}}
    return {
        "legend": {"calcs": ["lastNotNull", "max"], "displayMode": "table", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }


def panel_json(panel, identifier, x, y):
    """One panel at its place."""
    made = {
        "id": identifier,
        "type": panel["kind"],
        "title": panel["title"],
        "description": panel["description"],
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "gridPos": {"x": x, "y": y, "w": panel["width"], "h": panel["height"]},
        "fieldConfig": field_config(panel),
        "options": options(panel),
        "targets": [target(at, expression, legend, panel["kind"]) for at, (expression, legend) in enumerate(panel["queries"])],
    }
    if panel["kind"] == "table":
        hidden = {name: True for name in ("Time", "__name__", "job", "endpoint", "container", "prometheus")}
        made["transformations"] = [
            {"id": "merge", "options": {}},
            {"id": "organize", "options": {"excludeByName": hidden, "indexByName": {}, "renameByName": {}}},
        ]
    return made


def dashboard_json(dashboard):
    """A whole dashboard: rows, and the panels of each from left to right."""
    panels, identifier, y = [], 1, 0
    for row, row_panels in dashboard["rows"]:
        panels.append({"id": identifier, "type": "row", "title": row, "collapsed": False, "panels": [], "gridPos": {"x": 0, "y": y, "w": WIDTH, "h": 1}})
        identifier, y, x, height = identifier + 1, y + 1, 0, 0
        for panel in row_panels:
            if x + panel["width"] > WIDTH:
                x, y, height = 0, y + height, 0
            panels.append(panel_json(panel, identifier, x, y))
            identifier, x, height = identifier + 1, x + panel["width"], max(height, panel["height"])
        y += height
    return {
        "uid": dashboard["uid"],
        "title": dashboard["title"],
        "description": dashboard["description"],
        "tags": ["roadstead"],
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "time": {"from": "now-1h", "to": "now"},
        "refresh": "30s",
        "timezone": "browser",
        "annotations": {"list": []},
        "links": [{"title": "Roadstead", "type": "dashboards", "tags": ["roadstead"], "asDropdown": False, "includeVars": True, "keepTime": True, "icon": "dashboard", "targetBlank": False, "tooltip": "", "url": ""}],
        "templating": {"list": variables(dashboard["instances"])},
        "panels": panels,
    }


def variables(instances):
    """Where the data is, which cluster, and for one dashboard which node."""
    source = {"type": "prometheus", "uid": "${datasource}"}

    def query(name, label, expression, multi):
        made = {"name": name, "label": label, "type": "query", "datasource": source, "definition": expression}
        made |= {"query": {"query": expression, "refId": "StandardVariableQuery"}, "refresh": 2, "sort": 1, "hide": 0}
        made |= {"includeAll": multi, "multi": multi, "current": {}}
        return made | ({"allValue": ".+"} if multi else {})

    made = [
        {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "refresh": 1, "hide": 0, "current": {}},
        query("job", "Cluster", "label_values(roadstead_build_info, job)", False),
    ]
    if instances:
        made.append(query("instance", "Node", 'label_values(roadstead_build_info{job="$job"}, instance)', True))
    return made


def queries(dashboard):
    """All (panel, expression), with the variables filled in."""
    for panel in dashboard["panels"]:
        for query in panel.get("targets", []):
            expression = query["expr"]
            for name, value in VARIABLES.items():
                expression = expression.replace(name, value)
            yield panel["title"], expression


def lint(failures, name, dashboard):
    """What makes a dashboard of use, and keeps Grafana from changing it."""
    identifiers = [panel["id"] for panel in dashboard["panels"]]
    failures.check(len(set(identifiers)) == len(identifiers), f"{name}: two panels have one id")
    failures.check(dashboard["uid"] == name and len(name) <= 40, f"{name}: its uid is its file name")
    titles = [panel["title"] for panel in dashboard["panels"]]
    failures.check(len(set(titles)) == len(titles), f"{name}: two panels have one title: {sorted(titles)}")
    covered = set()
    for panel in dashboard["panels"]:
        if panel["type"] == "row":
            continue
        where = f"{name}: {panel['title']}"
        failures.check(panel["description"], f"{where}: no description")
        failures.check(panel["fieldConfig"]["defaults"]["unit"] in UNITS, f"{where}: no unit of {sorted(UNITS)}")
        failures.check(panel["targets"], f"{where}: no query")
        place = panel["gridPos"]
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])}
        failures.check(place["x"] + place["w"] <= WIDTH and not cells & covered, f"{where}: lies over another panel, or the edge")
        covered |= cells
        for query in panel["targets"]:
            uses = 'job="$job"' in query["expr"] and ("$instance" in query["expr"]) == (name == "roadstead-node")
            failures.check(uses, f"{where}: {query['expr']} does not choose by the variables")
    for title, expression in queries(dashboard):
        failures.check("$" not in expression, f"{name}: {title}: a variable that no test knows: {expression}")
        lint_metrics(failures, f"{name}: {title}", expression)


def lost(before, after, path=""):
    """What a model of a dashboard has not kept of it."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key, value in before.items():
            if key not in after:
                yield f"{path}.{key}"
            else:
                yield from lost(value, after[key], f"{path}.{key}")
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for at, (one, other) in enumerate(zip(before, after)):
            yield from lost(one, other, f"{path}[{at}]")
    elif before != after:
        yield f"{path}: {before!r} became {after!r}"


def modelled(failures, name, made):
    """Grafana's own model of a dashboard knows every field. (The text of a variable's query is for Grafana's pages alone.)"""
    model = grafana.Dashboard.from_json(json.loads(json.dumps(made)))
    back = json.loads(json.dumps(model, cls=JSONEncoder))
    for path in lost(made, back):
        failures.check(path.endswith(".definition"), f"{name}: Grafana's model does not know {path}")
    failures.checked += 1


def main():
    failures = Failures()
    for dashboard in (CLUSTER, NODE_DASHBOARD):
        made = dashboard_json(dashboard)
        name = dashboard["uid"]
        lint(failures, name, made)
        modelled(failures, name, made)
        text = json.dumps(made, indent=2, ensure_ascii=False) + "\n"
        kept(failures, DASHBOARDS / f"{name}.json", text)
        kept(failures, CHART / f"files/dashboards/{name}.json", text)
        print(f"{name}: {sum(panel['type'] != 'row' for panel in made['panels'])} panels")
    failures.end("dashboards")


if __name__ == "__main__":
    sys.exit(main())

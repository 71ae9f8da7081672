"""How a panel is written down."""


def panel(title, description, unit, *queries, width=8, height=8, kind="timeseries", stacked=False, thresholds=()):
    """A panel: what it shows, its unit, and its queries with their legends. Width is of 24."""
    return {
        "title": title,
        "description": description,
        "unit": unit,
        "queries": queries,
        "width": width,
        "height": height,
        "kind": kind,
        "stacked": stacked,
        "thresholds": thresholds,
    }


def stat(title, description, unit, expression, thresholds=(), width=4):
    """One number, red or green."""
    return panel(title, description, unit, (expression, ""), width=width, height=4, kind="stat", thresholds=thresholds)


# Above 0 it is bad.
BAD = ((1, "red"),)


def table(title, description, unit, *queries, width=24, height=7):
    """Rows of labels and values."""
    return panel(title, description, unit, *queries, width=width, height=height, kind="table")

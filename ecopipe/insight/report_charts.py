"""The charts of a report: Vega-Lite specifications, made into SVG that stands in a page by itself.

Colours are the page's CSS variables, so that a chart follows its dark mode; each chart is drawn for wide and for narrow
screens, because a scaled one has letters that nobody can read. A mark says what it stands for when it is pointed at.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from markupsafe import Markup

from ecopipe.insight.profile_words import SPOKEN, rate
from ecopipe.insight.report_figures import shown_part

Spec = dict[str, Any]
Rows = list[dict[str, Any]]

WIDE, NARROW = 990, 300
"""Pixels of a chart, axes and all."""

MEASURED = 12.5
"""Pixels of the letters for which room is left. The page draws them smaller: its font may be a wider one."""

MOST_POINTS = 240
"""Points of a line; of more, each stands for several batches."""

PLACES = {"main": "consumer's process", "worker": "worker", "gpu": "GPU"}
COLOURS = {"consumer's process": "var(--c1)", "worker": "var(--c2)", "GPU": "var(--c3)"}
LIMITING = "limits"

_SVG_START = re.compile(r"^<svg [^>]*?width=\"([\d.]+)\" height=\"([\d.]+)\" viewBox=\"([^\"]+)\">")
_NAMED = re.compile(r"(\bid=\"|url\(#)")
_MARK = re.compile(r"<path aria-label=\"([^\"]*)\" role=\"graphics-symbol\"([^>]*)/>")


@dataclass(frozen=True)
class Chart:
    """A chart in both widths, and what it shows in words."""

    name: str
    title: str
    about: str
    wide: Markup
    narrow: Markup


def charts(document: Mapping[str, Any], ready: Sequence[int], length: tuple[str, float]) -> dict[str, Chart]:
    """All charts that a profile's document has the numbers for, by name.

    Args:
        document: Of :meth:`ecopipe.insight.profile.Profile.as_json`.
        ready: For each of its batches, how many lay ready when the consumer asked for it.
        length: A unit of length, and how many of the batch's ``lengths`` are one.
    """
    made = [
        _shares(document),
        _times(document),
        _waits(document),
        _ready(document, ready),
        _lengths(document, *length),
        _padding(document),
        _workers(document),
        _headroom(document),
    ]
    return {chart.name: chart for chart in made if chart is not None}


# -- stages -----------------------------------------------------------------------------------------------------------


def _shares(document: Mapping[str, Any]) -> Chart:
    limit = document["limit"]["name"]
    rows = [
        {
            "stage": row["name"],
            "share": row["share"],
            "where": LIMITING if row["name"] == limit else PLACES[row["where"]],
        }
        for row in document["stages"]
    ]
    spec = {
        "data": {"values": rows},
        "height": {"step": 24},
        "encoding": {
            "y": _names("stage"),
            "x": _quantity("share", "share of all measured time", most=_most(rows, "share"), format="%"),
        },
        "layer": [
            {"mark": {"type": "bar", "cornerRadiusEnd": 3}, "encoding": {"color": _places(rows)}},
            {"mark": {"type": "text", "align": "left", "dx": 4, "aria": False},
             "encoding": {"text": {"field": "share", "type": "quantitative", "format": ".0%"}}},
        ],
    }  # fmt: skip
    top = max(document["stages"], key=lambda row: row["share"])
    return _chart("shares", "Share of the time", f"{top['name']} takes {top['share']:.0%} of all measured time.", spec)


def _times(document: Mapping[str, Any]) -> Chart:
    rows = [
        {
            "stage": row["name"],
            "per": row["per"],
            **{f"p{at}": max(row[f"p{at}_us"], 0.01) / 1e3 for at in (50, 95, 99)},
        }
        for row in document["stages"]
    ]
    labels = [
        {"stage": row["stage"], "at": row[name], "quantile": name} for row in rows for name in ("p50", "p95", "p99")
    ]
    shapes = {"domain": ["p50", "p95", "p99"], "range": ["circle", "diamond", "triangle-right"]}
    shades = {"domain": shapes["domain"], "range": ["var(--c1)", "var(--c2)", "var(--limit)"]}
    least = min(row["at"] for row in labels)
    decades = range(math.floor(math.log10(least)), math.ceil(math.log10(max(row["at"] for row in labels))) + 1)
    ends = [10.0 ** decades[0], 10.0 ** decades[-1]]
    axis: dict[str, Any] = {
        "scale": {"type": "log", "domain": ends, "nice": False},
        "axis": {"labelExpr": _LOG_MS, "values": [10.0**power for power in decades]},
    }
    spec = {
        "height": {"step": 24},
        "layer": [
            {"data": {"values": rows}, "mark": {"type": "rule", "color": "var(--grid)", "strokeWidth": 5},
             "encoding": {"y": _names("stage"), "x": _quantity("p50", "time per call", **axis),
                          "x2": {"field": "p99"}}},
            {"data": {"values": labels}, "mark": {"type": "point", "filled": True, "size": 75, "opacity": 1},
             "encoding": {"y": _names("stage"), "x": _quantity("at", "time per call", **axis),
                          "shape": {"field": "quantile", "type": "nominal", "scale": shapes, "legend": _LEGEND},
                          "color": {"field": "quantile", "type": "nominal", "scale": shades, "legend": _LEGEND}}},
        ],
    }  # fmt: skip
    return _chart(
        "times", "Time of one call", "Median, 95th and 99th percentile of each stage, on a logarithmic scale.", spec
    )


_LOG_MS = (
    "datum.value >= 1000 ? datum.value / 1000 + ' s' : datum.value >= 1 ? datum.value + ' ms' : "
    "datum.value * 1000 + ' us'"
)

# -- over time --------------------------------------------------------------------------------------------------------

WAITS = {"waited_ms": "the consumer waited", "batch_waited_ms": "the batch lay ready"}


def _waits(document: Mapping[str, Any]) -> Chart:
    wanted = WAITS if document["settings"]["beside"] else {"waited_ms": WAITS["waited_ms"]}
    points, several = _thinned(document["batches"], ("at_s", *wanted))
    rows = [
        {"s": point["at_s"], "ms": point[name], "what": title}
        for point in points
        for name, title in wanted.items()
        if point[name] is not None
    ]
    scale = {"domain": list(wanted.values()), "range": ["var(--limit)", "var(--c2)"][: len(wanted)]}
    spec = {
        "data": {"values": rows},
        "height": 190,
        "mark": {"type": "line", "strokeWidth": 1.8, "point": {"size": 14} if len(points) <= 60 else False},
        "encoding": {
            "x": _quantity("s", "seconds since the recording began", zero=False),
            "y": _quantity("ms", "ms"),
            "color": {"field": "what", "type": "nominal", "scale": scale, "legend": _LEGEND},
        },
    }
    ready = ", and how long the batch had been ready before" if len(wanted) > 1 else ""
    about = f"How long the consumer waited for each batch{ready}."
    return _chart("waits", "Waiting over time", about + _each(several), spec)


def _ready(document: Mapping[str, Any], ready: Sequence[int]) -> Chart | None:
    if not document["settings"]["beside"] or not ready:
        return None
    batches = [{"at_s": row["at_s"], "ready": count} for row, count in zip(document["batches"], ready, strict=True)]
    points, several = _thinned(batches, ("at_s", "ready"))
    most = document["settings"]["beside"] * document["settings"]["prefetch"]
    spec = {
        "data": {"values": points},
        "height": 110,
        "mark": {"type": "area", "color": "var(--c2)", "opacity": 0.35, "interpolate": "step-after",
                 "line": {"color": "var(--c2)", "strokeWidth": 1.5}},
        "encoding": {
            "x": _quantity("at_s", "seconds since the recording began", zero=False),
            "y": _quantity("ready", "batches", scale={"domain": [0, most]}, tickMinStep=1, format="d"),
        },
    }  # fmt: skip
    about = f"Batches that lay ready when the consumer asked, of the {most} that are on their way. 0: it had to wait."
    return _chart("ready", "Fill of the buffer", about + _each(several), spec)


def _padding(document: Mapping[str, Any]) -> Chart | None:
    batches = [row for row in document["batches"] if row["padding"] is not None]
    mean = document["run"]["padding_fraction"]
    if not batches or mean is None:
        return None
    points, several = _thinned([{**row, "taken": at} for at, row in enumerate(batches)], ("taken", "padding"))
    spec = {
        "height": 150,
        "layer": [
            {"data": {"values": points}, "mark": {"type": "circle", "color": "var(--c1)", "opacity": 0.75, "size": 22},
             "encoding": {"x": _quantity("taken", "batches, in their order", zero=False),
                          "y": _quantity("padding", "padding", most=_most(points, "padding"), format="%")}},
            {"data": {"values": [{"mean": mean}]},
             "mark": {"type": "rule", "color": "var(--limit)", "strokeDash": [5, 4], "strokeWidth": 1.5},
             "encoding": {"y": {"field": "mean", "type": "quantitative"}}},
        ],
    }  # fmt: skip
    about = f"Of what the batches hold {mean:.1%} is padding (the dashed line)."
    return _chart("padding", "Padding of each batch", about + _each(several), spec)


def _thinned(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> tuple[Rows, int]:
    """At most :data:`MOST_POINTS` rows, each the mean of as many neighbours; and of how many."""
    several = -(-len(rows) // MOST_POINTS)
    found = []
    for begin in range(0, len(rows), several):
        part = rows[begin : begin + several]
        values = {name: [row[name] for row in part if row[name] is not None] for name in names}
        found.append({name: round(sum(one) / len(one), 5) if one else None for name, one in values.items()})
    return found, several


def _each(several: int) -> str:
    return f" Each point is the mean of {several} batches." if several > 1 else ""


# -- lengths ----------------------------------------------------------------------------------------------------------


def _lengths(document: Mapping[str, Any], unit: str, one: float) -> Chart | None:
    found = document["lengths"]
    if found is None:
        return None
    edges = [round(edge / one, 4) for edge in found["edges"]]
    rows = [
        {"from": low, "to": high, "samples": count}
        for low, high, count in zip(edges, edges[1:], found["counts"], strict=False)
    ]
    spec = {
        "data": {"values": rows},
        "height": 170,
        "mark": {"type": "bar", "color": "var(--c1)", "binSpacing": 1},
        "encoding": {
            "x": {**_quantity("from", unit, zero=False), "bin": "binned"},
            "x2": {"field": "to"},
            "y": _quantity("samples", "samples"),
        },
    }
    about = f"{sum(found['counts']):,} samples, from {edges[0]:,.4g} to {edges[-1]:,.4g} {unit}."
    return _chart("lengths", "Lengths of the samples", about, spec)


# -- predictions ------------------------------------------------------------------------------------------------------


def _workers(document: Mapping[str, Any]) -> Chart | None:
    if "workers" not in document["predictions"]:
        return None
    now = document["settings"]["workers"]
    rows = [
        {"workers": int(count), "rate": value, "setting": "as it ran" if int(count) == now else "predicted"}
        for count, value in document["predictions"]["workers"].items()
    ]
    scale = {"domain": ["as it ran", "predicted"], "range": ["var(--limit)", "var(--c1)"]}
    spec = {
        "data": {"values": rows},
        "height": 170,
        "encoding": {
            "x": {"field": "workers", "type": "ordinal", "title": "workers", "axis": {"labelAngle": 0}},
            "y": _quantity("rate", "samples/s", most=_most(rows, "rate")),
        },
        "layer": [
            {"mark": {"type": "bar", "cornerRadiusEnd": 3, "width": {"band": 0.7}},
             "encoding": {"color": {"field": "setting", "type": "nominal", "scale": scale, "legend": _LEGEND}}},
            {"mark": {"type": "text", "dy": -7, "aria": False},
             "encoding": {"text": {"field": "rate", "type": "quantitative", "format": ",.3~s"}}},
        ],
    }  # fmt: skip
    best = max(rows, key=lambda row: row["rate"])
    most = f"{best['workers']}: {rate(best['rate'])} samples/s"
    about = f"As it was measured, and predicted in proportion to that; most with {most}."
    return _chart("workers", "Samples per second by workers", about, spec)


def _headroom(document: Mapping[str, Any]) -> Chart:
    limit = document["limit"]["name"]
    found = sorted(document["predictions"]["without"].items(), key=lambda pair: -pair[1])
    rows = [
        {"part": shown_part(name), "rate": value, "where": LIMITING if name == limit else "other"}
        for name, value in found
    ]
    scale = {"domain": [LIMITING, "other"], "range": ["var(--limit)", "var(--c1)"]}
    spec = {
        "data": {"values": rows},
        "height": {"step": 24},
        "encoding": {
            "y": _names("part"),
            "x": _quantity("rate", "samples/s if it cost nothing", most=_most(rows, "rate"), format=",.3~s"),
        },
        "layer": [
            {"mark": {"type": "bar", "cornerRadiusEnd": 3},
             "encoding": {"color": {"field": "where", "type": "nominal", "scale": scale, "legend": None}}},
            {"mark": {"type": "text", "align": "left", "dx": 4, "aria": False},
             "encoding": {"text": {"field": "rate", "type": "quantitative", "format": ",.3~s"}}},
        ],
    }  # fmt: skip
    about = f"Most would come without {SPOKEN.get(limit, limit)}."
    return _chart("headroom", "If a part cost nothing", about, spec)


# -- what all share ---------------------------------------------------------------------------------------------------

_LEGEND = {"orient": "top", "title": None, "symbolStrokeWidth": 2, "labelLimit": 200, "columnPadding": 14}


def _names(field: str) -> Spec:
    return {"field": field, "type": "nominal", "sort": None, "title": None, "axis": {"ticks": False, "domain": False}}


def _quantity(field: str, title: str, *, zero: bool = True, most: float | None = None, **axis: Any) -> Spec:
    found = {"zero": zero, "nice": zero} if most is None else {"domain": [0, most], "nice": False}
    scale = axis.pop("scale", found)
    given = {**axis.pop("axis", {}), **axis}
    return {"field": field, "type": "quantitative", "title": title, "scale": scale, "axis": given}


def _most(rows: Rows, name: str) -> float:
    """The end of an axis that leaves room for a number behind the longest bar."""
    return float(1.14 * max(max(row[name] for row in rows), 1e-3))


def _places(rows: Rows) -> Spec:
    domain = [name for name in (*COLOURS, LIMITING) if any(row["where"] == name for row in rows)]
    scale = {"domain": domain, "range": [COLOURS.get(name, "var(--limit)") for name in domain]}
    return {"field": "where", "type": "nominal", "scale": scale, "legend": _LEGEND}


def _chart(name: str, title: str, about: str, spec: Spec) -> Chart:
    return Chart(name, title, about, *(_svg(name, title, spec, width) for width in (WIDE, NARROW)))


def _svg(name: str, title: str, spec: Spec, width: int) -> Markup:
    """The chart as SVG of at most that width: named for those who do not see it, each mark with what it shows."""
    import vl_convert

    narrow = width == NARROW
    label = {"labelLimit": 145 if narrow else 220}
    whole = {
        "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
        "width": width,
        "autosize": {"type": "fit-x", "contains": "padding"},
        "padding": 2,
        "config": {
            "background": None, "font": "Arial", "view": {"stroke": None},
            "text": {"color": "var(--ink)", "fontSize": MEASURED},
            "axis": {"labelColor": "var(--ink)", "titleColor": "var(--muted)", "gridColor": "var(--grid)",
                     "domainColor": "var(--grid)", "tickColor": "var(--grid)", "labelFontSize": MEASURED,
                     "titleFontSize": MEASURED, "titleFontWeight": "normal", **label},
            "axisX": {"tickCount": 4 if narrow else 8, "labelOverlap": "greedy"}, "axisY": {"tickCount": 5},
            "legend": {"labelColor": "var(--ink)", "labelFontSize": MEASURED, "offset": 6,
                       **({"columns": 1} if narrow else {})},
        },
        **spec,
    }  # fmt: skip
    drawn = vl_convert.vegalite_to_svg(whole, vl_version="v5.21", allowed_base_urls=[])
    found = _SVG_START.match(drawn)
    if found is None:
        raise ValueError(f"the chart {name!r} was drawn as no SVG of a size: {drawn[:120]}")
    _, _, box = found.groups()
    begin = (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="vega" data-chart="{name}" viewBox="{box}" role="img" '
        f'aria-label="{escape(title)}" style="max-width:{found.group(1)}px">'
    )
    drawn = _MARK.sub(r'<path aria-label="\1" role="graphics-symbol"\2><title>\1</title></path>', drawn[found.end() :])
    return Markup(begin + _NAMED.sub(rf"\1{name}-{width}-", drawn))

"""The way of a batch as a picture: the parts in the order of the way, the queues between them, and what limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from markupsafe import Markup

from ecopipe.insight.predictions import CONSUMER, DELIVER, PLAN, TRANSFER
from ecopipe.insight.profile_model import REST
from ecopipe.insight.profile_words import rate
from ecopipe.insight.report_figures import shown_part, spoken_us

WIDE_ROW = 6
"""Parts beside each other on a wide screen; on a narrow one each has a line of its own."""

NO_WORKERS = "no workers: made in one process"

_LETTERS = 22

_FITS = 15
"""Letters of a name that fit in whatever font; longer ones are drawn as wide as there is room."""


@dataclass(frozen=True)
class Part:
    """One part of the way. ``per_sample_us`` is None where it was not measured by itself."""

    name: str
    per_sample_us: float | None
    items_per_s: float | None
    share: float
    limits: bool
    note: str = ""


@dataclass(frozen=True)
class Station:
    """The parts that one kind of process works on, one after the other.

    ``queue`` tells what waits before it, and how long; ``note`` how busy its processes are.
    """

    title: str
    parts: tuple[Part, ...]
    queue: tuple[str, str] | None = None
    note: str = ""


def stations(document: Mapping[str, Any], device_stages: Sequence[str]) -> list[Station]:
    """The way of a batch, from the plan to the consumer, by a profile's document; ``device_stages`` by their labels."""
    limit, settings, queues = document["limit"]["name"], document["settings"], document["queues"]
    rows = {row["name"]: row for row in document["stages"]}
    workers = settings["workers"]

    def part(row: Mapping[str, Any]) -> Part:
        each = 1e6 * row["self_s"] / row["items"] if row["items"] else None
        return Part(row["name"], each, row["items_per_s"], row["share"], row["name"] == limit)

    def other(name: str, per_sample_us: float | None, note: str = "") -> Part:
        speed = 1e6 / per_sample_us if per_sample_us else None
        return Part(name, per_sample_us, speed, 0.0, name == limit, note)

    made = "worker" if workers else "main"
    making = [part(row) for row in rows.values() if row["where"] == made and row["name"] != PLAN]
    behind = [part(row) for row in rows.values() if row["where"] == "gpu"]
    if workers:
        behind += [part(row) for row in rows.values() if row["where"] == "main" and row["name"] != PLAN]
    else:
        behind += [one for one in making if one.name in device_stages]
        making = [one for one in making if one.name not in device_stages]
    per_batch = document["run"]["samples"] / max(document["run"]["batches"], 1)
    way = document["transfer"]
    if limit == REST:
        making.append(other(REST, None, "what no stage is"))
    if workers:
        each = (way["pack"]["p50_us"] + way["unpack"]["p50_us"]) / per_batch
        making.append(other(TRANSFER, each, "packed here, unpacked there"))
    elif limit == DELIVER:
        making.append(other(DELIVER, None, "handing over"))
    consumer_us = 1e3 * document["run"]["consumer_ms"] / per_batch
    behind.append(other(CONSUMER, consumer_us, "your training loop"))
    known = {one.name for one in [*making, *behind]} | {PLAN}
    if limit not in known:
        making.append(other(limit, None))
    place = _place(workers, settings["threads"])
    device = "GPU and consumer" if document["settings"]["device"] != "cpu" else "consumer's process"
    if not settings["beside"]:
        device = "delivering"
    found = [Station("planning", (part(rows[PLAN]),))] if PLAN in rows else []
    before = (
        _queue(title, queues[name], settings["beside"])
        for title, name in (
            ("a task waits for a worker", "before_worker"),
            ("a batch waits for the consumer", "before_consumer"),
        )
    )
    busy = [row["busy_share"] for row in document["workers"]]
    note = f"{sum(busy) / len(busy):.0%} busy" if workers and busy else ""
    found.append(Station(place, tuple(making), next(before), note))
    note = f"training waits: {document['run']['waiting_share']:.0%}"
    found.append(Station(device, tuple(behind), next(before), note))
    return found


def _place(workers: int, threads: int) -> str:
    """Where batches are made."""
    if not workers:
        return NO_WORKERS if not threads else f"{_counted(threads, 'thread')} of the consumer's process"
    return _counted(workers, "worker process") + (f" of {threads} threads each" if threads > 1 else "")


def _counted(count: int, name: str) -> str:
    return f"{count} {name}" if count == 1 else f"{count} {name}{'es' if name.endswith('s') else 's'}"


def _queue(title: str, figures: Mapping[str, Any], makers: int) -> tuple[str, str] | None:
    if not makers:
        return None
    return title, f"{spoken_us(figures['p50_us'])} (p95 {spoken_us(figures['p95_us'])})"


# -- drawing ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Layout:
    width: int
    row: int
    box: int
    height: int
    gap: int
    margin: int

    def place(self, number: int, top: float) -> tuple[float, float]:
        """Left and top of the box of that number, counted from 0, in a station whose boxes begin at ``top``."""
        line, at = divmod(number, self.row)
        return self.margin + at * (self.box + self.gap), top + line * (self.height + self.gap)


_WIDE = _Layout(width=1000, row=WIDE_ROW, box=144, height=82, gap=20, margin=18)
_NARROW = _Layout(width=330, row=1, box=302, height=64, gap=20, margin=14)


def picture(document: Mapping[str, Any], device_stages: Sequence[str], *, narrow: bool = False) -> Markup:
    """The way as SVG, in the page's colours."""
    way = stations(document, device_stages)
    layout = _NARROW if narrow else _WIDE
    drawn: list[str] = []
    top = 4.0
    for number, station in enumerate(way):
        if number:
            top = _between(drawn, layout, top, station.queue)
        top = _station(drawn, layout, top, station, document["limit"]["clear"])
    limit = document["limit"]["name"]
    told = f"The way of a batch; {shown_part(limit)} limits." if document["limit"]["clear"] else "The way of a batch."
    begin = (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="flow" viewBox="0 0 {layout.width} {top + 4:g}" role="img" '
        f'aria-label="{escape(told)}" style="max-width:{layout.width}px">'
    )
    return Markup(f"{begin}<title>{escape(told)}</title>{''.join(drawn)}</svg>")


def _between(drawn: list[str], layout: _Layout, top: float, queue: tuple[str, str] | None) -> float:
    """An arrow from one station to the next, with what waits there."""
    height = 42 if queue else 24
    x = layout.margin + 20
    drawn.append(_arrow([(x, top), (x, top + height)]))
    lines = () if queue is None else queue if layout.row == 1 else (": ".join(queue),)
    first = top + height / 2 + (4 if len(lines) == 1 else -4)
    for number, line in enumerate(lines):
        drawn.append(f'<text class="queue" x="{x + 14}" y="{first + 16 * number:g}">{escape(line)}</text>')
    return top + height


def _station(drawn: list[str], layout: _Layout, top: float, station: Station, clear: bool) -> float:
    lines = -(-len(station.parts) // layout.row)
    boxes = top + 38
    bottom = boxes + lines * layout.height + (lines - 1) * layout.gap + 16
    drawn.append(
        f'<rect class="station" x="1" y="{top:g}" width="{layout.width - 2}" height="{bottom - top:g}" rx="12"/>'
        f'<text class="station-title" x="{layout.margin}" y="{top + 21:g}">{escape(station.title)}</text>'
        f'<text class="queue" text-anchor="end" x="{layout.width - layout.margin}" y="{top + 21:g}">'
        f"{escape(station.note)}</text>"
    )
    for number, part in enumerate(station.parts):
        x, y = layout.place(number, boxes)
        if number + 1 < len(station.parts):
            drawn.append(_to_next(layout, number, boxes))
        drawn.append(_box(layout, x, y, part, clear))
    return bottom


def _to_next(layout: _Layout, number: int, top: float) -> str:
    """The arrow from one box to the next: beside it, below it, or at the beginning of the next line."""
    (x, y), (to_x, to_y) = layout.place(number, top), layout.place(number + 1, top)
    middle = layout.height / 2
    if y == to_y:
        return _arrow([(x + layout.box, y + middle), (to_x, to_y + middle)])
    if x == to_x:
        return _arrow([(x + 27, y + layout.height), (x + 27, to_y)])
    turn = y + layout.height + layout.gap / 2
    from_x, at_x = x + layout.box / 2, to_x + 27
    return _arrow([(from_x, y + layout.height), (from_x, turn), (at_x, turn), (at_x, to_y)])


def _arrow(points: Sequence[tuple[float, float]]) -> str:
    (before_x, _), (x, y) = points[-2:]
    line = " ".join(f"{at:g},{down:g}" for at, down in points)
    if before_x == x:
        head = f"{x - 5:g},{y - 8:g} {x:g},{y - 1:g} {x + 5:g},{y - 8:g}"
    else:
        head = f"{x - 8:g},{y - 5:g} {x - 1:g},{y:g} {x - 8:g},{y + 5:g}"
    return f'<polyline class="arrow" points="{line}"/><polyline class="arrow" points="{head}"/>'


def _box(layout: _Layout, x: float, y: float, part: Part, clear: bool) -> str:
    whole = shown_part(part.name)
    name = whole if len(whole) <= _LETTERS else whole[: _LETTERS - 1] + "…"
    each = "" if part.per_sample_us is None else f"{spoken_us(part.per_sample_us)} per sample"
    speed = "" if not part.items_per_s else f"{rate(part.items_per_s)}/s"
    told = ", ".join(one for one in (whole, each, speed and f"{speed[:-2]} samples/s", part.note) if one)
    classes = "part limits" if part.limits else "part"
    lines = [each, speed] if layout.row > 1 else [each]
    wide = (
        f' textLength="{layout.box - 24}" lengthAdjust="spacingAndGlyphs"'
        if layout.row > 1 and len(name) > _FITS
        else ""
    )
    texts = [f'<text class="name" x="{x + 12:g}" y="{y + 24:g}"{wide}>{escape(name)}</text>']
    for number, line in enumerate(line for line in (*lines, part.note if not each else "") if line):
        texts.append(f'<text class="figure" x="{x + 12:g}" y="{y + 44 + 17 * number:g}">{escape(line)}</text>')
    if layout.row == 1 and speed:
        right = x + layout.box - 12
        texts.append(f'<text class="figure" text-anchor="end" x="{right:g}" y="{y + 44:g}">{escape(speed)}</text>')
    bar = (layout.box - 24) * min(part.share, 1.0)
    foot = y + layout.height - 9
    if part.share:
        texts.append(
            f'<rect class="bar-of" x="{x + 12:g}" y="{foot:g}" width="{layout.box - 24}" height="3" rx="1.5"/>'
        )
        texts.append(f'<rect class="bar" x="{x + 12:g}" y="{foot:g}" width="{max(bar, 1):.4g}" height="3" rx="1.5"/>')
    if part.limits:
        word = "limits" if clear else "costs most"
        width = 52 if clear else 78
        left = x + layout.box - width - 8
        texts.append(
            f'<rect class="mark" x="{left:g}" y="{y - 10:g}" width="{width}" height="20" rx="10"/>'
            f'<text class="mark-text" text-anchor="middle" x="{left + width / 2:g}" y="{y + 4:g}">{word}</text>'
        )
        told += ": limits" if clear else ": its absence would bring most, which is little"
    return (
        f'<g class="{classes}" data-part="{escape(part.name)}"><title>{escape(told)}</title>'
        f'<rect class="box" x="{x:g}" y="{y:g}" width="{layout.box}" height="{layout.height}" rx="8"/>'
        f"{''.join(texts)}</g>"
    )

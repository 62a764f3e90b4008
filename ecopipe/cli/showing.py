"""``ecopipe show``."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ecopipe.cli.progress import stderr
from ecopipe.cli.sharding import counted, human_bytes
from ecopipe.insight.overview import Numbers, Overview, Shown, overview

MOST_LABELS = 12
"""Labels that are listed: if there are more, the most and the least frequent ones."""

MOST_SIZES = 5
"""Sizes of images that are listed."""

MOST_MEMBERS = 12
"""Extensions that are listed."""

_EIGHTHS = " ▏▎▍▌▋▊▉█"
_UNITS = {"duration_s": "seconds of audio", "tokens": "tokens", "chars": "characters"}


def show(path: str, *, samples: int, as_json: bool) -> None:
    """Prints what shards hold."""
    with stderr.status("reading the index ..."):
        found = overview(path, samples=samples)
    if as_json:
        print(json.dumps(found.figures(), default=str))
        return
    console = Console()
    console.print(Text(_title(path, found), style="bold"))
    _print_description(console, found.description)
    console.print(_splits(found))
    for split in found.splits:
        for note in split.notes:
            console.print(Text(f"note: {split.name}: {note}"))
    if length := found.length():
        _print_histogram(console, _UNITS[length], found.numbers(length))
    if labels := sum((split.labels for split in found.splits), Counter[int]()):
        _print_labels(console, labels, found)
    if sizes := sum((split.sizes for split in found.splits), Counter[tuple[int, int]]()):
        _print_sizes(console, sizes)
    console.print(_columns(found))
    console.print(_members(found))
    for shown in found.samples:
        _print_sample(console, shown)


def printable(text: str) -> str:
    """A text of the data in one line, without what would steer a terminal.

    >>> printable("a\\x1b[31mb\\nc")
    'a\\\\x1b[31mb c'
    """
    line = " ".join(text.split())
    return "".join(mark if mark.isprintable() else repr(mark)[1:-1] for mark in line)


def bar(share: float, width: int) -> str:
    """A bar of so many columns for a share of 1, in eighths of one.

    >>> bar(0.5, 3)
    '█▌ '
    """
    eighths = max(round(share * width * 8), 1 if share > 0 else 0)
    full, rest = divmod(eighths, 8)
    return (_EIGHTHS[8] * full + (_EIGHTHS[rest] if rest else "")).ljust(width)[:width]


def _title(path: str, found: Overview) -> str:
    name = found.description.get("name")
    told = [
        printable(f"{name} in {path}" if isinstance(name, str) and name else path),
        counted(sum(split.samples for split in found.splits), "sample"),
        counted(sum(split.shards for split in found.splits), "shard"),
        human_bytes(sum(split.bytes for split in found.splits)),
    ]
    if any("duration_s" in split.numbers for split in found.splits):
        told.append(_hours(sum(split.total("duration_s") or 0 for split in found.splits)))
    return " · ".join(told)


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:,.2f} h" if seconds >= 360 else f"{seconds / 60:,.1f} min"


def _print_description(console: Console, description: Mapping[str, Any]) -> None:
    """What dataset.json says of where they came from."""
    told = {name: description[name] for name in ("version", "source") if description.get(name)}
    provenance = description.get("provenance")
    if isinstance(provenance, dict):
        told |= provenance
    elif provenance:
        told["provenance"] = provenance
    splits = description.get("splits")
    for split, summary in splits.items() if isinstance(splits, dict) else ():
        if isinstance(summary, dict) and isinstance(summary.get("provenance"), dict):
            making = summary["provenance"]
            told[f"{split} made by"] = _making(making) if "fingerprint" in making else making
    for name, value in told.items():
        line = Text(f"  {printable(str(name))}: ", style="dim")
        console.print(line.append(_shortly(value), style="not dim"), overflow="ellipsis", no_wrap=True)


def _making(provenance: Mapping[str, Any]) -> str:
    """How a split was made, in words: what was asked for, and by which ecopipe."""
    told = [f"ecopipe {provenance.get('ecopipe', '')}".strip()]
    limits, recipe = provenance.get("limits"), provenance.get("recipe")
    if provenance.get("shuffle") is not None:
        told.append(f"shuffled by seed {provenance['shuffle']}")
    stages = recipe.get("stages") if isinstance(recipe, dict) else None
    if isinstance(stages, list):
        told.append("stages " + " ".join(str(one.get("stage")) for one in stages if isinstance(one, dict)))
    options = provenance.get("options")
    if isinstance(options, dict):
        told += [f"{name}={_shortly(value)}" for name, value in options.items()]
    if isinstance(limits, dict):
        told += [f"{name} {value:,}" for name, value in limits.items() if isinstance(value, int | float)]
    return ", ".join(told)


def _shortly(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{printable(str(name))}={_shortly(one)}" for name, one in list(value.items())[:8])
    if isinstance(value, list):
        more = f", and {len(value) - 4:,} more" if len(value) > 4 else ""
        return ", ".join(map(_shortly, value[:4])) + more
    return printable(str(value))


def _splits(found: Overview) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1))
    table.add_column("split")
    kinds = {"hours": ("duration_s", 3600, ",.2f"), "tokens": ("tokens", 1, ",.0f"), "chars": ("chars", 1, ",.0f")}
    totals = {
        heading: kind for heading, kind in kinds.items() if any(kind[0] in split.numbers for split in found.splits)
    }
    for heading in ("samples", "shards", "bytes", *totals):
        table.add_column(heading, justify="right")
    for split in found.splits:
        cells = [f"{split.samples:,}", f"{split.shards:,}", human_bytes(split.bytes)]
        for column, unit, form in totals.values():
            total = split.total(column)
            cells.append("" if total is None else format(total / unit, form))
        table.add_row(Text(printable(split.name)), *cells)
    return table


def _members(found: Overview) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1))
    table.add_column("member")
    for heading in ("in", "mean", "together"):
        table.add_column(heading, justify="right")
    samples = max(sum(split.samples for split in found.splits), 1)
    names = sorted({name for split in found.splits for name in split.members})
    for name in names[:MOST_MEMBERS]:
        those = [split.members[name] for split in found.splits if name in split.members]
        count, total = sum(one.count for one in those), sum(one.bytes for one in those)
        table.add_row(Text(printable(name)), f"{count / samples:.0%}", human_bytes(total / count), human_bytes(total))
    if len(names) > MOST_MEMBERS:
        table.add_row(f"and {len(names) - MOST_MEMBERS:,} more", "", "", "")
    return table


def _print_histogram(console: Console, unit: str, numbers: Numbers) -> None:
    least, median, p95, most = (
        _number(value) for value in (numbers.least, numbers.quantile(0.5), numbers.quantile(0.95), numbers.most)
    )
    console.print(Text(f"{unit}: {least} to {most}, median {median}, 95 % up to {p95}", style="bold"))
    bars = numbers.bars()
    names = [
        f"{_number(low)} to {_number(high)}" if high is not None else f"from {_number(low)}" for low, high, _ in bars
    ]
    _print_bars(console, names, [count for _, _, count in bars])


def _print_labels(console: Console, labels: Counter[int], found: Overview) -> None:
    counts = labels.most_common()
    spread = f", of the most frequent {counts[0][1] / counts[-1][1]:.2f} times as many samples as of the least"
    console.print(Text(f"{counted(len(labels), 'label')}{spread if len(labels) > 1 else ''}", style="bold"))
    classes = found.classes

    def name(label: int) -> str:
        return f"{label} {printable(classes[label])}" if 0 <= label < len(classes) else str(label)

    listed = sorted(labels.items()) if len(labels) <= MOST_LABELS else counts[: MOST_LABELS // 2]
    _print_bars(console, [name(label) for label, _ in listed], [count for _, count in listed], labels)
    if len(labels) > MOST_LABELS:
        rare = counts[-(MOST_LABELS // 2) :]
        console.print(Text(f"  ... {len(labels) - len(listed) - len(rare):,} more ...", style="dim"))
        _print_bars(console, [name(label) for label, _ in rare], [count for _, count in rare], labels)


def _print_sizes(console: Console, sizes: Counter[tuple[int, int]]) -> None:
    console.print(Text(f"{counted(len(sizes), 'image size')} (height x width)", style="bold"))
    listed = sizes.most_common(MOST_SIZES)
    _print_bars(console, [f"{h} x {w}" for (h, w), _ in listed], [count for _, count in listed], sizes)


def _print_bars(
    console: Console, names: Sequence[str], counts: Sequence[int], all_of: Counter[Any] | None = None
) -> None:
    """A line for each: its name, a bar, its count and its share of all."""
    names = [name if len(name) <= 24 else name[:23] + "…" for name in names]
    total = sum(counts) if all_of is None else all_of.total()
    most = max(counts) if all_of is None else max(all_of.values())
    left, right = max(map(len, names)), max(len(f"{count:,}") for count in counts)
    width = min(max(console.width - left - right - 14, 8), 50)
    for name, count in zip(names, counts, strict=True):
        line = Text(f"  {name:>{left}} ")
        line.append(bar(count / most, width), style="cyan").append(f" {count:>{right},} {count / total:>6.1%}")
        console.print(line, no_wrap=True)
    console.print()


def _columns(found: Overview) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1))
    for heading in ("column", "type"):
        table.add_column(heading)
    for heading in ("filled", "least", "mean", "most"):
        table.add_column(heading, justify="right")
    samples = max(sum(split.samples for split in found.splits), 1)
    names = dict.fromkeys(name for split in found.splits for name in split.columns)
    for name in (name for name in names if name not in ("key", "shard", "members")):
        kind = next(split.columns[name] for split in found.splits if name in split.columns)
        numbers = found.numbers(name)
        filled = sum(split.filled[name] for split in found.splits)
        cells = ["", "", ""]
        if numbers.count:
            mean = "" if name == "label" else _number(numbers.total / numbers.count)
            cells = [_number(numbers.least), mean, _number(numbers.most)]
        table.add_row(Text(printable(name)), printable(kind), f"{filled / samples:.0%}", *cells)
    return table


def _number(value: float) -> str:
    """A number in at most four digits behind which nothing is said, whole ones whole.

    >>> _number(3.0), _number(12345.678), _number(0.01234)
    ('3', '12,346', '0.0123')
    """
    if value == int(value) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _print_sample(console: Console, shown: Shown) -> None:
    members = ", ".join(f"{printable(name)} {human_bytes(size)}" for name, size in shown.members.items())
    line = Text(f"{printable(shown.split)}  {printable(shown.key)}", style="bold")
    console.print(line.append(f"  {members}", style="not bold"), no_wrap=True, overflow="ellipsis")
    told, columns = [], dict(shown.columns)
    if "duration_s" in columns and "rate_hz" in columns:
        channels = columns.pop("channels", None)
        many = "" if channels in (None, 1) else f", {channels} channels"
        told.append(f"{columns.pop('duration_s'):.2f} s at {columns.pop('rate_hz'):,} Hz{many}")
        columns.pop("frames", None)
    if "height" in columns and "width" in columns:
        told.append(f"{columns.pop('height')} x {columns.pop('width')} pixels")
    told += [f"{printable(name)}={_shortly(value)}" for name, value in columns.items()]
    if told:
        console.print(Text("  " + ", ".join(told)), no_wrap=True, overflow="ellipsis")
    for name, text in shown.texts.items():
        console.print(Text(f"  {printable(name)}: {printable(text)}"), no_wrap=True, overflow="ellipsis")

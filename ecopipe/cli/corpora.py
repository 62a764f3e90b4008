"""``ecopipe datasets``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ecopipe.datasets.catalogue import Entry, entries, entry

_NOTE = """\
More of one: ecopipe datasets NAME
Its shards:  ecopipe shard NAME SOURCE OUT --option KEY=VALUE
WebDataset tars that are there already need no reader: ecopipe index TARS"""


def datasets(names: Sequence[str], *, as_json: bool) -> None:
    """Prints what the readers say of themselves: of all in short, of those that are named in full."""
    found = [entry(name) for name in names] if names else entries()
    if as_json:
        print(json.dumps([asdict(each) for each in found], indent=2))
        return
    table = Table(show_lines=True)
    table.add_column("name", no_wrap=True)
    table.add_column("what it is, and what it becomes")
    for each in found:
        table.add_row(each.name, Text("\n".join(_full(each) if names else _short(each))))
    Console().print(table)
    if not names:
        print(_NOTE)


def _short(each: Entry) -> list[str]:
    lines = [each.title, f"expects: {each.expects}", f"members: {', '.join(each.members)}"]
    if each.columns:
        lines.append(f"columns: {', '.join(each.columns)}")
    if each.options:
        lines.append(f"options: {', '.join(option.name for option in each.options)}")
    if each.licence:
        lines.append(f"licence: {each.licence}")
    return lines


def _full(each: Entry) -> list[str]:
    lines = [each.title, f"expects: {each.expects}", "members:"]
    lines += [f"  {name}: {what}" for name, what in each.members.items()]
    if each.columns:
        lines += ["columns:", *(f"  {name}: {kind}" for name, kind in each.columns.items())]
    if each.options:
        lines.append("options:")
    for option in each.options:
        default = f", {option.default} unless given" if option.default else ""
        lines.append(f"  {option.name} ({option.takes}{default}): {option.meaning}")
    if each.licence:
        lines.append(f"licence: {each.licence}")
    return lines

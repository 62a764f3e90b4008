"""The settings of the readers of tables: what they mean, and their values from texts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from ecopipe.formats.measures import MEASURES
from ecopipe.vocabulary.errors import ConfigError

OPTIONS: Mapping[str, str] = {
    "text": "the column that becomes txt",
    "label": "the column that becomes cls: whole numbers as they are, else by their place among the classes",
    "classes": "the texts of the label in their order; all that occur, sorted (numbers by value), unless given",
    "file": "the column of paths to files; each becomes a member under its extension",
    "root": "the folder that such paths are relative to; that of the table unless given",
    "members": "EXT=COLUMN: further columns that become members",
    "columns": "COLUMN, NEW=COLUMN or COLUMN:TYPE (string, int64, float64): columns to keep in the index",
    "rows": "SPLIT=FROM:TO: splits by rows, such as train=0:25000,test=25000:; by files unless given",
}
"""What the settings of every reader of tables mean."""

T = TypeVar("T")

_TYPES = ("string", "int64", "float64")
_RESERVED = {"key", "shard", "members", "class_name", *MEASURES}


def repeated(names: Iterable[str]) -> str | None:
    """The first name that is there twice, if any is."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def as_list(setting: str, value: Sequence[str]) -> tuple[str, ...]:
    if isinstance(value, str):
        raise ConfigError(f'{setting} is a list, and {value!r} is text. Write {setting}=("{value}",).')
    return tuple(value)


def once(setting: str, pairs: Iterable[tuple[str, T]]) -> dict[str, T]:
    pairs = list(pairs)
    if (twice := repeated(name for name, _ in pairs)) is not None:
        raise ConfigError(f"{setting}: {twice!r} is given twice. Each name may be there once.")
    return dict(pairs)


def member(item: str) -> tuple[str, str]:
    extension, equals, column = item.partition("=")
    if not (extension and equals and column):
        raise ConfigError(f"members: {item!r} is not of the form EXT=COLUMN.")
    if "/" in extension:
        raise ConfigError(
            f"members: {extension!r} has a slash in it, and is to be an extension, such as b.txt. Rename it."
        )
    return extension, column


def extra(item: str) -> tuple[str, tuple[str, str]]:
    """``NEW=COLUMN:TYPE`` -> NEW, (COLUMN, TYPE)."""
    column, colon, kind = item.rpartition(":")
    if not colon or kind not in _TYPES:
        column, kind = item, "string"
    new, equals, old = column.partition("=")
    if new in _RESERVED:
        raise ConfigError(f"columns: {new!r} has a meaning of its own in the index. Rename it: columns=my_{new}={new}.")
    return new, (old if equals else new, kind)


def row_range(item: str) -> tuple[str, tuple[int, int | None]]:
    match = re.fullmatch(r"([\w-]+)=(\d*):(\d*)", item)
    if not match or (match[3] and int(match[3]) <= int(match[2] or 0)):
        raise ConfigError(f"rows: {item!r} is not of the form SPLIT=FROM:TO, such as train=0:25000 or test=25000:.")
    return match[1], (int(match[2] or 0), int(match[3]) if match[3] else None)

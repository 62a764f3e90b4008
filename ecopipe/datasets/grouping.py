"""Splits and keys of corpora that are folders of files."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, get_args

from ecopipe.datasets.tree import Tree
from ecopipe.vocabulary.errors import ConfigError, CorpusError, nearest

Splits = Literal["auto", "folders", "one"]
SPLITS = "auto: top folders that are all named like train, val or test are splits; folders: all are; one: none is"
"""What the option ``splits`` of a reader means."""

WHOLE = "all"
"""The name of the only split."""

_NAMES = {"train", "training", "val", "valid", "validation", "dev", "eval", "test", "testing"}


def check_splits(splits: str) -> None:
    """Refuses an unknown way of finding splits.

    Raises:
        ConfigError: Names the known ones.
    """
    if splits not in get_args(Splits):
        raise ConfigError(f"splits={splits!r} is not known. {nearest(splits, get_args(Splits))}")


def by_split(tree: Tree, splits: Splits, names: Iterable[str] | None = None) -> dict[str, tuple[str, list[str]]]:
    """Split -> its folder (empty, or with a slash at its end), and its files in order.

    Files at the top belong to no split if folders are splits. ``names`` are those of the files that count.

    Raises:
        CorpusError: A folder that is a split has a name that is no plain text.
    """
    names = list(tree.names if names is None else names)
    tops = {name.partition("/")[0] for name in names if "/" in name}
    if splits == "one" or not tops or (splits == "auto" and not tops <= _NAMES):
        return {WHOLE: ("", names)}
    if (odd := next((top for top in sorted(tops) if not top.isprintable()), None)) is not None:
        raise CorpusError(unprintable(tree, odd))
    found: dict[str, tuple[str, list[str]]] = {top: (f"{top}/", []) for top in sorted(tops)}
    for name in names:
        if "/" in name:
            found[name.partition("/")[0]][1].append(name)
    return found


def key_of(stem: str) -> str:
    """A key for a path without its extension: dots, which end a key in a shard, become underscores."""
    head, slash, last = stem.rpartition("/")
    return head + slash + last.replace(".", "_")


def escaped(key: str) -> str:
    """A key for a name that cannot be one, by which the bad sample is told."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in key)


def unprintable(tree: Tree, name: str) -> str:
    """The message that a name cannot be a key, as keys are printable and in UTF-8."""
    return f"{tree.where(name)!r} has a name that cannot be a key: it is no plain text. Rename it."

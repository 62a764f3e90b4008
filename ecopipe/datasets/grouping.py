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


def by_split(tree: Tree, names: Iterable[str], splits: Splits) -> dict[str, tuple[str, list[str]]]:
    """Split -> its folder (empty, or with a slash at its end), and its files in order.

    Files at the top belong to no split if folders are splits.

    Raises:
        CorpusError: A name is not UTF-8, as keys are.
    """
    names = list(names)
    for name in names:
        if not name.isprintable():
            raise CorpusError(f"{tree.where(name)!r} has a name that cannot be a key: it is no plain text. Rename it.")
    tops = {name.partition("/")[0] for name in names if "/" in name}
    if splits == "one" or not tops or (splits == "auto" and not tops <= _NAMES):
        return {WHOLE: ("", names)}
    found: dict[str, tuple[str, list[str]]] = {top: (f"{top}/", []) for top in sorted(tops)}
    for name in names:
        if "/" in name:
            found[name.partition("/")[0]][1].append(name)
    return found


def key_of(stem: str) -> str:
    """A key for a path without its extension: dots, which end a key in a shard, become underscores."""
    head, slash, last = stem.rpartition("/")
    return head + slash + last.replace(".", "_")


def refuse_twin(tree: Tree, key: str, first: str, second: str) -> CorpusError:
    """The error that two files would make samples of one key."""
    return CorpusError(
        f"{tree.where(first)} and {tree.where(second)} would both be the sample {key!r}. Rename one of them."
    )

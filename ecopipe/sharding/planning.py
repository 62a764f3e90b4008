"""Which samples go into which shard: settled before any is written, by sizes that are known without reading."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ecopipe.datasets.corpus import Corpus
from ecopipe.formats import index as index_format
from ecopipe.formats.measures import MEASURES
from ecopipe.formats.tar import sample_size
from ecopipe.sharding.limits import Limits
from ecopipe.sharding.recipe import Recipe
from ecopipe.sharding.writer import Record
from ecopipe.vocabulary.errors import ConfigError, DataError
from ecopipe.vocabulary.randomness import Chance

TRIALS = 64
"""Samples that are made on trial, spread evenly, to learn how large what is written becomes."""

SLACK = 0.98
"""Share of a limit that shards are planned to fill, because sizes are estimates."""

VERSION = 1
"""Of the way from samples to shards: another one gives other bytes."""


@dataclass(frozen=True)
class ShardPlan:
    """Which samples each shard takes; a shard is one task.

    ``order``: int64 [N], places in the order of writing; shard t takes ``order[bounds[t]:bounds[t + 1]]``.
    ``columns``: columns of the index beside the measures. ``fingerprint`` names all that decides the bytes.
    """

    split: str
    order: npt.NDArray[np.int64]
    bounds: npt.NDArray[np.int64]
    columns: Mapping[str, str]
    fingerprint: str

    @property
    def tasks(self) -> int:
        """How many there are."""
        return len(self.bounds) - 1

    def places(self, task: int) -> npt.NDArray[np.int64]:
        """The places of one task's samples."""
        return self.order[self.bounds[task] : self.bounds[task + 1]]


@dataclass
class _Trials:
    """What samples gave that were made on trial, one entry each: bytes as listed, and what is written of it."""

    listed: list[int] = field(default_factory=list)
    written: list[int] = field(default_factory=list)
    kept: list[bool] = field(default_factory=list)
    duration_s: list[float] = field(default_factory=list)

    def bytes_of(self, sizes: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """float64 [N]: bytes that samples of such sizes take in a tar, by a line through the trials."""
        listed, written = np.array(self.listed, np.float64), np.array(self.written, np.float64)
        if not len(listed):
            return sizes.astype(np.float64)
        spread = listed - listed.mean()
        slope = max(0.0, float(spread @ (written - written.mean())) / max(float(spread @ spread), 1e-9))
        offset = float(written.mean()) - slope * float(listed.mean())
        if offset < 0:
            slope, offset = float(written.mean()) / float(listed.mean()), 0.0
        expected = np.asarray(slope * sizes + offset, np.float64)
        return expected + 1e-3  # where nothing is kept, something has to be dealt


def plan_shards(
    corpus: Corpus,
    split: str,
    *,
    recipe: Recipe,
    limits: Limits,
    shuffle: bool = False,
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
) -> ShardPlan:
    """Deals the samples of a split to shards of nearly equal size.

    Args:
        corpus: The corpus.
        split: One of its splits.
        recipe: What becomes of each sample.
        limits: How large shards may become.
        shuffle: Over the whole split, once and for all; else in the order of the corpus.
        seed: Of the shuffling.
        options: The settings of the corpus's reader, for the fingerprint.

    Raises:
        ConfigError: The split has no samples, or fewer than shards are wanted.
    """
    count = corpus.count(split)
    if not count:
        raise ConfigError(f"shard: the split {split!r} of {corpus.name} has no samples. Leave it out with --split.")
    if (limits.shards or 0) > count:
        raise ConfigError(f"shard: {limits.shards:,} shards are wanted of the {count:,} samples of {split!r}.")
    sizes = np.asarray(corpus.sizes(split), np.int64)
    order = np.arange(count, dtype=np.int64)
    if shuffle:
        order = Chance(seed, 0, "shard").draws(split).permutation(count)
    trials, columns = _try(corpus, split, recipe, sizes)
    expected = trials.bytes_of(sizes)
    needed = limits.shards or _needed(trials, expected, limits)
    weights = np.ones(count) if limits.max_count is not None else expected[order]
    ends = np.cumsum(weights)
    cuts = np.searchsorted(ends, ends[-1] * np.arange(1, needed) / needed * (1 - 1e-12)) + 1
    bounds = np.unique(np.concatenate([[0], np.minimum(cuts, count - 1), [count]])).astype(np.int64)
    described = {
        "version": [VERSION, index_format.VERSION],
        "corpus": [corpus.name, corpus.version, list(corpus.classes), dict(options or {})],
        "split": split,
        "samples": _digest_samples(corpus, split, sizes),
        "recipe": recipe.identity(),
        "limits": asdict(limits),
        "bounds": hashlib.blake2b(bounds.tobytes(), digest_size=8).hexdigest(),
        "columns": columns,
        "shuffle": seed if shuffle else None,
    }
    digest = hashlib.blake2b(json.dumps(described, sort_keys=True).encode(), digest_size=16).hexdigest()
    return ShardPlan(split, order, bounds, columns, digest)


def _try(corpus: Corpus, split: str, recipe: Recipe, sizes: npt.NDArray[np.int64]) -> tuple[_Trials, dict[str, str]]:
    """Makes some samples, spread evenly; and the columns that the index needs for such."""
    trials, columns = _Trials(), dict(corpus.columns)
    for place in np.unique(np.linspace(0, len(sizes) - 1, TRIALS).astype(np.int64)).tolist():
        try:
            record = recipe.apply(corpus.sample(split, place), corpus.columns)
        except DataError:
            continue  # it is met again, and told then
        trials.listed.append(int(sizes[place]))
        trials.kept.append(record is not None)
        trials.written.append(0 if record is None else sample_size(record.key, record.members))
        trials.duration_s.append(0.0 if record is None else record.values.get("duration_s") or 0.0)
        if record is not None:
            _add_columns(columns, record)
    return trials, columns


def _add_columns(columns: dict[str, str], record: Record) -> None:
    for name, value in record.values.items():
        if name not in MEASURES and name not in _text(columns) and value is not None:
            kind = "double" if isinstance(value, float) or columns.get(name) == "double" else "int64"
            columns.setdefault(name, kind)
            if kind == "double" and columns[name] == "int64":
                columns[name] = kind


def _text(columns: Mapping[str, str]) -> set[str]:
    """The names of the columns that hold text."""
    return {name for name, kind in columns.items() if kind in ("string", "large_string")}


def _needed(trials: _Trials, expected: npt.NDArray[np.float64], limits: Limits) -> int:
    """How many shards keep the limits, by what the trials told."""
    count, written = len(expected), float(expected.sum())
    needed = [written / (limits.max_bytes * SLACK)]
    if trials.kept and limits.max_count is not None:
        needed.append(sum(trials.kept) / len(trials.kept) * count / limits.max_count)
    if sum(trials.written) and limits.max_duration_s is not None:
        duration_s = sum(trials.duration_s) / sum(trials.written) * written
        needed.append(duration_s / (limits.max_duration_s * SLACK))
    return min(max(1, math.ceil(max(needed) - 1e-9)), count)


def _digest_samples(corpus: Corpus, split: str, sizes: npt.NDArray[np.int64]) -> str:
    state = hashlib.blake2b(sizes.tobytes(), digest_size=16)
    for place in range(len(sizes)):
        state.update(corpus.key(split, place).encode() + b"\0")
    return state.hexdigest()

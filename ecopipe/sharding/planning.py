"""Which samples go into which shard: settled before any is written, by sizes that are known without reading."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from ecopipe.datasets.corpus import Corpus, RawSample
from ecopipe.formats import index as index_format
from ecopipe.formats.measures import MEASURES
from ecopipe.formats.tar import sample_size
from ecopipe.sharding.limits import Limits
from ecopipe.sharding.local import Note, run_local
from ecopipe.sharding.recipe import Recipe
from ecopipe.sharding.versions import library_versions
from ecopipe.vocabulary.errors import ConfigError, CorpusError, DataError
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
    ``twice``: the places whose key an earlier place has.
    """

    split: str
    order: npt.NDArray[np.int64]
    bounds: npt.NDArray[np.int64]
    columns: Mapping[str, str]
    fingerprint: str
    twice: frozenset[int] = frozenset()

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


@dataclass(frozen=True)
class Listing:
    """What listing a split tells, before any sample is read.

    ``sizes``: int64 [N], as the corpus tells them. ``twice``: the places whose key an earlier place has.
    ``fingerprint`` names all that decides the bytes of the shards.
    """

    split: str
    sizes: npt.NDArray[np.int64]
    twice: frozenset[int]
    fingerprint: str


def list_split(
    corpus: Corpus,
    split: str,
    *,
    recipe: Recipe,
    limits: Limits,
    shuffle: bool = False,
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
) -> Listing:
    """The samples of a split, and a fingerprint of them and of what is to become of them.

    Args:
        corpus: The corpus.
        split: One of its splits.
        recipe: What becomes of each sample.
        limits: How large shards may become.
        shuffle: Whether they are written in random order.
        seed: Of the shuffling.
        options: The settings of the corpus's reader.

    Raises:
        ConfigError: The split has no samples, or fewer than shards are wanted.
    """
    count = corpus.count(split)
    if not count:
        raise ConfigError(f"shard: {split!r} of {corpus.name} has no samples, or none is left. Choose another split.")
    if (limits.shards or 0) > count:
        raise ConfigError(f"shard: {limits.shards:,} shards are wanted of the {count:,} samples of {split!r}.")
    sizes = np.asarray(corpus.sizes(split), np.int64)
    samples, twice = _digest_samples(corpus, split, sizes)
    described = {
        "version": [VERSION, index_format.VERSION],
        "corpus": [corpus.name, corpus.version, list(corpus.classes), dict(options or {})],
        "split": split,
        "samples": samples,
        "recipe": recipe.identity(),
        "libraries": library_versions() if recipe.stages else {},
        "limits": asdict(limits),
        "shuffle": seed if shuffle else None,
    }
    digest = hashlib.blake2b(json.dumps(described, sort_keys=True).encode(), digest_size=16).hexdigest()
    return Listing(split, sizes, twice, digest)


def plan_shards(
    corpus: Corpus,
    listing: Listing,
    *,
    recipe: Recipe,
    limits: Limits,
    shuffle: bool = False,
    seed: int = 0,
    workers: int = 0,
) -> ShardPlan:
    """Deals the samples of a split to shards of nearly equal size.

    Args:
        corpus: The corpus.
        listing: The split.
        recipe: What becomes of each sample.
        limits: How large shards may become.
        shuffle: Over the whole split, once and for all; else in the order of the corpus.
        seed: Of the shuffling.
        workers: Processes for the trials, where samples pass through stages; 0 works in this one.
    """
    count = len(listing.sizes)
    order = np.arange(count, dtype=np.int64)
    if shuffle:
        order = Chance(seed, 0, "shard").draws(listing.split).permutation(count)
    trials, columns = _try(corpus, listing, recipe, workers)
    expected = trials.bytes_of(listing.sizes)
    if limits.max_duration_s is not None and (per_byte := sum(trials.duration_s) / max(sum(trials.written), 1)):
        most = max(1, int(limits.max_duration_s / per_byte))
        limits = replace(limits, max_bytes=min(limits.max_bytes, most))  # seconds are told of bytes
    bounds = _cut(expected[order], limits, _needed(expected, limits))
    return ShardPlan(listing.split, order, bounds, columns, listing.fingerprint, listing.twice)


def _try(corpus: Corpus, listing: Listing, recipe: Recipe, workers: int) -> tuple[_Trials, dict[str, str]]:
    """Makes some samples, spread evenly; and the columns that the index needs for such."""
    trials, columns = _Trials(), dict(corpus.columns)
    places = np.unique(np.linspace(0, len(listing.sizes) - 1, TRIALS).astype(np.int64)).tolist()
    trial = partial(_trial, corpus, listing.split, recipe)
    made = dict(run_local(trial, places, lambda *_: None, workers if recipe.stages else 0))
    for place in places:
        if (tried := made[place]) is None:
            continue  # it is met again, and told then
        size, duration_s, values = tried
        trials.listed.append(int(listing.sizes[place]))
        trials.kept.append(size > 0)
        trials.written.append(size)
        trials.duration_s.append(duration_s)
        _add_columns(columns, values)
    return trials, columns


def _trial(
    corpus: Corpus, split: str, recipe: Recipe, place: int, _note: Note
) -> tuple[int, tuple[int, float, dict[str, Any]] | None]:
    """The place, and of its sample the bytes in a tar (0 if it is left out), seconds, and values; None if it is bad."""
    try:
        record = recipe.apply(read_sample(corpus, split, place), corpus.columns)
    except DataError:
        return place, None
    if record is None:
        return place, (0, 0.0, {})
    values = dict(record.values)
    return place, (sample_size(record.key, record.members), values.get("duration_s") or 0.0, values)


def _add_columns(columns: dict[str, str], values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        if name not in MEASURES and name not in _text(columns) and value is not None:
            kind = "double" if isinstance(value, float) or columns.get(name) == "double" else "int64"
            columns.setdefault(name, kind)
            if kind == "double" and columns[name] == "int64":
                columns[name] = kind


def _text(columns: Mapping[str, str]) -> set[str]:
    """The names of the columns that hold text."""
    return {name for name, kind in columns.items() if kind in ("string", "large_string")}


def _cut(expected: npt.NDArray[np.float64], limits: Limits, needed: int) -> npt.NDArray[np.int64]:
    """int64 [shards + 1]: where shards of nearly equal size begin and end; where such are over a limit, because few
    samples are large, shards that are filled one after another.

    Args:
        expected: float64 [N]: bytes of the samples, in the order of writing.
        limits: How large shards may become.
        needed: How many shards would keep them if all samples were alike.
    """
    count = len(expected)
    weights = np.ones(count) if limits.max_count is not None else expected
    if limits.shards is not None:
        return _equal(weights, limits.shards)
    bounds = _equal(weights, needed)
    if _are_within(bounds, expected, limits):
        return bounds
    ends = np.concatenate([[0.0], np.cumsum(expected)])
    filled = [0]
    while (start := filled[-1]) < count:
        end = int(np.searchsorted(ends, ends[start] + limits.max_bytes, side="right")) - 1
        filled.append(min(max(end, start + 1), start + (limits.max_count or count), count))
    bounds = _equal(weights, len(filled) - 1)
    return bounds if _are_within(bounds, expected, limits) else np.array(filled, np.int64)


def _equal(weights: npt.NDArray[np.float64], shards: int) -> npt.NDArray[np.int64]:
    ends = np.cumsum(weights)
    cuts = np.searchsorted(ends, ends[-1] * np.arange(1, shards) / shards * (1 - 1e-12)) + 1
    found = np.unique(np.concatenate([[0], np.minimum(cuts, len(weights) - 1), [len(weights)]]))
    return found.astype(np.int64)


def _are_within(bounds: npt.NDArray[np.int64], expected: npt.NDArray[np.float64], limits: Limits) -> bool:
    """Whether no shard of more than one sample is over the limits on bytes and count."""
    counts = np.diff(bounds)
    over = np.add.reduceat(expected, bounds[:-1]) > limits.max_bytes
    if limits.max_count is not None:
        over |= counts > limits.max_count
    return not bool((over & (counts > 1)).any())


def _needed(expected: npt.NDArray[np.float64], limits: Limits) -> int:
    """How many shards keep the limits, by the bytes that are expected of each sample."""
    count, written = len(expected), float(expected.sum())
    needed = [written / (limits.max_bytes * SLACK)]
    if limits.max_count is not None:  # of those that are read: where the ones that a Where keeps lie is not known
        needed.append(count / limits.max_count)
    return min(max(1, math.ceil(max(needed) - 1e-9)), count)


def _digest_samples(corpus: Corpus, split: str, sizes: npt.NDArray[np.int64]) -> tuple[str, frozenset[int]]:
    """A digest of all sizes and keys; and the places whose key an earlier place has. 8 bytes a key are held."""
    hashed = bytearray()
    for place in range(len(sizes)):
        hashed += hashlib.blake2b(corpus.key(split, place).encode(), digest_size=8).digest()
    state = hashlib.blake2b(sizes.tobytes(), digest_size=16)
    state.update(hashed)
    hashes = np.frombuffer(hashed, np.uint64)
    order = np.argsort(hashes, kind="stable")
    alike = np.flatnonzero(hashes[order[1:]] == hashes[order[:-1]])
    return state.hexdigest(), frozenset(order[alike + 1].tolist())


def read_sample(corpus: Corpus, split: str, place: int) -> RawSample:
    """A sample of a corpus.

    Raises:
        DataError: It is bad, or its file cannot be read.
    """
    try:
        return corpus.sample(split, place)
    except OSError as error:  # told here, where it is known to be the source's
        raise CorpusError(
            f"{error.filename or corpus.path} cannot be read: {error.strerror or error}. Check the disk, then try "
            "again."
        ) from error

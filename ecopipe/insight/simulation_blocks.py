"""The blocks of an epoch: planned as a run plans them, all or some; and what those that were not are expected to be."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ecopipe.insight.simulation_cache import Read
from ecopipe.pipeline.pipeline import Pipeline
from ecopipe.pipeline.plan import Plan
from ecopipe.plan.blocks import Lane, Slice
from ecopipe.plan.mixed import MixedShards
from ecopipe.plan.shards import Shards
from ecopipe.run.worth import ShardFigures
from ecopipe.stages.packing import Pack
from ecopipe.storage.files import REMOTE_GAP
from ecopipe.vocabulary.randomness import Chance

Numbers = npt.NDArray[np.int64]
_FAR = np.int64(1) << 44
"""More bytes than any shard has."""


@dataclass(frozen=True)
class Estimate:
    """A figure; ``error`` is its standard error where it was taken from some of the blocks, 0 where from all."""

    value: float
    error: float = 0.0


@dataclass(frozen=True)
class PlannedBlock:
    """A block that was planned.

    Args:
        sizes: Samples of each batch, int64 [batches].
        places: Place in the corpus of each sample in the order of delivery, int64 [samples].
        shards: Its shard, int64 [samples].
        members: Bounds of the members of each sample that the pipeline reads, int64 [samples + 1]: places in
            ``begins``. Empty unless asked for.
        begins: Where each begins in its shard, in bytes, int64 [members].
        ends: Where it ends, int64 [members].
        true: Sum of the lengths.
        padded: Sum over batches of samples times the longest.
        held: Bytes of what a plan holds of it.
        kept: Share of its rows, or parts of them, that are in a batch.
        cpu_s: CPU seconds that planning it took.
    """

    sizes: Numbers
    places: Numbers
    shards: Numbers
    members: Numbers
    begins: Numbers
    ends: Numbers
    true: float
    padded: float
    held: int
    kept: float
    cpu_s: float

    @property
    def payload_bytes(self) -> int:
        """Bytes of the members that the pipeline reads."""
        return int((self.ends - self.begins).sum())

    @cached_property
    def _firsts(self) -> Numbers:
        return np.concatenate([[0], np.cumsum(self.sizes)]).astype(np.int64)

    def reads(self, batch: int) -> list[Read]:
        """What a batch reads, by shard: its members, and what lies between two that are near each other."""
        low, high = self._firsts[batch : batch + 2].tolist()
        first, last = int(self.members[low]), int(self.members[high])
        shards = np.repeat(self.shards[low:high], np.diff(self.members[low : high + 1]))
        return _merged(shards, self.begins[first:last], self.ends[first:last])


def _merged(shards: Numbers, begins: Numbers, ends: Numbers) -> list[Read]:
    """What is read of each shard for some of its members: they, and what lies between two that are near each other."""
    order = np.lexsort((begins, shards))
    begins, ends = (bounds[order] + shards[order] * _FAR for bounds in (begins, ends))
    reached = np.maximum.accumulate(ends)
    before = np.concatenate([[-2 * _FAR], reached[:-1]])
    came = reached - np.where(begins <= before + REMOTE_GAP, before, begins)
    named, which = np.unique(shards[order], return_inverse=True)
    sums = np.bincount(which, weights=came).astype(np.int64)
    return list(zip(named.tolist(), sums.tolist(), strict=True))


class Corpus:
    """What all epochs have in common: the shards, their rows, and which length batches are padded to.

    ``sizes``, ``rows``, ``firsts``: bytes of each shard, its samples, and the samples before it, int64 [shards];
    ``figures`` are what a run decides on which shards are fetched whole.
    """

    def __init__(self, pipeline: Pipeline, shards: Shards | MixedShards) -> None:
        self.pipeline, self.shards = pipeline, shards
        parts = shards.parts.values()
        self.figures = ShardFigures.of(shards, pipeline.reads())
        self.sizes, self.rows = self.figures.sizes, self.figures.rows
        self.firsts: Numbers = np.cumsum(self.rows) - self.rows
        columns = set[str]().union(*(part.columns for part in parts))
        self.length = _length(pipeline, columns)
        self.columns = tuple(dict.fromkeys([*pipeline.plan_columns(), *([self.length] if self.length else [])]))

    @property
    def samples(self) -> int:
        """Samples of the corpus."""
        return int(self.rows.sum())


class Epoch:
    """The blocks of an epoch.

    ``lane``, ``number``, ``rows``: the lane of each block, its number there, and its rows, int64 [blocks]; all blocks
    of lane 0 come first.
    """

    def __init__(self, corpus: Corpus, seed: int, epoch: int) -> None:
        self._corpus = corpus
        self.chance = Chance(seed, epoch, "simulate")
        self.plan: Plan = corpus.pipeline.plan(corpus.shards, seed, epoch)
        self.lanes: list[Lane] = self.plan.lanes()
        sizes = [lane.block_sizes() for lane in self.lanes]
        counts = [len(one) for one in sizes]
        self.lane: Numbers = np.repeat(np.arange(len(sizes), dtype=np.int64), counts)
        self.number: Numbers = np.concatenate([np.arange(count, dtype=np.int64) for count in counts])
        self.rows: Numbers = np.concatenate([np.array(one, dtype=np.int64) for one in sizes])

    def __len__(self) -> int:
        return len(self.rows)

    def slices(self, block: int) -> list[Slice]:
        """The slices of a block."""
        return self.lanes[int(self.lane[block])].block(int(self.number[block]))

    def planned(self, block: int, *, with_bytes: bool) -> PlannedBlock:
        """A block, planned."""
        lane, number, corpus = int(self.lane[block]), int(self.number[block]), self._corpus
        slices = self.slices(block)
        began = time.process_time()
        table = corpus.shards.read(slices, corpus.columns).combine_chunks()
        cut = self.plan.cut(table, self.lanes[lane].order(number), lane, number)
        cpu_s = time.process_time() - began
        positions = np.concatenate([*cut.batches, np.empty(0, dtype=np.int64)])
        rows = positions if cut.parts is None else cut.parts.rows[positions]
        lengths = [len(piece) for piece in slices]
        shards = np.repeat([piece.shard for piece in slices], lengths)
        within = np.concatenate([np.arange(piece.start, piece.stop, dtype=np.int64) for piece in slices])
        sizes = np.array([len(batch) for batch in cut.batches], dtype=np.int64)
        true, padded = self._padding(cut.planned, positions, sizes)
        members, begins, ends = self._members(slices, rows) if with_bytes else (np.empty(0, dtype=np.int64),) * 3
        return PlannedBlock(
            sizes=sizes,
            places=(corpus.firsts[shards] + within)[rows],
            shards=shards[rows],
            members=members,
            begins=begins,
            ends=ends,
            true=true,
            padded=padded,
            held=table.nbytes + positions.nbytes,
            kept=len(positions) / max(cut.planned.num_rows, 1),
            cpu_s=cpu_s,
        )

    def _padding(self, table: pa.Table, rows: Numbers, sizes: Numbers) -> tuple[float, float]:
        """The length of the samples of some batches, and of the batches as they are padded."""
        measure, batching = self._corpus.length, self._corpus.pipeline.batching
        if measure not in table.column_names or not len(rows):
            return 0.0, 0.0
        lengths = np.nan_to_num(table[measure].to_numpy().astype(np.float64))[rows]
        firsts = np.cumsum(sizes) - sizes
        if isinstance(batching, Pack):
            lengths = np.minimum(lengths + batching.extra, batching.length)
            last = np.ceil(lengths[firsts[-1] :].sum() / batching.length)  # at least so many rows; the others are full
            return float(lengths.sum()), float(((len(sizes) - 1) * batching.rows + last) * batching.length)
        return float(lengths.sum()), float((np.maximum.reduceat(lengths, firsts) * sizes).sum())

    def _members(self, slices: Sequence[Slice], rows: Numbers) -> tuple[Numbers, Numbers, Numbers]:
        """The members that the pipeline reads of some rows of some slices: bounds, begins and ends."""
        listed = self._corpus.shards.read(list(slices), ("members",))["members"].combine_chunks().take(pa.array(rows))
        flat, bounds = listed.flatten(), np.asarray(listed.offsets, dtype=np.int64)
        reads = self._corpus.pipeline.reads()
        begins, sizes = (flat.field(name).to_numpy(zero_copy_only=False) for name in ("offset", "size"))
        wanted = np.ones(len(flat), dtype=np.bool_)
        if reads is not None:
            wanted = pc.is_in(flat.field("extension"), value_set=pa.array(sorted(reads))).to_numpy(zero_copy_only=False)
        before = np.concatenate([[0], np.cumsum(wanted)]).astype(np.int64)
        return before[bounds - bounds[0]], begins[wanted], (begins + sizes)[wanted]

    def chosen(self, most: int) -> Numbers:
        """The numbers of ``most`` blocks, one drawn from each of as many equal stretches; all if there are no more.

        (Equal steps would meet the same block of every lane, wherever the blocks of some lanes make a step.)
        """
        total = len(self)
        if total <= most:
            return np.arange(total, dtype=np.int64)
        drawn = self.chance.draws("blocks").uniform(most)
        return ((np.arange(most) + drawn) * total / most).astype(np.int64)

    @property
    def told(self) -> bool:
        """Whether the rows of a block tell how many batches it gives."""
        return self.plan.count() is not None

    def batches(self, planned: Mapping[int, PlannedBlock]) -> Numbers:
        """Batches of each block, int64 [blocks]: as planned; by its rows where they tell; else as many a row as one of
        the planned blocks has, which is drawn: lanes end as far apart as they will."""
        batching = self._corpus.pipeline.batching
        if self.told:
            found = np.array([batching.count(rows) for rows in self.rows.tolist()], dtype=np.int64)
        else:
            per_row = np.array([len(one.sizes) / max(self.rows[block], 1) for block, one in planned.items()])
            drawn = (self.chance.draws("batches").uniform(len(self)) * len(per_row)).astype(np.int64)
            found = np.rint(per_row[drawn] * self.rows).astype(np.int64)
        for block, one in planned.items():
            found[block] = len(one.sizes)
        return found


class ExpectedReads:
    """What batches of blocks that were not planned read: samples drawn from the block, each of the mean size of its
    shard's.

    Args:
        corpus: The corpus.
        epoch: Its blocks.
        samples_per_batch: Samples of a batch in the mean.
        payload_share: Bytes that the pipeline reads of a byte of the shards.
    """

    def __init__(self, corpus: Corpus, epoch: Epoch, samples_per_batch: float, payload_share: float) -> None:
        self._epoch, self._n, self._share = epoch, samples_per_batch, payload_share
        self._stored = corpus.sizes / np.maximum(corpus.rows, 1)
        self._of: dict[int, tuple[Numbers, Numbers, Numbers]] = {}

    def reads(self, block: int, batch: int) -> list[Read]:
        """What a batch reads, by shard."""
        if block not in self._of:
            pieces = np.array([(piece.shard, piece.start, len(piece)) for piece in self._epoch.slices(block)])
            self._of[block] = pieces[:, 0], pieces[:, 1], np.cumsum(pieces[:, 2])
        shards, starts, bounds = self._of[block]
        total = int(bounds[-1])
        n = -total * math.log1p(-min(self._n / total, 0.999))  # of so many draws, the mean number are not alike
        drawn = self._epoch.chance.draws(block, batch).uniform(int(n) + 2)
        rows = (drawn[1 : int(n + drawn[0]) + 1] * total).astype(np.int64)
        which = np.searchsorted(bounds, rows, side="right")
        named = shards[which]
        places = starts[which] + rows - (bounds[which] - np.diff(bounds, prepend=0)[which])
        begins = (places * self._stored[named]).astype(np.int64)
        return _merged(named, begins, begins + (self._stored[named] * self._share).astype(np.int64))


def ratio(tops: Sequence[float], bottoms: Sequence[float], of: int) -> Estimate:
    """The ratio of two sums over some blocks, as an estimate of that over all ``of`` blocks."""
    top, bottom, count = math.fsum(tops), math.fsum(bottoms), len(tops)
    if not bottom:
        return Estimate(0.0)
    value = top / bottom
    if count >= of or count < 2:
        return Estimate(value)
    left = sum((one - value * other) ** 2 for one, other in zip(tops, bottoms, strict=True)) / (count - 1)
    return Estimate(value, math.sqrt(left / count * (1 - count / of)) / (bottom / count))


def _length(pipeline: Pipeline, columns: set[str]) -> str | None:
    """The measure that batches are padded to: that of the batching stage, else what the collated input is long in."""
    collate = pipeline.collate
    if getattr(collate, "layout", "") in ("stack", "flat"):
        return None
    measure = getattr(pipeline.batching, "measure", None)
    by_input = {"audio": "duration_s", "tokens": "tokens", "text": "chars"}
    found = measure or by_input.get(getattr(collate, "input", ""))
    return found if found in columns else None

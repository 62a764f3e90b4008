"""Plan stages: which samples, in which order, in which batches. They see index rows, never payload bytes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ecopipe.formats.index_arrays import of_numbers, scalar, to_floats, to_numpy
from ecopipe.plan.blocks import Slices, first_rows
from ecopipe.stages.stage import BatchingStage, PlanStage, Rows
from ecopipe.vocabulary.errors import SampleError
from ecopipe.vocabulary.randomness import Chance


@dataclass(frozen=True)
class Where(PlanStage):
    """Keeps samples whose measure lies in a range, or is one of some values. One without it is left out.

    Args:
        measure: A column of the index, such as ``duration_s`` or ``label``.
        at_least: Keeps values of at least so much.
        at_most: Keeps values of at most so much.
        one_of: Keeps these values only.
    """

    measure: str
    at_least: float | None = field(default=None, kw_only=True)
    at_most: float | None = field(default=None, kw_only=True)
    one_of: tuple[int | float | str, ...] | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if isinstance(self.one_of, list):
            object.__setattr__(self, "one_of", tuple(self.one_of))
        super().__post_init__()
        if self.at_least is None and self.at_most is None and self.one_of is None:
            raise self.refuse("says nothing to keep. Give at_least, at_most or one_of.")

    def needs(self) -> tuple[str, ...]:
        return (self.measure,)

    def apply(self, block: pa.Table, rows: Rows, chance: Chance, place: tuple[int, int]) -> Rows:
        column = block[self.measure]
        keep = to_numpy(column.is_valid()).copy()
        try:
            if self.at_least is not None:
                keep &= to_numpy(pc.fill_null(pc.greater_equal(column, scalar(self.at_least)), scalar(False)))
            if self.at_most is not None:
                keep &= to_numpy(pc.fill_null(pc.less_equal(column, scalar(self.at_most)), scalar(False)))
            if self.one_of is not None:
                values = pa.array(self.one_of)
                if pa.types.is_string(values.type) != pa.types.is_string(column.type):
                    raise TypeError(f"one_of holds {values.type}")
                keep &= to_numpy(pc.is_in(column, value_set=values.cast(column.type)))
        except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
            raise self.refuse(f"{self.measure} holds {column.type}, which cannot be compared so ({error}).") from error
        kept: Rows = rows[keep[rows]]
        return kept


@dataclass(frozen=True)
class Take(PlanStage):
    """Keeps the first ``count`` samples: of the index before a ``Shuffle``, of the shuffled slices after it; with a
    ``Mix``, so many of each source."""

    count: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.count < 1:
            raise self.refuse(f"count must be at least 1, got {self.count}.")

    def deal(self, slices: Slices, chance: Chance) -> Slices:
        return first_rows(slices, self.count)


@dataclass(frozen=True)
class Shuffle(PlanStage):
    """Shuffles anew in every epoch: slices of shards over the corpus, then samples within a block.

    How far a sample can travel is set by the source's ``block_rows``; slices (a sixteenth of a block at most) travel
    over the whole corpus.
    """

    def deal(self, slices: Slices, chance: Chance) -> Slices:
        return slices[chance.draws("slices").permutation(len(slices))]

    def apply(self, block: pa.Table, rows: Rows, chance: Chance, place: tuple[int, int]) -> Rows:
        return rows[chance.draws("rows", *place).permutation(len(rows))]


@dataclass(frozen=True)
class Batch(BatchingStage):
    """Batches of a fixed number of samples.

    Blocks hold a multiple of ``size`` rows, so that only the last batch of a lane is smaller; after a ``Where``, the
    last one of each block is.

    Args:
        size: Samples per batch.
        drop_last: Leaves out the smaller batch at a lane's end; not after a ``Where``.
    """

    size: int
    drop_last: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size < 1:
            raise self.refuse(f"size must be at least 1, got {self.size}.")

    @property
    def multiple(self) -> int:
        return self.size

    def count(self, rows: int) -> int | None:
        return rows // self.size if self.drop_last else -(-rows // self.size)

    def apply(self, block: pa.Table, rows: Rows, chance: Chance, place: tuple[int, int]) -> list[Rows]:
        batches = [rows[start : start + self.size] for start in range(0, len(rows), self.size)]
        return [batch for batch in batches if len(batch) == self.size or not self.drop_last]


@dataclass(frozen=True)
class Bucket(BatchingStage):
    """Batches of samples of like length, so that little is padded.

    Within a block the samples are sorted by length, longest first, and cut into batches whose padded size (samples
    times the longest) stays within a budget. Lengths within a ratio of ``spread`` count as equal, and keep the order
    in which they came; the batches come in the order of one member each (the first in the block). So after a
    ``Shuffle`` both the members and the order of the batches are random.

    Args:
        measure: The length, a column of the index: ``frames``, ``duration_s``, ``tokens``, ``chars`` ...
        max_padded: Budget of a batch in units of the measure: samples times the longest.
        max_count: Samples per batch at most.
        max_padding: If the cut would leave more than this share of a block's padded size empty, batches end earlier,
            until it does not. In [0, 1]. None: as much as the budget brings.
        spread: Ratio of lengths that count as equal, at least 1.
        group: Batches of like length that follow each other, at least 1. With a number of ranks that divides it, the
            ranks' batches of one step are of like length, so that none waits for another; the order is the same for
            any number of ranks. Some batches of a block are split so that groups are whole; only where a block has
            fewer samples than that takes, its last group is not, and the steps after it straddle groups.
    """

    measure: str
    max_padded: float | None = field(default=None, kw_only=True)
    max_count: int | None = field(default=None, kw_only=True)
    max_padding: float | None = field(default=None, kw_only=True)
    spread: float = field(default=1.01, kw_only=True)
    group: int = field(default=1, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_padded is None and self.max_count is None:
            raise self.refuse("has no limit. Give max_padded (in units of the measure), max_count, or both.")
        if self.max_padded is not None and not 0 < self.max_padded < math.inf:
            raise self.refuse(f"max_padded must be positive and finite, got {self.max_padded}.")
        if self.max_count is not None and self.max_count < 1:
            raise self.refuse(f"max_count must be at least 1, got {self.max_count}.")
        if self.max_padding is not None and not 0 <= self.max_padding <= 1:
            raise self.refuse(f"max_padding must lie in [0, 1], got {self.max_padding}.")
        if not 1 <= self.spread < math.inf:
            raise self.refuse(f"spread must be finite and at least 1, got {self.spread}.")
        if self.group < 1:
            raise self.refuse(f"group must be at least 1, got {self.group}.")

    @property
    def batches_per_turn(self) -> int:
        return self.group

    def needs(self) -> tuple[str, ...]:
        return (self.measure,)

    def apply(self, block: pa.Table, rows: Rows, chance: Chance, place: tuple[int, int]) -> list[Rows]:
        if not len(rows):
            return []
        lengths = self._lengths(block, rows)
        bins = np.floor(np.log(np.maximum(lengths, 1e-9)) / np.log(self.spread)) if self.spread > 1 else lengths
        order = np.argsort(-bins, kind="stable")
        batches = [order[low:high] for low, high in pairwise(self._whole_groups(self._cut(lengths[order])))]
        groups = [batches[at : at + self.group] for at in range(0, len(batches), self.group)]
        in_turn = sorted((sorted(group, key=self._turn(rows)) for group in groups), key=self._first_turn(rows))
        return [rows[np.sort(members)] for group in in_turn for members in group]

    def by_length(self, block: pa.Table, batches: Sequence[Rows]) -> Rows | None:
        column = to_floats(block[self.measure])
        return np.argsort([-column[rows].max() for rows in batches], kind="stable").astype(np.int64)

    @staticmethod
    def _turn(rows: Rows) -> Callable[[Rows], int]:
        """When a batch has its turn: when one of its members would, the one that comes first in the block."""
        return lambda members: int(members[np.argmin(rows[members])])

    def _first_turn(self, rows: Rows) -> Callable[[Sequence[Rows]], tuple[bool, int]]:
        """When a group has its turn: like a batch of all its members; one that is not whole is the last."""
        turn = self._turn(rows)
        return lambda group: (len(group) < self.group, turn(np.concatenate(group)))

    def _whole_groups(self, bounds: list[int]) -> list[int]:
        """The bounds, with the batches of most samples split until the groups are whole or nothing can be."""
        bounds = list(bounds)
        while (len(bounds) - 1) % self.group:
            sizes = np.diff(bounds)
            most = int(sizes.argmax())
            if sizes[most] < 2:
                break
            bounds.insert(most + 1, bounds[most] + int(sizes[most] + 1) // 2)
        return bounds

    def _lengths(self, block: pa.Table, rows: Rows) -> npt.NDArray[np.float64]:
        column = block[self.measure].combine_chunks().take(of_numbers(rows))
        if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
            raise self.refuse(f"{self.measure} holds {column.type}, which is no length. Name a column of numbers.")
        if column.null_count:
            at = int(rows[int(np.argmax(to_numpy(column.is_null())))])
            raise self._sample_error(block, at, f"has no {self.measure}. Leave it out with Where, or index again")
        lengths = to_floats(column)
        if not np.isfinite(lengths).all():
            at = int(rows[int(np.argmin(np.isfinite(lengths)))])
            raise self._sample_error(
                block, at, f"has a {self.measure} that is no finite number. Index the shards again"
            )
        if self.max_padded is not None and lengths.max() > self.max_padded:
            at = int(rows[int(lengths.argmax())])
            raise self._sample_error(
                block,
                at,
                f"has {self.measure} {lengths.max():g}, over max_padded {self.max_padded:g}. Raise max_padded, or "
                f"leave long samples out with Where({self.measure!r}, at_most={self.max_padded:g})",
            )
        return lengths

    def _sample_error(self, block: pa.Table, row: int, reason: str) -> SampleError:
        return SampleError(self.label, block["key"][row].as_py(), block["shard"][row].as_py(), reason + ".")

    def _cut(self, lengths: npt.NDArray[np.float64]) -> list[int]:
        """Bounds of the batches of lengths that are sorted but for the spread, longest first."""
        limit = self.max_padding
        shares = [1.0] if limit is None or limit >= 1 else [1.0, *(limit * by for by in (4, 3, 2, 1.5, 1.25, 1))]
        bounds: list[int] = []
        for share in shares:
            bounds = self._cut_once(lengths, share)
            padded = sum((high - low) * lengths[low:high].max() for low, high in pairwise(bounds))
            if limit is None or lengths.sum() >= (1 - limit) * padded:
                break
        return bounds

    def _cut_once(self, lengths: npt.NDArray[np.float64], share: float) -> list[int]:
        """Greedy cut: each batch takes as many as the budget allows with at most ``share`` of it padding."""
        bounds, at, total = [0], 0, len(lengths)
        while at < total:
            most = self.max_count or total
            if self.max_padded is not None and lengths[at] > 0:
                most = min(most, int(self.max_padded / lengths[at] * self.spread) + 1)
            ahead = lengths[at : at + most]
            count = np.arange(1, len(ahead) + 1)
            padded = np.maximum.accumulate(ahead) * count
            fits = np.cumsum(ahead) >= (1 - share) * padded - 1e-9
            if self.max_padded is not None:
                fits &= padded <= self.max_padded
            taken = int(np.argmin(fits)) if not fits.all() else len(ahead)
            at += max(taken, 1)
            bounds.append(at)
        return bounds

"""From shards to blocks: slices of shards make streams, a lane is a range of each, and is read in blocks of rows.

Slices are held as arrays, so the memory of planning is a few bytes per slice and the rows of one block per lane,
whatever the size of the corpus; the place of a block follows from row counts alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from ecopipe.plan.mixture import Mixture

SLICES_PER_BLOCK = 16
"""A shard of more rows than ``block_rows`` over this is dealt in several slices, so that a block mixes many places."""

Slices = npt.NDArray[np.int64]
"""int64 [N, 3]: shard (its number in the opened shards), first row, row after the last."""

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Slice:
    """Rows [start, stop) of one shard, by its number in the opened shards."""

    shard: int
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


def slices_of(rows_per_shard: Sequence[int] | Rows, block_rows: int, first_shard: int = 0) -> Slices:
    """Shards in index order, as slices of nearly equal size within a shard; the first shard has ``first_shard``."""
    longest = max(1, block_rows // SLICES_PER_BLOCK)
    rows = np.asarray(rows_per_shard, dtype=np.int64)
    parts = -(-rows // longest)
    shard = np.repeat(np.arange(len(rows), dtype=np.int64), parts)
    part = np.arange(len(shard), dtype=np.int64) - np.repeat(np.cumsum(parts) - parts, parts)
    low, high = (rows[shard] * at // parts[shard] for at in (part, part + 1))
    return np.stack([shard + first_shard, low, high], axis=1).astype(np.int64)


def first_rows(slices: Slices, count: int) -> Slices:
    """The slices that hold the first ``count`` rows, the last one shortened."""
    before = np.cumsum(slices[:, 2] - slices[:, 1]) - (slices[:, 2] - slices[:, 1])
    kept: Slices = slices[before < count].copy()
    kept[:, 2] = np.minimum(kept[:, 2], kept[:, 1] + count - before[: len(kept)])
    return kept


class Stream:
    """Slices in order, as one range of rows."""

    def __init__(self, slices: Slices) -> None:
        self._slices = slices
        self._ends = np.cumsum(slices[:, 2] - slices[:, 1])

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def cut(self, low: int, high: int) -> list[Slice]:
        """The slices, or parts of slices, that make rows [low, high)."""
        pieces, at = [], int(np.searchsorted(self._ends, low, side="right"))
        while low < high:
            shard, _, stop = map(int, self._slices[at])
            end = int(self._ends[at])
            start = stop - (end - low)
            taken = min(end, high) - low
            pieces.append(Slice(shard, start, start + taken))
            low, at = low + taken, at + 1
        return pieces


@dataclass(frozen=True)
class Share:
    """What a lane holds of one source: rows [low, high) of the source's stream, in each of its passes."""

    passes: Callable[[int], Stream]
    low: int
    high: int

    def __len__(self) -> int:
        return self.high - self.low

    def cut(self, start: int, stop: int) -> list[Slice]:
        """Rows [start, stop) of the share; beyond its end it begins again with the next pass."""
        pieces: list[Slice] = []
        while start < stop:
            turn, at = divmod(start, len(self))
            taken = min(len(self) - at, stop - start)
            pieces += self.passes(turn).cut(self.low + at, self.low + at + taken)
            start += taken
        return pieces


class Lane:
    """One lane: its shares of the sources, mixed, and cut into blocks of about equal size.

    Args:
        shares: What it holds of each source.
        mixture: The order of their rows.
        block_rows: Rows of a block at most; a multiple of ``multiple``.
        multiple: All blocks but the last hold a multiple of so many rows.
    """

    def __init__(self, shares: Sequence[Share], mixture: Mixture, block_rows: int, multiple: int = 1) -> None:
        self._shares = list(shares)
        self._mixture = mixture
        self._block_rows, self._multiple = block_rows, multiple

    @property
    def blocks(self) -> float:
        """Blocks in the lane; infinite if it never ends."""
        return math.inf if self._mixture.total is None else -(-self._mixture.total // self._block_rows)

    def block_sizes(self) -> list[int]:
        """Rows in each block of a lane that ends."""
        bounds = [self._bound(number) for number in range(int(self.blocks) + 1)]
        return [high - low for low, high in pairwise(bounds)]

    def block(self, number: int) -> list[Slice]:
        """The slices that make a block: those of the first source, then those of the next."""
        low, high = (self._mixture.counts(self._bound(at)) for at in (number, number + 1))
        return [
            piece
            for share, start, stop in zip(self._shares, low, high, strict=True)
            for piece in share.cut(start, stop)
        ]

    def order(self, number: int) -> Rows:
        """The rows of a block, as positions into what :meth:`block` names, in the order of the mixture."""
        return self._mixture.order(self._bound(number), self._bound(number + 1))

    def _bound(self, number: int) -> int:
        """Rows of the lane before a block."""
        if self._mixture.total is None:
            return number * self._block_rows
        units = -(-self._mixture.total // self._multiple)
        return min(units * number // max(int(self.blocks), 1) * self._multiple, self._mixture.total)


def bounds_of(rows: int, lanes: int) -> list[tuple[int, int]]:
    """A range of rows for each lane, equal to within one row."""
    return [(rows * lane // lanes, rows * (lane + 1) // lanes) for lane in range(lanes)]

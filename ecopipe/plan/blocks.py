"""From shards to blocks: slices of shards are dealt to lanes, and a lane is read in blocks of a fixed number of rows.

A lane is the concatenation of its slices, cut every ``block_rows`` rows. So the memory of planning is bounded by the
block, whatever the size of a shard or of the corpus, and the place of a block follows from row counts alone.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

SLICES_PER_BLOCK = 16
"""A shard of more rows than ``block_rows`` over this is dealt in several slices, so that a block mixes many places."""


@dataclass(frozen=True)
class Slice:
    """Rows [start, stop) of one shard, by its number in the index."""

    shard: int
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


def slices_of(rows_per_shard: Sequence[int], block_rows: int) -> list[Slice]:
    """The corpus in index order, as slices of nearly equal size within a shard."""
    longest = max(1, block_rows // SLICES_PER_BLOCK)
    slices = []
    for shard, rows in enumerate(rows_per_shard):
        parts = -(-rows // longest)
        bounds = [rows * part // parts for part in range(parts + 1)] if parts else []
        slices += [Slice(shard, low, high) for low, high in pairwise(bounds)]
    return slices


def first_rows(slices: Iterable[Slice], count: int) -> list[Slice]:
    """The slices that hold the first ``count`` rows, the last one shortened."""
    kept = []
    for piece in slices:
        if count <= 0:
            break
        kept.append(Slice(piece.shard, piece.start, min(piece.stop, piece.start + count)))
        count -= len(piece)
    return kept


class Lane:
    """One lane: its slices in order, cut into blocks of ``block_rows`` rows (the last one may be shorter)."""

    def __init__(self, slices: Sequence[Slice], block_rows: int) -> None:
        self._slices = list(slices)
        self._ends = list(accumulate(len(piece) for piece in self._slices))
        self._block_rows = block_rows

    @property
    def rows(self) -> int:
        """Rows in the lane."""
        return self._ends[-1] if self._ends else 0

    @property
    def blocks(self) -> int:
        """Blocks in the lane."""
        return -(-self.rows // self._block_rows)

    def block_sizes(self) -> list[int]:
        """Rows in each block."""
        return [min(self._block_rows, self.rows - start) for start in range(0, self.rows, self._block_rows)]

    def block(self, number: int) -> list[Slice]:
        """The slices, or parts of slices, that make a block."""
        low, high = number * self._block_rows, min((number + 1) * self._block_rows, self.rows)
        pieces, at = [], bisect_right(self._ends, low)
        while low < high:
            piece = self._slices[at]
            start = piece.stop - (self._ends[at] - low)
            taken = min(self._ends[at], high) - low
            pieces.append(Slice(piece.shard, start, start + taken))
            low, at = low + taken, at + 1
        return pieces


def deal_lanes(slices: Sequence[Slice], lanes: int, block_rows: int) -> list[Lane]:
    """Slices dealt to lanes one by one, like cards."""
    return [Lane(slices[number::lanes], block_rows) for number in range(lanes)]

"""The one global sequence of batches of an epoch: B0, B1, B2, ..., as a pure function of (index, stages, seed, epoch).

The lanes take turns, one batch each; a lane that has come to its end is passed over. A :class:`Cursor` is a place in
the sequence, a few integers; the sequence is entered there by planning one block per lane again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ecopipe.plan.blocks import Lane, Slice

Rows = npt.NDArray[np.int64]


class Recipe(Protocol):
    """What the plan stages of a pipeline do in one epoch; written where stages are known."""

    def lanes(self) -> list[Lane]:
        """The epoch's lanes."""

    def cut(self, block: pa.Table, lane: int, number: int) -> list[Rows]:
        """The batches of one block, as positions into it."""


@dataclass(frozen=True)
class Cursor:
    """A place between two batches: the next batch's number, whose turn it is, and each lane's (block, batch in it)."""

    number: int = 0
    turn: int = 0
    lanes: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Planned:
    """One batch of rows: its number in the epoch, and the place after it."""

    number: int
    block: pa.Table
    positions: Rows
    after: Cursor

    def rows(self) -> pa.Table:
        """The index rows of its samples, in order."""
        return self.block.take(pa.array(self.positions))


class _Reader:
    """One lane being read: holds the batches of its current block."""

    def __init__(self, number: int, lane: Lane, recipe: Recipe, read: Callable[[list[Slice]], pa.Table]) -> None:
        self._number, self._lane, self._recipe, self._read = number, lane, recipe, read
        self._loaded = -1
        self._block: pa.Table | None = None
        self._batches: list[Rows] = []

    def at(self, block: int, batch: int) -> tuple[int, int] | None:
        """The place of the next batch at or after (block, batch); None at the lane's end."""
        while block < self._lane.blocks:
            if self._loaded != block:
                self._block = self._read(self._lane.block(block)).combine_chunks()  # batches are taken from one chunk
                self._batches = self._recipe.cut(self._block, self._number, block)
                self._loaded = block
            if batch < len(self._batches):
                return block, batch
            block, batch = block + 1, 0
        self._block, self._batches, self._loaded = None, [], -1
        return None

    def batch(self, number: int) -> tuple[pa.Table, Rows]:
        return self._block, self._batches[number]


def sequence(recipe: Recipe, read: Callable[[list[Slice]], pa.Table], start: Cursor | None = None) -> Iterator[Planned]:
    """The batches of an epoch from ``start`` on (from its beginning without one).

    Args:
        recipe: What the plan stages do in this epoch.
        read: Reads the index rows of some slices as one table.
        start: A cursor that an earlier :class:`Planned` of the same sequence gave.
    """
    lanes = recipe.lanes()
    start = start if start is not None and start.lanes else Cursor(0, 0, ((0, 0),) * len(lanes))
    places = list(start.lanes)
    readers = [_Reader(number, lane, recipe, read) for number, lane in enumerate(lanes)]
    number, turn, ended = start.number, start.turn, 0
    while ended < len(lanes):
        place = readers[turn].at(*places[turn])
        lane, turn = turn, (turn + 1) % len(lanes)
        if place is None:
            places[lane] = (lanes[lane].blocks, 0)
            ended += 1
            continue
        ended = 0
        block, batch = place
        table, positions = readers[lane].batch(batch)
        places[lane] = (block, batch + 1)
        yield Planned(number, table, positions, Cursor(number + 1, turn, tuple(places)))
        number += 1

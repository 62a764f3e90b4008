"""The one global sequence of batches of an epoch: B0, B1, B2, ..., as a pure function of (index, stages, seed, epoch).

The lanes take turns, one group of batches each (a group is one batch, unless the batching stage says otherwise); a lane
that has come to its end is passed over. A :class:`Cursor` is a place in the sequence, a few integers; the sequence is
entered there by planning one block per lane again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ecopipe.formats.checks import checks_of
from ecopipe.formats.index_arrays import of_numbers
from ecopipe.plan.alike import Alike
from ecopipe.plan.blocks import Lane, Rows, Slice
from ecopipe.plan.parts import Cut
from ecopipe.storage.files import is_url


class Recipe(Protocol):
    """What the plan stages of a pipeline do in one epoch; written where stages are known."""

    @property
    def group(self) -> int:
        """Batches that a lane gives before the next one has its turn."""

    def lanes(self) -> list[Lane]:
        """The epoch's lanes."""

    def cut(self, block: pa.Table, order: Rows, lane: int, number: int) -> Cut:
        """One block, cut into batches; ``order`` is that of the mixture."""


class Read(Protocol):
    """Reads the index rows of some slices as one table; some columns only, if named."""

    def __call__(self, slices: list[Slice], columns: tuple[str, ...] | None = None) -> pa.Table: ...


@dataclass(frozen=True)
class Cursor:
    """A place between two batches: the next batch's number, whose turn it is, and each lane's (block, batch in it)."""

    number: int = 0
    turn: int = 0
    lanes: tuple[tuple[int, int], ...] = ()


class Block:
    """A planned block: its batches, as positions into its rows. The rows are read when a batch of it is wanted."""

    def __init__(self, slices: list[Slice], table: pa.Table, cut: Cut, read: Read | None) -> None:
        self._slices, self._loaded, self._read, self._cut = slices, table, read, cut
        self._narrow: dict[frozenset[str], pa.Table] = {}
        self._alike: dict[frozenset[str], Alike | None] = {}
        self.batches: Sequence[Rows] = cut.batches

    @cached_property
    def _table(self) -> pa.Table:
        return self._loaded if self._read is None else self._read(self._slices).combine_chunks()

    def rows(self, positions: Rows, columns: frozenset[str] | None = None) -> pa.Table:
        """The rows at some positions, those of the index or of parts of its samples: all columns, or some by name."""
        parts = self._cut.parts
        found = self._samples(positions if parts is None else parts.rows[positions], columns)
        return found if parts is None else parts.put_into(found, positions, columns)

    def alike(self, positions: Rows, columns: frozenset[str]) -> Alike | None:
        """What :meth:`rows` gives, as arrays that are made once for the block; None if its samples are not alike, or at
        a URL."""
        if self._cut.parts is not None:
            return None
        if columns not in self._alike:
            table = self._table.select([name for name in self._table.column_names if name in columns])
            batches = table.combine_chunks().to_batches()
            found = Alike.of(batches[0]) if len(batches) == 1 else None
            far = found is not None and any(is_url(path) for _, path in found.shards)
            self._alike[columns] = None if far else found
        block = self._alike[columns]
        return None if block is None else block.take(positions)

    def _samples(self, positions: Rows, columns: frozenset[str] | None) -> pa.Table:
        if columns is None:
            return self._table.take(of_numbers(positions))
        if columns not in self._narrow:
            self._narrow[columns] = self._table.select([name for name in self._table.column_names if name in columns])
        return self._narrow[columns].take(of_numbers(positions))

    @cached_property
    def _checks(self) -> npt.NDArray[np.uint32]:
        return checks_of(self._table["members"].combine_chunks())

    def checks(self, positions: Rows) -> npt.NDArray[np.uint32]:
        """The checks of the samples at some positions, uint32; they are worked out once for the whole block."""
        parts = self._cut.parts
        found: npt.NDArray[np.uint32] = self._checks[positions if parts is None else parts.rows[positions]]
        return found

    @property
    def planned(self) -> pa.Table:
        """The columns that the batches were planned on, of all rows."""
        return self._cut.planned


@dataclass(frozen=True)
class Planned:
    """One batch of rows: its number in the epoch, its block and its place there, and the cursor after it."""

    number: int
    block: Block
    batch: int
    after: Cursor

    @overload
    def rows(self) -> pa.Table: ...

    @overload
    def rows(self, columns: frozenset[str] | None) -> pa.Table | Alike: ...

    def rows(self, columns: frozenset[str] | None = None) -> pa.Table | Alike:
        """The index rows of its samples, in order: all columns, or those of some names, as arrays where they can be."""
        positions = self.block.batches[self.batch]
        found = None if columns is None else self.block.alike(positions, columns)
        return self.block.rows(positions, columns) if found is None else found

    def checks(self) -> npt.NDArray[np.uint32]:
        """The checks of its samples, in order: :func:`ecopipe.formats.checks.checks_of`."""
        return self.block.checks(self.block.batches[self.batch])


class _Reader:
    """One lane being read: holds its current block."""

    def __init__(self, number: int, lane: Lane, recipe: Recipe, read: Read, columns: tuple[str, ...] | None) -> None:
        self._number, self._lane, self._recipe, self._read, self._columns = number, lane, recipe, read, columns
        self._loaded = -1
        self.block: Block | None = None

    def at(self, block: int, batch: int) -> tuple[Block, int, int] | None:
        """The block, its number, and the next batch at or after (block, batch); None at the lane's end."""
        while block < self._lane.blocks:
            if self._loaded != block or self.block is None:
                self.block, self._loaded = self._plan(block), block
            if batch < len(self.block.batches):
                return self.block, block, batch
            block, batch = block + 1, 0
        self.block = None
        return None

    def _plan(self, number: int) -> Block:
        slices = self._lane.block(number)
        table = self._read(slices, self._columns).combine_chunks()  # batches are taken from one chunk
        cut = self._recipe.cut(table, self._lane.order(number), self._number, number)
        return Block(slices, table, cut, None if self._columns is None else self._read)


def sequence(
    recipe: Recipe, read: Read, start: Cursor | None = None, columns: tuple[str, ...] | None = None
) -> Iterator[Planned]:
    """The batches of an epoch from ``start`` on (from its beginning without one).

    Args:
        recipe: What the plan stages do in this epoch.
        read: Reads index rows.
        start: A cursor that an earlier :class:`Planned` of the same sequence gave.
        columns: Plan on these columns alone, and read the others only of blocks whose rows are asked for.
    """
    lanes = recipe.lanes()
    start = start if start is not None and start.lanes else Cursor(0, 0, ((0, 0),) * len(lanes))
    places = list(start.lanes)
    readers = [_Reader(number, lane, recipe, read, columns) for number, lane in enumerate(lanes)]
    number, turn, ended = start.number, start.turn, 0
    while ended < len(lanes):
        found = readers[turn].at(*places[turn])
        if found is None:
            places[turn] = (int(lanes[turn].blocks), 0)
            turn, ended = (turn + 1) % len(lanes), ended + 1
            continue
        ended = 0
        block, at, batch = found
        places[turn] = (at, batch + 1)
        if (batch + 1) % recipe.group == 0 or batch + 1 == len(block.batches):
            turn = (turn + 1) % len(lanes)
        yield Planned(number, block, batch, Cursor(number + 1, turn, tuple(places)))
        number += 1

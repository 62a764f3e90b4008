"""The samples of a task by columns: index rows as numpy arrays, and members gathered from mapped shards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from zlib_ng.zlib_ng import crc32

from ecopipe.plan.alike import Alike
from ecopipe.plan.items import ITEM
from ecopipe.plan.parts import PART_COLUMNS
from ecopipe.stages.columns import Columns
from ecopipe.stages.memory import BatchMemory, Memory
from ecopipe.storage.files import RangeReader
from ecopipe.storage.mapped import MappedFile, MappedFiles, ranges_of
from ecopipe.vocabulary.errors import ShardError

ROW_COLUMNS = ("key", "shard", "path", "members", ITEM, *PART_COLUMNS)
"""Columns of a task's rows that are no fields of a sample."""

_AT_ONCE = 2**21
"""Bytes of members that are gathered at once, unless more are wanted."""

Numbers = npt.NDArray[np.int64]


class Gathered:
    """A column of members of one size, in mapped shards. A slice is in memory of its own: uint8 [slice, bytes].

    Args:
        files: The shards, by number.
        which: The number of each member's shard.
        places: int64 [members, 3]: offset, size and CRC-32 of each.
        verify: Whether they are compared with their CRC-32.
        memory: Where slices get theirs.
        made: Where the members of a batch get theirs.
    """

    def __init__(
        self,
        files: Mapping[int, MappedFile],
        which: npt.NDArray[np.int32],
        places: Numbers,
        *,
        verify: bool,
        memory: Memory,
        made: Memory,
    ) -> None:
        self._files, self._which, self._memory, self._made = files, which, memory, made
        self._offsets, self._size = places[:, 0], int(places[0, 1])
        self._checks = places[:, 2] if verify else None
        self._low, self._rows = 0, np.empty((0, self._size), dtype=np.uint8)

    def __len__(self) -> int:
        return len(self._offsets)

    def __getitem__(self, part: slice) -> npt.NDArray[np.uint8]:
        low, high, _ = part.indices(len(self))
        if not self._low <= low <= high <= self._low + len(self._rows):  # more at once is faster
            self._rows = self._gathered(low, min(max(high, low + _AT_ONCE // self._size), len(self)))
            self._low = low
        return self._rows[low - self._low : high - self._low]

    def first(self) -> npt.NDArray[np.uint8]:
        """The first member: uint8 [1, bytes]."""
        row = np.empty((1, self._size), dtype=np.uint8)
        self._copy(slice(0, 1), 0, row)
        return row

    def behind(self, head: bytes) -> npt.NDArray[np.uint8] | None:
        """The members less their head: uint8 [members, bytes]; None if one of them begins with something else."""
        made = self._made.empty((len(self), self._size - len(head)), np.uint8)
        if self._are_known(head):
            self._copy(slice(None), len(head), made)
            return made
        low, wanted = 0, np.frombuffer(head, dtype=np.uint8)
        while low < len(self):
            rows = self[low : low + max(_AT_ONCE // self._size, 1)]
            if (rows[:, : len(head)] != wanted).any():
                return None
            made[low : low + len(rows)] = rows[:, len(head) :]
            low += len(rows)
        for file, at in self._by_file():
            file.note_head(self._offsets[at], head)
        return made

    def _are_known(self, head: bytes) -> bool:
        """Whether nothing is to be looked at but the bytes behind the heads."""
        checks = self._checks
        return all(
            file.are_known(self._offsets[at], head, None if checks is None else checks[at])
            for file, at in self._by_file()
        )

    def _by_file(self) -> Iterator[tuple[MappedFile, Numbers]]:
        """Each shard, and which of the members lie in it."""
        for number, file in self._files.items():
            yield file, np.flatnonzero(self._which == number)

    def _copy(self, part: slice, begin: int, out: npt.NDArray[np.uint8]) -> None:
        """Copies the bytes of some members from ``begin`` on, as many as ``out`` [members, bytes] takes."""
        found = ranges_of(self._files, self._which[part], self._offsets[part] + begin, out.shape[1])
        if found is None:
            raise ShardError("a shard ends before a member does")
        ranges, at = map(torch.from_numpy, found)
        torch.index_select(ranges, 0, at, out=torch.from_numpy(out))

    def _gathered(self, low: int, high: int) -> npt.NDArray[np.uint8]:
        rows = self._memory.empty((high - low, self._size), np.uint8)
        self._copy(slice(low, high), 0, rows)
        if self._checks is not None:
            which, offsets = self._which[low:high], self._offsets[low:high]
            if self._differ(rows, which, offsets, self._checks[low:high]):
                raise ShardError("a member is not what was indexed")
        return rows

    def _differ(
        self, rows: npt.NDArray[np.uint8], which: npt.NDArray[np.int32], offsets: Numbers, checks: Numbers
    ) -> bool:
        for number, file in self._files.items():
            (at,) = np.nonzero(which == number)
            if len(at) and (file.checks(offsets[at], rows, at) != checks[at]).any():
                return True
        return False


class ColumnReader:
    """Reads the rows of a task as columns.

    Args:
        reads: The fields that stages look at; None for all.
        verify: Whether members are compared with the CRC-32 in the index: those of a mapped shard once in this process,
            and again when the shard was written to or replaced; any others whenever they are read.
        reader: Reads what is not mapped.
    """

    def __init__(self, reads: set[str] | None, *, verify: bool, reader: RangeReader) -> None:
        self._reads, self._verify, self._reader = reads, verify, reader
        self._mapped = MappedFiles()
        self._memory, self._made = Memory(), BatchMemory()

    def read(self, rows: pa.RecordBatch | Alike) -> Columns | None:
        """The samples of some rows; None if their members differ in number or kind, or are not in shards,
        or if parts of samples are wanted.

        Raises:
            ShardError: A member cannot be read, or is not what was indexed; its sample's own reading says which.
        """
        alike = rows if isinstance(rows, Alike) else Alike.of(rows)
        if alike is None:
            return None
        fields: dict[str, Any] = {}
        for name in alike.others.schema.names:
            column = alike.others[name]
            if name not in ROW_COLUMNS and not column.null_count:
                fields[name] = _column(column)
        for at, name in enumerate(alike.extensions):
            if self._reads is None or name in self._reads:
                fields[name] = self._members(alike, alike.members[:, at])
        return Columns(alike.others["key"].to_pylist(), fields, self._made)

    def close(self) -> None:
        """Lets go of the mapped shards."""
        self._mapped.close()

    def _members(self, alike: Alike, places: Numbers) -> Any:
        sizes, which = places[:, 1], alike.which
        names = {number: alike.shards[number][1] for number in np.flatnonzero(np.bincount(which)).tolist()}
        if sizes[0] and (sizes == sizes[0]).all():
            mapped = ((number, self._mapped.open(name)) for number, name in names.items())
            files = {number: file for number, file in mapped if file is not None}
            if len(files) == len(names):
                return Gathered(files, which, places, verify=self._verify, memory=self._memory, made=self._made)
        found: list[bytes] = [b""] * len(which)
        for number, path in names.items():
            (at,) = np.nonzero(which == number)
            for place, payload in zip(at.tolist(), self._reader.read(path, places[at, :2].tolist()), strict=True):
                found[place] = payload
        if self._verify and any(map(_differs, found, places[:, 2].tolist())):
            raise ShardError("a member is not what was indexed")
        return found


def _differs(payload: bytes, check: int) -> bool:
    return crc32(payload) != check


def _column(values: pa.Array) -> Any:
    """Numbers as an array, anything else as a list."""
    kind = values.type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind):
        return values.to_numpy(zero_copy_only=False)
    return values.to_pylist()

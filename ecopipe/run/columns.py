"""The samples of a task by columns: index rows as numpy arrays, and members gathered from mapped shards."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ecopipe.plan.items import ITEM
from ecopipe.stages.columns import Columns, Memory
from ecopipe.storage.files import RangeReader
from ecopipe.storage.mapped import MappedFile, MappedFiles
from ecopipe.vocabulary.errors import ShardError

ROW_COLUMNS = ("key", "shard", "path", "members", ITEM)
"""Columns of a task's rows that are no fields of a sample."""

Numbers = npt.NDArray[np.int64]


class Gathered:
    """A column of members of one size, in mapped shards. A slice is a copy: uint8 [slice, bytes].

    Args:
        files: The shards.
        which: The shard of each member, as a place in ``files``; None if there is only one.
        offsets: Where each member begins.
        size: Bytes of each.
        checks: The CRC-32 of each, to be compared with; None if they are not.
    """

    def __init__(
        self, files: Sequence[MappedFile], which: Numbers | None, offsets: Numbers, size: int, checks: Numbers | None
    ) -> None:
        self._files, self._which, self._offsets, self._size, self._checks = files, which, offsets, size, checks

    def __len__(self) -> int:
        return len(self._offsets)

    def __getitem__(self, part: slice) -> npt.NDArray[np.uint8]:
        if self._which is None:
            return self._of(self._files[0], part)
        which = self._which[part]
        first = part.indices(len(self))[0]
        rows = np.empty((len(which), self._size), dtype=np.uint8)
        for number, file in enumerate(self._files):
            (at,) = np.nonzero(which == number)
            if len(at):
                rows[at] = self._of(file, first + at)
        return rows

    def _of(self, file: MappedFile, at: slice | Numbers) -> npt.NDArray[np.uint8]:
        offsets = self._offsets[at]
        rows = file.gather(offsets, self._size)
        if rows is None or (self._checks is not None and (file.checks(offsets, rows) != self._checks[at]).any()):
            raise ShardError("a member is not what was indexed")
        return rows


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
        self._memory = Memory()

    def read(self, rows: pa.RecordBatch) -> Columns | None:
        """The samples of some rows; None if their members differ in number or kind, or are not in shards.

        Raises:
            ShardError: A member cannot be read, or is not what was indexed; its sample's own reading says which.
        """
        if ITEM in rows.schema.names:
            return None
        members = self._members(rows)
        if members is None:
            return None
        fields: dict[str, Any] = {}
        for name in rows.schema.names:
            if name not in ROW_COLUMNS and not rows[name].null_count:
                fields[name] = _column(rows[name])
        return Columns(rows["key"].to_pylist(), {**fields, **members}, self._memory)

    def close(self) -> None:
        """Lets go of the mapped shards."""
        self._mapped.close()

    def _members(self, rows: pa.RecordBatch) -> dict[str, Any] | None:
        listed, count = rows["members"], len(rows)
        flat = listed.flatten()
        each, rest = divmod(len(flat), count)
        if rest or (np.diff(listed.offsets.to_numpy()) != each).any():
            return None
        kinds = flat.field("extension").dictionary_encode()
        codes = kinds.indices.to_numpy().reshape(count, each)
        if (codes != codes[0]).any():
            return None
        names = kinds.dictionary.take(pa.array(codes[0])).to_pylist()
        paths = rows["path"].dictionary_encode()
        offsets, sizes, checks = (
            flat.field(name).to_numpy().reshape(count, each) for name in ("offset", "size", "crc32")
        )
        return {
            name: self._column_of(paths, offsets[:, at], sizes[:, at], checks[:, at])
            for at, name in enumerate(names)
            if self._reads is None or name in self._reads
        }

    def _column_of(self, paths: pa.DictionaryArray, offsets: Numbers, sizes: Numbers, checks: Numbers) -> Any:
        which, names = paths.indices.to_numpy(), paths.dictionary.to_pylist()
        if (sizes == sizes[0]).all() and sizes[0]:
            files = [file for name in names if (file := self._mapped.open(name)) is not None]
            if len(files) == len(names):
                one = which if len(files) > 1 else None
                return Gathered(files, one, offsets, int(sizes[0]), checks if self._verify else None)
        found: list[bytes] = [b""] * len(which)
        for number, path in enumerate(names):
            (at,) = np.nonzero(which == number)
            ranges = zip(offsets[at].tolist(), sizes[at].tolist(), strict=True)
            for place, payload in zip(at.tolist(), self._reader.read(path, list(ranges)), strict=True):
                found[place] = payload
        if self._verify and any(map(_differs, found, checks.tolist())):
            raise ShardError("a member is not what was indexed")
        return found


def _differs(payload: bytes, check: int) -> bool:
    return zlib.crc32(payload) != check


def _column(values: pa.Array) -> Any:
    """Numbers as an array, anything else as a list."""
    kind = values.type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind):
        return values.to_numpy(zero_copy_only=False)
    return values.to_pylist()

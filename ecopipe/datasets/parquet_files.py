"""Parquet: typed tables, such as those of the datasets library."""

from __future__ import annotations

import bisect
import functools
import itertools
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from ecopipe.datasets.original import Original
from ecopipe.datasets.parts import shown
from ecopipe.datasets.row_settings import OPTIONS, repeated
from ecopipe.datasets.rows import Found, Row, Rows
from ecopipe.storage import files
from ecopipe.vocabulary.errors import CorpusError

_ROWS = 64  # that are made values of at once: a row may hold an image
_GROUPS = 2  # row groups that are in memory at once
_DAMAGED = (pa.ArrowException, OSError, UnicodeDecodeError)


class ParquetFiles(Rows):
    """One sample per row; see :class:`Rows` for what becomes of its columns.

    A binary column is bytes as they are; a struct with ``bytes`` in it, as the datasets library stores images and
    audio, is those bytes. A row group is in memory while its rows are read.
    """

    name = "parquet"
    title = "Parquet, a sample a row"
    expects = "x.parquet or train-00000-of-00002.parquet, or a folder of them (or its data/), a split each"
    options: ClassVar = OPTIONS
    endings = (".parquet",)
    in_order = True

    def names(self, file: str) -> Sequence[str]:
        return list(self._memory.table(file).schema_arrow.names)

    def size(self, file: str) -> int | None:
        return int(self._memory.table(file).metadata.num_rows)

    def scan(self, file: str, columns: Sequence[str]) -> Iterator[Found]:
        number = 0
        batches = self._memory.table(file).iter_batches(batch_size=_ROWS, columns=list(columns), use_threads=False)
        try:
            for batch in batches:
                rows = _values(batch, 0)
                for place in range(batch.num_rows):
                    number += 1
                    where = f"{shown(file)}, row {number}"
                    row: Row | CorpusError
                    try:
                        row = rows[place] if rows is not None else _value(batch, place)
                    except UnicodeDecodeError as error:
                        row = _damaged(where, error)
                    yield Found(where, row)
        except _DAMAGED as error:
            raise CorpusError(f"{shown(file)} is damaged after row {number:,}: {error}. Fetch it again.") from error

    def row_sizes(self, file: str, columns: Sequence[str]) -> npt.NDArray[np.int64]:
        about = self._memory.table(file).metadata
        sizes = [np.empty(0, np.int64)]
        for number in range(about.num_row_groups):
            group = about.row_group(number)
            parts = (group.column(place) for place in range(group.num_columns))
            wanted = (part for part in parts if not columns or part.path_in_schema.partition(".")[0] in columns)
            total = sum(part.total_uncompressed_size for part in wanted)
            sizes.append(np.full(group.num_rows, total // max(group.num_rows, 1), np.int64))
        return np.concatenate(sizes)

    def row(self, file: str, place: int, columns: Sequence[str]) -> tuple[object, Row]:
        where = f"{shown(file)}, row {place + 1}"
        memory = self._memory.here()
        try:
            ends = memory.ends(file)
            group = bisect.bisect_right(ends, place)
            at = place - (ends[group - 1] if group else 0)
            first = at - at % _ROWS
            named, rows = memory.block
            if named != (file, group, first):
                rows = _values(memory.group(file, group, columns), first)
                memory.block = ((file, group, first), rows)
            row: Row = rows[at - first] if rows is not None else _value(memory.group(file, group, columns), at)
        except _DAMAGED as error:
            raise _damaged(where, error) from error
        return where, row

    @functools.cached_property
    def _memory(self) -> _Memory:
        return _Memory()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_memory"}

    def close(self) -> None:
        self._memory.close()


class _Memory:
    """What one process has open and in memory: files, row groups, and the values of some rows."""

    def __init__(self) -> None:
        self._process, self._reading = os.getpid(), threading.Lock()
        self._copies: dict[str, Original] = {}  # of files at URLs; a forked process reads its parent's
        self._tables: dict[str, Any] = {}
        self._ends: dict[str, list[int]] = {}
        self._groups: OrderedDict[tuple[str, int], Any] = OrderedDict()
        self.block: tuple[tuple[str, int, int], list[Row] | None] = (("", 0, 0), None)

    def here(self) -> _Memory:
        """This memory, emptied of what another process has open."""
        if self._process != os.getpid():
            self._process, self._tables, self._groups = os.getpid(), {}, OrderedDict()
            self._reading = threading.Lock()  # the other's may have been held as this process was forked
        return self

    def table(self, file: str) -> Any:
        """The open file."""
        if file not in self._tables:
            self._tables[file] = self._opened(file)
        return self._tables[file]

    def ends(self, file: str) -> list[int]:
        """The row after the last of each row group."""
        if file not in self._ends:
            about = self.table(file).metadata
            counts = (about.row_group(number).num_rows for number in range(about.num_row_groups))
            self._ends[file] = list(itertools.accumulate(counts))
        return self._ends[file]

    def group(self, file: str, number: int, columns: Sequence[str]) -> Any:
        """The wanted columns of a row group; the last few are kept."""
        with self._reading:  # a ParquetFile is not for several threads at once
            found = self._groups.pop((file, number), None)
            if found is None:
                found = self.table(file).read_row_group(number, columns=list(columns) or None, use_threads=False)
            self._groups[file, number] = found
            while len(self._groups) > _GROUPS:
                self._groups.popitem(last=False)
            return found

    def close(self) -> None:
        for table in self._tables.values():
            table.close()
        for copy in self._copies.values():
            copy.close()

    def _opened(self, file: str) -> Any:
        source: Any = file
        if files.is_url(file):
            if file not in self._copies:
                self._copies[file] = Original(file)
            source = self._copies[file].stream()
        try:
            table = pq.ParquetFile(source)
        except (pa.ArrowException, OSError) as error:
            raise CorpusError(f"{shown(file)} is no whole Parquet file: {error}. Fetch it again.") from error
        if (twice := repeated(table.schema_arrow.names)) is not None:
            table.close()
            raise CorpusError(f"{shown(file)} has two columns named {twice!r}. Rename one of them.")
        return table


def _values(table: Any, first: int) -> list[Row] | None:
    """Some rows; None if the values of one are no text, and each has to be looked at alone."""
    try:
        rows: list[Row] = table.slice(first, _ROWS).to_pylist()
    except UnicodeDecodeError:
        return None
    return rows


def _value(table: Any, place: int) -> Row:
    row: Row = table.slice(place, 1).to_pylist()[0]
    return row


def _damaged(where: str, error: Exception) -> CorpusError:
    return CorpusError(f"{where}: is damaged: {error}. Fetch the file again.")

"""The index beside the tars: ``index.arrow``, one row per sample, in the order of the tars.

Columns: ``key`` (str), ``shard`` (str, the tar's file name), ``members`` (list of {extension, offset, size, crc32}),
the measures of :data:`ecopipe.formats.measures.MEASURES`, and what the corpus adds (speaker, rating, ...).

It is an Arrow IPC file (pyarrow, pandas, polars and DuckDB read it). A record batch holds rows of one shard, the last
one none: its metadata has an entry ``ecopipe`` (JSON), where ``shards`` is a table (an Arrow IPC stream in base64) of
their size in bytes, their number of rows, a digest of what they hold, and the sum of each column of numbers. Where the
batch of a row lies follows from the shards' rows, so an open index holds 24 bytes per batch and some 150 per shard, and
reads any thousand rows at once.
(Parquet's footer describes each column of each row group, and is read whole: 1.3 KB for as many rows.)
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ecopipe.formats import index_checks
from ecopipe.formats.index_arrays import to_numpy
from ecopipe.formats.measures import MEASURES
from ecopipe.formats.tar import Member
from ecopipe.vocabulary import errors

FILE_NAME = "index.arrow"
VERSION = 3
COMPRESSION: str | None = "zstd"
BATCH_ROWS = 1024
"""Rows per record batch at most. A slice of a block of the default size is one batch."""

RECENT_BATCHES = 32
"""Record batches that an open index keeps, the most recently used: several short slices lie in one."""

_MEMBER = pa.struct([("extension", pa.string()), ("offset", pa.int64()), ("size", pa.int64()), ("crc32", pa.uint32())])
_FIXED = [("key", pa.string()), ("shard", pa.string()), ("members", pa.list_(_MEMBER))]
_SHARD = pa.schema([("name", pa.string()), ("size", pa.int64()), ("rows", pa.int64()), ("digest", pa.string())])


@dataclass(frozen=True)
class ShardInfo:
    """What the index knows of one shard: its file name, bytes, rows, and a digest of its rows."""

    name: str
    size: int
    rows: int
    digest: str


@dataclass(frozen=True)
class Row:
    """One sample to be written to an index."""

    key: str
    members: Sequence[Member]
    measures: Mapping[str, Any]


class ShardList:
    """The shards of an index.

    Args:
        table: The columns of :class:`ShardInfo`; then for each filled column of numbers, by :func:`sum_of`, its sum,
            float64, where a row without a value counts as 0.
    """

    def __init__(self, table: pa.Table) -> None:
        self.table = table

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def __getitem__(self, number: int) -> ShardInfo:
        return ShardInfo(*(self.table[name][number].as_py() for name in _SHARD.names))

    def __iter__(self) -> Iterator[ShardInfo]:
        return map(ShardInfo, *(self.table[name].to_pylist() for name in _SHARD.names))


def sum_of(column: str) -> str:
    """What the table of the shards calls the sum of a column."""
    return f"sum of {column}"


def schema_for(extras: Mapping[str, str]) -> pa.Schema:
    """The index's schema: the fixed columns, the measures, and a corpus's own columns (name -> Arrow type alias)."""
    columns = {**MEASURES, **extras}
    return pa.schema([*_FIXED, *((name, pa.type_for_alias(alias)) for name, alias in columns.items())])


def digest_rows(rows: Iterable[Row]) -> str:
    """Digest of rows: keys, members' extensions, sizes and CRCs, and measures; not where members lie in the tar."""
    state = hashlib.blake2b(digest_size=16)
    for row in rows:
        members = sorted((member.extension, member.size, member.crc32) for member in row.members)
        measures = sorted((name, value) for name, value in row.measures.items() if value is not None)
        state.update(repr((row.key, members, measures)).encode())
    return state.hexdigest()


def _members_array(rows: Sequence[Row]) -> pa.Array:
    """The members of rows, built by column: a dict a member would take most of the time of writing an index."""
    flat = [member for row in rows for member in row.members]
    offsets = np.cumsum([0, *(len(row.members) for row in rows)], dtype=np.int32)
    fields = [
        pa.array([getattr(member, field.name) for member in flat], field.type)
        for field in (_MEMBER.field(number) for number in range(_MEMBER.num_fields))
    ]
    return pa.ListArray.from_arrays(pa.array(offsets), pa.StructArray.from_arrays(fields, fields=list(_MEMBER)))


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _batches_of(rows: int) -> int:
    """Record batches of a shard of so many rows; they are of nearly equal length."""
    return -(-rows // BATCH_ROWS)


class IndexWriter:
    """Writes an index, shard by shard.

    Args:
        path: A local file, usually temporary.
        extras: Columns beside the measures: name -> Arrow type alias.
        made_by: What wrote the tars, if it was ecopipe; such tars may be replaced.
    """

    def __init__(self, path: Path, *, extras: Mapping[str, str] | None = None, made_by: str = "") -> None:
        self._made_by = made_by
        self.schema = schema_for(extras or {})
        self.shards: list[ShardInfo] = []
        self.extensions: set[str] = set()
        self.filled: set[str] = set()
        self._sums: dict[str, list[float]] = {field.name: [] for field in self.schema if _is_number(field.type)}
        self._file = pa.OSFile(str(path), "wb")
        self._options = pa.ipc.IpcWriteOptions(compression=COMPRESSION, use_threads=False)
        self._writer = pa.ipc.new_file(self._file, self.schema, options=self._options)

    def add(self, name: str, size: int, rows: Sequence[Row], *, digest: str = "") -> ShardInfo:
        """Appends the rows of one shard, whose :func:`digest_rows` may be known already."""
        names = self.schema.names[len(_FIXED) :]
        for row in rows:
            if unknown := set(row.measures) - set(names):
                raise errors.IndexFileError(
                    f"{name}: sample {row.key!r} has measures {sorted(unknown)} that no column holds."
                )
        columns: dict[str, Any] = {
            "key": [row.key for row in rows],
            "shard": [name] * len(rows),
            "members": _members_array(rows),
        }
        for column in names:
            columns[column] = [row.measures.get(column) for row in rows]
        return self.add_table(
            ShardInfo(name, size, len(rows), digest or digest_rows(rows)), pa.table(columns, schema=self.schema)
        )

    def add_table(self, shard: ShardInfo, table: pa.Table) -> ShardInfo:
        """Appends one shard whose rows are a table already."""
        parts = _batches_of(shard.rows)
        for part in range(parts):
            low, high = shard.rows * part // parts, shard.rows * (part + 1) // parts
            (batch,) = table.slice(low, high - low).combine_chunks().to_batches()
            self.extensions.update(pc.unique(batch["members"].flatten().field("extension")).to_pylist())
            self.filled.update(name for name in batch.schema.names if batch[name].null_count < len(batch))
            self._writer.write_batch(batch)
        for name, sums in self._sums.items():
            sums.append(pc.sum(table[name]).as_py() or 0)
        self.shards.append(shard)
        return shard

    def finish(self) -> None:
        """Writes the list of shards, and the footer."""
        described = {
            "version": VERSION,
            "made_by": self._made_by,
            "extensions": sorted(self.extensions),
            "filled": sorted(self.filled),
            "shards": self._table_of_shards(),
        }
        nothing = pa.RecordBatch.from_pylist([], schema=self.schema)
        self._writer.write_batch(nothing, custom_metadata={"ecopipe": json.dumps(described)})
        self._writer.close()
        self._file.close()

    def _table_of_shards(self) -> str:
        told = pa.Table.from_pylist([asdict(shard) for shard in self.shards], schema=_SHARD)
        for name in sorted(self.filled & set(self._sums)):
            told = told.append_column(sum_of(name), pa.array(self._sums[name], pa.float64()))
        stream = pa.BufferOutputStream()
        with pa.ipc.new_stream(stream, told.schema, options=self._options) as writer:
            writer.write_table(told)
        return base64.b64encode(stream.getvalue()).decode()

    def abandon(self) -> None:
        """Closes the file without a footer."""
        with contextlib.suppress(OSError):
            self._file.close()


class IndexFile:
    """An index opened for reading. Rows are read by shard and range; nothing is held but the last few record batches.

    Args:
        path: The index; its name in errors.
        file: Where to read it from, if it is no local file.
    """

    def __init__(self, path: str, file: BinaryIO | None = None) -> None:
        self.path = path
        self._readers: dict[tuple[str, ...] | None, Any] = {}
        self._recent: dict[tuple[int, tuple[str, ...] | None], pa.RecordBatch] = {}
        try:
            self._file = pa.OSFile(path) if file is None else pa.PythonFile(file, "r")
        except (pa.ArrowException, OSError) as error:
            raise self._unreadable(error) from error
        try:
            self._open()
        except BaseException:
            self._file.close()
            raise

    def _open(self) -> None:
        try:
            reader = self._reader(None)
            last = reader.num_record_batches - 1
            meta = reader.get_batch_with_custom_metadata(last)[1] if last >= 0 else None
        except Exception as error:  # Arrow takes damaged flatbuffers for whatever they look like
            raise self._unreadable(error) from error
        if meta is None or b"ecopipe" not in meta:
            raise errors.IndexFileError(
                f"{self.path}: was not written by ecopipe. Move it away and run 'ecopipe index' on the tars."
            )
        try:
            if (version := index_checks.version_of(meta[b"ecopipe"])) != VERSION:
                raise errors.IndexFileError(
                    f"{self.path}: has version {str(version)[:20]}, this ecopipe reads {VERSION}. Delete it and run "
                    "'ecopipe index' on the tars."
                )
            found = index_checks.described(meta[b"ecopipe"], _SHARD)
            index_checks.check_schema(reader.schema, schema_for({}), len(_FIXED))
        except errors.IndexFileError:
            raise
        except Exception as error:
            raise self._damaged(error) from error
        self.shards, self.extensions, self.made_by = ShardList(found.shards), found.extensions, found.made_by
        self.filled = found.filled
        """Columns that hold at least one value."""
        self.schema = reader.schema
        self._rows = to_numpy(found.shards["rows"])
        batches = [_batches_of(rows) for rows in self._rows.tolist()]
        if (listed := sum(batches)) != last:
            raise errors.IndexFileError(
                f"{self.path}: lists {sum(self._rows.tolist()):,} rows, which are {listed:,} batches, and holds "
                f"{last:,}. Delete it and run 'ecopipe index' on the tars."
            )
        self._first_batch = np.cumsum([0, *batches], dtype=np.int64)[:-1]

    def _unreadable(self, error: Exception) -> errors.IndexFileError:
        return errors.IndexFileError(
            f"{self.path}: is no readable Arrow file ({_shortly(error)}). Delete it and run 'ecopipe index' on the "
            "tars."
        )

    def _damaged(self, error: Exception) -> errors.IndexFileError:
        return errors.IndexFileError(
            f"{self.path}: is damaged ({_shortly(error)}). Delete it and run 'ecopipe index' on the tars."
        )

    @property
    def extras(self) -> dict[str, str]:
        """Columns beside the fixed ones and the measures: name -> Arrow type alias."""
        known = {name for name, _ in _FIXED} | set(MEASURES)
        return {field.name: str(field.type) for field in self.schema if field.name not in known}

    def read(self, shard: int, start: int, stop: int, columns: tuple[str, ...] | None = None) -> pa.Table:
        """Rows [start, stop) of the shard with that number; some columns only, if named."""
        rows, first = int(self._rows[shard]), int(self._first_batch[shard])
        parts, stop = _batches_of(rows), min(stop, rows)
        found = []
        if start < stop:
            # the last part that begins at or before a row: rows * part // parts <= row
            for part in range(((start + 1) * parts - 1) // rows, (stop * parts - 1) // rows + 1):
                low, high = rows * part // parts, rows * (part + 1) // parts
                batch = self._read_batch(first + part, shard, high - low, columns)
                found.append(batch.slice(max(start - low, 0), min(stop, high) - max(start, low)))
        return pa.Table.from_batches(found) if found else self.schema.empty_table()

    def _reader(self, columns: tuple[str, ...] | None) -> Any:
        """A reader of some columns: each knows its own from the beginning."""
        if columns not in self._readers:
            wanted = [number for number, name in enumerate(self.schema.names) if name in columns] if columns else []
            options = pa.ipc.IpcReadOptions(included_fields=wanted, use_threads=False)
            self._readers[columns] = pa.ipc.open_file(self._file, options=options)
        return self._readers[columns]

    def _read_batch(self, number: int, shard: int, rows: int, columns: tuple[str, ...] | None) -> pa.RecordBatch:
        found = self._recent.pop((number, columns), None)
        if found is None:
            try:
                found = self._reader(columns).get_batch(number)
                found.validate(full=True)
                if len(found) != rows:
                    raise pa.ArrowInvalid(f"batch {number} holds {len(found):,} rows and should hold {rows:,}")
                if not index_checks.CHECKED.isdisjoint(found.schema.names):
                    info = self.shards[shard]
                    index_checks.check_rows(found, info.name, info.size)
            except Exception as error:
                raise self._damaged(error) from error
            if len(self._recent) >= RECENT_BATCHES:
                self._recent.pop(next(iter(self._recent)))
        self._recent[number, columns] = found  # the last is the most recent
        return found

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def _shortly(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:300] + " ..."

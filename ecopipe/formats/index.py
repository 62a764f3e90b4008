"""The index beside the tars: ``index.parquet``, one row per sample, in the order of the tars.

Columns: ``key`` (str), ``shard`` (str, the tar's file name), ``members`` (list of {extension, offset, size, crc32}),
the measures of :data:`ecopipe.formats.measures.MEASURES`, and what the corpus adds (speaker, rating, ...). Each row
group holds rows of one shard. The footer's ``ecopipe`` entry (JSON) lists the shards with their size in bytes, their
number of rows and a digest of what they hold.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ecopipe.formats.measures import MEASURES
from ecopipe.formats.tar import Member
from ecopipe.vocabulary import errors

FILE_NAME = "index.parquet"
VERSION = 1
ROW_GROUP = 2048
"""Rows per row group at most, so that a block reads little more than its own rows."""

RECENT_GROUPS = 32
"""Row groups that an open index keeps, the most recently used: neighbouring slices lie in one."""

_MEMBER = pa.struct([("extension", pa.string()), ("offset", pa.int64()), ("size", pa.int64()), ("crc32", pa.uint32())])
_FIXED = [("key", pa.string()), ("shard", pa.string()), ("members", pa.list_(_MEMBER))]


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
        self._writer = pq.ParquetWriter(path, self.schema, compression="zstd", write_statistics=True)

    def add(self, name: str, size: int, rows: Sequence[Row]) -> ShardInfo:
        """Appends the rows of one shard."""
        names = self.schema.names[len(_FIXED) :]
        for row in rows:
            if unknown := set(row.measures) - set(names):
                raise errors.IndexFileError(
                    f"{name}: sample {row.key!r} has measures {sorted(unknown)} that no column holds."
                )
        columns: dict[str, list[Any]] = {
            "key": [row.key for row in rows],
            "shard": [name] * len(rows),
            "members": [[asdict(member) for member in row.members] for row in rows],
        }
        for column in names:
            columns[column] = [row.measures.get(column) for row in rows]
        return self.add_table(
            ShardInfo(name, size, len(rows), digest_rows(rows)), pa.table(columns, schema=self.schema)
        )

    def add_table(self, shard: ShardInfo, table: pa.Table) -> ShardInfo:
        """Appends one shard whose rows are a table already."""
        self.extensions.update(pc.list_flatten(table["members"].combine_chunks()).field("extension").to_pylist())
        if shard.rows:
            self._writer.write_table(table, row_group_size=ROW_GROUP)
        self.shards.append(shard)
        return shard

    def finish(self) -> None:
        """Writes the footer."""
        described = {
            "version": VERSION,
            "made_by": self._made_by,
            "extensions": sorted(self.extensions),
            "shards": [asdict(shard) for shard in self.shards],
        }
        self._writer.add_key_value_metadata({"ecopipe": json.dumps(described)})
        self._writer.close()

    def abandon(self) -> None:
        """Closes the file without a footer of ours."""
        with contextlib.suppress(OSError):
            self._writer.close()


class IndexFile:
    """An index opened for reading. Rows are read by shard and range; nothing is held but the last few row groups.

    Args:
        path: The index; its name in errors.
        file: Where to read it from, if it is no local file.
    """

    def __init__(self, path: str, file: BinaryIO | None = None) -> None:
        self.path = path
        try:
            self._parquet = pq.ParquetFile(path if file is None else file)
        except (pa.ArrowException, OSError) as error:
            raise errors.IndexFileError(
                f"{path}: is no readable Parquet file ({error}). Delete it and run 'ecopipe index' on the tars."
            ) from error
        meta = self._parquet.metadata.metadata or {}
        if b"ecopipe" not in meta:
            raise errors.IndexFileError(
                f"{path}: was not written by ecopipe. Move it away and run 'ecopipe index' on the tars."
            )
        described = json.loads(meta[b"ecopipe"])
        if described["version"] != VERSION:
            raise errors.IndexFileError(
                f"{path}: has version {described['version']}, this ecopipe reads {VERSION}. Run 'ecopipe index' again."
            )
        self.shards = [ShardInfo(**shard) for shard in described["shards"]]
        self.extensions = set(described["extensions"])
        self.made_by = str(described["made_by"])
        self.schema = self._parquet.schema_arrow.remove_metadata()
        self._recent: dict[tuple[int, tuple[str, ...] | None], pa.Table] = {}
        self._groups: list[list[tuple[int, int]]] = []  # per shard: (row group, rows)
        group = 0
        for shard in self.shards:
            groups, rows = [], 0
            while rows < shard.rows and group < self._parquet.num_row_groups:
                count = self._parquet.metadata.row_group(group).num_rows
                groups.append((group, count))
                rows, group = rows + count, group + 1
            if rows != shard.rows:
                raise errors.IndexFileError(
                    f"{path}: lists {shard.rows:,} rows for {shard.name} and holds {rows:,}. Run 'ecopipe index' again."
                )
            self._groups.append(groups)

    @property
    def extras(self) -> dict[str, str]:
        """Columns beside the fixed ones and the measures: name -> Arrow type alias."""
        known = {name for name, _ in _FIXED} | set(MEASURES)
        return {field.name: str(field.type) for field in self.schema if field.name not in known}

    def filled(self) -> set[str]:
        """Columns that hold at least one value, by the statistics of the row groups."""
        found: set[str] = set()
        meta = self._parquet.metadata
        for group in range(meta.num_row_groups):
            row_group = meta.row_group(group)
            for number in range(row_group.num_columns):
                column = row_group.column(number)
                stats = column.statistics
                if stats is None or stats.null_count is None or stats.null_count < row_group.num_rows:
                    found.add(column.path_in_schema.split(".", 1)[0])
        return found

    def read(self, shard: int, start: int, stop: int, columns: tuple[str, ...] | None = None) -> pa.Table:
        """Rows [start, stop) of the shard with that number; some columns only, if named."""
        parts, first = [], 0
        for group, count in self._groups[shard]:
            low, high = max(start - first, 0), min(stop - first, count)
            if low < high:
                parts.append(self._read_group(group, columns).slice(low, high - low))
            first += count
        return pa.concat_tables(parts) if parts else self.schema.empty_table()

    def _read_group(self, group: int, columns: tuple[str, ...] | None) -> pa.Table:
        wanted = None if columns is None else [name for name in columns if name in self.schema.names]
        found = self._recent.pop((group, columns), None)
        if found is None:
            try:
                found = self._parquet.read_row_group(group, columns=wanted)
            except (pa.ArrowException, OSError) as error:
                reason = " ".join(str(error).split())
                raise errors.IndexFileError(
                    f"{self.path}: is damaged ({reason}). Delete it and run 'ecopipe index' on the tars."
                ) from error
            if len(self._recent) >= RECENT_GROUPS:
                self._recent.pop(next(iter(self._recent)))
        self._recent[group, columns] = found  # the last is the most recent
        return found

    def close(self) -> None:
        """Closes the file."""
        self._parquet.close()

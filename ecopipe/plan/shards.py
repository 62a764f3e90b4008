"""Shards opened for planning: their index rows, by slice. Their payload is read only to index what has no index."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ecopipe.datasets.shards import (
    Progress,
    by_folder,
    find_tars,
    index_path,
    index_tars,
    open_index,
    silent,
    unlisted,
)
from ecopipe.formats.index import IndexFile, sum_of
from ecopipe.formats.index_arrays import of_numbers, of_texts, to_numpy
from ecopipe.plan.blocks import Slice
from ecopipe.storage import files
from ecopipe.vocabulary import errors


class Shards:
    """Shards opened for planning: their rows are read by slice; nothing of their payload is.

    Args:
        shards: A row per shard, in order: what its index says of it (:class:`ecopipe.formats.index.ShardList`), its
            ``path``, and where it is listed: ``index`` (number of an index) and ``number`` (of the shard in there).
        indexes: The indexes.
    """

    def __init__(self, shards: pa.Table, indexes: Sequence[IndexFile]) -> None:
        self.shards = shards.combine_chunks()
        self._indexes = list(indexes)
        self._listed = np.stack([to_numpy(self.shards[name]) for name in ("index", "number")], axis=1)

    @property
    def parts(self) -> dict[str, Shards]:
        """The sources of these shards by name: this one."""
        return {"": self}

    @property
    def rows_per_shard(self) -> list[int]:
        """Samples in each shard, in order."""
        rows: list[int] = self.shards["rows"].to_pylist()
        return rows

    @property
    def rows(self) -> int:
        """Samples in all shards."""
        return int(pc.sum(self.shards["rows"]).as_py())

    @cached_property
    def fingerprint(self) -> str:
        """A digest over the names and contents of the shards, in order; where they lie is no part of it."""
        contents = [self.shards[column].to_pylist() for column in ("name", "rows", "digest")]
        return hashlib.blake2b(json.dumps(contents).encode(), digest_size=16).hexdigest()

    @cached_property
    def columns(self) -> set[str]:
        """Columns of the index that hold at least one value, less ``members``."""
        return {name for index in self._indexes for name in index.filled} - {"members"}

    def total(self, measure: str) -> float:
        """The sum of a measure over all samples; one without it counts as 0.

        Raises:
            ConfigError: The column does not hold numbers.
        """
        if sum_of(measure) in self.shards.column_names:
            return float(pc.sum(self.shards[sum_of(measure)]).as_py() or 0)
        if measure in self.columns:
            raise errors.ConfigError(f"{measure!r} does not hold numbers. Name a measure that does.")
        return 0.0

    @cached_property
    def fields(self) -> set[str]:
        """What a sample holds: extensions of members and filled columns of the index."""
        return self.columns.union(*(index.extensions for index in self._indexes))

    def read(self, slices: Sequence[Slice], columns: tuple[str, ...] | None = None) -> pa.Table:
        """The index rows of some slices, in their order, with a column ``path`` that says where the shard lies.

        Args:
            slices: Which rows.
            columns: Some columns only.
        """
        parts = []
        for piece in slices:
            index, number = self._listed[piece.shard].tolist()
            parts.append(self._indexes[index].read(number, piece.start, piece.stop, columns))
        shards = np.repeat([piece.shard for piece in slices], [part.num_rows for part in parts])
        paths = self.shards["path"].take(of_numbers(shards))
        return pa.concat_tables(parts, promote_options="default").append_column("path", paths)

    def close(self) -> None:
        """Closes the indexes."""
        for index in self._indexes:
            index.close()


def open_shards(paths: Sequence[str], progress: Progress = silent, *, tolerant: bool = False) -> Shards:
    """Opens the shards that paths (folders, tars, glob patterns) name. Tars that no index lists are indexed now.

    Args:
        paths: What to open.
        progress: Told of the bytes of what has to be indexed first.
        tolerant: Shards that a folder's index lists and that are missing, truncated or replaced are opened too: their
            samples fail one by one when they are read.

    Raises:
        ShardError: A shard is missing, or is not the one that was indexed.
        IndexFileError: An index is damaged, or of another version.
    """
    named = [by_folder(find_tars(path)) for path in paths]
    if todo := [tar for folders in named for tar in unlisted(folders)]:
        index_tars(todo, progress)
    indexes: dict[str, IndexFile] = {}
    tables: list[pa.Table] = []
    different: set[str] = set()
    for path, folders in zip(paths, named, strict=True):
        whole = files.is_folder(path)
        for folder, tars in folders.items():
            if folder not in indexes:
                indexes[folder] = open_index(index_path(folder))
            if tolerant and whole:
                names = {*map(files.base_name, tars), *indexes[folder].shards.table["name"].to_pylist()}
                tars = [files.join(folder, name) for name in sorted(names)]
            table = _listed(indexes[folder], tars, whole=whole, tolerant=tolerant)
            tables.append(table.append_column("index", of_numbers(np.full(len(table), list(indexes).index(folder)))))
            different |= _resolved(folder, tars)
    shards = pa.concat_tables(tables, promote_options="default")
    if len(different) != len(shards):
        raise errors.ConfigError(f"source: some shard is named twice by {list(paths)}. Name each folder once.")
    if not pc.sum(shards["rows"]).as_py():
        raise errors.ShardError(f"{', '.join(paths)}: the shards hold no samples.")
    return Shards(shards, list(indexes.values()))


def _listed(index: IndexFile, tars: Sequence[str], *, whole: bool, tolerant: bool) -> pa.Table:
    """What an index says of some tars of its folder, all of them if ``whole``. Unless ``tolerant``, refuses those that
    are not what was indexed."""
    known = index.shards.table
    names = of_texts(map(files.base_name, tars))
    numbers = pc.index_in(names, value_set=known["name"].combine_chunks())
    if numbers.null_count:
        path = tars[int(np.argmin(to_numpy(numbers.is_valid())))]
        raise errors.IndexFileError(f"{path}: {index.path} was written anew meanwhile, without it. Try again.")
    listed = known.take(numbers)
    if not tolerant:
        for path, expected in zip(tars, to_numpy(listed["size"]), strict=True):
            if (found := files.size_of(path)) != expected:
                raise errors.ShardError(
                    f"{path}: holds {found:,} bytes and held {expected:,} when it was indexed: it is truncated or was "
                    f"replaced. Restore it, or run 'ecopipe index {path}'."
                )
    if whole and len(tars) < len(known):
        lost = sorted({*known["name"].to_pylist()} - {*names.to_pylist()})
        raise errors.ShardError(
            f"{files.join(files.parent(index.path), lost[0])}: the index lists this shard and it is missing"
            f" ({len(lost)} missing in all). Restore it, or run 'ecopipe index' on the tars that are left."
        )
    return listed.append_column("path", of_texts(tars)).append_column("number", numbers.cast(pa.int64()))


def _resolved(folder: str, tars: Sequence[str]) -> set[str]:
    """Some tars of one folder, each file by one name however it is spelled or linked."""
    links: set[str] = set()
    if not files.is_url(folder):
        with os.scandir(folder) as entries:
            links = {entry.name for entry in entries if entry.is_symlink()}
    names = {files.base_name(tar) for tar in tars}
    real = files.resolved(folder)
    return {files.resolved(files.join(folder, name)) if name in links else files.join(real, name) for name in names}

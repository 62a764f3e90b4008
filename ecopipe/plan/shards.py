"""Shards opened for planning: their index rows, by slice. Their payload is read only to index what has no index."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa

from ecopipe.datasets.shards import Progress, find_tars, index_path, index_tars, not_indexed, open_index, silent
from ecopipe.formats.index import IndexFile, ShardInfo
from ecopipe.plan.blocks import Slice
from ecopipe.storage import files
from ecopipe.vocabulary import errors


@dataclass(frozen=True)
class Shard:
    """One shard of an opened set: where it lies, and what its index says of it."""

    path: str
    info: ShardInfo
    index: int
    number: int


class Shards:
    """Shards opened for planning: their rows are read by slice; nothing of their payload is."""

    def __init__(self, shards: Sequence[Shard], indexes: Sequence[IndexFile]) -> None:
        self.shards = list(shards)
        self._indexes = list(indexes)

    @property
    def rows_per_shard(self) -> list[int]:
        """Samples in each shard, in order."""
        return [shard.info.rows for shard in self.shards]

    @property
    def rows(self) -> int:
        """Samples in all shards."""
        return sum(self.rows_per_shard)

    @cached_property
    def fingerprint(self) -> str:
        """A digest over the names and contents of the shards, in order; where they lie is no part of it."""
        state = hashlib.blake2b(digest_size=16)
        for shard in self.shards:
            state.update(repr((shard.info.name, shard.info.rows, shard.info.digest)).encode())
        return state.hexdigest()

    @cached_property
    def columns(self) -> set[str]:
        """Columns of the index that hold at least one value, less ``members``."""
        return {name for index in self._indexes for name in index.filled()} - {"members"}

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
            shard = self.shards[piece.shard]
            rows = self._indexes[shard.index].read(shard.number, piece.start, piece.stop, columns)
            parts.append(rows.append_column("path", pa.repeat(shard.path, rows.num_rows)))
        return pa.concat_tables(parts, promote_options="default")

    def close(self) -> None:
        """Closes the indexes."""
        for index in self._indexes:
            index.close()


def open_shards(paths: Sequence[str], progress: Progress = silent) -> Shards:
    """Opens the shards that paths (folders, tars, glob patterns) name. Tars that no index lists are indexed now.

    Raises:
        ShardError: A shard is missing, or is not the one that was indexed.
        IndexFileError: An index is damaged, or of another version.
    """
    shards: list[Shard] = []
    indexes: list[IndexFile] = []
    if todo := not_indexed(paths):
        index_tars(todo, progress)
    numbers: dict[str, int] = {}
    for path in paths:
        tars = find_tars(path)
        whole = files.is_folder(path)
        for tar in tars:
            folder = files.parent(tar)
            if folder not in numbers:
                numbers[folder] = len(indexes)
                indexes.append(open_index(index_path(folder)))
        for folder in dict.fromkeys(files.parent(tar) for tar in tars):
            index = indexes[numbers[folder]]
            present = {files.base_name(tar): tar for tar in tars if files.parent(tar) == folder}
            listed = {info.name: number for number, info in enumerate(index.shards)}
            _compare(index, present, listed, whole=whole)
            shards += [
                Shard(tar, index.shards[listed[name]], numbers[folder], listed[name]) for name, tar in present.items()
            ]
    if len({files.resolved(shard.path) for shard in shards}) != len(shards):
        raise errors.ConfigError(f"source: some shard is named twice by {list(paths)}. Name each folder once.")
    if not any(shard.info.rows for shard in shards):
        raise errors.ShardError(f"{', '.join(paths)}: the shards hold no samples.")
    return Shards(shards, indexes)


def _compare(index: IndexFile, present: Mapping[str, str], listed: Mapping[str, int], *, whole: bool) -> None:
    """Refuses shards that are not those that were indexed."""
    for name, path in present.items():
        if name not in listed:
            raise errors.IndexFileError(f"{path}: {index.path} was written anew meanwhile, without it. Try again.")
        expected, found = index.shards[listed[name]].size, files.size_of(path)
        if expected != found:
            raise errors.ShardError(
                f"{path}: holds {found:,} bytes and held {expected:,} when it was indexed: it is truncated or was "
                f"replaced. Restore it, or run 'ecopipe index {path}'."
            )
    if whole and (lost := sorted(set(listed) - set(present))):
        raise errors.ShardError(
            f"{files.join(files.parent(index.path), lost[0])}: the index lists this shard and it is missing"
            f" ({len(lost)} missing in all). Restore it, or run 'ecopipe index' on the tars that are left."
        )

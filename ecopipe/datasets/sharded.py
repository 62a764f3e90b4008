"""Shards as a corpus, so that they can be sharded anew: merged, split, shuffled, filtered, changed by stages."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ecopipe.datasets import shards
from ecopipe.datasets.corpus import Corpus, RawSample
from ecopipe.formats.index import IndexFile
from ecopipe.storage import files
from ecopipe.storage.files import RangeReader
from ecopipe.vocabulary.errors import ConfigError, CorpusError


class Sharded(Corpus):
    """The samples of folders of shards, in the order of the folders, their shards and their tars: one split.

    Members come with the bytes that the index vouches for by its CRC-32. The columns of the index that are no measures
    stay. What ``dataset.json`` beside a folder says of its name, version and classes is kept, where all folders say the
    same.

    Args:
        paths: Folders of tars, tars, or glob patterns, as of ``TarShards``; indexed first, if need be.
        split: What the split is called; the name of the folder, where there is one.
    """

    name: str = "shards"  # type: ignore[misc]  # that of the dataset, if it says
    title = "shards that were written before"
    expects = "folders of WebDataset tars"
    members: ClassVar = {"EXT": "what the shards hold"}

    def __init__(self, paths: Sequence[str | os.PathLike[str]], *, split: str = "") -> None:
        named = [os.fspath(path) for path in paths]
        tars = list(dict.fromkeys(tar for path in named for tar in shards.find_tars(path)))
        if missing := shards.unlisted(shards.by_folder(tars)):
            shards.index_tars(missing)
        folders = shards.by_folder(tars)
        self._split = split or _common(list(folders))
        self._reader = RangeReader()
        self._paths: list[str] = []
        tables = []
        extras: dict[str, str] = {}
        for folder, inside in folders.items():
            with shards.opened(shards.index_path(folder)) as index:
                for column, kind in index.extras.items():
                    if extras.setdefault(column, kind) != kind:
                        raise ConfigError(
                            f"{folder}: its column {column!r} holds {kind}, and {extras[column]} in the others. Write "
                            "them to places of their own."
                        )
                tables += [_read(index, path, len(self._paths) + at) for at, path in enumerate(inside)]
                self._paths += inside
        self.columns = extras
        self._rows = pa.concat_tables(tables, promote_options="default").combine_chunks()
        self._tell(list(folders))
        self.path = named[0] if len(named) == 1 else ""

    def _tell(self, folders: Sequence[str]) -> None:
        found = [told for folder in folders if (told := shards.described(files.parent(folder)))]
        if len(found) == len(folders):
            names = {
                (str(told.get("name")), str(told.get("version")), tuple(told.get("classes", ()))) for told in found
            }
            if len(names) == 1:
                self.name, self.version, self.classes = names.pop()

    def keep(self, chosen: npt.NDArray[np.bool_]) -> None:
        """Leaves out the other rows.

        Args:
            chosen: bool [rows].
        """
        self._rows = self._rows.filter(pa.array(chosen)).combine_chunks()

    @property
    def table(self) -> pa.Table:
        """The rows of the indexes that are left."""
        return self._rows

    def check(self, split: str) -> None:
        super().check(split)
        counts = self._rows["key"].value_counts()
        twice = counts.filter(pc.greater(pc.struct_field(counts, "counts"), 1))
        if len(twice):
            key = twice[0].as_py()["values"]
            rows = self._rows.filter(pc.equal(self._rows["key"], key))
            places = ", ".join(self._paths[number] for number in rows["_tar"].to_pylist()[:2])
            raise CorpusError(
                f"the key {key!r} is there {len(rows)} times ({places}), and {len(twice) - 1:,} more are: a key names "
                "one sample. Leave out one of the folders, or write them anew with other keys."
            )

    def splits(self) -> tuple[str, ...]:
        return (self._split,)

    def count(self, split: str) -> int:
        return int(self._rows.num_rows)

    def key(self, split: str, place: int) -> str:
        return str(self._rows["key"][place].as_py())

    def sizes(self, split: str) -> npt.NDArray[np.int64]:
        sums: npt.NDArray[np.int64] = np.zeros(self._rows.num_rows, np.int64)
        members = self._rows["members"].combine_chunks()
        rows = np.asarray(pc.list_parent_indices(members))
        np.add.at(sums, rows, np.asarray(members.flatten().field("size")))
        return sums

    def sample(self, split: str, place: int) -> RawSample:
        row = self._rows.slice(place, 1).to_pylist()[0]
        path, members = self._paths[row["_tar"]], row["members"]
        payloads = self._reader.read(path, [(member["offset"], member["size"]) for member in members])
        shards.check_members(path, row["key"], members, payloads)
        named = {member["extension"]: data for member, data in zip(members, payloads, strict=True)}
        return RawSample(row["key"], named, {name: row[name] for name in self.columns})

    def measures(self, place: int) -> dict[str, Any]:
        """What the index says of one sample: its measures and columns."""
        row: dict[str, Any] = self._rows.slice(place, 1).drop_columns(["key", "members", "_tar"]).to_pylist()[0]
        return row

    def places_of(self, shard: str) -> npt.NDArray[np.int64]:
        """int64: the places of the samples of one tar, in its order."""
        numbers = [number for number, path in enumerate(self._paths) if files.base_name(path) == shard]
        found: npt.NDArray[np.int64] = np.flatnonzero(np.isin(np.asarray(self._rows["_tar"]), numbers))
        return found

    def report(self) -> list[str]:
        return []

    def close(self) -> None:
        self._reader.close()


def _read(index: IndexFile, path: str, number: int) -> pa.Table:
    names = [shard.name for shard in index.shards]
    shard = names.index(files.base_name(path))
    table = index.read(shard, 0, index.shards[shard].rows).drop_columns(["shard"])
    return table.append_column("_tar", pa.array([number] * len(table), pa.int32()))


def _common(folders: Sequence[str]) -> str:
    names = {files.base_name(os.path.abspath(folder) if not files.is_url(folder) else folder) for folder in folders}
    if len(names) > 1:
        raise ConfigError(
            f"reshard: the folders are called {', '.join(sorted(names))}. Say with --split what the new one is called."
        )
    return names.pop()

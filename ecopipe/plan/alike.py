"""Index rows as arrays: of samples whose members are alike, as those of a corpus mostly are.

Many rows are taken out of them, and sent to a worker, as fast as a few numbers; as a table, each would be several
strings and a list.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ecopipe.formats.index_arrays import of_numbers, of_texts, to_numpy
from ecopipe.plan.blocks import Rows
from ecopipe.plan.items import ITEM
from ecopipe.plan.parts import START

_IN_ARRAYS = ("shard", "path", "members")
_MEMBER = ("offset", "size", "crc32")


@dataclass(frozen=True)
class Alike:
    """Index rows of samples that have members of the same extensions, in the same order.

    ``members``: int64 [rows, members, 3]: offset, size and CRC-32 of each. ``which``: int32 [rows], the shard of each,
    as a place in ``shards``: (name, path) of each. ``others``: the columns that hold something; ``empty``: those that
    do not.
    """

    extensions: tuple[str, ...]
    members: npt.NDArray[np.int64]
    shards: tuple[tuple[str, str], ...]
    which: npt.NDArray[np.int32]
    others: pa.RecordBatch
    empty: tuple[str, ...]

    @classmethod
    def of(cls, rows: pa.RecordBatch) -> Alike | None:
        """The rows; None if there are none, if their members differ in number or kind, or are not in shards."""
        names = set(rows.schema.names)
        if not len(rows) or not names.issuperset(_IN_ARRAYS) or names & {ITEM, START}:
            return None
        listed = rows["members"]
        flat = listed.flatten()
        each, rest = divmod(len(flat), len(rows))
        if rest or not each or (np.diff(to_numpy(listed.offsets)) != each).any():
            return None
        kinds = flat.field("extension").dictionary_encode()
        codes = to_numpy(kinds.indices).reshape(-1, each)
        if (codes != codes[0]).any():
            return None
        members = np.stack([to_numpy(flat.field(name)) for name in _MEMBER], axis=-1, dtype=np.int64, casting="safe")
        paths = rows["path"].dictionary_encode()
        which = to_numpy(paths.indices)
        some = np.zeros(len(paths.dictionary), dtype=np.int64)
        some[which] = np.arange(len(which))  # a row of each shard
        shards = zip(rows["shard"].take(of_numbers(some)).to_pylist(), paths.dictionary.to_pylist(), strict=True)
        left = [name for name in rows.schema.names if name not in _IN_ARRAYS]
        empty = tuple(name for name in left if rows[name].null_count == len(rows))
        return cls(
            tuple(kinds.dictionary.take(of_numbers(codes[0])).to_pylist()),
            members.reshape(-1, each, len(_MEMBER)),
            tuple(shards),
            which,
            rows.select([name for name in left if name not in empty]),
            empty,
        )

    def __len__(self) -> int:
        return len(self.which)

    @property
    def num_rows(self) -> int:
        """As a table has it."""
        return len(self.which)

    @property
    def column_names(self) -> list[str]:
        """All columns."""
        return [*self.others.schema.names, *self.empty, *_IN_ARRAYS]

    def take(self, positions: Rows) -> Alike:
        """The rows at some positions."""
        others = self.others.take(of_numbers(positions))
        return replace(self, members=self.members[positions], which=self.which[positions], others=others)

    def select(self, names: Collection[str]) -> Alike:
        """The columns of some names; which member of what shard is always known."""
        others = self.others.select([name for name in self.others.schema.names if name in names])
        return replace(self, others=others, empty=tuple(name for name in self.empty if name in names))

    def shard_names(self) -> tuple[str, ...]:
        """The name of each row's shard."""
        names = [name for name, _ in self.shards]
        return tuple(map(names.__getitem__, self.which.tolist()))

    def sum(self, name: str) -> float:
        """The sum of a column of numbers, those that are missing left out."""
        return 0.0 if name in self.empty else float(pc.sum(self.others[name]).as_py() or 0)

    def __getitem__(self, name: str) -> pa.ChunkedArray:
        """A column, as a table has it."""
        return pa.chunked_array([self._column(name)])

    def _column(self, name: str) -> pa.Array:
        if name in self.empty:
            return pa.nulls(len(self))
        if name == "members":
            count = len(self.extensions)
            flat = self.members.reshape(-1, len(_MEMBER))
            named = of_texts(list(self.extensions) * len(self))
            numbers = [of_numbers(flat[:, at]) for at in range(len(_MEMBER))]
            listed = pa.StructArray.from_arrays([named, *numbers], ["extension", *_MEMBER])
            return pa.ListArray.from_arrays(of_numbers(np.arange(len(self) + 1, dtype=np.int32) * count), listed)
        if name in _IN_ARRAYS:
            return of_texts(shard[name == "path"] for shard in self.shards).take(of_numbers(self.which))
        return self.others[name]

    def to_pylist(self) -> list[dict[str, Any]]:
        """The rows as a table gives them."""
        count, named = len(self), ("extension", *_MEMBER)
        columns: dict[str, Any] = self.others.to_pydict() | dict.fromkeys(self.empty, [None] * count)
        told = [zip(self.extensions, row, strict=True) for row in self.members.tolist()]
        columns["members"] = [
            [dict(zip(named, (extension, *member), strict=True)) for extension, member in row] for row in told
        ]
        shards = [self.shards[number] for number in self.which.tolist()]
        columns["shard"], columns["path"] = ([shard[at] for shard in shards] for at in range(2))
        names = self.column_names
        return [dict(zip(names, row, strict=True)) for row in zip(*(columns[name] for name in names), strict=True)]

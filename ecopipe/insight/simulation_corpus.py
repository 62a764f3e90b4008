"""A corpus that is made up: shards of any number of samples, whose index rows are drawn when they are read.

Nothing lies on disk. Row r of shard s is a row of a pool, the same one whenever it is read: Philox, keyed by the shard.
The pool holds rows of a real index, or lengths of a log-normal distribution.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import cached_property
from statistics import NormalDist

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ecopipe.formats.measures import MEASURES
from ecopipe.plan.blocks import Slice, slices_of
from ecopipe.plan.shards import Shards
from ecopipe.vocabulary.errors import ConfigError
from ecopipe.vocabulary.randomness import Chance

POOL_ROWS = 16384
"""Rows of a pool at most."""

_SLICE_ROWS = 256
_RECENT_SHARDS = 64
_TAR_BLOCK = 512

Numbers = npt.NDArray[np.int64]


class MadeUpShards(Shards):
    """Shards of rows that are drawn from a pool.

    Args:
        pool: Index rows; ``members`` among the columns.
        samples: Rows in all shards.
        shards: Number of shards; they hold equally many rows to within one.
        seed: Seed of the draws.

    Raises:
        ConfigError: There is no sample, no shard, or there are more shards than samples.
    """

    def __init__(self, pool: pa.Table, samples: int, shards: int, seed: int = 0) -> None:
        if not 1 <= shards <= samples:
            raise ConfigError(
                f"simulate: {samples:,} samples in {shards:,} shards cannot be made up. Give --samples and --shards of "
                "at least 1, and no more shards than samples."
            )
        self._chance = Chance(seed, 0, "made-up corpus")
        self._pool = pool.combine_chunks()
        self._sizes = _tar_bytes(self._pool["members"].combine_chunks())
        self._recent: OrderedDict[int, Numbers] = OrderedDict()
        self._ends = samples * np.arange(1, shards + 1, dtype=np.int64) // shards
        self._rows = np.diff(self._ends, prepend=0)
        numbers = pa.array(np.arange(shards, dtype=np.int64))
        names = pc.binary_join_element_wise("made-up-", pc.utf8_lpad(numbers.cast(pa.string()), 6, "0"), ".tar", "")
        sizes = [int(self._sizes[self._drawn(shard)].sum()) + 2 * _TAR_BLOCK for shard in range(shards)]
        listed = {
            "name": names,
            "size": pa.array(sizes, pa.int64()),
            "rows": pa.array(self._rows),
            "digest": pa.repeat("made up", shards),
            "path": names,
            "index": pa.repeat(0, shards),
            "number": numbers,
        }
        super().__init__(pa.table(listed), [])

    @classmethod
    def of_shards_of(cls, pool: pa.Table, samples: int, shard_bytes: int) -> MadeUpShards:
        """As many shards as make them of ``shard_bytes`` bytes in the mean."""
        mean = float(_tar_bytes(pool["members"].combine_chunks()).mean())
        return cls(pool, samples, min(max(round(samples * mean / shard_bytes), 1), samples))

    @cached_property
    def columns(self) -> set[str]:
        """Columns of the pool that hold at least one value, less ``members``."""
        held = {name for name in self._pool.column_names if self._pool[name].null_count < len(self._pool)}
        return held - {"members", "path"}

    @cached_property
    def fields(self) -> set[str]:
        """What a sample holds: extensions of members and filled columns."""
        members = self._pool["members"].combine_chunks().flatten()
        return self.columns | set(pc.unique(members.field("extension")).to_pylist())

    def read(self, slices: Sequence[Slice], columns: tuple[str, ...] | None = None) -> pa.Table:
        """The rows of some slices, in their order: as of :class:`Shards`."""
        wanted = [name for name in self._pool.column_names if (columns is None or name in columns) and name != "path"]
        drawn = [self._drawn(piece.shard)[piece.start : piece.stop] for piece in slices]
        shard = np.repeat([piece.shard for piece in slices], [len(part) for part in drawn])
        rows = self._pool.select(wanted).take(pa.array(np.concatenate(drawn)))
        made: dict[str, pa.ChunkedArray | pa.Array] = {name: rows[name] for name in wanted}
        names = self.shards["path"].take(pa.array(shard))
        if "key" in made:
            places = [np.arange(piece.start, piece.stop) + self._first(piece.shard) for piece in slices]
            made["key"] = pc.utf8_lpad(pa.array(np.concatenate(places)).cast(pa.string()), 12, "0")
        if "shard" in made:
            made["shard"] = names
        if "members" in made:
            begins = [self._begins(piece)[piece.start : piece.stop] for piece in slices]
            made["members"] = _moved(rows["members"].combine_chunks(), np.concatenate(begins))
        return pa.table({**made, "path": names})

    def _first(self, shard: int) -> int:
        return int(self._ends[shard] - self._rows[shard])

    def _drawn(self, shard: int) -> Numbers:
        """The rows of the pool that make a shard, int64 [rows]."""
        found = self._recent.pop(shard, None)
        if found is None:
            bits = self._chance.draws(shard).bits(int(self._rows[shard]))
            found = (bits % np.uint64(len(self._pool))).astype(np.int64)
            if len(self._recent) >= _RECENT_SHARDS:
                self._recent.popitem(last=False)
        self._recent[shard] = found
        return found

    def _begins(self, piece: Slice) -> Numbers:
        """Where each sample of a shard begins, in bytes, int64 [rows]."""
        sizes = self._sizes[self._drawn(piece.shard)]
        begins: Numbers = np.cumsum(sizes) - sizes
        return begins


def like(shards: Shards) -> pa.Table:
    """A pool of rows of real shards, from all over them: all rows if there are no more than :data:`POOL_ROWS`."""
    slices = slices_of(shards.rows_per_shard, _SLICE_ROWS * 16)
    most = POOL_ROWS // _SLICE_ROWS
    if len(slices) > most:
        slices = slices[np.arange(most) * len(slices) // most]
    return shards.read([Slice(*piece) for piece in slices.tolist()])


def log_normal(columns: Sequence[str], extension: str, *, median: float, sigma: float, sample_bytes: float) -> pa.Table:
    """A pool whose measures are all one length, of a log-normal distribution; bytes are proportional to it.

    Args:
        columns: The measures.
        extension: Of the one member that each sample has.
        median: Of the length, in units of the measure, more than 0.
        sigma: Deviation of its logarithm, at least 0.
        sample_bytes: Mean bytes of a sample's member, at least 1.

    Raises:
        ConfigError: A number is out of its range.
    """
    if not (0 < median < np.inf and 0 <= sigma < np.inf and sample_bytes >= 1):
        raise ConfigError(
            f"simulate: lengths of median {median:g} and sigma {sigma:g}, {sample_bytes:g} bytes a sample: give a "
            "median above 0, a sigma of at least 0, and at least 1 byte."
        )
    normal = NormalDist()
    at = [normal.inv_cdf((place + 0.5) / POOL_ROWS) for place in range(POOL_ROWS)]
    lengths = median * np.exp(sigma * np.array(at))
    sizes = np.maximum(np.rint(lengths * (sample_bytes / lengths.mean())), 1).astype(np.int64)
    member = pa.StructArray.from_arrays(
        [pa.repeat(extension, POOL_ROWS), pa.repeat(_TAR_BLOCK, POOL_ROWS), pa.array(sizes), pa.repeat(0, POOL_ROWS)],
        names=["extension", "offset", "size", "crc32"],
    )
    members = pa.ListArray.from_arrays(pa.array(np.arange(POOL_ROWS + 1, dtype=np.int32)), member)
    pool = {"key": pa.repeat("", POOL_ROWS), "shard": pa.repeat("", POOL_ROWS), "members": members}
    for name in columns:
        kind = pa.type_for_alias(MEASURES.get(name, "float64"))
        values = lengths if pa.types.is_floating(kind) else np.maximum(np.rint(lengths), 1)
        pool[name] = pa.array(values).cast(kind)
    return pa.table(pool)


def _tar_bytes(members: pa.ListArray) -> Numbers:
    """Bytes that each sample takes in a tar: for each member a header, and its content in whole blocks."""
    sizes = members.flatten().field("size").to_numpy(zero_copy_only=False)
    return _sums(_TAR_BLOCK + -(-sizes // _TAR_BLOCK) * _TAR_BLOCK, members)


def _sums(values: Numbers, members: pa.ListArray) -> Numbers:
    ends = np.concatenate([[0], np.cumsum(values)])
    bounds = np.asarray(members.offsets) - members.offsets[0].as_py()
    sums: Numbers = ends[bounds[1:]] - ends[bounds[:-1]]
    return sums


def _moved(members: pa.ListArray, begins: Numbers) -> pa.ListArray:
    """The members of samples that begin at some places of a tar, one behind the other."""
    flat = members.flatten()
    sizes = flat.field("size").to_numpy(zero_copy_only=False)
    blocks = _TAR_BLOCK + -(-sizes // _TAR_BLOCK) * _TAR_BLOCK
    bounds = np.asarray(members.offsets) - members.offsets[0].as_py()
    before = np.cumsum(blocks) - blocks
    counts = np.diff(bounds)
    firsts = np.repeat(before[np.minimum(bounds[:-1], max(len(before) - 1, 0))], counts)
    offsets = np.repeat(begins, counts) + before - firsts + _TAR_BLOCK
    moved = [pa.array(offsets) if field.name == "offset" else flat.field(field.name) for field in flat.type]
    return pa.ListArray.from_arrays(
        pa.array(bounds.astype(np.int32)), pa.StructArray.from_arrays(moved, fields=list(flat.type))
    )

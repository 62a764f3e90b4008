"""Several sets of opened shards as one, for a mixture of sources."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import accumulate, groupby

import pyarrow as pa

from ecopipe.plan.blocks import Slice
from ecopipe.plan.items import OpenedItems
from ecopipe.plan.shards import Shards
from ecopipe.vocabulary.errors import ConfigError


class MixedShards:
    """The shards of several sources, numbered one after the other. It reads as :class:`Shards` does, with a column
    ``source`` that names the source."""

    def __init__(self, parts: Mapping[str, Shards]) -> None:
        self.parts = dict(parts)
        self._named = list(self.parts.items())
        self._ends = list(accumulate(len(shards.shards) for shards in self.parts.values()))

    @property
    def rows(self) -> int:
        """Samples in all sources."""
        return sum(shards.rows for shards in self.parts.values())

    @cached_property
    def fingerprint(self) -> str:
        """A digest over the fingerprints of the sources, in order."""
        joined = " ".join(shards.fingerprint for shards in self.parts.values())
        return hashlib.blake2b(joined.encode(), digest_size=16).hexdigest()

    def read(self, slices: Sequence[Slice], columns: tuple[str, ...] | None = None) -> pa.Table:
        """The index rows of some slices, in their order, with columns ``path`` and ``source``."""
        tables = []
        for number, pieces in groupby(slices, lambda piece: bisect_right(self._ends, piece.shard)):
            name, shards = self._named[number]
            first = self._ends[number] - len(shards.shards)
            own = [Slice(piece.shard - first, piece.start, piece.stop) for piece in pieces]
            rows = shards.read(own, columns)
            tables.append(rows.append_column("source", pa.repeat(name, rows.num_rows)))
        return pa.concat_tables(tables, promote_options="permissive")

    def close(self) -> None:
        """Closes the indexes."""
        for shards in self.parts.values():
            shards.close()


Opened = Shards | MixedShards | OpenedItems
"""What a pipeline's source is when it is opened."""


def mean_of(name: str, shards: Shards, measure: str) -> float:
    """The mean of a measure over the samples of a source; one without it counts as 0.

    Raises:
        ConfigError: The source has no such measure, or only zeros.
    """
    total = shards.total(measure)
    if not total > 0:
        raise ConfigError(
            f"Mix: by {measure!r}: the source {name} has none of it. Name a measure of all sources, or by='samples'."
        )
    return total / shards.rows

"""Which shards a host fetches whole: by the bytes that its ranks take of each, in the next blocks and in the epoch.

A run (:mod:`ecopipe.run.fetching`) and its prediction (:mod:`ecopipe.insight.simulation_cache`) both ask here.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ecopipe.formats.index_arrays import to_numpy
from ecopipe.pipeline.plan import Plan
from ecopipe.plan.blocks import Lane, Slice
from ecopipe.plan.mixed import MixedShards
from ecopipe.plan.sequence import Cursor
from ecopipe.plan.shards import Shards
from ecopipe.run.ranks import host_share, place_on_host

AHEAD = 1
"""Blocks of a lane that are fetched before they are needed."""

WORTH = 0.5
"""A shard is fetched whole if so much of it is wanted in the blocks that are near, where the cache is as good as none:
less, the more of the corpus has room ..."""

WORTH_IF_KEPT = 0.125
"""... but at least so much in an epoch: what is kept for good is fetched once for all epochs."""

COUNTED_SLICES = 200_000
"""Slices of an epoch up to which it is counted how much of each shard they name."""

_LOOKED_AT = 64
"""Samples of a source that tell which share of its bytes a pipeline reads."""

Numbers = npt.NDArray[np.int64]


def is_worth(near_bytes: float, epoch_bytes: float, size: int, room: float) -> bool:
    """Whether a shard is fetched whole.

    Args:
        near_bytes: What the ranks of this host want of it in the blocks that are near.
        epoch_bytes: What they want of it in this epoch.
        size: Its bytes.
        room: Bytes of the cache for each byte of the corpus: the chance that it is still there when it is wanted again.
    """
    again = max(0.0, 1 - room)
    return epoch_bytes >= WORTH_IF_KEPT * size and near_bytes >= WORTH * again * size


@dataclass(frozen=True)
class HostRanks:
    """The ranks of one host: ``count`` of them from ``first`` on, of ``world_size``."""

    first: int
    count: int
    world_size: int

    @classmethod
    def here(cls, rank: int, world_size: int) -> HostRanks:
        """Those of this host; their number, and this rank's among them, are torchrun's."""
        count = round(host_share(world_size) * world_size)
        return cls(max(0, min(rank - place_on_host(), world_size - count)), count, world_size)

    def share(self, rank: int, lanes: int, group: int) -> float:
        """The share of a lane's batches that they take.

        A turn of a lane begins ``lanes * group`` batches after the one before, so its batches come to every
        ``gcd(lanes * group, world_size)``-th rank in turn: with a lane for each rank to one alone.

        Args:
            rank: Who takes the first batch of one of its turns.
            lanes: Lanes that take turns.
            group: Batches of a turn.
        """
        apart = math.gcd(lanes * group, self.world_size)
        begins = [self.first + (rank + place - self.first) % apart for place in range(group)]
        taken = sum(len(range(begin, self.first + self.count, apart)) for begin in begins)
        return taken * apart / (self.world_size * group)


@dataclass(frozen=True)
class ShardFigures:
    """Of each shard: its bytes and rows, int64 [shards], and the bytes that the pipeline reads of a row, float64."""

    sizes: Numbers
    rows: Numbers
    read_per_row: npt.NDArray[np.float64]

    @classmethod
    def of(cls, opened: Shards | MixedShards, reads: set[str] | None) -> ShardFigures:
        """Those of opened shards; ``reads`` names the extensions that are looked at, None all. A few rows of each
        source tell which share of its bytes that is."""
        parts = list(opened.parts.values())
        sizes = np.concatenate([to_numpy(part.shards["size"]) for part in parts])
        rows = np.concatenate([np.asarray(part.rows_per_shard, dtype=np.int64) for part in parts])
        shares, first = [], 0
        for part in parts:
            shares.append(np.full(len(part.rows_per_shard), _read_share(opened, first, part.rows_per_shard, reads)))
            first += len(part.rows_per_shard)
        return cls(sizes, rows, np.concatenate(shares) * sizes / np.maximum(rows, 1))


def _read_share(
    opened: Shards | MixedShards, first: int, rows_per_shard: Sequence[int], reads: set[str] | None
) -> float:
    """The share of a source's bytes that are read, in [0, 1]; ``first`` is the number of its first shard."""
    full = [number for number, rows in enumerate(rows_per_shard) if rows]
    if reads is None or not full:
        return 1.0
    piece = Slice(first + full[0], 0, min(rows_per_shard[full[0]], _LOOKED_AT))
    members = opened.read([piece], ("members",))["members"].combine_chunks().flatten()
    sizes = to_numpy(members.field("size"))
    named = [name in reads for name in members.field("extension").to_pylist()]
    return float(sizes[named].sum() / max(int(sizes.sum()), 1))


class EpochPieces:
    """How many rows of each shard each lane names in an epoch.

    Args:
        plan: The epoch.
        lanes: Its lanes.
        rows: Rows of each shard, int64 [shards].
    """

    def __init__(self, plan: Plan, lanes: Sequence[Lane], rows: Numbers) -> None:
        self._rows = rows
        self._pieces: Numbers | None = None
        if not plan.endless and int(np.maximum(1, rows * 16 // 16384).sum()) < COUNTED_SLICES:
            named = [
                (number, piece.shard, len(piece))
                for number, lane in enumerate(lanes)
                for block in range(int(lane.blocks))
                for piece in lane.block(block)
            ]
            self._pieces = np.array(named, dtype=np.int64).reshape(-1, 3)

    def rows_of(self, shares: Sequence[float]) -> npt.NDArray[np.float64]:
        """Rows of each shard that are taken of lanes of which such shares are taken, float64 [shards]. Where there are
        too many slices to count them, each shard is taken to be named once, by all lanes alike."""
        if self._pieces is None:
            return np.asarray(self._rows * np.mean(shares), dtype=np.float64)
        lane, shard, rows = self._pieces.T
        return np.bincount(shard, rows * np.asarray(shares)[lane], len(self._rows)).astype(np.float64)


class Wants:
    """What the ranks of a host want of the shards in an epoch.

    Args:
        host: The ranks.
        lanes: The epoch's lanes.
        group: Batches of a lane's turn.
        figures: The shards.
        pieces: What the lanes name of them.
        limit_bytes: Bytes that the host's cache holds at most.
        start: Where the epoch is entered.
    """

    def __init__(
        self,
        host: HostRanks,
        lanes: Sequence[Lane],
        group: int,
        figures: ShardFigures,
        pieces: EpochPieces,
        limit_bytes: int,
        start: Cursor | None = None,
    ) -> None:
        self._host, self._lanes, self._group, self._figures = host, lanes, group, figures
        self._room = min(1.0, limit_bytes / max(int(figures.sizes.sum()), 1))
        turn, done = (start.turn, start.lanes[start.turn][1] % group) if start is not None and start.lanes else (0, 0)
        firsts = [(lane - turn) % len(lanes) * group - done for lane in range(len(lanes))]
        rows = pieces.rows_of([host.share(first, len(lanes), group) for first in firsts])
        self._epoch_bytes = rows * figures.read_per_row

    def whole(self, lane: int, block: int, rank: int, kept: float) -> list[int]:
        """The shards of a block that are fetched whole, in the order in which it names them.

        Args:
            lane: The lane of the block.
            block: Its number there.
            rank: Who takes the first batch of a turn of the lane.
            kept: The share of the lane's rows that are delivered, in [0, 1].
        """
        share = kept * self._host.share(rank, len(self._lanes), self._group)
        named: Counter[int] = Counter()
        for near in range(max(0, block - AHEAD), int(min(block + AHEAD + 1, self._lanes[lane].blocks))):
            for piece in self._lanes[lane].block(near):
                named[piece.shard] += len(piece)
        found = dict.fromkeys(piece.shard for piece in self._lanes[lane].block(block))
        sizes, per_row = self._figures.sizes, self._figures.read_per_row
        return [
            shard
            for shard in found
            if is_worth(
                share * named[shard] * per_row[shard], kept * self._epoch_bytes[shard], int(sizes[shard]), self._room
            )
        ]

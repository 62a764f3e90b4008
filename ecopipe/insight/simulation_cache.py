"""What a host fetches: :mod:`ecopipe.run.fetching` and :mod:`ecopipe.storage.cache` without the bytes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Protocol

from ecopipe.run.fetching import AHEAD, WORTH, WORTH_IF_KEPT
from ecopipe.storage.cache import Counters

Read = tuple[int, int]
"""A shard, and the bytes of it that come over the network if a batch has to read what it needs of it by ranges."""


class Blocks(Protocol):
    """The blocks of an epoch, as a host sees them; all blocks of a lane follow one another."""

    def lane_of(self, block: int) -> int:
        """The lane of a block; -1 behind the last block."""

    def shards_of(self, block: int) -> Sequence[int]:
        """The shards of a block, each once."""

    def kept_of(self, block: int) -> float:
        """The share of its rows that are delivered, in [0, 1]."""

    def wanted_of(self, shard: int) -> float:
        """The share of a shard's rows that the epoch names, at least 0."""


class Host:
    """A host: its cache, and which shards its ranks fetch into it. Unlike in a run, no two ranks fetch at once.

    ``counters`` are those of all its ranks together.

    Args:
        sizes: Bytes of each shard.
        limit: Bytes that its cache holds at most; 0 if it has none.
        share: The share of the batches that its ranks take together, in (0, 1].
    """

    def __init__(self, sizes: Sequence[int], limit: int, share: float) -> None:
        self._sizes, self._limit = sizes, limit
        self._worth = (WORTH_IF_KEPT if sum(sizes) <= limit else WORTH) / share
        self._held: OrderedDict[int, None] = OrderedDict()
        self._total = 0
        self.counters = Counters()

    def follow(self, blocks: Blocks) -> None:
        """Begins with an epoch: its counters begin at 0, and what the cache holds stays."""
        self._blocks = blocks
        self._begun: dict[int, dict[int, list[int]]] = {}
        self.counters = Counters()

    def take(self, rank: int, block: int, reads: Callable[[], list[Read]]) -> None:
        """A rank takes a batch of a block, which reads some shards."""
        if self._limit:
            self._ready(rank, block)
        for shard, wanted in reads():
            if shard in self._held:
                self._held.move_to_end(shard)
            else:
                self.counters.bytes_read_through += wanted

    def _ready(self, rank: int, block: int) -> None:
        begun, lane = self._begun.setdefault(rank, {}), self._blocks.lane_of(block)
        coming = [at for at in range(block, block + AHEAD + 1) if self._blocks.lane_of(at) == lane]
        if all(at in begun for at in coming):
            return
        for passed in [at for at in begun if at < block and self._blocks.lane_of(at) == lane]:
            del begun[passed]
        kept = self._blocks.kept_of(block)
        for at in coming:
            if at not in begun:
                self._begin(begun, at, kept, now=at == block)

    def _begin(self, begun: dict[int, list[int]], block: int, kept: float, *, now: bool) -> None:
        shards = self._blocks.shards_of(block)
        worth = [shard for shard in shards if self._blocks.wanted_of(shard) * kept >= self._worth]
        held = {*worth, *(shard for others in begun.values() for shard in others)}
        if sum(self._sizes[shard] for shard in held) > self._limit:
            if not now:
                return
            worth = []
        for shard in worth:
            self._fetch(shard)
        begun[block] = worth

    def _fetch(self, shard: int) -> None:
        if shard in self._held:
            self.counters.hits += 1
            self._held.move_to_end(shard)
            return
        self.counters.misses += 1
        while self._total + self._sizes[shard] > self._limit:
            self._total -= self._sizes[self._held.popitem(last=False)[0]]
            self.counters.evictions += 1
        self.counters.bytes_fetched += self._sizes[shard]
        self._held[shard] = None
        self._total += self._sizes[shard]

"""What a host fetches: :mod:`ecopipe.run.fetching` and :mod:`ecopipe.storage.cache` without the bytes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Protocol

from ecopipe.run.worth import AHEAD, Wants
from ecopipe.storage.cache import Counters

Read = tuple[int, int]
"""A shard, and the bytes of it that come over the network if a batch has to read what it needs of it by ranges."""


class Blocks(Protocol):
    """The blocks of an epoch; all blocks of a lane follow one another."""

    def place_of(self, block: int) -> tuple[int, int]:
        """The lane of a block, and its number there; (-1, 0) behind the last block."""

    def kept_of(self, block: int) -> float:
        """The share of its rows that are delivered, in [0, 1]."""


class Host:
    """A host: its cache, and which shards its ranks fetch into it. Unlike in a run, no two ranks fetch at once, and the
    first batches wait for their shards, however large they are.

    ``counters`` are those of all its ranks together.

    Args:
        sizes: Bytes of each shard.
        limit: Bytes that its cache holds at most; 0 if it has none.
    """

    def __init__(self, sizes: Sequence[int], limit: int) -> None:
        self._sizes, self._limit = sizes, limit
        self._held: OrderedDict[int, None] = OrderedDict()
        self._total = 0
        self.counters = Counters()

    def follow(self, blocks: Blocks, wants: Wants) -> None:
        """Begins with an epoch: its counters begin at 0, and what the cache holds stays."""
        self._blocks, self._wants = blocks, wants
        self._begun: dict[int, dict[int, list[int]]] = {}
        self.counters = Counters()

    def take(self, rank: int, turn: int, block: int, reads: Callable[[], list[Read]]) -> None:
        """A rank takes a batch of a block, which reads some shards; ``turn`` is the rank that takes the first batch of
        the lane's turn that it belongs to."""
        if self._limit:
            self._ready(rank, turn, block)
        for shard, wanted in reads():
            if shard in self._held:
                self._held.move_to_end(shard)
            else:
                self.counters.bytes_read_through += wanted

    def _ready(self, rank: int, turn: int, block: int) -> None:
        begun, lane = self._begun.setdefault(rank, {}), self._blocks.place_of(block)[0]
        coming = [at for at in range(block, block + AHEAD + 1) if self._blocks.place_of(at)[0] == lane]
        if all(at in begun for at in coming):
            return
        for passed in [at for at in begun if at < block and self._blocks.place_of(at)[0] == lane]:
            del begun[passed]
        kept = self._blocks.kept_of(block)
        for at in coming:
            if at not in begun:
                self._begin(begun, at, turn, kept, now=at == block)

    def _begin(self, begun: dict[int, list[int]], block: int, turn: int, kept: float, *, now: bool) -> None:
        worth = self._wants.whole(*self._blocks.place_of(block), turn, kept)
        held = {*worth, *(shard for others in begun.values() for shard in others)}
        if sum(self._sizes[shard] for shard in held) > self._limit:
            if not now:
                return
            worth = []
        for shard in held & self._held.keys():
            self._held.move_to_end(shard)
        for shard in worth:
            self._fetch(shard, held)
        begun[block] = worth

    def _fetch(self, shard: int, kept: set[int]) -> None:
        if shard in self._held:
            self.counters.hits += 1
            self._held.move_to_end(shard)
            return
        self.counters.misses += 1
        for oldest in [other for other in self._held if other not in kept]:
            if self._total + self._sizes[shard] <= self._limit:
                break
            del self._held[oldest]
            self._total -= self._sizes[oldest]
            self.counters.evictions += 1
        if self._total + self._sizes[shard] > self._limit:
            return
        self.counters.bytes_fetched += self._sizes[shard]
        self._held[shard] = None
        self._total += self._sizes[shard]

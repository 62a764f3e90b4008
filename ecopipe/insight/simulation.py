"""What a run of many ranks will fetch, deliver and cost, told from the index: no payload is read.

The planner is the real one. A corpus of a few million samples is planned whole; of a larger one, some blocks are
planned, spread evenly over the epoch, and what they gave is taken for the rest: such figures come with their standard
error. Which block of which shards comes when, and who takes its batches, follows from row counts, and is worked out for
all blocks in either case. Reads of blocks that were not planned are those of samples drawn from the block.

**Shuffle quality** is two numbers. The *distance* of a sample is that between its place in the corpus and its place in
the stream, both as fractions in [0, 1): of a perfect shuffle these are independent and uniform, and the mean of
|U - V| is 1/3; of no shuffle it is 0. It says that samples travel far, and not that they part with their neighbours:
shards may be dealt in random order and each be read from end to end. So *neighbours* are counted too: two samples next
to each other in a batch that come from one shard, as a share of all. Of a perfect shuffle it is the chance that two
samples drawn without replacement are of one shard, the sum over shards of n(n - 1) / (N(N - 1)).
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ecopipe.insight.simulation_blocks import Corpus, Epoch, Estimate, ExpectedReads, PlannedBlock, ratio
from ecopipe.insight.simulation_cache import Host, Read
from ecopipe.insight.simulation_order import World, sequence_of
from ecopipe.pipeline.pipeline import Pipeline
from ecopipe.plan.items import OpenedItems
from ecopipe.plan.mixed import Opened
from ecopipe.run.worth import EpochPieces, Wants
from ecopipe.storage.cache import Counters
from ecopipe.vocabulary.errors import ConfigError

BLOCKS = 128
"""Blocks that are planned, unless asked for otherwise: two million samples of the default block size."""

HOSTS = 4
"""Hosts whose reads are followed where not all blocks are planned; evenly spaced."""

PERFECT_DISTANCE = 1 / 3

PREFETCH = 2
"""Batches per worker that the loader makes ahead, unless told otherwise."""


@dataclass(frozen=True)
class EpochForecast:
    """An epoch: its batches and steps, and the cache's counters of each of the hosts that were followed."""

    batches: Estimate
    samples: Estimate
    steps: int
    hosts: list[Counters]

    @property
    def fetched_bytes(self) -> float:
        """Bytes that come to a host over the network, into its cache or past it: the mean."""
        return sum(map(_network_bytes, self.hosts)) / len(self.hosts)

    @property
    def whole_bytes(self) -> float:
        """Those of them that are whole shards, for its cache: the mean."""
        return sum(host.bytes_fetched for host in self.hosts) / len(self.hosts)

    @property
    def most_fetched_bytes(self) -> int:
        """Those that come to the host to which most come."""
        return max(map(_network_bytes, self.hosts))

    @property
    def evicted(self) -> float:
        """Shards that a host's cache gives up: the mean."""
        return sum(host.evictions for host in self.hosts) / len(self.hosts)

    @property
    def hit_fraction(self) -> float:
        """Of the shards that a rank wanted whole for a block, those that were in the cache already, in [0, 1]."""
        hits = sum(host.hits for host in self.hosts)
        return hits / max(hits + sum(host.misses for host in self.hosts), 1)


@dataclass(frozen=True)
class PlanCost:
    """What planning costs one rank, in CPU seconds and bytes; measured here on the planned blocks.

    ``cpu_s`` is of an epoch, spread over it; ``first_s`` is what passes before the first step; ``held_bytes`` is what
    the plan holds at once.
    """

    cpu_s: float
    first_s: float
    held_bytes: int


@dataclass(frozen=True)
class Forecast:
    """What is to be expected of a run.

    ``length`` is the measure that batches are padded to, ``hosts_per_lane`` how many hosts take batches of a lane in
    the mean, ``group`` the batches of a lane's turn, and ``ahead_bytes`` what workers of a host have in hand, encoded.
    """

    world: World
    shards: int
    samples: int
    corpus_bytes: int
    cache_bytes: int
    lanes: int
    group: int
    blocks: int
    planned_blocks: int
    planned_samples: int
    epochs: list[EpochForecast]
    padding: Estimate | None
    distance: Estimate
    neighbours: Estimate
    perfect_neighbours: float
    plan: PlanCost
    length: str | None
    hosts_per_lane: float
    ahead_bytes: float

    @property
    def whole(self) -> bool:
        """Whether all blocks were planned."""
        return self.planned_blocks == self.blocks

    @property
    def share_bytes(self) -> float:
        """A host's share of the corpus."""
        return self.corpus_bytes / self.world.hosts


def simulate(
    pipeline: Pipeline,
    opened: Opened,
    world: World,
    *,
    cache_bytes: int = 0,
    epochs: int = 1,
    seed: int = 0,
    blocks: int = BLOCKS,
    workers: int = 0,
) -> Forecast:
    """Predicts a run.

    Args:
        pipeline: What is to be delivered.
        opened: Its source, opened, or a made-up one.
        world: The ranks and hosts.
        cache_bytes: Limit of the cache that each host has; 0 for no cache.
        epochs: Epochs, one after the other; the cache is empty before the first.
        seed: Seed of the order.
        blocks: Blocks to plan at most: in each epoch if that is all of them, else in the first one.
        workers: Worker processes of each rank.

    Raises:
        ConfigError: The source has no index (Items), never ends, or cannot be planned; a number is out of its range.
        SampleError: A row cannot be planned.
    """
    for name, value in (("epochs", epochs), ("blocks", blocks)):
        if value < 1:
            raise ConfigError(f"simulate: --{name} must be at least 1, got {value}.")
    if isinstance(opened, OpenedItems):
        raise ConfigError("simulate: what an iterable (Items) gives has no index to plan. Simulate shards.")
    corpus = Corpus(pipeline, opened)
    if pipeline.plan(opened, seed, 0).endless:
        raise ConfigError("simulate: a mixture with stop='forever' has no epoch to predict. Set stop='cycle' for it.")
    hosts: dict[int, Host] = {}
    planned: dict[int, PlannedBlock] = {}
    told: list[EpochForecast] = []
    laid: list[_Laid] = []
    for number in range(epochs):
        epoch = Epoch(corpus, seed, number)
        whole = len(epoch) <= blocks
        if whole or not planned:
            chosen = epoch.chosen(blocks).tolist()
            planned = {block: epoch.planned(block, with_bytes=whole or block == chosen[0]) for block in chosen}
        if not hosts:
            sizes = corpus.sizes.tolist()
            followed = range(world.hosts) if whole else _spread(world.hosts, HOSTS)
            hosts = {host: Host(sizes, cache_bytes) for host in followed}
        order = _Laid(corpus, epoch, planned)
        told.append(_followed(order, world, hosts, cache_bytes))
        laid = laid or [order]
    first = laid[0]
    samples = corpus.samples
    distance, neighbours = first.quality()
    return Forecast(
        world=world,
        shards=len(corpus.sizes),
        samples=samples,
        corpus_bytes=int(corpus.sizes.sum()),
        cache_bytes=cache_bytes,
        lanes=len(first.epoch.lanes),
        group=first.epoch.plan.group,
        blocks=len(first.epoch),
        planned_blocks=len(first.planned),
        planned_samples=int(first.epoch.rows[list(first.planned)].sum()),
        epochs=told,
        padding=first.padding(),
        distance=distance,
        neighbours=neighbours,
        perfect_neighbours=float((corpus.rows * (corpus.rows - 1)).sum() / max(samples * (samples - 1), 1)),
        plan=_plan_cost(first, world),
        length=corpus.length,
        hosts_per_lane=first.hosts_per_lane(world),
        ahead_bytes=first.batch_bytes() * min(world.ranks, world.ranks_per_host) * (workers * PREFETCH or 1),
    )


class _Laid:
    """The batches of an epoch, laid out in their order.

    ``block``, ``within``: the block of each batch, and its place in it, int64 [batches].
    """

    def __init__(self, corpus: Corpus, epoch: Epoch, planned: dict[int, PlannedBlock]) -> None:
        self.corpus, self.epoch, self.planned = corpus, epoch, planned
        self._places = list(zip(epoch.lane.tolist(), epoch.number.tolist(), strict=True))
        rows = epoch.rows[list(planned)].tolist()
        self.per_row = self._ratio([len(one.sizes) for one in planned.values()], rows)
        self.delivered = self._ratio([len(one.places) for one in planned.values()], rows)
        self.counts = epoch.batches(planned)
        self.block, self.within = sequence_of(self.epoch.lane, self.counts, epoch.plan.group)
        if not len(self.block):
            raise ConfigError("simulate: the pipeline delivers no batch: Where leaves out every sample. Widen it.")

    @property
    def whole(self) -> bool:
        """Whether all blocks were planned."""
        return len(self.planned) == len(self.epoch)

    def _ratio(self, tops: Sequence[float], bottoms: Sequence[float]) -> Estimate:
        return ratio(tops, bottoms, len(self.epoch))

    @property
    def samples_per_batch(self) -> float:
        """Samples of a batch, in the mean."""
        return self.delivered.value / self.per_row.value

    def place_of(self, block: int) -> tuple[int, int]:
        """The lane of a block, and its number there; (-1, 0) behind the last one."""
        return self._places[block] if block < len(self._places) else (-1, 0)

    def kept_of(self, block: int) -> float:
        """The share of a block's rows that are delivered."""
        one = self.planned.get(block)
        return min(1.0, self.delivered.value if one is None else one.kept)

    def batches(self) -> Estimate:
        """Batches of the epoch."""
        known = self.whole or self.epoch.told
        return Estimate(len(self.block), 0.0 if known else self.per_row.error * float(self.epoch.rows.sum()))

    def samples(self) -> Estimate:
        """Samples that the epoch delivers."""
        rows = float(self.epoch.rows.sum())
        return Estimate(round(self.delivered.value * rows), self.delivered.error * rows)

    def padding(self) -> Estimate | None:
        """Share of the padded length that is padding, in [0, 1); None where nothing is padded."""
        if self.corpus.length is None:
            return None
        blocks = self.planned.values()
        return self._ratio([one.padded - one.true for one in blocks], [one.padded for one in blocks])

    def hosts_per_lane(self, world: World) -> float:
        """Hosts that take batches of a lane: the mean."""
        batch, host = world.taken(len(self.block))
        pairs = np.unique(self.epoch.lane[self.block[batch]] * world.hosts + host)
        return len(pairs) / len(np.unique(pairs // world.hosts))

    def batch_bytes(self) -> float:
        """Bytes of the members that a batch reads: the mean."""
        blocks = [one for one in self.planned.values() if len(one.members)]
        return sum(one.payload_bytes for one in blocks) / sum(len(one.sizes) for one in blocks)

    def reads(self) -> Callable[[int, int], list[Read]]:
        """What a batch reads, by its block and its place in it: as planned, or else as expected."""
        if self.whole:
            return lambda block, within: self.planned[block].reads(within)
        one = next(one for one in self.planned.values() if len(one.members))
        stored = (self.corpus.sizes / np.maximum(self.corpus.rows, 1))[one.shards].sum()
        return ExpectedReads(self.corpus, self.epoch, self.samples_per_batch, float(one.payload_bytes / stored)).reads

    def quality(self) -> tuple[Estimate, Estimate]:
        """The mean distance, and the share of neighbours of one shard."""
        starts = np.cumsum(self.counts) - self.counts
        sizes = np.full(len(self.block), self.samples_per_batch)
        for block, one in self.planned.items():
            sizes[starts[block] : starts[block] + len(one.sizes)] = one.sizes
        at = starts[self.block] + self.within  # from the order of delivery to that of the blocks
        before = np.empty(len(sizes))
        before[at] = np.cumsum(sizes[at]) - sizes[at]
        moved, samples, same, pairs = [], [], [], []
        for block, one in self.planned.items():
            firsts = np.cumsum(one.sizes) - one.sizes
            inside = np.arange(len(one.places)) - np.repeat(firsts, one.sizes)
            stream = np.repeat(before[starts[block] : starts[block] + len(one.sizes)], one.sizes) + inside
            moved.append(float(np.abs((one.places + 0.5) / self.corpus.samples - (stream + 0.5) / sizes.sum()).sum()))
            samples.append(len(one.places))
            beside = inside[1:] > 0
            same.append(int((one.shards[1:] == one.shards[:-1])[beside].sum()))
            pairs.append(int(beside.sum()))
        return self._ratio(moved, samples), self._ratio(same, pairs)


def _followed(laid: _Laid, world: World, hosts: Mapping[int, Host], cache_bytes: int) -> EpochForecast:
    """An epoch, and what some hosts fetch in it."""
    batch, host = world.taken(len(laid.block))
    reads, epoch, group = laid.reads(), laid.epoch, laid.epoch.plan.group
    pieces = EpochPieces(epoch.plan, epoch.lanes, laid.corpus.figures.rows)
    for number, one in hosts.items():
        ranks_there = world.ranks_of(number)
        one.follow(laid, Wants(ranks_there, epoch.lanes, group, laid.corpus.figures, pieces, cache_bytes))
        (taken,) = np.nonzero(host == number)
        own = batch[taken]
        turns = (own - laid.within[own] % group) % world.ranks
        each = zip(taken.tolist(), turns.tolist(), laid.block[own].tolist(), laid.within[own].tolist(), strict=True)
        for place, turn, block, within in each:
            one.take(place % world.ranks, turn, block, functools.partial(reads, block, within))
    counters = [one.counters for one in hosts.values()]
    return EpochForecast(laid.batches(), laid.samples(), world.steps(len(laid.block)), counters)


def _plan_cost(laid: _Laid, world: World) -> PlanCost:
    """The cost of the plan of one rank, from what the planned blocks took here."""
    epoch, planned = laid.epoch, list(laid.planned.values())
    chosen = list(laid.planned)
    began = time.process_time()
    table = laid.corpus.shards.read(epoch.slices(chosen[0]))
    wide_s, wide_bytes = time.process_time() - began, table.nbytes
    block_s = sum(one.cpu_s for one in planned) / len(planned)
    held = sum(one.held for one in planned) / len(planned)
    narrow = world.ranks > 1 and len(epoch.lanes) > 1  # then a rank reads all columns only of blocks that it takes from
    own = laid.block[:: world.ranks]
    wide_blocks = len(np.unique(own)) if narrow else len(epoch)
    wide_lanes = len(np.unique(epoch.lane[own])) if narrow else len(epoch.lanes)
    before = len(np.unique(laid.block[: world.ranks]))
    return PlanCost(
        cpu_s=block_s * len(epoch) + wide_s * wide_blocks,
        first_s=block_s * before + wide_s * (1 if narrow else before),
        held_bytes=int(held * len(epoch.lanes) + wide_bytes * wide_lanes),
    )


def _network_bytes(counters: Counters) -> int:
    return counters.bytes_fetched + counters.bytes_read_through


def _spread(count: int, most: int) -> list[int]:
    """At most ``most`` of the numbers below ``count``, evenly spaced."""
    return [(2 * at + 1) * count // (2 * most) for at in range(most)] if count > most else list(range(count))

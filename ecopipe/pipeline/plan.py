"""The plan stages of a pipeline in one epoch over some shards: the recipe of the sequence of batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from weakref import WeakKeyDictionary

import numpy as np
import pyarrow as pa

from ecopipe.plan.blocks import Lane, Rows, Share, Slices, Stream, bounds_of, slices_of
from ecopipe.plan.items import ItemsLane, OpenedItems
from ecopipe.plan.mixed import MixedShards, Opened, mean_of
from ecopipe.plan.mixture import Mixture
from ecopipe.plan.parts import Cut, Parts
from ecopipe.plan.sequence import Block, Planned
from ecopipe.stages.plan import Where
from ecopipe.stages.source import Items, Mix, Source
from ecopipe.stages.stage import BatchingStage, PlanStage
from ecopipe.vocabulary.errors import ConfigError
from ecopipe.vocabulary.randomness import Chance, Draws

NEIGHBOURS = 8
"""Batches from which rows go with a batch, to stand in for its bad samples."""

SPARES_PER_BATCH = 2
"""Rows of each of them. If more are bad, the batch's good ones are taken again."""


def index_columns(stages: Iterable[PlanStage | BatchingStage]) -> tuple[str, ...]:
    """Columns of the index that plan stages look at, less those that an earlier one gives."""
    needed: set[str] = set()
    given: set[str] = set()
    for stage in stages:
        needed |= set(stage.needs()) - given
        given |= set(stage.gives())
    return ("key", "shard", *sorted(needed - {"key", "shard"}))


class Plan:
    """What plan stages do in one epoch: a :class:`ecopipe.plan.sequence.Recipe`.

    Args:
        source: The pipeline's source.
        stages: Its plan stages.
        batching: Its batching stage.
        shards: The source, opened.
        seed: Seed of the order.
        epoch: The epoch.
    """

    def __init__(
        self,
        source: Source,
        stages: Sequence[PlanStage],
        batching: BatchingStage,
        shards: Opened,
        seed: int,
        epoch: int,
    ) -> None:
        self._source, self._stages, self._batching, self._shards = source, list(stages), batching, shards
        self._seed, self._epoch = seed, epoch
        self._lengths: WeakKeyDictionary[Block, Rows | None] = WeakKeyDictionary()
        self._looked_at = {"key", "shard"}.union(*(stage.needs() for stage in [*stages, batching]))
        self._block_rows = source.window if isinstance(source, Items) else source.block_rows

    @property
    def group(self) -> int:
        """Batches that a lane gives before the next one has its turn."""
        return self._batching.batches_per_turn

    @property
    def endless(self) -> bool:
        """Whether the epoch never ends."""
        return isinstance(self._source, Mix) and self._source.stop == "forever"

    def lanes(self) -> list[Lane]:
        """The epoch's lanes.

        Raises:
            ConfigError: A source of a mixture holds fewer samples than there are lanes.
        """
        if isinstance(self._shards, OpenedItems):
            return [ItemsLane(self._shards)]
        streams, first = [], 0
        for number, shards in enumerate(self._shards.parts.values()):
            slices = slices_of(shards.rows_per_shard, self._block_rows, first)
            streams.append(self._passes(slices, number))
            first += len(shards.rows_per_shard)
        lengths = [len(passes(0)) for passes in streams]
        weights = self._weights()
        for name, length in zip(self._shards.parts, lengths, strict=True):
            if isinstance(self._source, Mix) and length < self._source.lanes:
                raise ConfigError(
                    f"Mix: the source {name} holds {length} samples, fewer than the {self._source.lanes} lanes. "
                    "Use fewer lanes."
                )
        multiple = self._batching.multiple
        block_rows = max(self._block_rows - self._block_rows % multiple, multiple)
        lanes = []
        for bounds in zip(*(bounds_of(length, self._source.lanes) for length in lengths), strict=True):
            shares = [Share(passes, low, high) for passes, (low, high) in zip(streams, bounds, strict=True)]
            stop = self._source.stop if isinstance(self._source, Mix) else "all"
            lanes.append(Lane(shares, Mixture([len(share) for share in shares], weights, stop), block_rows, multiple))
        return lanes

    def _passes(self, slices: Slices, number: int) -> Callable[[int], Stream]:
        """The stream of a source in each of its passes: the first, and further ones where a mixture begins it again."""

        @lru_cache(maxsize=2)  # lanes come to the end of a pass at about the same time
        def stream(turn: int) -> Stream:
            dealt = slices
            for stage in self._stages:
                label = f"{stage.label}/{number}/{turn}" if isinstance(self._source, Mix) else stage.label
                dealt = stage.deal(dealt, Chance(self._seed, self._epoch, label))
            return Stream(dealt)

        return stream

    def _weights(self) -> list[float]:
        """The weight of each source, in rows."""
        if not isinstance(self._source, Mix) or not isinstance(self._shards, MixedShards):
            return [1.0]
        weights = self._source.weights_in(self._epoch)
        if self._source.by == "samples":
            return list(weights)
        return [
            weight / mean_of(name, shards, self._source.by) if weight else 0.0
            for weight, (name, shards) in zip(weights, self._shards.parts.items(), strict=True)
        ]

    def count(self) -> int | None:
        """Batches of the epoch where row counts alone tell; None where it has to be planned."""
        if any(isinstance(stage, Where) or stage.parts_in() for stage in [*self._stages, self._batching]):
            return None
        counts = [self._batching.count(rows) for lane in self.lanes() for rows in lane.block_sizes()]
        return None if None in counts else sum(count for count in counts if count is not None)

    def cut(self, block: pa.Table, order: Rows, lane: int, number: int) -> Cut:
        """One block, cut into batches."""
        place = lane, number
        parts: Parts | None = None

        def divided(stage: PlanStage | BatchingStage, block: pa.Table, rows: Rows) -> tuple[pa.Table, Rows]:
            nonlocal parts
            if (made := stage.parts(block, rows, place)) is None:
                return block, rows
            parts = made
            return made.table(block, self._looked_at), np.arange(len(made), dtype=np.int64)

        rows = order
        for stage in self._stages:
            block, rows = divided(stage, block, rows)
            rows = stage.apply(block, rows, Chance(self._seed, self._epoch, stage.label), place)
        block, rows = divided(self._batching, block, rows)
        chance = Chance(self._seed, self._epoch, self._batching.label)
        batches = [batch for batch in self._batching.apply(block, rows, chance, place) if len(batch)]
        return Cut(batches, block, parts)

    def spares(self, planned: Planned) -> pa.Table:
        """Index rows that may stand in for bad samples of a batch, the best first.

        They are a few rows, drawn, of each of the batches that are next in length below it, or of any others where the
        batching stage knows no lengths. Where there is none below: of the batch itself, then of those above.
        """
        chance = Chance(self._seed, self._epoch, self._batching.label)
        draws, block = chance.draws("spares", planned.number), planned.block
        found = [
            block.batches[number][draws.permutation(len(block.batches[number]))[:SPARES_PER_BATCH]]
            for number in self._neighbours(planned, draws)
        ]
        return block.rows(np.concatenate(found))

    def _neighbours(self, planned: Planned, draws: Draws) -> list[int]:
        batches = planned.block.batches
        if planned.block not in self._lengths:
            self._lengths[planned.block] = self._batching.by_length(planned.block.planned, batches)
        order = self._lengths[planned.block]
        if order is None:
            others = [int(number) for number in draws.permutation(len(batches)) if number != planned.batch]
            return others[:NEIGHBOURS] or [planned.batch]
        at = int(np.flatnonzero(order == planned.batch)[0])
        below = order[at + 1 : at + 1 + NEIGHBOURS].tolist()
        return below or [planned.batch, *order[max(at - NEIGHBOURS, 0) : at][::-1].tolist()]

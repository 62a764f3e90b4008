"""grain's ``ElasticIterator``: the same data set as :mod:`grain_loader`, batched and sharded by the iterator itself."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import grain

from benchmarks.contract import corpus
from benchmarks.contract.peers import grain_loader
from ecopipe.testing.contract import state_of_rank_0

NAME = "grain, elastic"
PACKAGES = grain_loader.PACKAGES
CONFIGURATION = (
    "`grain.experimental.ElasticIterator(shuffled.map(decode), global_batch_size=12, ShardOptions(...))`, which "
    "drops incomplete batches by design; any rank's state is every rank's"
)
prepare = grain_loader.prepare


class ElasticEpochs(grain_loader.Epochs):
    def dataset(self, number: int) -> Any:
        shuffled = grain.MapDataset.source(self.source).shuffle(seed=self.seed + number).map(grain_loader.decode)
        workers = grain.multiprocessing.MultiprocessingOptions(num_workers=self.workers)
        return grain.experimental.ElasticIterator(
            shuffled,
            corpus.BATCH,
            grain.sharding.ShardOptions(shard_index=self.rank, shard_count=self.world_size),
            multiprocessing_options=workers if self.workers else None,
        )


contract = replace(
    grain_loader.contract,
    make=partial(ElasticEpochs, "whole"),
    damaged=partial(ElasticEpochs, "damaged"),
    redeal=state_of_rank_0,
)

"""ecopipe: plain WebDataset tars, and ``Loader``.

Batches that only fill the last step of all ranks are marked (``batch.place.repeat``), and are not counted as delivered.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from benchmarks.contract import corpus
from benchmarks.contract.peers import webdataset_loader
from ecopipe import Batch, Collate, Loader, Map, Pipeline, Shuffle, TarShards
from ecopipe.testing import Contract

NAME = "ecopipe"
PACKAGES = ("ecopipe",)
CONFIGURATION = "`Shuffle(), Batch(12), Map(decode), Collate`, `Loader(...)` with its defaults"
prepare = webdataset_loader.prepare


def read(data: bytes) -> list[int]:
    return [len(corpus.decode(data)["text"])]


def make(variant: str, *, rank: int, world_size: int, workers: int, seed: int) -> Any:
    pipe = Pipeline(
        TarShards(str(corpus.folder("webdataset", variant))),
        Shuffle(),
        Batch(corpus.BATCH),
        Map(read, field="json"),
        Collate("json", layout="stack"),
    )
    return Loader(pipe, workers=workers, rank=rank, world_size=world_size, seed=seed)


contract = Contract(
    make=partial(make, "whole"),
    samples=lambda: corpus.SAMPLES,
    keys=lambda batch: [] if batch.place.repeat else batch["keys"],
    damaged=partial(make, "damaged"),
    damaged_names=(corpus.DAMAGED, f"part-{corpus.DAMAGED_SHARD:06d}.tar"),
)

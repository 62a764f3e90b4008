"""grain: the Dataset API over ArrayRecord files: ``MapDataset`` shuffled, sliced by rank, batched, ``mp_prefetch``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from typing import Any

import grain
from array_record.python.array_record_module import ArrayRecordWriter

from benchmarks.contract import corpus
from ecopipe.testing import Contract

NAME = "grain"
PACKAGES = ("grain", "array_record")
CONFIGURATION = (
    "`MapDataset.source(ArrayRecordDataSource).shuffle(seed + epoch)[rank::ranks].map(decode).batch(12)"
    ".to_iter_dataset().mp_prefetch()`, one iterator an epoch, `get_state` and `set_state` of the iterator; each rank "
    "loads its own state"
)


def prepare(variant: str) -> None:
    folder = corpus.folder("grain", variant)
    folder.mkdir(parents=True)
    for number, keys in enumerate(corpus.shards()):
        writer = ArrayRecordWriter(str(folder / f"part-{number:06d}.array_record"), "group_size:1")
        for key in keys:
            writer.write(json.dumps([key, corpus.payload(key, variant).decode()]).encode())
        writer.close()


def source(variant: str) -> Any:
    return grain.sources.ArrayRecordDataSource(sorted(map(str, corpus.folder("grain", variant).glob("*.array_record"))))


def decode(record: bytes) -> dict[str, Any]:
    key, data = json.loads(record)
    return {"key": key, "length": len(corpus.decode(data)["text"])}


class Epochs:
    """One dataset an epoch, and the iterator of the one that runs: what a training loop holds."""

    def __init__(self, variant: str, *, rank: int, world_size: int, workers: int, seed: int) -> None:
        self.source = source(variant)
        self.rank, self.world_size, self.workers, self.seed = rank, world_size, workers, seed
        self.iterator: Any = None
        self.state: Any = None

    def dataset(self, number: int) -> Any:
        dealt = grain.MapDataset.source(self.source).shuffle(seed=self.seed + number)[self.rank :: self.world_size]
        batches = dealt.map(decode).batch(corpus.BATCH).to_iter_dataset()
        if self.workers:
            batches = batches.mp_prefetch(grain.multiprocessing.MultiprocessingOptions(num_workers=self.workers))
        return batches

    def epoch(self, number: int) -> Iterator[Any]:
        self.iterator = iter(self.dataset(number))
        if self.state is not None:
            self.iterator.set_state(self.state)
            self.state = None
        yield from self.iterator
        self.iterator = None

    def save(self) -> Any:
        return None if self.iterator is None else self.iterator.get_state()

    def load(self, state: Any) -> None:
        self.state = state

    def close(self) -> None:
        if self.iterator is not None:
            self.iterator.close()


contract = Contract(
    make=partial(Epochs, "whole"),
    samples=lambda: corpus.SAMPLES,
    keys=lambda batch: batch["key"],
    epoch=lambda loader, number: loader.epoch(number),
    save=lambda loader: loader.save(),
    load=lambda loader, state: loader.load(state),
    redeal=None,
    length=None,
    damaged=partial(Epochs, "damaged"),
    damaged_names=(corpus.DAMAGED, f"part-{corpus.DAMAGED_SHARD:06d}.array_record"),
)

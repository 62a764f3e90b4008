"""torchdata: ``StatefulDataLoader`` over a map-style data set, dealt by ``StatefulDistributedSampler``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from typing import Any

from torch.utils.data import Dataset
from torchdata.stateful_dataloader import StatefulDataLoader
from torchdata.stateful_dataloader.sampler import StatefulDistributedSampler

from benchmarks.contract import corpus
from ecopipe.testing import Contract

NAME = "torchdata"
PACKAGES = ("torchdata", "torch")
CONFIGURATION = (
    "`StatefulDataLoader(batch_size=12)` over a map-style data set, with `StatefulDistributedSampler(seed=)` and "
    "`set_epoch`; each rank loads its own state. `drop_last=False`: the sampler fills up with repeats (with `True` it "
    "would drop samples instead)"
)


def prepare(variant: str) -> None:
    folder = corpus.folder("torchdata", variant)
    folder.mkdir(parents=True)
    for number, keys in enumerate(corpus.shards()):
        lines = [json.dumps([key, corpus.payload(key, variant).decode()]) for key in keys]
        (folder / f"part-{number:06d}.jsonl").write_text("\n".join(lines))


class Lines(Dataset[tuple[str, Any]]):
    """The lines of some files, by their number; as a user writes it."""

    def __init__(self, variant: str) -> None:
        files = sorted(corpus.folder("torchdata", variant).glob("*.jsonl"))
        self.lines = [line for file in files for line in file.read_text().splitlines()]

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, number: int) -> tuple[str, Any]:
        key, data = json.loads(self.lines[number])
        return key, corpus.decode(data)


def make(variant: str, *, rank: int, world_size: int, workers: int, seed: int) -> Any:
    dataset = Lines(variant)
    sampler = StatefulDistributedSampler(dataset, num_replicas=world_size, rank=rank, shuffle=True, seed=seed)
    return StatefulDataLoader(dataset, batch_size=corpus.BATCH, sampler=sampler, num_workers=workers, collate_fn=list)


def epoch(loader: Any, number: int) -> Iterator[Any]:
    loader.sampler.set_epoch(number)
    return iter(loader)


contract = Contract(
    make=partial(make, "whole"),
    samples=lambda: corpus.SAMPLES,
    keys=lambda batch: [key for key, _content in batch],
    epoch=epoch,
    redeal=None,
    damaged=partial(make, "damaged"),
    damaged_names=(corpus.DAMAGED, f"part-{corpus.DAMAGED_SHARD:06d}.jsonl"),
)

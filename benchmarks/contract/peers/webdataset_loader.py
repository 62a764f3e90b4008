"""webdataset: ``WebDataset`` over plain tars, split by node and by worker, in a ``WebLoader``.

The deterministic shuffles are used, with a seed, and persistent workers, without which every epoch of a worker would
begin with the first epoch's shuffle. An exact epoch is asked for, not ``resampled=True``.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from functools import partial
from typing import Any

import webdataset as wds

from benchmarks.contract import corpus
from ecopipe.testing import Contract

NAME = "webdataset"
PACKAGES = ("webdataset",)
CONFIGURATION = (
    "`WebDataset(shardshuffle=7, detshuffle=True, seed=, nodesplitter=split_by_node)`, `wds.detshuffle`, `.decode()`, "
    "`.batched(12)` in a `WebLoader(persistent_workers=True)`; it has no state. An exact epoch "
    "is asked for, not `resampled=True`"
)


def prepare(variant: str) -> None:
    folder = corpus.folder("webdataset", variant)
    folder.mkdir(parents=True)
    for number, keys in enumerate(corpus.shards()):
        with tarfile.open(folder / f"part-{number:06d}.tar", "w") as tar:
            for key in keys:
                data = corpus.payload(key, variant)
                member = tarfile.TarInfo(f"{key}.json")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def make(variant: str, *, rank: int, world_size: int, workers: int, seed: int) -> Any:
    urls = sorted(map(str, corpus.folder("webdataset", variant).glob("*.tar")))
    dataset = (
        wds.WebDataset(
            urls,
            shardshuffle=len(urls),
            detshuffle=True,
            seed=seed,
            nodesplitter=wds.split_by_node,
            empty_check=False,
        )
        .compose(wds.detshuffle(1000, seed=seed))
        .decode()
        .batched(corpus.BATCH, collation_fn=list)
    )
    return wds.WebLoader(dataset, batch_size=None, num_workers=workers, persistent_workers=workers > 0)


def epoch(loader: Any, _number: int) -> Iterator[Any]:
    return iter(loader)


contract = Contract(
    make=partial(make, "whole"),
    samples=lambda: corpus.SAMPLES,
    keys=lambda batch: [sample["__key__"] for sample in batch],
    epoch=epoch,
    save=None,
    load=None,
    redeal=None,
    length=None,
    damaged=partial(make, "damaged"),
    damaged_names=(corpus.DAMAGED, f"part-{corpus.DAMAGED_SHARD:06d}.tar"),
)

"""mosaicml-streaming: ``StreamingDataset`` over MDS shards, in a ``StreamingDataLoader``.

The global batch is the same for any number of ranks, as its elastic determinism asks for. Stale shared memory is
cleaned before each run, as its documentation advises for runs that follow a crash.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import streaming
import torch
from streaming.base.util import clean_stale_shared_memory

from benchmarks.contract import corpus
from ecopipe.testing import Contract

NAME = "mosaicml-streaming"
PACKAGES = ("mosaicml-streaming",)
CONFIGURATION = (
    "`StreamingDataset(shuffle=True, shuffle_seed=, batch_size=12 // ranks)` in a `StreamingDataLoader`: the global "
    "batch is the same for any number of ranks, as its elastic determinism asks for; `clean_stale_shared_memory()` "
    "before each run; rank 0's state when the number of ranks changes. It repeats samples, unmarked, until the ranks "
    "are equal"
)


def prepare(variant: str) -> None:
    folder = corpus.folder("mosaicml", variant)
    for number, keys in enumerate(corpus.shards()):
        writer = streaming.MDSWriter(
            out=str(folder / f"part-{number:06d}"), columns={"key": "str", "data": "bytes"}, size_limit=1 << 26
        )
        with writer:
            for key in keys:
                writer.write({"key": key, "data": corpus.payload(key, variant)})
    streaming.base.util.merge_index(str(folder), keep_local=True)


class Decoded(streaming.StreamingDataset):
    """Decodes in ``__getitem__``, as its documentation shows."""

    def __getitem__(self, at: Any) -> Any:
        sample = super().__getitem__(at)
        return {"key": sample["key"], "content": corpus.decode(sample["data"])}


def make(variant: str, *, rank: int, world_size: int, workers: int, seed: int) -> Any:
    if world_size > 1:
        torch.distributed.init_process_group("gloo")
    clean_stale_shared_memory()
    batch_size = corpus.BATCH // world_size
    dataset = Decoded(
        local=str(corpus.folder("mosaicml", variant)), shuffle=True, shuffle_seed=seed, batch_size=batch_size
    )
    return streaming.StreamingDataLoader(dataset, batch_size=batch_size, num_workers=workers, collate_fn=collate)


def collate(samples: list[dict[str, Any]]) -> dict[str, list[Any]]:
    return {name: [sample[name] for sample in samples] for name in ("key", "content")}


def epoch(loader: Any, _number: int) -> Iterator[Any]:
    return iter(loader)


contract = Contract(
    make=partial(make, "whole"),
    samples=lambda: corpus.SAMPLES,
    keys=lambda batch: batch["key"],
    epoch=epoch,
    damaged=partial(make, "damaged"),
    damaged_names=(corpus.DAMAGED, f"part-{corpus.DAMAGED_SHARD:06d}"),
)

"""Hugging Face datasets: a streaming ``IterableDataset`` over Parquet files, in torchdata's ``StatefulDataLoader``."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import load_dataset
from datasets.distributed import split_dataset_by_node
from torchdata.stateful_dataloader import StatefulDataLoader

from benchmarks.contract import corpus
from ecopipe.testing import Contract

NAME = "datasets"
PACKAGES = ("datasets", "torchdata")
CONFIGURATION = (
    '`load_dataset("parquet", streaming=True)`, `split_dataset_by_node`, `.shuffle(seed=, buffer_size=20)`, '
    "`.map(decode)`, `set_epoch`, in `StatefulDataLoader(batch_size=12)`; each rank loads its own state; its "
    "documentation says that a resumed run has lost what was in the shuffle's buffer"
)


def prepare(variant: str) -> None:
    folder = corpus.folder("datasets", variant)
    folder.mkdir(parents=True)
    for number, keys in enumerate(corpus.shards()):
        table = pa.table({"key": keys, "data": [corpus.payload(key, variant) for key in keys]})
        pq.write_table(table, folder / f"part-{number:06d}.parquet")


def decode(sample: dict[str, Any]) -> dict[str, Any]:
    return {"key": sample["key"], "length": len(corpus.decode(sample["data"])["text"])}


def make(variant: str, *, rank: int, world_size: int, workers: int, seed: int) -> Any:
    files = sorted(map(str, corpus.folder("datasets", variant).glob("*.parquet")))
    dataset = load_dataset("parquet", data_files=files, split="train", streaming=True)
    dataset = split_dataset_by_node(dataset, rank=rank, world_size=world_size)
    dataset = dataset.shuffle(seed=seed, buffer_size=20).map(decode, remove_columns=["data"])
    return StatefulDataLoader(dataset, batch_size=corpus.BATCH, num_workers=workers, collate_fn=list)


def epoch(loader: Any, number: int) -> Iterator[Any]:
    loader.dataset.set_epoch(number)
    return iter(loader)


contract = Contract(
    make=partial(make, "whole"),
    samples=lambda: corpus.SAMPLES,
    keys=lambda batch: [sample["key"] for sample in batch],
    epoch=epoch,
    redeal=None,
    damaged=partial(make, "damaged"),
    damaged_names=(corpus.DAMAGED, f"part-{corpus.DAMAGED_SHARD:06d}.parquet"),
)

"""litdata: ``StreamingDataset`` over optimised chunks, in a ``StreamingDataLoader``.

``optimize`` deletes the folders ``data`` and ``chunks`` in the system's temporary folder, unless two variables of the
environment name others: they are set here before it is imported. A call per shard makes the chunks uneven.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from typing import Any

for _name in ("DATA_OPTIMIZER_DATA_CACHE_FOLDER", "DATA_OPTIMIZER_CACHE_FOLDER"):
    os.environ.setdefault(_name, os.path.join(os.environ["CONTRACT_DATA"], "litdata-cache", _name.lower()))

from litdata import StreamingDataLoader, StreamingDataset, optimize  # noqa: E402

from benchmarks.contract import corpus  # noqa: E402
from ecopipe.testing import Contract  # noqa: E402

NAME = "litdata"
PACKAGES = ("litdata",)
CONFIGURATION = (
    "`StreamingDataset(shuffle=True, seed=, transform=decode, force_override_state_dict=True)` in a "
    "`StreamingDataLoader(batch_size=12 // ranks)`, ranks from `GLOBAL_RANK` and `WORLD_SIZE`; each rank loads its own "
    "state, and rank 0's when their number changes. `drop_last=None` is its default: False for one rank, True for "
    "several; without `force_override_state_dict` no state could go from the one to the other"
)


def prepare(variant: str) -> None:
    for keys in corpus.shards():
        optimize(
            fn=partial(sample, variant),
            inputs=keys,
            output_dir=str(corpus.folder("litdata", variant)),
            chunk_size=max(corpus.SHARD_SIZES),
            num_workers=1,
            mode="append",
            verbose=False,
        )


def sample(variant: str, key: str) -> dict[str, Any]:
    return {"key": key, "data": corpus.payload(key, variant)}


def decode(sample: dict[str, Any]) -> dict[str, Any]:
    return {"key": sample["key"], "content": corpus.decode(sample["data"])}


def make(variant: str, *, rank: int, world_size: int, workers: int, seed: int) -> Any:
    os.environ["GLOBAL_RANK"] = str(rank)
    dataset = StreamingDataset(
        str(corpus.folder("litdata", variant)),
        shuffle=True,
        seed=seed,
        transform=decode,
        force_override_state_dict=True,
    )
    return StreamingDataLoader(dataset, batch_size=corpus.BATCH // world_size, num_workers=workers, collate_fn=list)


def epoch(loader: Any, _number: int) -> Iterator[Any]:
    return iter(loader)


contract = Contract(
    make=partial(make, "whole"),
    samples=lambda: corpus.SAMPLES,
    keys=lambda batch: [sample["key"] for sample in batch],
    epoch=epoch,
    damaged=partial(make, "damaged"),
    damaged_names=(corpus.DAMAGED, f"chunk-0-{corpus.DAMAGED_SHARD}"),
)

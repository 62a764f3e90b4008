"""Ray Data: Parquet, decoded by tasks, batches for torch. ``workers`` is the number of CPUs that Ray is given."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import ray
import torch

from benchmarks.bench.corpus import BATCH, make_parquet
from benchmarks.bench.decoders import BY_NAME, padded

NAME = "Ray Data"
PACKAGES = ("ray", "soundfile")
FORMAT = "parquet"
DECODERS = ("soundfile", "dr_flac")
WORKERS = (1, 2)
USE = (
    "`read_parquet(shuffle='files').map_batches(decode)`, `iter_torch_batches(batch_size=32, collate_fn=pad, "
    "local_shuffle_buffer_size=200)`; workers are `num_cpus`"
)
prepare = make_parquet


def make(out: Path, workers: int, decoder: str) -> Callable[[], Iterable[Any]]:
    ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False, object_store_memory=2**30)
    ray.data.DataContext.get_current().enable_progress_bars = False

    def decode(batch: dict[str, Any]) -> dict[str, Any]:
        return {"audio": [BY_NAME[decoder](data) for data in batch["flac"]]}

    data = ray.data.read_parquet(str(out), columns=["flac"], shuffle="files").map_batches(decode, batch_size=BATCH)

    def collated(batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        audio, lengths = padded(list(batch["audio"]))
        return audio, lengths

    return lambda: data.iter_torch_batches(
        batch_size=BATCH, collate_fn=collated, local_shuffle_buffer_size=200, prefetch_batches=2
    )

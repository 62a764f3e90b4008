"""Hugging Face datasets: Parquet streamed, shuffled through a buffer, decoded, in torch's DataLoader."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from datasets import load_dataset
from torch.utils.data import DataLoader

from benchmarks.bench.corpus import BATCH, make_parquet
from benchmarks.bench.decoders import BY_NAME, padded

NAME = "datasets"
PACKAGES = ("datasets", "soundfile")
FORMAT = "parquet"
DECODERS = ("soundfile", "dr_flac")
WORKERS = (0, 1, 2)
USE = (
    "`load_dataset('parquet', streaming=True).shuffle(buffer_size=1000, max_buffer_input_shards=1)` (with its default "
    "of 10 all shards are one, for one worker, and each epoch begins 5 s late), decoded in the workers by "
    "`collate_fn`, in a `DataLoader(batch_size=32, persistent_workers=True)`; its `Audio` feature needs torchcodec, "
    "and is not used"
)
prepare = make_parquet


def collated(decoder: str, rows: list[dict[str, Any]]) -> Any:
    return padded([BY_NAME[decoder](row["flac"]) for row in rows])


def make(out: Path, workers: int, decoder: str) -> Callable[[], Iterable[Any]]:
    files = sorted(map(str, out.glob("*.parquet")))
    whole = load_dataset("parquet", data_files=files, split="train", streaming=True)
    data = whole.shuffle(seed=1, buffer_size=1000, max_buffer_input_shards=1)
    loader = DataLoader(
        data,
        batch_size=BATCH,
        num_workers=workers,
        collate_fn=partial(collated, decoder),
        persistent_workers=workers > 0,
    )
    return lambda: loader

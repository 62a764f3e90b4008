"""ecopipe: tars with their index, bucketed by length, decoded in worker processes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.bench.corpus import BATCH_S, make_tars
from ecopipe import Bucket, Collate, DecodeAudio, Pipeline, Shuffle, TarShards
from ecopipe.datasets.shards import find_tars, index_tars

NAME = "ecopipe"
PACKAGES = ("ecopipe", "torch", "miniaudio")
FORMAT = "tars"
DECODERS = ("dr_flac",)
WORKERS = (0, 1, 2)
USE = (
    '`TarShards, Shuffle, Bucket("duration_s", max_padded=416, max_padding=0.03), DecodeAudio, Collate("audio")`, '
    "`loader(workers=)`; every member compared with its CRC-32"
)


def pipeline(path: str, dtype: Any = "float32") -> Pipeline:
    """FLAC to padded batches of 416 padded seconds, or fewer where that would be more than 3 % of padding."""
    return Pipeline(
        TarShards(path),
        Shuffle(),
        Bucket("duration_s", max_padded=BATCH_S, max_padding=0.03),
        DecodeAudio(dtype=dtype),
        Collate("audio"),
    )


def of_loader(loader: Any) -> Iterator[tuple[Any, Any]]:
    """The batches of its next epoch: audio [B, Tmax], and lengths int64 [B]."""
    return ((batch["audio"], batch["lengths"]) for batch in loader)


def prepare(folder: Path, out: Path) -> None:
    make_tars(folder, out)
    index_tars(find_tars(str(out)))


def make(out: Path, workers: int, _decoder: str) -> Callable[[], Iterable[Any]]:
    loader = pipeline(str(out)).loader(workers=workers)
    return lambda: of_loader(loader)

"""ecopipe: tars with their index, bucketed by length, decoded in worker processes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from benchmarks.bench.corpus import make_tars
from benchmarks.bench.prototype_threads import of_loader, pipeline
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


def prepare(folder: Path, out: Path) -> None:
    make_tars(folder, out)
    index_tars(find_tars(str(out)))


def make(out: Path, workers: int, _decoder: str) -> Callable[[], Iterable[Any]]:
    loader = pipeline(str(out)).loader(workers=workers)
    return lambda: of_loader(loader)

"""ecopipe with int16 batches: half the bytes between processes, the same samples, float32 on the device."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from benchmarks.bench.peers import ecopipe_loader
from benchmarks.bench.peers.ecopipe_loader import of_loader, pipeline

NAME = "ecopipe, int16"
PACKAGES = ecopipe_loader.PACKAGES
FORMAT = ecopipe_loader.FORMAT
DECODERS = ecopipe_loader.DECODERS
WORKERS = ecopipe_loader.WORKERS
USE = "the same with `DecodeAudio(dtype='int16')`: int16 is delivered, as this project's speech pipelines do"
prepare = ecopipe_loader.prepare


def make(out: Path, workers: int, _decoder: str) -> Callable[[], Iterable[Any]]:
    loader = pipeline(str(out), "int16").loader(workers=workers)
    return lambda: of_loader(loader)

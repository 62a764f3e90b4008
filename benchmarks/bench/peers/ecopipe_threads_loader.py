"""ecopipe with threads of this process instead of worker processes: ``workers`` is the number of threads."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from benchmarks.bench.peers import ecopipe_loader

NAME = "ecopipe, threads"
PACKAGES = ecopipe_loader.PACKAGES
FORMAT = ecopipe_loader.FORMAT
DECODERS = ecopipe_loader.DECODERS
WORKERS = (1, 2)
USE = "the same, `loader(workers=0, threads=)`"
prepare = ecopipe_loader.prepare


def make(out: Path, workers: int, _decoder: str) -> Callable[[], Iterable[Any]]:
    loader = ecopipe_loader.pipeline(str(out)).loader(workers=0, threads=workers)
    return lambda: ecopipe_loader.of_loader(loader)

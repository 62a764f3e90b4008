"""The prototype of threads in this process, on ecopipe's plan: ``workers`` is the number of threads."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from benchmarks.bench.peers import ecopipe_loader
from benchmarks.bench.prototype_threads import ThreadLoader, pipeline

NAME = "ecopipe, threads (prototype)"
PACKAGES = ecopipe_loader.PACKAGES
FORMAT = ecopipe_loader.FORMAT
DECODERS = ecopipe_loader.DECODERS
WORKERS = (1, 2)
PROTOTYPE = True
USE = "`benchmarks/bench/prototype_threads.py`: no processes, threads decode into the rows of batches; no loader yet"
prepare = ecopipe_loader.prepare


def make(out: Path, workers: int, _decoder: str) -> Callable[[], Iterable[Any]]:
    loader = ThreadLoader(pipeline(str(out)), threads=workers)
    return lambda: iter(loader)

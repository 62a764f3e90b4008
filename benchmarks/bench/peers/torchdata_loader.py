"""torchdata's nodes: a sampler, a mapper on threads, a batcher, a loader."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torchdata.nodes as tn
from torch.utils.data import RandomSampler

from benchmarks.bench.corpus import BATCH
from benchmarks.bench.decoders import padded
from benchmarks.bench.peers.dataloader_loader import Files

NAME = "torchdata nodes"
PACKAGES = ("torchdata", "soundfile")
FORMAT = "files"
DECODERS = ("soundfile", "dr_flac")
WORKERS = (0, 1, 2)
USE = (
    "`SamplerWrapper(RandomSampler)`, `ParallelMapper(num_workers=, method='thread')` (its default), `Batcher(32)`, "
    "`Prefetcher`, `Loader`; workers are threads"
)


def prepare(_folder: Path, _out: Path) -> None:
    """The files are there."""


def make(out: Path, workers: int, decoder: str) -> Callable[[], Iterable[Any]]:
    files = Files(out.parent, decoder)
    node: Any = tn.SamplerWrapper(RandomSampler(files))
    if workers:
        node = tn.ParallelMapper(node, files.__getitem__, num_workers=workers, method="thread")
    else:
        node = tn.Mapper(node, files.__getitem__)
    node = tn.Mapper(tn.Batcher(node, BATCH, drop_last=False), padded)
    loader = tn.Loader(tn.Prefetcher(node, prefetch_factor=2) if workers else node)
    return lambda: loader

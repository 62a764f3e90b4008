"""torch's DataLoader over files, as its tutorial writes it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from benchmarks.bench.corpus import BATCH, files_of
from benchmarks.bench.decoders import BY_NAME, padded

NAME = "DataLoader over files"
PACKAGES = ("torch", "soundfile")
FORMAT = "files"
DECODERS = ("soundfile", "dr_flac")
WORKERS = (0, 1, 2)
USE = (
    "`Dataset.__getitem__` reads and decodes a file; `DataLoader(shuffle=True, batch_size=32, persistent_workers=True)`"
)


class Files(Dataset[Any]):
    """A file each."""

    def __init__(self, folder: Path, decoder: str) -> None:
        self.paths, self.decode = files_of(folder), BY_NAME[decoder]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> torch.Tensor:
        return torch.from_numpy(self.decode(self.paths[number].read_bytes()))


def prepare(_folder: Path, _out: Path) -> None:
    """The files are there."""


def make(out: Path, workers: int, decoder: str) -> Callable[[], Iterable[Any]]:
    loader = DataLoader(
        Files(out.parent, decoder),
        batch_size=BATCH,
        shuffle=True,
        num_workers=workers,
        collate_fn=padded,
        persistent_workers=workers > 0,
    )
    return lambda: loader

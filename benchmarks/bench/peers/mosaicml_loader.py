"""mosaicml-streaming: MDS shards, decoded in ``__getitem__``."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import streaming
import torch
from streaming.base.util import clean_stale_shared_memory

from benchmarks.bench.corpus import BATCH, SHARDS, files_of
from benchmarks.bench.decoders import BY_NAME, padded

NAME = "mosaicml-streaming"
PACKAGES = ("mosaicml-streaming", "soundfile")
FORMAT = "mds"
DECODERS = ("soundfile", "dr_flac")
WORKERS = (0, 1, 2)
USE = (
    "`StreamingDataset(local=, shuffle=True, batch_size=32)` in a `StreamingDataLoader(persistent_workers=True)`; "
    "it repeats samples until workers are equal"
)


def prepare(folder: Path, out: Path) -> None:
    files = files_of(folder)
    limit = sum(path.stat().st_size for path in files) // SHARDS
    with streaming.MDSWriter(out=str(out), columns={"key": "str", "flac": "bytes"}, size_limit=limit) as writer:
        for path in files:
            writer.write({"key": path.stem, "flac": path.read_bytes()})


class Decoded(streaming.StreamingDataset):  # type: ignore[misc]
    """Decodes in ``__getitem__``, as its documentation shows."""

    decoder = "soundfile"

    def __getitem__(self, at: Any) -> Any:
        return torch.from_numpy(BY_NAME[self.decoder](super().__getitem__(at)["flac"]))


def make(out: Path, workers: int, decoder: str) -> Callable[[], Iterable[Any]]:
    clean_stale_shared_memory()
    data = Decoded(local=str(out), shuffle=True, batch_size=BATCH)
    data.decoder = decoder
    loader = streaming.StreamingDataLoader(
        data, batch_size=BATCH, num_workers=workers, collate_fn=padded, persistent_workers=workers > 0
    )
    return lambda: loader

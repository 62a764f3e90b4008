"""lhotse: Shar archives, dynamic bucketing, the sampler in the workers."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import lhotse
import torch
from lhotse import CutSet, Recording
from lhotse.audio.backend import AudioBackend, LibsndfileBackend
from lhotse.dataset import DynamicBucketingSampler
from lhotse.dataset.iterable_dataset import IterableDatasetWrapper
from torch.utils.data import DataLoader, Dataset

from benchmarks.bench.corpus import BATCH_S, RATE_HZ, SHARDS, files_of
from benchmarks.bench.decoders import BY_NAME

NAME = "lhotse"
PACKAGES = ("lhotse", "soundfile")
FORMAT = "shar"
DECODERS = ("soundfile", "dr_flac")
WORKERS = (0, 1, 2)
USE = (
    "Shar with the original bytes, `DynamicBucketingSampler(max_duration=416, num_buckets=10, shuffle=True)` and "
    "`IterableDatasetWrapper` in a `DataLoader(batch_size=None)`; `collate_audio`; its libsndfile backend. A new "
    "iterator over Shar starts its workers anew in each epoch"
)


class DrFlac(LibsndfileBackend):  # type: ignore[misc]
    """Its own backend for all but whole FLAC in memory."""

    def read_audio(self, path_or_fd: Any, offset: float = 0.0, duration: Any = None, **settings: Any) -> Any:
        if not isinstance(path_or_fd, io.BytesIO) or offset or duration is not None:
            raise ValueError("only whole files in memory are read in this benchmark")
        return BY_NAME["dr_flac"](path_or_fd.getvalue())[None], RATE_HZ


class Padded(Dataset[Any]):
    """Loads and pads the audio of a batch of cuts."""

    def __getitem__(self, cuts: CutSet) -> tuple[torch.Tensor, torch.Tensor]:
        audio, lengths = lhotse.dataset.collation.collate_audio(cuts)
        return audio, lengths


def prepare(folder: Path, out: Path) -> None:
    files = files_of(folder)
    cuts = CutSet.from_cuts(Recording.from_file(path).to_cut() for path in files)
    out.mkdir(parents=True)
    cuts.to_shar(str(out), fields={"recording": "original"}, shard_size=-(-len(files) // SHARDS), verbose=False)


def make(out: Path, workers: int, decoder: str) -> Callable[[], Iterable[Any]]:
    backend: AudioBackend = DrFlac() if decoder == "dr_flac" else LibsndfileBackend()
    lhotse.set_current_audio_backend(backend)

    def loader() -> Iterable[Any]:
        cuts = CutSet.from_shar(in_dir=str(out), shuffle_shards=True, split_for_dataloading=workers > 0)
        sampler = DynamicBucketingSampler(
            cuts, max_duration=BATCH_S, num_buckets=10, shuffle=True, rank=0, world_size=1
        )
        data = IterableDatasetWrapper(dataset=Padded(), sampler=sampler)
        return DataLoader(data, batch_size=None, num_workers=workers)

    return loader

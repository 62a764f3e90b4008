"""spdl: a pipeline of threads over files, with its own decoder, FFmpeg's."""

from __future__ import annotations

import ctypes.util
import random
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from spdl.pipeline import PipelineBuilder

from benchmarks.bench.corpus import BATCH, files_of
from benchmarks.bench.decoders import BY_NAME, padded

NAME = "spdl"
PACKAGES = ("spdl", "spdl-io", "soundfile")
FORMAT = "files"
DECODERS = ("soundfile", "dr_flac", *(["ffmpeg"] if ctypes.util.find_library("avutil") else []))
WORKERS = (1, 2)
USE = (
    "`PipelineBuilder().add_source(paths).pipe(decode, concurrency=threads).aggregate(32).pipe(pad).add_sink(3)`, "
    "`build(num_threads=)`; workers are threads; `ffmpeg` is its own `spdl.io.load_audio`, "
    "measured where FFmpeg's libraries are installed"
)


def prepare(_folder: Path, _out: Path) -> None:
    """The files are there."""


def by_ffmpeg(path: Path) -> Any:
    import spdl.io

    frames = spdl.io.load_audio(str(path), filter_desc=spdl.io.get_audio_filter_desc(sample_fmt="fltp", num_channels=1))
    return torch.from_numpy(spdl.io.to_numpy(frames)).reshape(-1)


def make(out: Path, workers: int, decoder: str) -> Callable[[], Iterable[Any]]:
    paths, draws = files_of(out.parent), random.Random(1)

    def decode(path: Path) -> Any:
        return by_ffmpeg(path) if decoder == "ffmpeg" else BY_NAME[decoder](path.read_bytes())

    def epoch() -> Iterator[Any]:
        builder = PipelineBuilder().add_source(draws.sample(paths, len(paths))).pipe(decode, concurrency=workers)
        pipeline = builder.aggregate(BATCH).pipe(padded).add_sink(3).build(num_threads=workers)
        with pipeline.auto_stop():
            yield from pipeline.get_iterator()

    return epoch

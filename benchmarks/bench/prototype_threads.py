"""Threads instead of worker processes: what a loader could give that decodes straight into the rows of its batches.

The plan is ecopipe's own. For each batch, two of them ahead of the consumer, the memory of [B, Tmax] is taken from that
of earlier ones, and each sample is a job of a thread: its member is looked at in the mapped shard, compared with its
CRC-32, and decoded by dr_flac into its row, whose rest is set to zero. None of the three holds the interpreter's lock.
Only 16-bit mono FLAC, and no other stage: it is a measurement, not a loader.

    python -m benchmarks.bench.prototype_threads shards/librispeech/test-clean
"""

from __future__ import annotations

import argparse
import mmap
import statistics
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import miniaudio
import numpy as np
import torch

from benchmarks.bench.corpus import BATCH_S
from benchmarks.bench.resources import cpu_s
from ecopipe import Bucket, Collate, DecodeAudio, Pipeline, Shuffle, TarShards
from ecopipe.plan.sequence import sequence
from ecopipe.stages.columns import Memory

AHEAD = 2
"""Batches that are made while the consumer has one."""

_READS = {"int16": "ma_dr_flac_read_pcm_frames_s16", "float32": "ma_dr_flac_read_pcm_frames_f32"}


def decode_into(data: Any, row: Any, read: Any) -> int:
    """Decodes FLAC into a row; gives the frames that came, which may be fewer than it takes."""
    ffi, lib = miniaudio.ffi, miniaudio.lib
    flac = lib.ma_dr_flac_open_memory(data, len(data), ffi.NULL)
    if flac == ffi.NULL:
        raise ValueError("not FLAC")
    try:
        return int(read(flac, len(row), row))
    finally:
        lib.ma_dr_flac_close(flac)


class ThreadLoader:
    """Batches of one epoch after another: each is (audio [B, Tmax], lengths int64 [B])."""

    def __init__(self, pipe: Pipeline, *, threads: int, dtype: str = "float32", verify: bool = True) -> None:
        self._pipe, self._dtype, self._verify = pipe, np.dtype(dtype), verify
        self._shards: Any = pipe.open()
        self._threads = ThreadPoolExecutor(threads)
        self._read = getattr(miniaudio.lib, _READS[dtype])
        self._memory = Memory()
        self._mapped: dict[str, Any] = {}
        self.epoch = 0

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        plan = self._pipe.plan(self._shards, 0, self.epoch)
        self.epoch += 1
        issued: deque[tuple[Any, Any, list[Future[None]]]] = deque()
        for planned in sequence(plan, self._shards.read, columns=self._pipe.plan_columns()):
            issued.append(self._issue(planned.rows(None)))
            if len(issued) > AHEAD:
                yield _awaited(*issued.popleft())
        while issued:
            yield _awaited(*issued.popleft())

    def _issue(self, rows: Any) -> tuple[Any, Any, list[Future[None]]]:
        lengths = rows["frames"].to_numpy()
        audio = self._memory.empty((len(lengths), int(lengths.max())), self._dtype)
        members, paths = rows["members"].to_pylist(), rows["path"].to_pylist()
        jobs = []
        for at in np.argsort(-lengths).tolist():  # the longest first
            member = next(member for member in members[at] if member["extension"] == "flac")
            jobs.append(self._threads.submit(self._fill, audio[at], int(lengths[at]), paths[at], member))
        return audio, lengths, jobs

    def _fill(self, row: Any, frames: int, path: str, member: dict[str, Any]) -> None:
        whole = self._mapped.get(path)
        if whole is None:
            with open(path, "rb") as file:
                whole = self._mapped[path] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        begin, size = member["offset"], member["size"]
        view = memoryview(whole)[begin : begin + size]
        if self._verify and zlib.crc32(view) != member["crc32"]:
            raise ValueError("the member is not what was indexed")
        kind = "short[]" if self._dtype == np.int16 else "float[]"
        into = miniaudio.ffi.from_buffer(kind, row[:frames], require_writable=True)
        if decode_into(miniaudio.ffi.from_buffer(view), into, self._read) != frames:
            raise ValueError("damaged FLAC")
        row[frames:] = 0

    def close(self) -> None:
        """Ends the threads."""
        self._threads.shutdown()
        self._shards.close()


def _awaited(audio: Any, lengths: Any, jobs: list[Future[None]]) -> tuple[torch.Tensor, torch.Tensor]:
    for job in jobs:
        job.result()
    return torch.from_numpy(audio), torch.from_numpy(lengths.astype(np.int64))


def pipeline(path: str, dtype: Any = "float32") -> Pipeline:
    """FLAC to padded batches of 416 padded seconds, or fewer where that would be more than 3 % of padding."""
    return Pipeline(
        TarShards(path),
        Shuffle(),
        Bucket("duration_s", max_padded=BATCH_S, max_padding=0.03),
        DecodeAudio(dtype=dtype),
        Collate("audio"),
    )


def of_loader(loader: Any) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The same of today's loader."""
    return ((batch["audio"], batch["lengths"]) for batch in loader)


def measured(epoch: Callable[[], Iterator[Any]], seconds: float) -> tuple[float, float]:
    """Utterances a second, and CPU milliseconds each, of whole epochs that take so long together."""
    cpu = cpu_s()
    samples, began = 0, time.perf_counter()
    while (taken := time.perf_counter() - began) < seconds:
        for audio, lengths in epoch():
            audio.view(-1)[::1024].sum()
            samples += len(lengths)
    return samples / taken, (cpu_s() - cpu) / samples * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", type=Path)
    parser.add_argument("--dtype", default="float32", choices=sorted(_READS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    pipe = pipeline(str(given.shards), given.dtype)
    loaders = {workers: pipe.loader(workers=workers) for workers in (0, 1, 2)}
    threaded = {threads: ThreadLoader(pipe, threads=threads, dtype=given.dtype) for threads in (1, 2, 3)}
    ways: dict[str, Callable[[], Iterator[Any]]] = {}
    for workers, loader in loaders.items():
        ways[f"loader, {workers} workers"] = lambda loader=loader: of_loader(loader)  # type: ignore[misc]
    for threads, made in threaded.items():
        ways[f"threads, {threads}"] = lambda made=made: iter(made)  # type: ignore[misc]
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for round_ in range(given.rounds + 1):
        for name, way in ways.items():
            figures = measured(way, given.seconds if round_ else 0.01)
            if round_:  # the first one warms up
                found[name].append(figures)
    print("| | utterances/s, median (range) | CPU ms each |\n|---|---|---|")
    for name, figures_ in found.items():
        rates, cpus = zip(*figures_, strict=True)
        spread = f"{min(rates):,.0f}-{max(rates):,.0f}"
        print(f"| {name} | {statistics.median(rates):,.0f} ({spread}) | {statistics.median(cpus):.2f} |")
    for closed in (*loaders.values(), *threaded.values()):
        closed.close()


if __name__ == "__main__":
    main()

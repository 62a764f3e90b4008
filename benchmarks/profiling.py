"""What ``loader.profile()`` costs: the same batches with and without it, in turns, in one process.

    python benchmarks/profiling.py [--shards FOLDER] [--rounds N] [--only WORD]

FOLDER holds ``librispeech/test-clean``, ``imdb/train`` and ``cifar10/train``, as ``ecopipe shard`` makes them. Each
round takes the same stretch of batches twice, in a random order of with and without, and divides the one by the other.
What is told is the median of the rounds, and the range in which it lies in 95 of 100 draws of as many rounds from them.
CPU time is that of all threads of this process and its workers; other work on the machine touches it less than wall
time. The goal is that of issue and README: less than 2 % more.

    python benchmarks/profiling.py --instructions

counts, under valgrind's callgrind, the instructions that the same batches take with and without it, less those of
starting and of the first batches: no other work on the machine touches that. All that a recording does is then done in
one process, without workers; what the system does in calls of it is not counted. Ten minutes for a pipeline.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from ecopipe.pipeline.pipeline import Pipeline
from ecopipe.pipeline.toml import load
from ecopipe.run.loader import Loader

ROOT = Path(__file__).parents[1]
GOAL = 0.02
DRAWS = 2000

WARM = 4
"""Batches before those whose instructions are counted."""

CASES: dict[str, tuple[str, dict[str, Any], int, int]] = {
    "LibriSpeech, FLAC": ("librispeech", {"source.path": "librispeech/test-clean", "Bucket.max_padded": 60.0}, 48, 16),
    "IMDB": ("imdb", {"source.path": "imdb/train"}, 96, 96),
    "CIFAR-10": ("cifar10", {"source.path": "cifar10/train"}, 64, 32),
}
"""A pipeline file, its settings, the batches of a stretch, and those whose instructions are counted."""


def cpu_ns(pids: Iterable[int]) -> int:
    """What all threads of some processes have computed."""
    total = 0
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").iterdir():
            try:
                total += int((task / "schedstat").read_text().split()[0])
            except (OSError, IndexError):
                continue  # it has just ended
    return total


def stretch(loader: Loader, state: dict[str, Any], batches: int, record: bool) -> tuple[float, float]:
    """CPU and wall time of some batches from a place on, in ms a batch; those on their way at first are not counted."""
    loader.load_state_dict(state)
    profile = loader.profile() if record else None
    try:
        found = itertools.chain.from_iterable(itertools.repeat(loader))
        for _ in itertools.islice(found, loader.made_ahead + 2):
            pass
        pids = [os.getpid(), *loader.worker_pids]
        cpu, began = cpu_ns(pids), time.perf_counter_ns()
        taken = sum(1 for _ in itertools.islice(found, batches))
        wall = time.perf_counter_ns() - began
        return (cpu_ns(pids) - cpu) / 1e6 / taken, wall / 1e6 / taken
    finally:
        if profile is not None:
            profile.stop()


def measure(pipeline: Pipeline, workers: int, batches: int, rounds: int) -> dict[str, list[tuple[float, float]]]:
    """CPU and wall, a row each round: without and with."""
    chance = random.Random(0)
    found: dict[str, list[tuple[float, float]]] = {"cpu": [], "wall": []}
    with Loader(pipeline, workers=workers) as loader:
        state = loader.state_dict()
        for number in range(rounds + 1):
            order = [False, True] if chance.random() < 0.5 else [True, False]
            times = {record: stretch(loader, state, batches, record) for record in order}
            if number:  # the first round warms up
                for at, name in enumerate(found):
                    found[name].append((times[False][at], times[True][at]))
    return found


def told(pairs: list[tuple[float, float]]) -> tuple[float, float, float]:
    """The median of with by without, less 1, and the range of it."""
    ratios = [after / before - 1 for before, after in pairs]
    chance = random.Random(0)
    drawn = sorted(statistics.median(chance.choices(ratios, k=len(ratios))) for _ in range(DRAWS))
    return statistics.median(ratios), drawn[round(0.025 * DRAWS)], drawn[round(0.975 * DRAWS) - 1]


def count(pipeline: Pipeline, batches: int, record: bool) -> None:
    """Takes some batches behind a few others; ends the process, so that its end is not counted."""
    loader = Loader(pipeline)
    found = itertools.chain.from_iterable(itertools.repeat(loader))
    for _ in itertools.islice(found, WARM):
        pass
    profile = loader.profile() if record else None
    for _ in itertools.islice(found, batches):
        pass
    if profile is not None:
        profile.stop()
    os._exit(0)


def instructions(name: str, shards: Path, batches: int, record: bool) -> int:
    """What a process counts for :func:`count`."""
    command = [
        "valgrind", "--tool=callgrind", f"--callgrind-out-file={os.devnull}", sys.executable, __file__, "--shards",
        str(shards), "--only", name, "--count", str(batches), *(["--record"] if record else []),
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONHASHSEED": "0", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    found = re.findall(r"I\s+refs:\s+([\d,]+)", done.stderr)
    return int(found[-1].replace(",", ""))


def told_instructions(name: str, shards: Path, batches: int) -> str:
    """A line: how many more instructions a batch takes while it is recorded."""
    found = {
        record: (instructions(name, shards, batches, record) - instructions(name, shards, 0, record)) / batches
        for record in (False, True)
    }
    more = found[True] / found[False] - 1
    return (
        f"{name}: {found[False] / 1e6:,.1f} million instructions a batch without, {found[True] / 1e6:,.1f} with: "
        f"{more:+.2%}; goal of {GOAL:.0%}: {'reached' if more < GOAL else 'not reached'}"
    )


def main() -> None:
    """Measures, and prints a line for each pipeline and number of workers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=Path, default=ROOT / "shards")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--only", default="", help="cases whose names hold this")
    parser.add_argument("--workers", type=int, nargs="*", default=[0, 2])
    parser.add_argument("--instructions", action="store_true", help="count them, under valgrind")
    parser.add_argument("--count", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--record", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.instructions and shutil.which("valgrind") is None:
        parser.error("--instructions wants valgrind, which is not there: install it with the system's packages")
    torch.set_num_threads(1)  # threads that wait for one another would be counted as well
    for name, (file, overrides, batches, counted) in CASES.items():
        if given.only.lower() not in name.lower():
            continue
        if given.instructions:
            print(told_instructions(name, given.shards.resolve(), counted), flush=True)
            continue
        overrides = overrides | {"source.path": str(given.shards / overrides["source.path"])}
        if given.count is not None:
            count(load(ROOT / "pipelines" / f"{file}.toml", overrides), given.count, given.record)
        for workers in given.workers:
            found = measure(load(ROOT / "pipelines" / f"{file}.toml", overrides), workers, batches, given.rounds)
            without = statistics.median(before for before, _ in found["cpu"])
            line = [f"{name}, {workers} workers, {without:.2f} ms of CPU a batch:"]
            for kind, pairs in found.items():
                median, low, high = told(pairs)
                line.append(f"{kind} {median:+.2%} ({low:+.2%} to {high:+.2%})")
            reached = "reached" if told(found["cpu"])[0] < GOAL else "not reached"
            print(*line, f"goal of {GOAL:.0%}: {reached}", flush=True)


if __name__ == "__main__":
    main()

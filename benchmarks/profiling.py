"""What ``loader.profile()`` costs: the same batches with and without it, in turns, in one process.

    python benchmarks/profiling.py [--shards FOLDER] [--rounds N] [--only WORD]

FOLDER holds ``librispeech/test-clean``, ``imdb/train`` and ``cifar10/train``, as ``ecopipe shard`` makes them. Each
round takes the same stretch of batches twice, in a random order of with and without, and divides the one by the other.
What is told is the median of the rounds, and the range in which it lies in 95 of 100 draws of as many rounds from them.
CPU time is that of all threads of this process and its workers; other work on the machine touches it less than wall
time. The goal is that of issue and README: less than 2 % more.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import statistics
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

CASES: dict[str, tuple[str, dict[str, Any], int]] = {
    "LibriSpeech, FLAC": ("librispeech", {"source.path": "librispeech/test-clean", "Bucket.max_padded": 60.0}, 48),
    "IMDB": ("imdb", {"source.path": "imdb/train"}, 96),
    "CIFAR-10": ("cifar10", {"source.path": "cifar10/train"}, 64),
}
"""A pipeline file, its settings, and the batches of a stretch."""


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


def main() -> None:
    """Measures, and prints a line for each pipeline and number of workers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=Path, default=ROOT / "shards")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--only", default="", help="cases whose names hold this")
    parser.add_argument("--workers", type=int, nargs="*", default=[0, 2])
    given = parser.parse_args()
    torch.set_num_threads(1)  # threads that wait for one another would be counted as well
    for name, (file, overrides, batches) in CASES.items():
        if given.only.lower() not in name.lower():
            continue
        overrides = overrides | {"source.path": str(given.shards / overrides["source.path"])}
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

"""Handing a batch from a worker to the consumer: ecopipe's pool against torch's DataLoader, in interleaved runs.

The batch is made anew in the worker each time (a copy of a tensor), and read once by the consumer. One worker, so that
what is measured is the way, not the number of cores.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pyarrow as pa
import torch
from torch.utils.data import DataLoader, Dataset

from ecopipe.run.maker import Task
from ecopipe.run.pool import Pool
from ecopipe.vocabulary.sample import Batch, Place

PAYLOADS = {"26 MB": (6_500_000, 40), "200 kB": (50_000, 600), "4 kB": (1_000, 1500)}
"""Floats in a batch, and batches in a run."""


class Copies(Dataset[Any]):
    """A tensor, copied for each batch."""

    def __init__(self, floats: int, batches: int) -> None:
        self.source, self.batches = torch.rand(floats), batches

    def __len__(self) -> int:
        return self.batches

    def __getitem__(self, _number: int) -> Batch:
        return Batch({"x": self.source.clone(), "keys": ["k"] * 16})

    def make(self, _task: Task) -> Batch:
        """The same, as the pool's workers are asked."""
        return self[0]


def tasks(count: int) -> Iterator[Task]:
    """Tasks of 16 rows."""
    rows = pa.RecordBatch.from_pydict({"key": [f"k{row}" for row in range(16)], "shard": ["s"] * 16})
    return (Task(rows, Place(0, number), 0) for number in range(count))


def timed(run: Callable[[], Iterable[Any]]) -> float:
    """Seconds that a run takes, each batch read once."""
    began = time.perf_counter()
    for batch in run():
        batch["x"].sum()
    return time.perf_counter() - began


def measure(floats: int, batches: int, repeats: int) -> dict[str, list[float]]:
    """Microseconds per batch of each, run by run."""
    copies = Copies(floats, batches)
    loader: DataLoader[Any] = DataLoader(
        copies, batch_size=None, num_workers=1, prefetch_factor=2, persistent_workers=True, collate_fn=lambda made: made
    )
    pool = Pool(copies.make, workers=1, prefetch=2, timeout_s=300, retries=2, context="fork")
    runs: dict[str, Callable[[], Iterable[Any]]] = {
        "torch DataLoader": lambda: loader,
        "ecopipe": lambda: pool.run(tasks(batches)),
    }
    found: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(repeats + 1):
        for name, run in runs.items():
            taken = timed(run)
            if number:  # the first starts the workers
                found[name].append(taken / batches * 1e6)
    pool.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    settings = parser.parse_args()
    torch.set_num_threads(1)
    found = {name: measure(*sizes, settings.repeats) for name, sizes in PAYLOADS.items()}
    if settings.json:
        print(json.dumps(found))
        return
    print("| microseconds per batch, median (range) | torch DataLoader | ecopipe |\n|---|---|---|")
    for name, times in found.items():
        cells = [f"{statistics.median(of):,.0f} ({min(of):,.0f}-{max(of):,.0f})" for of in times.values()]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()

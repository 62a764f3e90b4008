"""What a ledger costs: a stream of CIFAR-10 with and without one, interleaved, and what entering a batch takes."""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from ecopipe.cli.demonstration import pipeline_file
from ecopipe.pipeline.toml import load
from ecopipe.run.ledger import Ledger
from ecopipe.run.loader import Loader


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shards", help="a folder of CIFAR-10 shards")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--size", type=int, default=256, help="samples per batch")
    settings = parser.parse_args()
    pipeline = load(pipeline_file("cifar10"), {"source.path": settings.shards, "Batch.size": settings.size})
    entering: list[float] = []
    add = Ledger.add

    def timed_add(ledger: Ledger, *what: object) -> None:
        began = time.perf_counter()
        add(ledger, *what)  # type: ignore[arg-type]
        entering.append(time.perf_counter() - began)

    Ledger.add = timed_add  # type: ignore[method-assign]
    found: dict[str, list[float]] = {"without": [], "with": []}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(settings.repeats):
            for name, ledger in (("without", None), ("with", Path(folder) / "ledger")):
                with Loader(pipeline, ledger=ledger, rank=0, world_size=1) as loader:
                    began = time.perf_counter()
                    samples = sum(len(batch["keys"]) for batch in loader)
                    found[name].append(time.perf_counter() - began)
    total = statistics.median(found["with"])
    spent = sum(entering) / settings.repeats
    print("| | without a ledger | with one |\n|---|---|---|")
    cells = [
        f"{samples / statistics.median(of):,.0f} ({samples / max(of):,.0f}-{samples / min(of):,.0f})"
        for of in found.values()
    ]
    print(f"| samples/s, median (range) | {' | '.join(cells)} |")
    print(
        f"\nEntering a batch takes {statistics.median(entering) * 1e6:.0f} microseconds; all of them are "
        f"{spent / total:.2%} of the epoch's {total:.2f} s."
    )


if __name__ == "__main__":
    main()

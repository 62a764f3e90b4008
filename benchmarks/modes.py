"""Where batches are made: in this process, in threads of it, in worker processes, or in threads of those.

FLAC to padded batches of 416 padded seconds; each round runs every mode once, in the same process.

    python benchmarks/modes.py ../shared/data/LibriSpeech --copies 10
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.bench import corpus
from benchmarks.bench.peers.ecopipe_loader import pipeline
from benchmarks.bench.resources import cpu_s
from ecopipe.datasets.shards import find_tars, index_tars
from ecopipe.formats import dr_flac

MODES = ((0, 0), (0, 1), (0, 2), (0, 3), (1, 1), (1, 2), (2, 1))
"""Workers, and threads in each or in this process."""


def measured(loader: Any, seconds: float) -> tuple[float, float]:
    """Utterances a second, and CPU milliseconds each, of whole epochs that take so long together."""
    cpu, samples, began = cpu_s(), 0, time.perf_counter()
    while (taken := time.perf_counter() - began) < seconds:
        for batch in loader:
            batch["audio"].view(-1)[::1024].sum()
            samples += len(batch["lengths"])
    return samples / taken, (cpu_s() - cpu) / samples * 1e3


def alone(payloads: list[bytes], seconds: float) -> tuple[float, float]:
    """The same of the decoder in this thread, from memory, into one buffer."""
    into = np.empty(40 * corpus.RATE_HZ, dtype=np.float32)
    cpu, samples, began = cpu_s(), 0, time.perf_counter()
    while (taken := time.perf_counter() - began) < seconds:
        dr_flac.read_into(payloads[samples % len(payloads)], into)
        samples += 1
    return samples / taken, (cpu_s() - cpu) / samples * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="a LibriSpeech tree, or a folder of WebDataset tars")
    parser.add_argument("--copies", type=int, default=10, help="how often each utterance is there")
    parser.add_argument("--dtype", default="float32", choices=("float32", "int16"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as work:
        folder, shards = Path(work), Path(work) / "shards"
        corpus.make_files(given.source, folder / "files", given.copies)
        corpus.make_tars(folder, shards)
        index_tars(find_tars(str(shards)))
        pipe = pipeline(str(shards), given.dtype)
        loaders = {mode: pipe.loader(workers=mode[0], threads=mode[1]) for mode in MODES}
        found: dict[tuple[int, int], list[tuple[float, float]]] = {mode: [] for mode in MODES}
        payloads = [path.read_bytes() for path in corpus.files_of(folder)]
        limits: list[tuple[float, float]] = []
        for round_ in range(given.rounds + 1):
            seconds = given.seconds if round_ else 0.01
            limits.append(alone(payloads, seconds))
            for mode, loader in loaders.items():
                found[mode].append(measured(loader, seconds))
        print("| workers | threads | utterances/s, median (range) | CPU ms each |\n|---|---|---|---|")
        for mode, each in found.items():
            print(f"| {mode[0]} | {mode[1]} | {_line(each[1:])} |")  # the first one warms up
        print(f"| the decoder alone, one thread | | {_line(limits[1:])} |")
        for loader in loaders.values():
            loader.close()


def _line(figures: list[tuple[float, float]]) -> str:
    rates, cpus = zip(*figures, strict=True)
    spread = f"{min(rates):,.0f}-{max(rates):,.0f}"
    return f"{statistics.median(rates):,.0f} ({spread}) | {statistics.median(cpus):.2f}"


if __name__ == "__main__":
    main()

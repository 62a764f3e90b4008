"""Time and memory of planning, of the state and of resuming, on made-up indexes of a million samples and more.

::

    python benchmarks/planning.py --rows 1e6 1e7        # three minutes; 0.4 GB of disk
    python benchmarks/planning.py --large --json FILE   # and 100 million: half an hour; 4 GB

An index has the columns of a speech corpus, and shards of 5,000 samples; the tars beside it are empty files of the
right size, for planning reads no payload. Every figure is the median of three fresh processes; memory is the peak
over that of a process that imports the same and stops.
"""

from __future__ import annotations

import argparse
import importlib
import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ecopipe import Pipeline
    from ecopipe.plan.shards import Shards

SHARD_ROWS = 5000
LANES = (8, 64)
BLOCKS_PER_LANE = 2
STATES = 200
RUNS = 3
IMPORTS = ("ecopipe", "ecopipe.formats.index", "ecopipe.plan.sequence", "ecopipe.run.loader")
"""What every process imports, the one that the others are compared with too."""


def make(folder: Path, rows: int) -> dict[str, Any]:
    """Writes an index of so many rows, shard by shard, and the tars beside it as sparse files."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    from ecopipe.formats.index import FILE_NAME, IndexWriter, ShardInfo

    folder.mkdir(parents=True)
    draws = np.random.default_rng(1)
    utterances = pa.array([f"{number:04d}" for number in range(SHARD_ROWS)])
    writer = IndexWriter(folder / FILE_NAME, extras={"speaker": "int32", "chapter": "int32"})
    member = writer.schema.field("members").type.value_type
    for shard in range(-(-rows // SHARD_ROWS)):
        count = min(SHARD_ROWS, rows - shard * SHARD_ROWS)
        frames = np.clip(draws.lognormal(np.log(200_000), 0.5, count), 20_000, 560_000).astype(np.int64)
        chars = frames // 1100
        sizes = np.stack([frames * 11 // 10, chars], axis=1).ravel()
        stored = (sizes + 511) // 512 * 512 + 512
        offsets = np.cumsum(stored) - stored + 512
        extensions = pa.array(["flac", "txt"] * count)
        crcs = draws.integers(0, 2**32, 2 * count, dtype=np.uint32)
        values = pa.StructArray.from_arrays(
            [extensions, pa.array(offsets), pa.array(sizes), pa.array(crcs)], fields=list(member)
        )
        chapters = np.full(count, shard) * 100 + np.arange(count) // 50
        name, size = f"train-{shard:06d}.tar", int(stored.sum()) + 1024
        columns = {
            "key": pc.binary_join_element_wise(
                str(shard), pa.array(chapters).cast(pa.string()), utterances.slice(0, count), "-"
            ),
            "shard": pa.repeat(name, count),
            "members": pa.ListArray.from_arrays(pa.array(np.arange(0, 2 * count + 1, 2, dtype=np.int32)), values),
            "frames": pa.array(frames),
            "rate_hz": pa.repeat(16_000, count),
            "channels": pa.repeat(1, count),
            "duration_s": pa.array(frames / 16_000),
            "chars": pa.array(chars),
            "tokens": pa.array(chars // 6),
            "speaker": pa.repeat(shard, count),
            "chapter": pa.array(chapters),
        }
        table = pa.table(
            [
                columns[field.name].cast(field.type) if field.name in columns else pa.nulls(count, field.type)
                for field in writer.schema
            ],
            schema=writer.schema,
        )
        writer.add_table(ShardInfo(name, size, count, f"{shard:032x}"), table)
        with open(folder / name, "wb") as tar:
            tar.truncate(size)
    writer.finish()
    return {"index_bytes": (folder / FILE_NAME).stat().st_size}


def pipeline(folder: Path, lanes: int) -> Pipeline:
    """A speech pipeline: 416 padded seconds a batch."""
    from ecopipe import Bucket, Collate, DecodeAudio, Pipeline, Shuffle, TarShards

    return Pipeline(
        TarShards(str(folder), lanes=lanes),
        Shuffle(),
        Bucket("duration_s", max_padded=416.0, max_padding=0.03),
        DecodeAudio(),
        Collate("audio"),
    )


class Counted:
    """Reads index rows, and counts those that were read to plan on them."""

    def __init__(self, shards: Shards) -> None:
        self._shards = shards
        self.rows = 0

    def __call__(self, slices: list[Any], columns: tuple[str, ...] | None = None) -> Any:
        table = self._shards.read(slices, columns)
        self.rows += table.num_rows if columns else 0
        return table


def measure_start(folder: Path, lanes: int) -> dict[str, Any]:
    """Opening, the first batch, planning some blocks of each lane, and the state in mid-epoch."""
    from ecopipe.plan.sequence import Cursor, sequence
    from ecopipe.run.state import Belonging, Taken, write

    begin = time.perf_counter()
    pipe = pipeline(folder, lanes)
    loader = pipe.loader()
    plan = pipe.plan(loader.shards, loader.seed, loader.epoch)
    read = Counted(loader.shards)
    batches = sequence(plan, read, columns=pipe.plan_columns())
    next(batches).rows()
    first = time.perf_counter()
    rows_before, wanted = read.rows, (BLOCKS_PER_LANE + 1) * lanes * pipe.source.block_rows
    for _planned in batches:
        if read.rows >= wanted:
            break
    planned = time.perf_counter()
    middle = Cursor(1, 0, tuple((int(lane.blocks) // 2, 0) for lane in plan.lanes()))
    taken = Taken(loader.epoch, next(sequence(plan, read, middle, pipe.plan_columns())).after, 1)
    belonging = Belonging(loader.seed, loader.shards.fingerprint, pipe.identity)
    entered = time.perf_counter()
    for _ in range(STATES):
        text = json.dumps(write(taken, belonging))
    written = time.perf_counter()
    (folder / f"state-{lanes}.json").write_text(text)
    loader.close()
    return {
        "first_batch_s": first - begin,
        "rows_per_s": (read.rows - rows_before) / (planned - first),
        "state_ms": (written - entered) / STATES * 1e3,
        "state_bytes": len(text),
    }


def measure_restore(folder: Path, lanes: int) -> dict[str, Any]:
    """From a state to the first batch after it, the index rows of its samples included."""
    from ecopipe.plan.sequence import Cursor, sequence

    begin, begin_cpu = time.perf_counter(), time.process_time()
    pipe = pipeline(folder, lanes)
    loader = pipe.loader()
    state = json.loads((folder / f"state-{lanes}.json").read_text())
    loader.load_state_dict(state)
    cursor = Cursor(state["batch"], state["turn"], tuple((block, batch) for block, batch in state["lanes"]))
    plan = pipe.plan(loader.shards, loader.seed, loader.epoch)
    next(sequence(plan, loader.shards.read, cursor, pipe.plan_columns())).rows()
    restored, restored_cpu = time.perf_counter(), time.process_time()
    loader.close()
    return {"restore_s": restored - begin, "restore_cpu_s": restored_cpu - begin_cpu}


def child(task: str, folder: Path, number: int) -> dict[str, Any]:
    """One task, in this process."""
    for name in IMPORTS:
        importlib.import_module(name)
    if task == "make":
        return make(folder, number)
    found = {"nothing": lambda *_: {}, "start": measure_start, "restore": measure_restore}[task](folder, number)
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes
    return {**found, "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}


def run(task: str, folder: Path, number: int) -> dict[str, Any]:
    """One task, in a fresh process."""
    command = [sys.executable, __file__, "--task", task, "--work", str(folder), "--number", str(number)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def middle(found: list[dict[str, Any]]) -> dict[str, Any]:
    """The median of each figure of several runs."""
    return {name: statistics.median(run[name] for run in found) for name in found[0]}


def measure(work: Path, rows: int) -> list[dict[str, Any]]:
    """The figures of one index, which is deleted afterwards."""
    folder = work / f"{rows}-rows"
    try:
        begin = time.perf_counter()
        made = {**run("make", folder, rows), "make_s": time.perf_counter() - begin}
        idle = run("nothing", folder, 0)["peak_bytes"]
        results = []
        for lanes in LANES:
            start, restore = (middle([run(task, folder, lanes) for _ in range(RUNS)]) for task in ("start", "restore"))
            peaks = {"plan_bytes": start.pop("peak_bytes") - idle, "restore_bytes": restore.pop("peak_bytes") - idle}
            results.append({"rows": rows, "lanes": lanes, **made, **start, **restore, **peaks})
        return results
    finally:
        shutil.rmtree(folder, ignore_errors=True)


COLUMNS: tuple[tuple[str, Callable[[dict[str, Any]], str]], ...] = (
    ("samples", lambda row: f"{row['rows']:,}"),
    ("lanes", lambda row: f"{row['lanes']}"),
    ("index", lambda row: f"{row['index_bytes'] / 2**20:,.0f} MiB"),
    ("open, first batch", lambda row: f"{row['first_batch_s']:.2f} s"),
    ("planning", lambda row: f"{row['rows_per_s'] / 1e6:.2f} M rows/s"),
    ("peak memory", lambda row: f"{row['plan_bytes'] / 2**20:.0f} MiB"),
    ("state", lambda row: f"{row['state_bytes'] / 2**10:.1f} KiB, {row['state_ms']:.3f} ms"),
    ("restore to first batch", lambda row: f"{row['restore_s']:.2f} s"),
    ("peak memory of that", lambda row: f"{row['restore_bytes'] / 2**20:.0f} MiB"),
)


def table(results: list[dict[str, Any]]) -> str:
    """The figures as a GitHub table."""
    lines = [[name for name, _ in COLUMNS], ["---"] * len(COLUMNS)]
    lines += [[show(result) for _, show in COLUMNS] for result in results]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=float, nargs="+", default=[1e6, 1e7], help="samples of each index")
    parser.add_argument("--large", action="store_true", help="100 million samples too: 4 GB of disk, half an hour")
    parser.add_argument("--work", type=Path, help="where the indexes are made, and deleted; a temporary folder if not")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    parser.add_argument("--task", help=argparse.SUPPRESS)
    parser.add_argument("--number", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.task:
        print(json.dumps(child(options.task, options.work, options.number)))
        return
    with tempfile.TemporaryDirectory(dir=options.work) as work:
        results = []
        for rows in [*options.rows, *([1e8] if options.large else [])]:
            results += measure(Path(work), int(rows))
            print(table(results[-len(LANES) :]), file=sys.stderr)
    print(table(results))
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()

"""grain: ArrayRecord files, a MapDataset shuffled, decoded and batched, ``mp_prefetch``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import grain
import numpy as np
import torch
from array_record.python.array_record_module import ArrayRecordWriter

from benchmarks.bench.corpus import BATCH, dealt
from benchmarks.bench.decoders import BY_NAME

NAME = "grain"
PACKAGES = ("grain", "array_record", "soundfile")
FORMAT = "array-record"
DECODERS = ("soundfile", "dr_flac")
WORKERS = (0, 1, 2)
USE = (
    "`MapDataset.source(ArrayRecordDataSource).shuffle().map(decode).batch(32).repeat()`, `to_iter_dataset()` with its "
    "default of 16 reading threads (also with 0 workers), `mp_prefetch`; one iterator through all epochs"
)


def prepare(folder: Path, out: Path) -> None:
    out.mkdir(parents=True)
    for shard, files in dealt(folder):
        writer = ArrayRecordWriter(str(out / f"part-{shard:06d}.array_record"), "group_size:1")
        for path in files:
            writer.write(path.read_bytes())
        writer.close()


def padded(samples: Any) -> dict[str, Any]:
    """The same as elsewhere in numpy, which is what its shared memory takes."""
    lengths = np.array([len(sample) for sample in samples])
    audio = np.zeros((len(samples), lengths.max()), dtype=np.float32)
    for row, sample in zip(audio, samples, strict=True):
        row[: len(sample)] = sample
    return {"audio": audio, "lengths": lengths}


def make(out: Path, workers: int, decoder: str) -> Callable[[], Iterable[Any]]:
    source = grain.sources.ArrayRecordDataSource(sorted(map(str, out.glob("*.array_record"))))
    once = grain.MapDataset.source(source).shuffle(seed=1).map(BY_NAME[decoder])
    batches = once.batch(BATCH, drop_remainder=False, batch_fn=padded)
    data = batches.repeat().to_iter_dataset()
    if workers:
        data = data.mp_prefetch(grain.multiprocessing.MultiprocessingOptions(num_workers=workers))
    iterator = iter(data)

    def epoch() -> Iterator[Any]:
        for _ in range(len(batches)):
            batch = next(iterator)
            yield torch.from_numpy(batch["audio"]), torch.from_numpy(batch["lengths"])

    return epoch

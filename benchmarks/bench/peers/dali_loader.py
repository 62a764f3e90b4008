"""DALI on the CPU: its reader of webdataset's tars, its decoder, its padding, in C++ threads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from nvidia.dali import fn, pipeline_def, types
from nvidia.dali.plugin.base_iterator import LastBatchPolicy
from nvidia.dali.plugin.pytorch import DALIGenericIterator

from benchmarks.bench.corpus import BATCH, make_tars

NAME = "DALI on CPU"
PACKAGES = ("nvidia-dali-cuda130",)
FORMAT = "tars-of-webdataset"
DECODERS = ("its own",)
WORKERS = (1, 2)
USE = (
    "`readers.webdataset(random_shuffle=True, initial_fill=1000)`, `decoders.audio(dtype=FLOAT)`, `pad`, "
    "`DALIGenericIterator(last_batch_policy=PARTIAL)`, `device_id=None`; workers are `num_threads`"
)
prepare = make_tars


def make(out: Path, workers: int, _decoder: str) -> Callable[[], Iterable[Any]]:
    tars = sorted(map(str, out.glob("*.tar")))

    @pipeline_def(batch_size=BATCH, num_threads=workers, device_id=None)  # type: ignore[untyped-decorator]
    def decoded() -> Any:
        data = fn.readers.webdataset(paths=tars, ext=["flac"], random_shuffle=True, initial_fill=1000, name="reader")
        audio, _ = fn.decoders.audio(data, dtype=types.FLOAT, downmix=True)
        return fn.pad(audio, fill_value=0), audio.shape()[0]

    iterator = DALIGenericIterator(
        decoded(),
        ["audio", "lengths"],
        reader_name="reader",
        last_batch_policy=LastBatchPolicy.PARTIAL,
        auto_reset=True,
    )

    def epoch() -> Iterator[Any]:
        for (batch,) in iterator:
            yield batch["audio"], batch["lengths"].reshape(-1)

    return epoch

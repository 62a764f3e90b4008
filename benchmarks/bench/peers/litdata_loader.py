"""litdata: optimised chunks, a StreamingDataset with a transform, a StreamingDataLoader.

``optimize`` deletes the folders ``data`` and ``chunks`` in the system's temporary folder unless two variables of the
environment name others: the runner gives every process a temporary folder of its own, and they are set here as well.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

for _name in ("DATA_OPTIMIZER_DATA_CACHE_FOLDER", "DATA_OPTIMIZER_CACHE_FOLDER"):
    os.environ.setdefault(_name, os.path.join(tempfile.mkdtemp(prefix="litdata-"), _name.lower()))

from litdata import StreamingDataLoader, StreamingDataset, optimize  # noqa: E402

from benchmarks.bench.corpus import BATCH, SHARDS, files_of  # noqa: E402
from benchmarks.bench.decoders import BY_NAME, padded  # noqa: E402

NAME = "litdata"
PACKAGES = ("litdata", "soundfile")
FORMAT = "litdata"
DECODERS = ("soundfile", "dr_flac")
WORKERS = (0, 1, 2)
USE = (
    "`StreamingDataset(shuffle=True, transform=decode)` in a "
    "`StreamingDataLoader(batch_size=32, persistent_workers=True)`"
)


def sample(path: str) -> dict[str, Any]:
    return {"key": Path(path).stem, "flac": Path(path).read_bytes()}


def decoded(decoder: str, sample: dict[str, Any]) -> Any:
    return BY_NAME[decoder](sample["flac"])


def prepare(folder: Path, out: Path) -> None:
    files = [str(path) for path in files_of(folder)]
    optimize(
        fn=sample,
        inputs=files,
        output_dir=str(out),
        chunk_size=-(-len(files) // SHARDS),
        num_workers=1,
        verbose=False,
    )


def make(out: Path, workers: int, decoder: str) -> Callable[[], Iterable[Any]]:
    data = StreamingDataset(str(out), shuffle=True, transform=partial(decoded, decoder))
    loader = StreamingDataLoader(
        data, batch_size=BATCH, num_workers=workers, collate_fn=padded, persistent_workers=workers > 0
    )
    return lambda: loader

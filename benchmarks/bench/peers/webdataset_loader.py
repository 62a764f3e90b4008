"""webdataset: tars, a shuffle buffer, batches made in the workers, a WebLoader."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import webdataset as wds

from benchmarks.bench.corpus import BATCH, SHARDS, make_tars
from benchmarks.bench.decoders import BY_NAME, padded

NAME = "webdataset"
PACKAGES = ("webdataset", "soundfile")
FORMAT = "tars-of-webdataset"
DECODERS = ("soundfile", "dr_flac")
WORKERS = (0, 1, 2)
USE = (
    "`WebDataset(tars, shardshuffle=8).shuffle(1000).to_tuple('flac').map(decode).batched(32)` in a "
    "`WebLoader(batch_size=None, persistent_workers=True)`"
)
prepare = make_tars


def make(out: Path, workers: int, decoder: str) -> Callable[[], Iterable[Any]]:
    decode = BY_NAME[decoder]
    data = (
        wds.WebDataset(sorted(map(str, out.glob("*.tar"))), shardshuffle=SHARDS, empty_check=False)
        .shuffle(1000)
        .to_tuple("flac")
        .map(lambda sample: decode(sample[0]))
        .batched(BATCH, collation_fn=padded)
    )
    loader = wds.WebLoader(data, batch_size=None, num_workers=workers, persistent_workers=workers > 0)
    return lambda: loader

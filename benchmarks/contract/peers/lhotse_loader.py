"""lhotse: ``DynamicBucketingSampler`` over a lazy manifest, in a map-style ``DataLoader``, with the sampler's state.

Samples that the sampler repeats to give every rank one are marked in their ids, and are not counted as delivered.
"""

from __future__ import annotations

import io
import wave
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
from lhotse import CutSet, Recording
from lhotse.dataset import DynamicBucketingSampler
from torch.utils.data import DataLoader, Dataset

from benchmarks.contract import corpus
from ecopipe.testing import Contract

NAME = "lhotse"
PACKAGES = ("lhotse",)
CONFIGURATION = (
    "`DynamicBucketingSampler(max_cuts=12, num_buckets=3, shuffle=True, seed=)` in `DataLoader(dataset, sampler=, "
    "batch_size=None)`, the map-style use whose sampler can be saved; its authors say that with workers the "
    "state is ahead by what was prefetched"
)
RATE_HZ = 8000


def wav(key: str) -> bytes:
    """16-bit mono audio of about 1 kB, of a length that depends on the key."""
    count = 400 + 7 * (int(key[1:]) % 37)
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setparams((1, 2, RATE_HZ, count, "NONE", ""))
        file.writeframes(np.arange(count, dtype=np.int16).tobytes())
    return buffer.getvalue()


def prepare(variant: str) -> None:
    folder = corpus.folder("lhotse", variant)
    cuts = []
    for number, keys in enumerate(corpus.shards()):
        part = folder / f"part-{number:06d}"
        part.mkdir(parents=True)
        for key in keys:
            path = part / f"{key}.wav"
            path.write_bytes(wav(key))
            cuts.append(Recording.from_file(path, recording_id=key).to_cut().with_id(key))
            if variant == "damaged" and key == corpus.DAMAGED:
                path.write_bytes(b"\0" * 500)
    CutSet.from_cuts(cuts).to_file(str(folder / "cuts.jsonl"))


class Waves(Dataset[Any]):
    """Loads the audio of a batch of cuts."""

    def __getitem__(self, cuts: CutSet) -> dict[str, Any]:
        return {"ids": [cut.id for cut in cuts], "audio": [cut.load_audio() for cut in cuts]}


def make(variant: str, *, rank: int, world_size: int, workers: int, seed: int) -> Any:
    sampler = DynamicBucketingSampler(
        CutSet.from_jsonl_lazy(str(corpus.folder("lhotse", variant) / "cuts.jsonl")),
        max_cuts=corpus.BATCH,
        num_buckets=3,
        shuffle=True,
        rank=rank,
        world_size=world_size,
        seed=seed,
    )
    return DataLoader(Waves(), sampler=sampler, batch_size=None, num_workers=workers)


def epoch(loader: Any, number: int) -> Iterator[Any]:
    loader.sampler.set_epoch(number)
    return iter(loader)


contract = Contract(
    make=partial(make, "whole"),
    samples=lambda: corpus.SAMPLES,
    keys=lambda batch: [key for key in batch["ids"] if "_dup" not in key],
    epoch=epoch,
    save=lambda loader: loader.sampler.state_dict(),
    load=lambda loader, state: loader.sampler.load_state_dict(state),
    redeal=None,
    length=None,
    damaged=partial(make, "damaged"),
    damaged_names=(corpus.DAMAGED, f"part-{corpus.DAMAGED_SHARD:06d}"),
)

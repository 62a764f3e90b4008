"""The one small data set that every loader gets, in its own format: 203 samples of about 1 kB over 7 uneven shards.

Nothing divides 203 but 7 and 29. A loader that breaks a law is asked once more with 204 samples, which batches of 12 on
1, 2 or 3 ranks divide, so that what comes of the remainder is told from the rest.
"""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

LAST_SHARD = "CONTRACT_LAST_SHARD"
"""The variable of the environment that says how many samples the last shard has."""
SIZES = {"uneven": "48", "even": "49"}
SHARD_SIZES = (5, 61, 17, 40, 29, 3, int(os.environ.get(LAST_SHARD, SIZES["uneven"])))
SAMPLES = [f"u{number:04d}" for number in range(sum(SHARD_SIZES))]
BATCH = 12
"""Samples per batch, or per step over all ranks where a loader asks for a global batch: 12 is divisible by 2 and 3."""
DAMAGED = SAMPLES[100]
DAMAGED_SHARD = 3
"""The number of the shard that holds the damaged sample."""
VARIANTS = ("whole", "damaged")


def folder(loader: str, variant: str) -> Path:
    """Where the shards of one loader's format lie."""
    return Path(os.environ["CONTRACT_DATA"]) / loader / variant


def shards() -> list[list[str]]:
    """The keys of each shard."""
    starts = [sum(SHARD_SIZES[:number]) for number in range(len(SHARD_SIZES))]
    return [SAMPLES[start : start + size] for start, size in zip(starts, SHARD_SIZES, strict=True)]


def payload(key: str, variant: str) -> bytes:
    """What a sample holds beside its key: JSON of about 1 kB, or, if it is damaged, half of it."""
    words = random.Random(key).choices(("the", "order", "is", "a", "value"), k=250)
    whole = json.dumps({"text": " ".join(words)}).encode()
    return whole[: len(whole) // 2] if variant == "damaged" and key == DAMAGED else whole


def decode(data: bytes) -> Any:
    """The content of a payload. A damaged one raises what ``json`` raises, which names no sample."""
    return json.loads(data)

"""The contract of ecopipe's own loader, over small tars that the test has made."""

from __future__ import annotations

import io
import json
import os
import tarfile
from functools import partial
from pathlib import Path
from typing import Any

from ecopipe.pipeline.pipeline import Pipeline
from ecopipe.run.loader import Loader
from ecopipe.stages.collate import Collate
from ecopipe.stages.foreign import Map
from ecopipe.stages.plan import Batch, Shuffle
from ecopipe.stages.source import TarShards
from ecopipe.testing import Contract

FOLDER = "ECOPIPE_TESTS_OWN"
SAMPLES = [f"s{number:02d}" for number in range(23)]
SHARDS = (SAMPLES[:3], SAMPLES[3:17], SAMPLES[17:])
BAD = SAMPLES[9]


def write(folder: Path) -> None:
    """Uneven shards, whole and with one sample that does not decode."""
    for variant, bad in (("whole", ""), ("damaged", BAD)):
        (folder / variant).mkdir()
        for number, keys in enumerate(SHARDS):
            with tarfile.open(folder / variant / f"part-{number}.tar", "w") as tar:
                for key in keys:
                    data = b"{" if key == bad else json.dumps({"count": int(key[1:])}).encode()
                    member = tarfile.TarInfo(f"{key}.json")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))


def count(data: bytes) -> list[int]:
    return [json.loads(data)["count"]]


def make(variant: str, **settings: Any) -> Loader:
    source = TarShards(os.path.join(os.environ[FOLDER], variant), lanes=2, block_rows=8)
    pipeline = Pipeline(source, Shuffle(), Batch(2), Map(count, field="json"), Collate("json", layout="stack"))
    return Loader(pipeline, **settings)


contract = Contract(
    make=partial(make, "whole"),
    samples=lambda: SAMPLES,
    keys=lambda batch: [] if batch.place.repeat else batch["keys"],
    damaged=partial(make, "damaged"),
    damaged_names=(BAD,),
)

"""What tests of the pool and of threads share: images in small batches, and their stream."""

from __future__ import annotations

from pathlib import Path

import pytest

from ecopipe.pipeline.pipeline import Pipeline
from ecopipe.stages.collate import Collate
from ecopipe.stages.foreign import Map
from ecopipe.stages.image import DecodeImage
from ecopipe.stages.plan import Batch, Shuffle
from ecopipe.stages.source import TarShards

from ..laws import Seen, trace


def images(shards: Path, *stages: Map, size: int = 4) -> Pipeline:
    source = TarShards(str(shards / "cifar10" / "train"))
    return Pipeline(
        source, Shuffle(), Batch(size), DecodeImage(), *stages, Collate("image", target="label", layout="stack")
    )


@pytest.fixture
def pipeline(shards: Path) -> Pipeline:
    return images(shards)


@pytest.fixture
def expected(pipeline: Pipeline) -> list[Seen]:
    return trace(pipeline)

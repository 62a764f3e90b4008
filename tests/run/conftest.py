"""What tests of the pool and of threads share: images in small batches, and their stream."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from ecopipe.pipeline.pipeline import Pipeline
from ecopipe.stages.collate import Collate
from ecopipe.stages.foreign import Map
from ecopipe.stages.image import DecodeImage
from ecopipe.stages.plan import Batch, Shuffle
from ecopipe.stages.source import TarShards
from ecopipe.vocabulary.randomness import Chance
from ecopipe.vocabulary.sample import Sample

from ..laws import Seen, trace


@dataclass(frozen=True, repr=False)
class Plain(Map):
    """A Map of a sample, of functions that draw nothing, so that threads of this process may run it."""

    seeds_process = False

    def apply(self, sample: Sample, chance: Chance) -> Sample:
        return sample.with_fields(**self._whole(sample))


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

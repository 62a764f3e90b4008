"""What a warm run finds in memory: all of the first batches, or what could be read of them in time."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import pytest

from ecopipe.insight import profile_memory
from ecopipe.insight.profile_memory import bring_into_memory, drop_from_memory, raw_batches
from ecopipe.insight.tuning import taken
from ecopipe.pipeline.pipeline import Pipeline
from ecopipe.run.loader import Loader
from ecopipe.stages.collate import Collate
from ecopipe.stages.image import DecodeImage
from ecopipe.stages.plan import Batch, Shuffle
from ecopipe.stages.source import Items, TarShards


@pytest.fixture
def pipeline(shards: Path, tmp_path: Path) -> Pipeline:
    source = TarShards(str(shutil.copytree(shards / "cifar10" / "train", tmp_path / "train")))
    return Pipeline(source, Shuffle(), Batch(1), DecodeImage(), Collate("image", layout="stack"))


def keys(pipeline: Pipeline) -> list[str]:
    with Loader(pipeline) as loader:
        return [key for batch in loader for key in batch["keys"]]


def test_raw_batches_are_those_of_the_first_epoch(pipeline: Pipeline) -> None:
    found = [sample for batch in raw_batches(pipeline, pipeline.open()) for sample in batch]
    assert [sample.key for sample in found] == keys(pipeline)
    assert all(sample["png"][:4] == b"\x89PNG" for sample in found)


def test_all_is_read_if_there_is_time(pipeline: Pipeline) -> None:
    assert bring_into_memory(pipeline, pipeline.open(), 60) is None


def test_without_time_it_is_one_batch(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    assert bring_into_memory(pipeline, pipeline.open(), 0) is None  # one is too few to be taken again and again
    monkeypatch.setattr(profile_memory, "ENOUGH", 1)
    assert bring_into_memory(pipeline, pipeline.open(), 0) == 1


def test_a_shard_that_is_gone_is_told_by_the_run(pipeline: Pipeline) -> None:
    shards = pipeline.open()
    paths = [Path(path) for path in shards.parts[""].shards["path"].to_pylist()]
    paths[0].unlink()
    assert bring_into_memory(pipeline, shards, 60) is None
    assert drop_from_memory(shards) == len(paths) - 1


def test_nothing_is_read_of_what_is_not_on_disk(monkeypatch: pytest.MonkeyPatch, pipeline: Pipeline) -> None:
    monkeypatch.setattr(profile_memory, "is_url", lambda path: True)
    monkeypatch.setattr(profile_memory, "ENOUGH", 1)
    assert bring_into_memory(pipeline, pipeline.open(), 0) is None
    items = Pipeline(Items(lambda: range(8), window=4), Batch(2), Collate("value", layout="stack"))
    assert bring_into_memory(items, items.open(), 0) is None


def test_the_first_batches_are_taken_again_and_again(pipeline: Pipeline) -> None:
    expected = keys(pipeline)[:5]
    with Loader(pipeline) as loader:
        found = [batch["keys"][0] for batch in itertools.islice(taken(loader, 60.0, only=5), 12)]
    assert found == [*expected, *expected, *expected[:2]]

"""The loader beyond the laws: epochs, states that do not belong, early ends, ranks from the environment."""

from __future__ import annotations

import copy
import itertools
import json
import os
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import ecopipe
from ecopipe.pipeline.pipeline import Pipeline
from ecopipe.run.loader import Loader
from ecopipe.stages.collate import Collate
from ecopipe.stages.foreign import Map
from ecopipe.stages.image import DecodeImage
from ecopipe.stages.plan import Batch, Shuffle
from ecopipe.stages.source import TarShards
from ecopipe.vocabulary.errors import ConfigError, SampleError, ShardError, StateError

from ..laws import seen, trace


def images(shards: Path, *stages: Map, size: int = 8, seed_block: int = 16384) -> Pipeline:
    source = TarShards(str(shards / "cifar10" / "train"), block_rows=seed_block)
    return Pipeline(
        source, Shuffle(), Batch(size), DecodeImage(), *stages, Collate("image", target="label", layout="stack")
    )


@pytest.fixture
def pipeline(shards: Path) -> Pipeline:
    return images(shards)


def test_each_for_is_the_next_epoch_and_set_epoch_goes_anywhere(pipeline: Pipeline) -> None:
    with Loader(pipeline) as loader:
        first, second = ([seen(batch) for batch in loader] for _ in range(2))
        assert [batch.epoch for batch in second] == [1] * 8
        assert [batch.keys for batch in first] != [batch.keys for batch in second]
        loader.set_epoch(0)
        assert [seen(batch) for batch in loader] == first
    with Loader(pipeline, epoch=1) as loader:
        assert [seen(batch) for batch in loader] == second


def test_the_length_is_the_number_of_steps(pipeline: Pipeline) -> None:
    for world_size, tail, steps in ((1, "repeat", 8), (3, "repeat", 3), (3, "drop", 2)):
        with Loader(pipeline, rank=0, world_size=world_size, tail=tail) as loader:  # type: ignore[arg-type]
            assert len(loader) == steps == sum(1 for _ in loader)


def test_after_a_break_the_epoch_begins_again_and_its_state_is_what_was_taken(pipeline: Pipeline) -> None:
    whole = trace(pipeline)
    for workers in (0, 2):
        with Loader(pipeline, workers=workers) as loader:
            assert [seen(batch) for batch in itertools.islice(loader, 3)] == whole[:3]
            state = loader.state_dict()
            assert state["batch"] == 3
            assert [seen(batch) for batch in loader] == whole
            loader.load_state_dict(state)
            assert [seen(batch) for batch in loader] == whole[3:]


def test_a_second_iterator_ends_the_first(pipeline: Pipeline) -> None:
    with Loader(pipeline) as loader:
        first, second = iter(loader), None
        next(first)
        second = iter(loader)
        next(second)
        with pytest.raises(RuntimeError, match="a newer iterator of this loader has begun"):
            next(first)
        next(second)


def test_another_seed_gives_another_order(pipeline: Pipeline) -> None:
    assert trace(pipeline, seed=1) != trace(pipeline, seed=2)


def test_set_epoch_to_the_epoch_of_a_loaded_state_keeps_the_place(pipeline: Pipeline) -> None:
    with Loader(pipeline) as loader:
        list(itertools.islice(loader, 3))
        state = loader.state_dict()
    with Loader(pipeline) as loader:
        loader.load_state_dict(state)
        loader.set_epoch(0)
        assert len(list(loader)) == 5
        loader.load_state_dict(state)
        loader.set_epoch(7)
        assert len(list(loader)) == 8


def test_the_state_is_small_json(pipeline: Pipeline) -> None:
    with Loader(pipeline) as loader:
        next(iter(loader))
        state = loader.state_dict()
    assert json.loads(json.dumps(state)) == state
    assert len(json.dumps(state)) < 4096


def test_a_state_of_something_else_is_refused_by_its_first_difference(pipeline: Pipeline, shards: Path) -> None:
    with Loader(pipeline) as loader:
        next(iter(loader))
        state = loader.state_dict()
    other_shards = Pipeline(TarShards(str(shards / "cifar10" / "test")), *pipeline.stages)
    for other, settings, message in (
        (images(shards, size=4), {}, r"another pipeline: stages\[1\]\.size was 8 and is 4"),
        (images(shards, seed_block=7), {}, r"another pipeline: source\.block_rows was 16384 and is 7"),
        (pipeline, {"seed": 5}, "was taken with seed 0, this loader has 5"),
        (other_shards, {}, "belongs to other shards"),
    ):
        with Loader(other, **settings) as loader, pytest.raises(StateError, match=message):
            loader.load_state_dict(state)
    with Loader(pipeline) as loader:
        with pytest.raises(StateError, match="has version 99; this ecopipe reads 1"):
            loader.load_state_dict({**state, "version": 99})
        with pytest.raises(StateError, match="has no 'lanes'. It is not a state"):
            loader.load_state_dict({name: value for name, value in state.items() if name != "lanes"})


def test_moved_shards_take_the_same_state(pipeline: Pipeline, shards: Path, tmp_path: Path) -> None:
    import shutil

    whole = trace(pipeline)
    shutil.copytree(shards / "cifar10" / "train", tmp_path / "moved")
    with Loader(pipeline) as loader:
        next(iter(loader))
        state = copy.deepcopy(loader.state_dict())
    moved = Pipeline(TarShards(str(tmp_path / "moved")), *pipeline.stages)
    with Loader(moved) as loader:
        loader.load_state_dict(state)
        assert [seen(batch) for batch in loader] == whole[1:]


def test_no_global_generator_is_touched(pipeline: Pipeline) -> None:
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    with Loader(pipeline, workers=1) as loader:
        list(loader)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == random.getstate()
    assert np.array_equal(before[2], np.random.get_state()[1])


def broken(image: torch.Tensor) -> torch.Tensor:
    raise RuntimeError("the lens is dirty")


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_names_stage_sample_and_shard_from_any_process(shards: Path, workers: int) -> None:
    with Loader(images(shards, Map(broken, field="image")), workers=workers) as loader:
        message = r"^Map: sample 'train-[^']+' in train-\d+\.tar: RuntimeError: the lens is dirty$"
        with pytest.raises(SampleError, match=message) as caught:
            next(iter(loader))
    assert "in broken" in caught.value.details


@pytest.mark.parametrize("workers", [0, 1])
def test_a_shard_that_vanishes_is_named(shards: Path, tmp_path: Path, workers: int) -> None:
    import shutil

    shutil.copytree(shards / "cifar10" / "train", tmp_path / "copy")
    pipeline = Pipeline(TarShards(str(tmp_path / "copy")), *images(shards).stages)
    with Loader(pipeline, workers=workers) as loader:
        for tar in (tmp_path / "copy").glob("*.tar"):
            tar.unlink()
        with pytest.raises(ShardError, match=r"\.tar: the shard is missing"):
            next(iter(loader))


def test_rank_and_world_size_come_from_torchrun(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with Loader(pipeline) as loader:
        assert (loader.rank, loader.world_size) == (1, 2)
    with Loader(pipeline, rank=0, world_size=1) as loader:
        assert (loader.rank, loader.world_size) == (0, 1)


def test_rank_and_world_size_come_from_torch_distributed(pipeline: Pipeline, tmp_path: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        with Loader(pipeline) as loader:
            assert (loader.rank, loader.world_size) == (0, 1)
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"workers": -1}, "loader: workers must be at least 0, got -1"),
        ({"prefetch": 0}, "loader: prefetch must be at least 1, got 0"),
        ({"epoch": -1}, "loader: epoch must be at least 0, got -1"),
        ({"rank": 0}, "got rank=0 and world_size=None. Give both, or neither"),
        ({"rank": 2, "world_size": 2}, r"rank 2 is not one of 0 to 1 \(world_size 2\)"),
        ({"tail": "reapet"}, "unknown tail 'reapet'. Did you mean 'repeat'?"),
        ({"device": "gpu"}, "unknown device 'gpu'. Write 'cpu', 'cuda'"),
    ],
)
def test_settings_that_cannot_work_are_refused(pipeline: Pipeline, settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Loader(pipeline, **settings)  # type: ignore[arg-type]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_a_missing_cuda_device_is_one_clear_sentence(pipeline: Pipeline) -> None:
    with pytest.raises(ConfigError, match="there is no CUDA device here. Use device='cpu'"):
        pipeline.loader(device="cuda")


def test_workers_leave_nothing_behind(pipeline: Pipeline) -> None:
    def segments() -> set[str]:
        return {name for name in os.listdir("/dev/shm") if name.startswith("torch_")}

    before = segments()
    loader = Loader(pipeline, workers=2)
    processes = _workers(iter(loader), loader)
    loader.close()
    for process in processes:
        process.join(10)
        assert not process.is_alive()
    assert segments() <= before


def _workers(batches: Iterator[object], loader: Loader) -> list[object]:
    next(batches)
    found: list[object] = list(loader._torch_loader._iterator._workers)  # type: ignore[union-attr]
    assert len(found) == 2
    return found


def test_spawned_workers_give_the_same(pipeline: Pipeline) -> None:
    assert trace(pipeline, workers=1, multiprocessing_context="spawn") == trace(pipeline)


def test_a_pipeline_iterates_in_this_process(pipeline: Pipeline) -> None:
    assert [seen(batch) for batch in pipeline] == trace(pipeline)
    assert isinstance(ecopipe.Loader(pipeline)._torch_loader, DataLoader)

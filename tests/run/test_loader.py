"""The loader beyond the laws: epochs, states that do not belong, early ends, ranks from the environment."""

from __future__ import annotations

import copy
import gc
import itertools
import json
import os
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import ecopipe
from ecopipe.pipeline.pipeline import Pipeline
from ecopipe.run.loader import Loader
from ecopipe.stages.collate import Collate
from ecopipe.stages.foreign import Map
from ecopipe.stages.image import DecodeImage
from ecopipe.stages.plan import Batch, Shuffle, Where
from ecopipe.stages.source import TarShards
from ecopipe.vocabulary.errors import ConfigError, SampleError, ShardError, StateError

from ..laws import seen, trace
from .test_pool import ended, pids


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
        first, second, third = iter(loader), iter(loader), iter(loader)
        for stale in (first, second):  # neither had begun
            with pytest.raises(RuntimeError, match="this iterator is over, because the loader was iterated anew"):
                next(stale)
        assert [seen(batch) for batch in third] == trace(pipeline)
        third = iter(loader)
        next(third)
        fourth = iter(loader)
        next(fourth)
        with pytest.raises(RuntimeError, match="this iterator is over"):
            next(third)
        next(fourth)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stale_iterator_takes_nothing_from_the_new_one(pipeline: Pipeline, workers: int) -> None:
    with Loader(pipeline, workers=workers) as loader:
        stale = iter(loader)
        next(stale)
        live = iter(loader)
        first = seen(next(live))
        with pytest.raises(RuntimeError, match="this iterator is over"):
            next(stale)
        second = seen(next(live))
        assert loader.state_dict()["batch"] == 2
        assert [first, second, *(seen(batch) for batch in live)] == trace(pipeline)


def lock(image: torch.Tensor) -> object:
    return (value for value in image)


def test_a_batch_that_cannot_be_sent_is_an_error_and_not_a_wait(shards: Path) -> None:
    stages = (Batch(8), DecodeImage(), Map(lock, field="image", into="kept"), Collate("image", keep=("kept",)))
    pipeline = Pipeline(TarShards(str(shards / "cifar10" / "train")), *stages)
    with Loader(pipeline, workers=1) as loader, pytest.raises(SampleError, match="its batch cannot be made or sent"):
        next(iter(loader))


def test_an_epoch_of_another_kind_of_int_is_json_all_the_same(pipeline: Pipeline) -> None:
    with Loader(pipeline, epoch=np.int64(1), seed=np.int64(3)) as loader:  # type: ignore[arg-type]
        json.dumps(loader.state_dict())
        loader.set_epoch(np.int64(2))  # type: ignore[arg-type]
        json.dumps(loader.state_dict())


def test_set_epoch_while_iterating_ends_the_iterator(pipeline: Pipeline) -> None:
    with Loader(pipeline) as loader:
        unbegun = iter(loader)
        loader.set_epoch(3)  # as Lightning announces an epoch: after iter, before next
        place = next(unbegun).place
        assert place is not None and place.epoch == 3
        begun = iter(loader)
        next(begun)
        loader.set_epoch(1)
        with pytest.raises(RuntimeError, match="sent to another epoch"):
            next(begun)
        assert (loader.state_dict()["epoch"], loader.state_dict()["batch"]) == (1, 0)
    with Loader(pipeline, epoch=1) as other:
        expected = [seen(batch) for batch in other]
    with Loader(pipeline) as loader:
        loader.set_epoch(1)
        assert [seen(batch) for batch in loader] == expected


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
        with pytest.raises(StateError, match="has version 99; this ecopipe reads 2"):
            loader.load_state_dict({**state, "version": 99})
        for damage in ({"batch": 5}, {"lanes": [[999, 0]]}, {"epoch": -1}, {"turn": 7}, {"lanes": None}):
            with pytest.raises(StateError, match="is damaged: it does not agree with its own checksum"):
                loader.load_state_dict({**state, **damage})
        with pytest.raises(StateError, match="has no 'lanes'. It is not a state"):
            loader.load_state_dict({name: value for name, value in state.items() if name != "lanes"})


def test_moved_shards_take_the_same_state(pipeline: Pipeline, shards: Path, tmp_path: Path) -> None:
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
    assert "in broken" in str(caught.value.__cause__) or workers == 0


@pytest.mark.parametrize("workers", [0, 1])
def test_a_shard_that_vanishes_is_named(shards: Path, tmp_path: Path, workers: int) -> None:
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
    monkeypatch.setenv("RANK", "first")
    with pytest.raises(ConfigError, match="the environment says RANK='first', which is no number"):
        Loader(pipeline)


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
        ({"rank": 0}, r"got rank 0 and world_size None. Give both \(--rank and --world-size\), or neither"),
        ({"rank": 2, "world_size": 2}, r"rank 2 is not one of 0 to 1 \(world_size 2\)"),
        ({"tail": "reapet"}, "unknown tail 'reapet'. Did you mean 'repeat'?"),
        ({"device": "gpu"}, "unknown device 'gpu'. Write 'cpu', 'cuda'"),
        ({"device": "meta"}, "device 'meta' cannot be used here"),
        ({"timeout_s": -1}, "loader: timeout_s must be at least 0, got -1"),
        ({"worker_retries": -1}, "loader: worker_retries must be at least 0, got -1"),
        ({"verify": "crc32"}, "loader: unknown verify 'crc32'. Did you mean 'crc'. Known: crc, off"),
        ({"multiprocessing_context": "frok"}, "unknown multiprocessing_context 'frok'. Did you mean 'fork'?"),
    ],
)
def test_settings_that_cannot_work_are_refused(pipeline: Pipeline, settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Loader(pipeline, **settings)  # type: ignore[arg-type]


def test_unknown_settings_are_told_with_the_nearest_right_one(pipeline: Pipeline) -> None:
    with pytest.raises(ConfigError, match="loader: unknown setting 'num_workers'. Did you mean 'workers'?"):
        pipeline.loader(num_workers=2)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_a_missing_cuda_device_is_one_clear_sentence(pipeline: Pipeline) -> None:
    with pytest.raises(ConfigError, match="there is no CUDA device here. Use device='cpu'"):
        pipeline.loader(device="cuda")


def test_a_dropped_loader_ends_its_workers_without_the_collector(pipeline: Pipeline) -> None:
    loader = Loader(pipeline, workers=1)
    batches = iter(loader)
    next(batches)
    workers = pids(loader)
    gc.disable()
    try:
        del loader, batches
        assert all(map(ended, workers))
    finally:
        gc.enable()


def test_closing_ends_workers_and_files_though_an_iterator_is_held(pipeline: Pipeline) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        loader = Loader(pipeline)
        list(loader)
        loader.close()
    assert len(os.listdir("/proc/self/fd")) <= before + 1
    loader = Loader(pipeline, workers=1)
    batches = iter(loader)
    next(batches)
    workers = pids(loader)
    loader.close()
    assert all(map(ended, workers))
    with pytest.raises(RuntimeError, match="or closed"):
        next(batches)
    with pytest.raises(RuntimeError, match="is closed. Make another one"):
        iter(loader)


def test_a_tar_replaced_with_one_of_the_same_size_is_noticed(pipeline: Pipeline, shards: Path, tmp_path: Path) -> None:
    shutil.copytree(shards / "cifar10" / "train", tmp_path / "copy")
    tar = sorted((tmp_path / "copy").glob("*.tar"))[0]
    data = bytearray(tar.read_bytes())
    at = data.index(b"\x89PNG") + 60
    data[at] ^= 1
    tar.write_bytes(data)
    copied = Pipeline(TarShards(str(tmp_path / "copy")), *pipeline.stages)
    with (
        Loader(copied) as loader,
        pytest.raises(ShardError, match=r"member 'png' is not what was indexed \(its CRC-32"),
    ):
        list(loader)
    with Loader(copied, verify="off") as loader, pytest.raises(SampleError, match="DecodeImage"):
        list(loader)


def test_an_epoch_without_a_batch_is_an_error(shards: Path) -> None:
    stages = images(shards).stages
    nothing = Pipeline(TarShards(str(shards / "cifar10" / "train")), Where("label", at_least=99), *stages)
    with Loader(nothing) as loader:
        assert len(loader) == 0
        with pytest.raises(ConfigError, match="epoch 0 holds no batch for rank 0 of 1: Where left out every sample"):
            list(loader)


def test_a_pipeline_iterates_in_this_process(pipeline: Pipeline) -> None:
    assert [seen(batch) for batch in pipeline] == trace(pipeline)
    assert ecopipe.Loader is Loader


def test_a_world_without_a_rank_is_refused(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(ConfigError, match="the environment says WORLD_SIZE=2 and no RANK"):
        Loader(pipeline)


def test_a_loader_whose_rank_has_changed_since_is_refused(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    with Loader(pipeline) as loader:
        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.setenv("RANK", "1")
        with pytest.raises(ConfigError, match="was made as rank 0 of 1, and this process is now rank 1 of 2"):
            iter(loader)


def test_the_length_after_a_resume_counts_the_steps_before_it(pipeline: Pipeline) -> None:
    with Loader(pipeline, rank=0, world_size=1) as loader:
        assert len(list(itertools.islice(loader, 3))) == 3
        assert len(loader) == 8
        state = loader.state_dict()
    with Loader(pipeline, rank=0, world_size=2) as loader:
        loader.load_state_dict(state)
        assert len(loader) == 3 + 3
        assert len(list(loader)) == 3


def test_who_counts_the_steps_and_never_asks_for_the_end_goes_on_to_the_next_epoch(pipeline: Pipeline) -> None:
    expected = trace(pipeline, epochs=3)
    with Loader(pipeline) as loader:
        found = []
        for _ in range(3):
            batches = iter(loader)
            found += [seen(next(batches)) for _ in range(len(loader))]
    assert found == expected


def test_an_iterator_that_is_never_asked_takes_no_place_away(pipeline: Pipeline) -> None:
    whole = trace(pipeline)
    with Loader(pipeline) as loader:
        list(itertools.islice(loader, 3))
        state = loader.state_dict()
        loader.load_state_dict(state)
        iter(loader)
        assert [seen(batch) for batch in loader] == whole[3:]


def test_a_state_is_its_receivers_own_and_its_damage_is_noticed(pipeline: Pipeline) -> None:
    with Loader(pipeline) as loader:
        next(iter(loader))
        good = json.dumps(loader.state_dict())
        state = loader.state_dict()
        state["lanes"].clear()
        assert json.dumps(loader.state_dict()) == good
        for name in ("pipeline", "items", "lanes", "step"):
            with pytest.raises(StateError, match="does not agree with its own checksum"):
                loader.load_state_dict({**json.loads(good), name: "{}"})

"""The laws of the design, each one reusable test over any pipeline.

What a loader delivers is compared as a list of :class:`Seen`: each batch's place, and a digest of its keys and tensors.
"""

from __future__ import annotations

import copy
import itertools
import json
import pickle
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

import ecopipe
from ecopipe.insight.digest import Digest
from ecopipe.pipeline.pipeline import Pipeline
from ecopipe.plan.blocks import Slice
from ecopipe.run.loader import Loader
from ecopipe.run.maker import BatchMaker
from ecopipe.stages.plan import Batch as BatchStage
from ecopipe.vocabulary.errors import ConfigError
from ecopipe.vocabulary.randomness import Chance
from ecopipe.vocabulary.sample import Batch


@dataclass(frozen=True)
class Seen:
    """One delivered batch."""

    epoch: int
    number: int
    repeat: bool
    keys: tuple[str, ...]
    digest: str


def seen(batch: Batch) -> Seen:
    digest = Digest()
    digest.add(batch)
    assert batch.place is not None
    return Seen(batch.place.epoch, batch.place.number, batch.place.repeat, tuple(batch["keys"]), digest.hexdigest())


def trace(pipeline: Pipeline, epochs: int = 1, **settings: Any) -> list[Seen]:
    with Loader(pipeline, **settings) as loader:
        return [seen(batch) for _ in range(epochs) for batch in loader]


def law_1_workers_have_no_say(pipeline: Pipeline) -> None:
    """Same (index, pipeline, seed, epoch): the same batches, bit for bit, for any workers and threads, and twice."""
    expected = trace(pipeline, epochs=2)
    assert expected
    assert trace(pipeline, epochs=2) == expected
    for workers, threads in ((0, 2), (1, 0), (2, 2)):
        if not workers and not pipeline.threads_alone:
            continue  # that is refused
        assert trace(pipeline, epochs=2, workers=workers, threads=threads) == expected
    before = torch.get_num_threads()
    torch.set_num_threads(3 - min(before, 2))  # of torch itself: two instead of one, or one instead of several
    try:
        assert trace(pipeline, epochs=2) == expected
    finally:
        torch.set_num_threads(before)


def law_2_ranks_interleave(pipeline: Pipeline) -> None:
    """The ranks' batches, interleaved, are the one global sequence, and every rank makes equal steps."""
    expected = trace(pipeline)
    for world_size in (2, 3, 5):
        ranks = [trace(pipeline, rank=rank, world_size=world_size) for rank in range(world_size)]
        steps = -(-len(expected) // world_size)
        assert [len(rank) for rank in ranks] == [steps] * world_size
        interleaved = [batch for step in zip(*ranks, strict=True) for batch in step]
        assert interleaved[: len(expected)] == expected
        assert all(batch.repeat for batch in interleaved[len(expected) :])
        last = expected[(steps - 1) * world_size :]
        assert {batch.number for batch in interleaved[len(expected) :]} <= {batch.number for batch in last}
        whole = len(expected) // world_size
        if not whole:
            with pytest.raises(ConfigError, match="holds no batch for rank 0"):
                trace(pipeline, rank=0, world_size=world_size, tail="drop")
            continue
        dropped = [trace(pipeline, rank=rank, world_size=world_size, tail="drop") for rank in range(world_size)]
        assert [batch for step in zip(*dropped, strict=True) for batch in step] == expected[: whole * world_size]


def law_3_resume_is_exact(pipeline: Pipeline) -> None:
    """Resuming from every step of two epochs gives the uninterrupted remainder: through JSON, twice, on other ranks."""
    expected = trace(pipeline, epochs=2)
    states = []
    with Loader(pipeline) as loader:
        states.append(json.dumps(loader.state_dict()))
        for _ in range(2):
            for _batch in loader:
                states.append(json.dumps(loader.state_dict()))
    for taken, text in enumerate(states):
        left = expected[taken:]
        with Loader(pipeline) as loader:
            loader.load_state_dict(json.loads(text))
            assert json.dumps(loader.state_dict()) == text
            rest = [seen(batch) for batch in loader]
            while loader.epoch < 2:
                rest += [seen(batch) for batch in loader]
        assert rest == left, f"after {taken} batches"
    _second_resume(pipeline, states, expected)
    _resume_on_two_ranks(pipeline, states, expected)


def _second_resume(pipeline: Pipeline, states: list[str], expected: list[Seen]) -> None:
    with Loader(pipeline) as loader:
        loader.load_state_dict(json.loads(states[1]))
        first = [seen(batch) for batch in itertools.islice(loader, 1)]
        again = json.loads(json.dumps(loader.state_dict()))
    with Loader(pipeline, workers=1) as loader:
        loader.load_state_dict(again)
        rest = [seen(batch) for batch in loader]
        while loader.epoch < 2:
            rest += [seen(batch) for batch in loader]
    assert first + rest == expected[1:]


def _resume_on_two_ranks(pipeline: Pipeline, states: list[str], expected: list[Seen]) -> None:
    epoch_0 = [batch for batch in expected if batch.epoch == 0]
    for taken in {1, len(epoch_0) // 2}:
        ranks = []
        for rank in range(2):
            with Loader(pipeline, rank=rank, world_size=2) as loader:
                loader.load_state_dict(json.loads(states[taken]))
                ranks.append([seen(batch) for batch in loader])
        interleaved = [batch for step in zip(*ranks, strict=True) for batch in step]
        assert [batch for batch in interleaved if not batch.repeat] == epoch_0[taken:]


def law_4_exactly_once(pipeline: Pipeline, expected: Counter[str] | None = None) -> None:
    """Each sample is delivered exactly once per epoch, or as often as ``expected`` says."""
    with Loader(pipeline) as loader:
        if expected is None:
            expected = Counter()
            for shards in loader.shards.parts.values():
                slices = [Slice(number, 0, rows) for number, rows in enumerate(shards.rows_per_shard)]
                expected.update(shards.read(slices)["key"].to_pylist())
        for _ in range(2):
            assert Counter(key for batch in loader for key in batch["keys"]) == expected


def law_4_every_part_once(pipeline: Pipeline) -> None:
    """Each planned part of each sample is delivered exactly once per epoch, and the parts of a sample leave no gap."""
    with Loader(pipeline) as loader:
        keys: set[str] = set()
        for shards in loader.shards.parts.values():
            slices = [Slice(number, 0, rows) for number, rows in enumerate(shards.rows_per_shard)]
            keys.update(shards.read(slices)["key"].to_pylist())
        for _ in range(2):
            found: dict[str, list[tuple[int, int]]] = {key: [] for key in keys}
            for batch in loader:
                for key, part in zip(batch["keys"], batch["parts"], strict=True):
                    found[key].append(part)
            for key, parts in found.items():
                assert parts and len(set(parts)) == len(parts), key
                ends = [0, *(stop for _, stop in sorted(parts))]
                assert all(start <= end for (start, _), end in zip(sorted(parts), ends, strict=False)), key


def law_5_features_do_not_depend_on_the_batch(pipeline: Pipeline) -> None:
    """Each sample's features are the same, bit for bit, alone and padded beside others, in any order."""
    parting = [stage for stage in pipeline.plan_stages if stage.parts_in()]
    stages = (*pipeline.sample_stages, pipeline.collate, *pipeline.device_stages)
    alone = Pipeline(pipeline.source, *parting, BatchStage(1), *stages)
    assert (expected := _features(alone))
    assert _features(pipeline).keys() <= expected.keys()
    for key, features in _features(pipeline).items():
        assert torch.equal(features, expected[key]), key


def _features(pipeline: Pipeline) -> dict[str, torch.Tensor]:
    found = {}
    for batch in pipeline:
        name = next(name for name in ("features", "tokens") if name in batch)
        rows = list(batch[name])
        if "cu_seqlens" in batch:
            flat, places = batch[name].flatten(), zip(batch["starts"].tolist(), batch["lengths"].tolist(), strict=True)
            rows = [flat[at : at + length] for at, length in places]
        elif "offsets" in batch:
            rows = list(torch.split(batch[name], batch["lengths"].tolist()))
        elif "lengths" in batch:
            rows = [row[: int(length)] for row, length in zip(rows, batch["lengths"], strict=True)]
        found.update(zip(batch.sample_keys, rows, strict=True))
    return found


def law_6_no_stage_changes_its_input(pipeline: Pipeline) -> None:
    """A stage's input is after the call what it was before."""
    with Loader(pipeline) as loader:
        task = next(loader._tasks())
    maker = BatchMaker(pipeline)
    samples = [maker.raw(row) for row in task.rows.to_pylist()]
    for stage in pipeline.sample_stages:
        before = copy.deepcopy([dict(sample) for sample in samples])
        after = [stage.apply(sample, Chance(0, 0, stage.label)) for sample in samples]
        for was, sample in zip(before, samples, strict=True):
            _assert_equal(was, dict(sample))
        samples = after
    before = copy.deepcopy([dict(sample) for sample in samples])
    batch = pipeline.collate.apply(samples)
    batch.place = task.place
    for was, sample in zip(before, samples, strict=True):
        _assert_equal(was, dict(sample))
    for device_stage in pipeline.device_stages:
        kept = copy.deepcopy(dict(batch))
        made = device_stage.apply(batch, Chance(0, 0, device_stage.label))
        _assert_equal(kept, dict(batch))
        made.place, batch = task.place, made


def _assert_equal(was: dict[str, Any], now: dict[str, Any]) -> None:
    assert was.keys() == now.keys()
    for name, value in was.items():
        if isinstance(value, torch.Tensor | np.ndarray):
            assert np.array_equal(np.asarray(value), np.asarray(now[name])), name
        else:
            assert value == now[name], name


def law_6_stages_are_values(pipeline: Pipeline) -> None:
    """A pipeline equals itself after pickle and after TOML, and gives the same batches there."""
    for stage in pipeline.stages:
        assert pickle.loads(pickle.dumps(stage)) == stage
        assert hash(stage) == hash(pickle.loads(pickle.dumps(stage)))
    other = ecopipe.loads(ecopipe.dumps(pipeline))
    assert other == pipeline
    assert other.identity == pipeline.identity
    assert json.loads(json.dumps(pipeline.identity)) == pipeline.identity
    assert trace(other) == trace(pickle.loads(pickle.dumps(pipeline)))

"""Sources that can be read only in their order: nodes of torchdata, and plain iterables."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest

from ecopipe.pipeline.pipeline import Pipeline
from ecopipe.run.loader import Loader
from ecopipe.stages.collate import Collate
from ecopipe.stages.foreign import Map
from ecopipe.stages.plan import Batch, Bucket, Shuffle, Where
from ecopipe.stages.source import Items
from ecopipe.vocabulary.errors import ConfigError, DataError, StateError

from ..laws import Seen, seen, trace

COUNT = 53


def rows() -> Iterator[dict[str, Any]]:
    """Plain items, with a number to plan by."""
    for number in range(COUNT):
        length = number * 7 % 11 + 1
        yield {"key": f"row{number:03}", "length": length, "values": np.full(length, number, dtype=np.float32)}


def to_row(number: int) -> dict[str, Any]:
    return next(itertools.islice(rows(), number, None))


def node() -> Any:
    """A node with a state: a sampler that shuffles each epoch anew, and a mapper."""
    from torchdata.nodes import Mapper, SamplerWrapper

    class Shuffled:
        def __init__(self) -> None:
            self.epoch = 0

        def set_epoch(self, epoch: int) -> None:
            self.epoch = epoch

        def __iter__(self) -> Iterator[int]:
            return iter(np.random.default_rng(self.epoch).permutation(COUNT).tolist())

    return Mapper(SamplerWrapper(Shuffled()), to_row)


def pipeline(make: Any = rows, window: int = 16, *stages: Any) -> Pipeline:
    return Pipeline(Items(make, window=window), *stages, Shuffle(), Bucket("length", max_count=4), Collate("values"))


def epochs(loader: Loader, count: int) -> list[Seen]:
    found = []
    while loader.epoch < count:
        found += [seen(batch) for batch in loader]
    return found


@pytest.mark.parametrize("make", [rows, node])
def test_each_item_comes_once_an_epoch_in_batches_of_like_length(make: Any) -> None:
    with Loader(pipeline(make)) as loader:
        for _ in range(2):
            batches = list(loader)
            assert sorted(key for batch in batches for key in batch["keys"]) == [f"row{at:03}" for at in range(COUNT)]
            assert all((batch["values"] == batch["values"][:, :1]).any(dim=1).all() for batch in batches)
    padded = sum(batch["values"].numel() for batch in batches)
    assert padded < 1.4 * sum(len(row["values"]) for row in rows())


@pytest.mark.parametrize("make", [rows, node])
def test_workers_and_ranks_have_no_say(make: Any) -> None:
    expected = trace(pipeline(make), epochs=2)
    assert trace(pipeline(make), epochs=2, workers=2) == expected
    ranks = [trace(pipeline(make), rank=rank, world_size=2) for rank in range(2)]
    found = [batch for step in zip(*ranks, strict=True) for batch in step if not batch.repeat]
    assert found == [batch for batch in expected if batch.epoch == 0]


@pytest.mark.parametrize("make", [rows, node])
def test_resume_is_exact_from_every_step_and_twice(make: Any) -> None:
    whole = trace(pipeline(make), epochs=3)
    assert make is rows or [b.keys for b in whole if b.epoch == 0] != [b.keys for b in whole if b.epoch == 1]
    states = []
    with Loader(pipeline(make)) as loader:
        states.append(json.dumps(loader.state_dict()))
        while loader.epoch < 3:
            for _ in loader:
                states.append(json.dumps(loader.state_dict()))
        border = json.dumps(loader.state_dict())
    for taken, text in enumerate(states):
        with Loader(pipeline(make), workers=taken % 2) as loader:
            loader.load_state_dict(json.loads(text))
            if taken + 1 < len(whole) and taken % 3 == 0:
                first = [seen(batch) for batch in itertools.islice(loader, 1)]
                text = json.dumps(loader.state_dict())
                loader.load_state_dict(json.loads(text))
                assert first + epochs(loader, 3) == whole[taken:], f"after {taken} batches, twice"
            else:
                assert epochs(loader, 3) == whole[taken:], f"after {taken} batches"
    with Loader(pipeline(make)) as loader:
        expected = epochs(loader, 4)[len(whole) :]
    with Loader(pipeline(make)) as loader:
        loader.load_state_dict(json.loads(border))
        assert epochs(loader, 4) == expected


def test_after_a_break_the_epoch_begins_again() -> None:
    with Loader(pipeline(node)) as loader:
        whole = [[seen(batch) for batch in loader] for _ in range(2)]
    with Loader(pipeline(node)) as loader:
        list(loader)
        assert [seen(batch) for batch in itertools.islice(loader, 5)] == whole[1][:5]
        assert [seen(batch) for batch in loader] == whole[1]


def test_other_items_and_measures_are_taken() -> None:
    def lengths(item: Mapping[str, Any]) -> dict[str, float]:
        return {"size": len(str(item["value"]))}

    made = Pipeline(
        Items(lambda: range(30), window=10, measure=lengths),
        Where("size", at_least=2),
        Batch(5),
        Collate("value", layout="stack"),
    )
    with Loader(made) as loader:
        assert [value for batch in loader for value in batch["value"].tolist()] == list(range(10, 30))
        assert loader.epoch == 1


def test_a_function_of_items_and_stages_for_them() -> None:
    made = Pipeline(
        Items(rows, window=8), Batch(4), Map(np.cumsum, field="values"), Collate("values", keep=("length",))
    )
    with Loader(made, workers=1) as loader:
        batch = next(iter(loader))
    assert batch["keys"] == ["row000", "row001", "row002", "row003"]
    assert batch["values"][1, :8].tolist() == [1, 2, 3, 4, 5, 6, 7, 8]


class NoJson:
    """A node whose state is no JSON."""

    def reset(self, state: Any = None) -> None:
        self.items = iter(range(4))

    def get_state(self) -> Any:
        return {"when": object()}

    def __iter__(self) -> Iterator[int]:
        return self.items


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(ConfigError, match="Items: make must be a function that gives the iterable, got 3"):
        Items(3)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="Items: window must be at least 1, got 0"):
        Items(rows, window=0)
    with pytest.raises(ConfigError, match="the window of 10 items is no multiple of Batch's 4.* Set window=8"):
        Pipeline(Items(rows, window=10), Batch(4), Collate("values"))
    with pytest.raises(DataError, match="items: the iterable holds no items"):
        Loader(Pipeline(Items(list, window=4), Batch(4), Collate("values")))
    with pytest.raises(StateError, match="the state of the node is not JSON"):
        Loader(Pipeline(Items(NoJson, window=4), Batch(4), Collate("value")))
    with Loader(pipeline()) as loader, pytest.raises(TypeError, match="has no length before its end"):
        len(loader)
    with pytest.raises(ConfigError, match="Bucket needs 'size', which the index does not hold"):
        Loader(Pipeline(Items(rows), Bucket("size", max_count=2), Collate("values")))

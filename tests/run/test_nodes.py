"""A pipeline as a torchdata node: exact under torchdata's own recipe for saving and loading, from every step."""

from __future__ import annotations

import importlib.util
import itertools
import json
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import ecopipe.run.nodes
from ecopipe.pipeline.pipeline import Pipeline
from ecopipe.run.nodes import LoaderNode
from ecopipe.stages.foreign import Map
from ecopipe.vocabulary.errors import ConfigError, MissingDependency, StateError

from ..laws import Seen, seen, trace
from .test_loader import images

nodes = pytest.importorskip("torchdata.nodes", reason="torchdata is not installed")

pytestmark = pytest.mark.filterwarnings(  # a thread of torchdata's that is left running may collect its own object
    "ignore:Exception ignored in. <function _\\w*Mapper\\w*.__del__:pytest.PytestUnraisableExceptionWarning"
)

Graph = Callable[[LoaderNode], Any]
GRAPHS: dict[str, Graph] = {
    "alone": lambda node: node,
    "mapper": lambda node: nodes.Mapper(node, lambda batch: batch),
    "prefetcher": lambda node: nodes.Prefetcher(node, prefetch_factor=3),
    "prefetcher whose state lags": lambda node: nodes.Prefetcher(node, prefetch_factor=2, snapshot_frequency=3),
    "threads": lambda node: nodes.ParallelMapper(node, lambda batch: batch, num_workers=2, method="thread"),
    "both": lambda node: nodes.Prefetcher(nodes.Mapper(node, lambda batch: batch), 2, snapshot_frequency=2),
}


@pytest.fixture
def pipeline(shards: Path) -> Pipeline:
    return images(shards, size=16)  # four batches an epoch


def loader_of(pipeline: Pipeline, graph: str, **settings: Any) -> Any:
    return nodes.Loader(GRAPHS[graph](LoaderNode(pipeline, **settings)))


def epochs(loader: Any) -> Iterator[Seen]:
    for _ in range(3):
        yield from map(seen, loader)


def through_json(state: dict[str, Any]) -> dict[str, Any]:
    again: dict[str, Any] = json.loads(json.dumps(state))
    return again


@pytest.mark.parametrize("graph", GRAPHS)
def test_resuming_from_every_step_of_two_epochs_gives_the_rest(pipeline: Pipeline, graph: str) -> None:
    expected = trace(pipeline, epochs=3)
    loader = loader_of(pipeline, graph)
    states = [through_json(loader.state_dict())]
    delivered = []
    for batch in epochs(loader):
        delivered.append(batch)
        states.append(through_json(loader.state_dict()))
    assert delivered == expected
    for taken, state in enumerate(states[:7]):
        loader = loader_of(pipeline, graph)
        loader.load_state_dict(state)
        first = list(itertools.islice(epochs(loader), 1))
        again = through_json(loader.state_dict())
        assert first == expected[taken : taken + 1], f"after {taken} batches"
        if graph == "prefetcher whose state lags" and taken == 4:
            continue  # torchdata 0.11 itself: its Loader then goes on handing out the state of the epoch's end
        loader = loader_of(pipeline, graph)
        loader.load_state_dict(again)
        rest = list(itertools.islice(epochs(loader), 5))
        assert rest == expected[taken + 1 : taken + 6], f"after {taken} batches, and one more"


def test_workers_and_ranks_are_settings_as_ever(pipeline: Pipeline) -> None:
    expected = trace(pipeline, epochs=2, seed=5)
    node = LoaderNode(pipeline, workers=2, seed=5)
    loader = nodes.Loader(GRAPHS["prefetcher"](node))
    assert [seen(batch) for batch in itertools.islice(loader, 2)] == expected[:2]
    state = loader.state_dict()
    node.close()
    ranks = []
    for rank in range(2):
        loader = loader_of(pipeline, "prefetcher", seed=5, rank=rank, world_size=2)
        loader.load_state_dict(state)
        ranks.append(list(itertools.islice(epochs(loader), 3)))
    assert [batch for step in zip(*ranks, strict=True) for batch in step] == expected[2:]


@pytest.mark.parametrize("graph", ["alone", "prefetcher"])
def test_the_state_of_an_epochs_end_goes_on_with_the_next_one(pipeline: Pipeline, graph: str) -> None:
    expected = trace(pipeline, epochs=3)
    node = GRAPHS[graph](LoaderNode(pipeline))
    assert [seen(batch) for batch in node] == expected[:4]
    assert next(node, None) is None
    state = through_json(node.state_dict())
    node = GRAPHS[graph](LoaderNode(pipeline))
    node.reset(state)
    assert [seen(batch) for batch in node] == expected[4:8]
    node.reset()
    assert [seen(batch) for batch in node] == expected[8:]


@pytest.mark.parametrize("graph", ["alone", "prefetcher"])
@pytest.mark.parametrize("taken", [0, 1, 3, 4])
def test_an_epoch_that_was_left_is_over_however_far_was_read_ahead(pipeline: Pipeline, graph: str, taken: int) -> None:
    expected = trace(pipeline, epochs=3)
    loader = loader_of(pipeline, graph)
    for epoch in range(3):
        batches = iter(loader)
        assert [seen(next(batches)) for _ in range(taken)] == expected[4 * epoch : 4 * epoch + taken]


def test_states_are_the_loaders_own(pipeline: Pipeline) -> None:
    expected = trace(pipeline, epochs=2)
    with pipeline.loader(workers=1) as loader:
        list(itertools.islice(loader, 2))
        node = LoaderNode(pipeline)
        node.reset(loader.state_dict())
        assert [seen(next(node)) for _ in range(1)] == expected[2:3]
        loader.load_state_dict(node.state_dict())
        assert [seen(batch) for batch in loader] == expected[3:4]


ENTERED, GATE = threading.Event(), threading.Event()


def held(image: torch.Tensor) -> torch.Tensor:
    ENTERED.set()
    assert GATE.wait(60)
    return image


def test_a_reset_waits_for_a_thread_that_is_still_in_next(shards: Path) -> None:
    expected = trace(images(shards, size=16), epochs=2)
    node = LoaderNode(images(shards, Map(held, field="image"), size=16))
    node.reset()
    taken: list[Seen] = []
    taker = threading.Thread(target=lambda: taken.append(seen(next(node))))
    taker.start()
    assert ENTERED.wait(60)
    resetter = threading.Thread(target=node.reset)
    resetter.start()
    resetter.join(0.3)
    assert resetter.is_alive()
    GATE.set()
    for thread in (taker, resetter):
        thread.join(60)
    assert taken == expected[:1]
    assert [seen(batch) for batch in node] == expected[4:]


def test_errors_come_through(pipeline: Pipeline, shards: Path) -> None:
    with pytest.raises(ConfigError, match="unknown setting 'num_workers'"):
        next(LoaderNode(pipeline, num_workers=2))
    state = LoaderNode(pipeline).state_dict()
    with pytest.raises(StateError, match=r"another pipeline: .*size was 16 and is 8"):
        LoaderNode(images(shards, size=8)).reset(state)


def test_closing_ends_the_workers_and_a_reset_starts_them_again(pipeline: Pipeline) -> None:
    expected = trace(pipeline, epochs=2)
    node = LoaderNode(pipeline, workers=1)
    assert seen(next(node)) == expected[0]
    node.close()
    assert next(node, None) is None
    node.reset()
    assert [seen(batch) for batch in node] == expected[4:]
    node.close()
    node.close()


def test_without_torchdata_the_remedy_is_named(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchdata.nodes", None)
    spec = importlib.util.spec_from_file_location("nodes_without_torchdata", ecopipe.run.nodes.__file__)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)  # importing it, as `from ecopipe import *` does, is no error
    with pytest.raises(MissingDependency, match=r"LoaderNode: torchdata.nodes .*pip install 'ecopipe\[torchdata\]'"):
        module.LoaderNode(pipeline)

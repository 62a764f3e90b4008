"""Mixtures of sources, over real shards."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ecopipe.pipeline.pipeline import Pipeline
from ecopipe.plan.sequence import sequence
from ecopipe.run.loader import Loader
from ecopipe.stages.collate import Collate
from ecopipe.stages.plan import Batch, Shuffle, Take, Where
from ecopipe.stages.source import Items, Mix, TarShards
from ecopipe.stages.stage import Stage
from ecopipe.stages.text import TokenizeBasicEnglish
from ecopipe.vocabulary.errors import ConfigError, StateError

from ..laws import seen


def mixed(shards: Path, *stages: Stage, size: int = 6, **settings: Any) -> Pipeline:
    """Sixty reviews of train and sixty of test."""
    sources = (TarShards(str(shards / "imdb" / "train")), TarShards(str(shards / "imdb" / "test")))
    settings = {"weights": (2, 1), "stop": "all", "lanes": 2, "block_rows": 24} | settings
    return Pipeline(Mix(sources, **settings), *stages, Batch(size), TokenizeBasicEnglish(), Collate("tokens"))


def rows(pipeline: Pipeline, epoch: int = 0, most: int | None = None) -> list[tuple[str, str]]:
    opened = pipeline.open()
    try:
        planned = itertools.islice(sequence(pipeline.plan(opened, 0, epoch), opened.read), most)
        tables = [batch.rows() for batch in planned]
    finally:
        opened.close()
    return [
        pair for table in tables for pair in zip(*(table[name].to_pylist() for name in ("source", "key")), strict=True)
    ]


def sources(found: list[tuple[str, str]]) -> Counter[str]:
    return Counter(source for source, _ in found)


def test_all_delivers_each_sample_once_with_its_weight_while_both_last(shards: Path) -> None:
    found = rows(mixed(shards, Shuffle()))
    assert Counter(found) == Counter(set(found))
    assert sources(found) == {"train": 60, "test": 60}
    assert abs(sources(found[:48])["train"] - 32) <= 2


def test_first_ends_with_the_source_that_ends_first(shards: Path) -> None:
    found = rows(mixed(shards, Shuffle(), stop="first"))
    assert sources(found) == {"train": 60, "test": 30}
    assert len(set(found)) == 90


def test_cycle_delivers_each_sample_and_begins_anew_with_what_ends_sooner(shards: Path) -> None:
    found = rows(mixed(shards, Shuffle(), stop="cycle"))
    assert set(Counter(pair for pair in found if pair[0] == "test").values()) == {1}
    again = Counter(pair for pair in found if pair[0] == "train")
    assert len(again) == 60
    assert 118 <= sum(again.values()) <= 120  # twice, but for the row or two that the order of a lane's end leaves out
    one_lane = rows(mixed(shards, Shuffle(), stop="cycle", lanes=1, block_rows=12))
    train = [key for source, key in one_lane if source == "train"]
    assert len(set(train[:56])) == 56  # whole, before it begins again (in the midst of a block), in another order
    assert train[:50] != train[60:110]


def test_forever_goes_on_and_has_no_length(shards: Path) -> None:
    pipeline = mixed(shards, Shuffle(), stop="forever")
    found = rows(pipeline, most=100)
    assert sum(sources(found).values()) == 600
    assert abs(sources(found)["train"] - 400) <= 2
    with Loader(pipeline) as loader:
        with pytest.raises(TypeError, match="stop='forever'"):
            len(loader)
        for batch in itertools.islice(loader, 50):
            expected = seen(batch)
        state = json.loads(json.dumps(loader.state_dict()))
        rest = [seen(batch) for batch in itertools.islice(iter(loader), 60)][50:]
    assert expected.number == 49
    ranks = []
    for rank in range(2):
        with Loader(pipeline, rank=rank, world_size=2, workers=1) as loader:
            loader.load_state_dict(state)
            ranks.append([seen(batch) for batch in itertools.islice(loader, 5)])
    assert [batch for step in zip(*ranks, strict=True) for batch in step] == rest


def test_weights_by_measure_are_shares_of_it(shards: Path) -> None:
    pipeline = Pipeline(
        Mix(
            (TarShards(str(shards / "imdb" / "train")), TarShards(str(shards / "librispeech" / "train-clean-100"))),
            weights=(1, 3),
            by="chars",
            stop="first",
            block_rows=12,
        ),
        Batch(4),
        TokenizeBasicEnglish(),
        Collate("tokens"),
    )
    opened = pipeline.open()
    chars: Counter[str] = Counter()
    for planned in sequence(pipeline.plan(opened, 0, 0), opened.read):
        table = planned.rows()
        for source, count in zip(table["source"].to_pylist(), table["chars"].to_pylist(), strict=True):
            chars[source] += count
    opened.close()
    assert chars["train-clean-100"] / chars["train"] == pytest.approx(3, rel=0.25)


def test_a_measure_that_a_source_lacks_is_refused(shards: Path) -> None:
    pipeline = mixed(shards, by="duration_s")
    with (
        Loader(pipeline) as loader,
        pytest.raises(ConfigError, match="Mix: by 'duration_s': the source train has none"),
    ):
        next(iter(loader))


def test_weights_by_epoch(shards: Path) -> None:
    pipeline = mixed(shards, weights=((1, 0), (1, 1), (0, 1)))
    found = [sources(rows(pipeline, epoch)) for epoch in range(4)]
    assert found == [{"train": 60}, {"train": 60, "test": 60}, {"test": 60}, {"test": 60}]


def test_weights_may_change_at_an_epochs_border_and_nowhere_else(shards: Path) -> None:
    with Loader(mixed(shards, Shuffle())) as loader:
        batches = iter(loader)
        next(batches)
        middle = loader.state_dict()
        for _ in batches:
            pass
        border = loader.state_dict()
    other = mixed(shards, Shuffle(), weights=(1, 2))
    with Loader(other) as loader:
        with pytest.raises(StateError, match=r"source.weights\[0\] was 2.0 and is 1.0.*between two epochs"):
            loader.load_state_dict(middle)
        loader.load_state_dict(border)
        found = [seen(batch) for batch in loader]
    with Loader(other, epoch=1) as loader:
        assert found == [seen(batch) for batch in loader]
    with Loader(mixed(shards)) as loader, pytest.raises(StateError, match="stages"):
        loader.load_state_dict(border)


def test_samples_of_one_key_in_two_sources_are_told_apart(shards: Path) -> None:
    path = str(shards / "imdb" / "train")
    twins = Mix((TarShards(path, name="a"), TarShards(path, name="b")), weights=(1, 1), stop="all")
    found = rows(Pipeline(twins, Shuffle(), Batch(8), TokenizeBasicEnglish(), Collate("tokens")))
    assert sources(found) == {"a": 60, "b": 60}
    orders = [[key for source, key in found if source == name] for name in ("a", "b")]
    assert sorted(orders[0]) == sorted(orders[1])
    assert orders[0] != orders[1]


def test_where_sees_the_source_and_take_counts_for_each(shards: Path) -> None:
    assert sources(rows(mixed(shards, Where("source", one_of=("test",))))) == {"test": 60}
    assert sources(rows(mixed(shards, Take(10), lanes=1))) == {"train": 10, "test": 10}


def test_a_source_needs_a_sample_for_each_lane(shards: Path) -> None:
    with pytest.raises(ConfigError, match="Mix: the source train holds 3 samples, fewer than the 4 lanes"):
        rows(mixed(shards, Take(3), lanes=4))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sources": ()}, "Mix: sources must be one or more TarShards"),
        ({"sources": (TarShards("x/train"), TarShards("y/train"))}, "two sources are called 'train'. Give them names"),
        ({"sources": (TarShards("a"), TarShards("b", lanes=2))}, "lanes and block_rows of a source in it"),
        ({"weights": (1,)}, "got 1 weights for 2 sources"),
        ({"weights": (0, 0)}, r"weights must be at least 0 and not all 0, got \[0.0, 0.0\]"),
        ({"weights": (1, -1)}, "weights must be at least 0"),
        ({"weights": (1, float("nan"))}, "weights must be at least 0"),
        ({"weights": (1, (1, 2))}, "weights are numbers, or a row of numbers for each epoch"),
        ({"weights": ((1, 2), (1,))}, "got 1 weights for 2 sources"),
        ({"weights": 3}, "weights must be a sequence of numbers"),
        ({"weights": ()}, "got 0 weights for 2 sources"),
        ({"stop": "never"}, "unknown stop 'never'. Did you mean 'forever'\\? Known: all, cycle, first, forever"),
        ({"lanes": 0}, "Mix: lanes must be at least 1"),
        ({"block_rows": 0}, "Mix: block_rows must be at least 1"),
    ],
)
def test_what_cannot_work_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Mix(**({"sources": (TarShards("a"), TarShards("b")), "weights": (1, 1), "stop": "all"} | settings))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TarShards(3), "TarShards: path = 3 has the wrong type; it takes str | tuple[str, ...]."),
        (lambda: TarShards(None), "TarShards: path = None has the wrong type"),
        (lambda: TarShards([3]), "TarShards: path = (3,) has the wrong type"),
        (lambda: TarShards(b"x"), "TarShards: path = b'x' has the wrong type"),
        (lambda: TarShards({"b", "a"}), "TarShards: path = {"),
        (lambda: TarShards("x", lanes="2"), "TarShards: lanes = '2' has the wrong type; it takes int."),
        (lambda: TarShards("x", block_rows=1.5), "TarShards: block_rows = 1.5 has the wrong type; it takes int."),
        (lambda: TarShards("x", name=3), "TarShards: name = 3 has the wrong type; it takes str."),
        (lambda: Mix([TarShards("a")], weights=(1,), stop="all", lanes="2"), "Mix: lanes = '2' has the wrong type"),
        (lambda: Mix([TarShards("a")], weights=(1,), stop="all", by=3), "Mix: by = 3 has the wrong type"),
        (lambda: Mix(3, weights=(1,), stop="all"), "Mix: sources must be one or more TarShards, in a list."),
        (lambda: Items(list, window="8"), "Items: window = '8' has the wrong type; it takes int."),
        (lambda: Items(list, key=3), "Items: key = 3 has the wrong type; it takes str."),
        (lambda: Items(list, measure=3), "Items: measure = 3 has the wrong type"),
    ],
)
def test_settings_of_another_type_are_refused_in_words(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make()
    assert str(caught.value).startswith(message)


def test_paths_may_be_pathlib() -> None:
    assert TarShards(Path("a")) == TarShards("a")
    assert TarShards([Path("a"), "b"]) == TarShards(("a", "b"))

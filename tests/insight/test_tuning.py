"""Which setting is taken, and in which order they are measured."""

from __future__ import annotations

import contextlib

import pytest

from ecopipe.insight import tuning
from ecopipe.insight.predictions import Cost, Model, Step
from ecopipe.insight.tuning import Trial, best_of, promising, tune
from ecopipe.pipeline.pipeline import Pipeline
from ecopipe.stages.foreign import Map

from .waiting import Times, sleep


def trial(workers: int, *rates: float, memory: int = 1, limit: int = 9) -> Trial:
    found = Trial(workers, 0, 2, 100.0)
    for rate in rates:
        found = found.measured(rate, memory, limit)
    return found


def test_what_was_measured_is_kept_with_its_median_and_its_range() -> None:
    found = trial(1, 80.0, 120.0, 90.0)
    assert (found.samples_per_s, found.range_per_s, found.turns_per_s) == (90.0, (80.0, 120.0), (80.0, 120.0, 90.0))
    grown = trial(1, 80.0, memory=10).measured(80.0, 5, 9)
    assert (grown.memory_bytes, grown.fits) == (10, False)


@pytest.mark.parametrize(
    ("trials", "best", "told_apart"),
    [
        ([(0, 50, 52), (1, 100, 104), (2, 150, 154)], 2, True),
        ([(0, 50, 52), (1, 150, 152), (2, 151, 156)], 1, True),  # as good, with less
        ([(0, 53, 446), (1, 255, 281), (2, 270, 290)], 0, False),  # the machine drifted
        ([(0, 50, 52), (1, 100, 160), (2, 150, 154)], 1, False),  # once as fast
        ([(0, 50, 52), (2, 100, 300), (1, 90, 99)], 2, True),  # it drifts, but this is the fastest at its slowest
    ],
)
def test_the_simplest_is_taken_of_those_that_cannot_be_told_apart(
    trials: list[tuple[int, float, float]], best: int, told_apart: bool
) -> None:
    found, sure = best_of([trial(*one) for one in trials])
    assert (found.workers, sure) == (best, told_apart)


def test_what_does_not_keep_to_the_limit_is_not_taken() -> None:
    small, large, larger = trial(0, 50, 52), trial(1, 90, 92, memory=20), trial(2, 95, 96, memory=30)
    assert best_of([larger, large, small]) == (small, True)
    assert best_of([larger, large]) == (large, True)


def test_threads_alone_are_left_out_where_they_are_refused() -> None:
    model = Model((Step(2, {"decode": Cost(0.0, 0.01)}, {}),) * 10, 4)
    assert any(one.threads and not one.workers for one in promising(model, 4))
    found = promising(model, 4, threads_alone=False)
    assert any(one.threads and one.workers for one in found) and any(one.workers for one in found)
    assert not any(one.threads and not one.workers for one in found)


def test_settings_are_measured_in_turn_and_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three settings without processes, which is quick."""
    alone: list[bool] = []

    def three(model: Model, most: int = 0, *, threads_alone: bool = True) -> list[Trial]:
        alone.append(threads_alone)
        return [Trial(0, 0, prefetch, 100.0) for prefetch in (1, 2, 4)]

    monkeypatch.setattr(tuning, "promising", three)
    plain = Times(0, 1, 2, (), (), 0.0).pipeline(400)
    seeding = Pipeline(plain.source, plain.stages[0], Map(sleep, field="value"), *plain.stages[1:])
    for pipeline, may_have_threads in ((seeding, False), (plain, True)):
        told: list[Trial] = []
        with contextlib.closing(pipeline.open()) as shards:
            found = tune(pipeline, shards, seconds=0.2, told=told.append)
        assert [one.prefetch for one in told] == [1, 2, 4, 4, 2, 1]
        assert [len(one.turns_per_s) for one in told] == [1, 1, 1, 2, 2, 2]
        assert sorted(one.prefetch for one in found) == [1, 2, 4] and best_of(found)[0] == found[0]
        assert alone.pop() is may_have_threads

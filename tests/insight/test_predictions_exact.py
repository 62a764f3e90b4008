"""The model against a loader on a clock of its own: random pipelines, the same each time, and no real clock."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Literal

import pytest

from ecopipe.insight.profile_model import MOST_STEPS, calibration, measured_rate, model_of, steady

from .clockwork import Clockwork
from .waiting import Times, drawn

ALIKE = 1.05
"""Parts whose absence brings as much as this tell alike: naming either is right."""

Kind = Literal["sleeping", "mixed", "computing"]


def clockwork(number: int, kind: Kind) -> Clockwork:
    """A random pipeline: its parts sleep, with cores for all, or some or all of them compute, on two cores."""
    chance, times = random.Random(1000 + number), drawn(number)
    computing = {"sleeping": 0.0, "mixed": 0.5, "computing": 1.0}[kind]
    chosen = frozenset(name for name in parts(times) if chance.random() < computing)
    return Clockwork(times, 64 if kind == "sleeping" else 2, chosen)


def parts(times: Times) -> list[str]:
    samples, devices = ([f"{kind}{at}" for at in range(len(all_ms))]
                        for kind, all_ms in (("sample", times.sample_ms), ("device", times.device_ms)))  # fmt: skip
    return [*samples, *devices, "consumer"]


def rate(run: Clockwork, times: Times) -> float:
    """Samples per second of another run, of other settings or times, in which nothing takes quite as long."""
    return measured_rate(steady(replace(run, times=times, seed=1, now=0, threads=[]).run(32)))


@pytest.mark.parametrize("kind", ["sleeping", "mixed", "computing"])
def test_of_a_hundred_random_pipelines_all_predictions_come_true(kind: Kind) -> None:
    off: list[str] = []
    for number in range(100):
        run = clockwork(number, kind)
        times, model = run.times, model_of(run.run(32))
        workers, prefetch, consumer_ms = number % 5, (1, 2, 4)[number % 3], (0.0, 7.0, 60.0)[number % 3]
        name, without = model.limiting(times.workers, times.prefetch)
        free = {part: rate(run, times.without(part)) for part in parts(times)}
        consumer = replace(run, computing=run.computing - {"consumer"})
        found = {
            "as it was": (model.rate(times.workers, times.prefetch), rate(run, times)),
            f"workers={workers}": (model.rate(workers, times.prefetch), rate(run, replace(times, workers=workers))),
            f"prefetch={prefetch}": (model.rate(times.workers, prefetch), rate(run, replace(times, prefetch=prefetch))),
            f"consumer of {consumer_ms} ms": (
                model.rate(times.workers, times.prefetch, consumer_s=consumer_ms / 1e3),
                rate(consumer, replace(times, consumer_ms=consumer_ms)),
            ),
            f"without {name}": (without, free.get(name, 0.0)),
        }  # fmt: skip
        wrong = [f"{what}: {told:.1f} for {true:.1f}" for what, (told, true) in found.items()
                 if not 0.85 <= told / max(true, 1e-9) <= 1.15]  # fmt: skip
        if free.get(name, 0.0) < max(free.values()) / ALIKE:
            wrong.append(f"{name} for {max(free, key=lambda part: free[part])}")
        if wrong:
            off.append(f"{number} ({times.workers} workers, prefetch {times.prefetch}): {'; '.join(wrong)}")
    assert len(off) <= 2, "\n".join(off)


def test_waiting_for_cores_that_the_workers_take_from_one_another_is_not_a_cost_of_a_stage() -> None:
    """Four that compute on two cores: half the time each waits, and on one worker it would not."""
    run = Clockwork(Times(4, 2, 2, (10.0,), (), 0.0), 2, frozenset({"sample0"}))
    model = model_of(run.run(80))
    assert model.rate(4, 2) == pytest.approx(200, rel=0.05)
    assert model.rate(1, 2) == pytest.approx(100, rel=0.08)


def test_waiting_for_cores_that_others_take_stays() -> None:
    """One worker beside whom nobody else computes, and that waits all the same."""
    recording = Clockwork(Times(1, 2, 2, (10.0,), (), 0.0), 2, frozenset({"sample0"})).run(40)
    for one in recording.deliveries:
        assert one.times is not None
        one.times.starved_ns = one.times.stages["sample0"].wall.total_ns // 2
    assert model_of(recording).rate(1, 2) == pytest.approx(100, rel=0.05)


def test_of_a_long_recording_the_model_keeps_some_batches_of_all_along_it() -> None:
    recording = Clockwork(Times(0, 2, 2, (2.0,), (), 0.0), 2, spread=0.5).run(2500)
    model = model_of(recording)
    assert 800 <= len(model.steps) <= MOST_STEPS
    assert calibration(model, recording) == pytest.approx(1, rel=0.02)


def test_messages_that_come_late_matter_where_nothing_is_made_ahead() -> None:
    late = replace(Clockwork(Times(1, 1, 1, (10.0,), (), 2.0)), message_ticks=80)
    model = model_of(late.run(40))
    assert model.asking_s == pytest.approx(0.004, rel=0.1) and model.answering_s == pytest.approx(0.004, rel=0.1)
    for prefetch in (1, 2, 4):
        again = rate(late, replace(late.times, prefetch=prefetch))
        assert model.rate(1, prefetch) == pytest.approx(again, rel=0.06)

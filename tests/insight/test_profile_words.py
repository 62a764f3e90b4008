"""What a profile says, of recordings whose every moment is known: loaders on a clock of their own."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ecopipe.insight.profile import Profile
from ecopipe.insight.profile_model import model_of
from ecopipe.insight.profile_words import told
from ecopipe.run.gauge import Gauge, Recording

from .clockwork import Clockwork
from .waiting import Times


def recorded(workers: int = 2, consumer_ms: float = 2.0, batches: int = 33) -> Recording:
    return Clockwork(Times(workers, 2, 2, (2.0, 10.0), (), consumer_ms)).run(batches)


def document(recording: Recording) -> dict[str, Any]:
    """What a profile says of it."""
    with Profile(recording, Times(0, 2, 2, (), (), 0.0).pipeline(1), Gauge(torch.device("cpu"))) as profile:
        pass
    return profile.as_json()


def stretched(recording: Recording, factor: float) -> Recording:
    """What the same batches look like if they came so many times as far apart, for a reason that no part shows."""
    first, last = recording.deliveries[0].delivered_ns, recording.deliveries[-1].delivered_ns
    each = (last - first) / (len(recording.deliveries) - 1)
    for at, one in enumerate(recording.deliveries):
        after = round(at * each * (factor - 1))
        for name in ("got_ns", "asked_ns", "delivered_ns", "released_ns"):
            setattr(one, name, getattr(one, name) + after)
        assert one.times is not None
        for name in ("issued_ns", "began_ns", "ended_ns"):
            setattr(one.times, name, getattr(one.times, name) + after)
    return recording


@pytest.mark.parametrize("workers", [1, 2])
def test_what_makers_waited_for_a_core_is_a_part_of_their_own_time(workers: int) -> None:
    """And what the consumer's thread waited for one, while it had to wait for batches anyhow, is none of it."""
    recording = recorded(workers)
    for one in recording.deliveries:
        assert one.times is not None
        one.times.starved_ns = one.times.wall_ns // 4
        one.starved_ns = one.delivered_ns - one.asked_ns
    found = document(recording)
    assert found["run"]["starved_share"] == pytest.approx(0.25, abs=0.01)
    made = "1 worker" if workers == 1 else "2 workers"
    cores = found["settings"]["cores"]
    assert (
        f"25% of the work was waiting for a core: {made}, the training process and other programs share {cores} core"
        in (found["words"][1])
    )
    assert "(samples/s by workers, if cores are free for them: 0: " in found["words"][2]


def test_without_workers_other_programs_took_the_core() -> None:
    recording = recorded(0)
    for one in recording.deliveries:
        one.starved_ns = (one.delivered_ns - one.asked_ns) // 2
    found = document(recording)
    assert found["run"]["starved_share"] == pytest.approx(0.5, abs=0.01)
    assert found["words"][1].endswith("50% of the work was waiting for a core: other programs took it.")


def test_where_cores_were_free_nothing_is_said_of_them() -> None:
    words = " ".join(document(recorded())["words"])
    assert "waiting for a core" not in words and "cores are free" not in words


@pytest.mark.parametrize("factor", [0.7, 1.0, 1.5])
@pytest.mark.parametrize(("workers", "consumer_ms"), [(0, 2.0), (2, 2.0), (2, 40.0)])
def test_what_is_predicted_is_in_proportion_to_what_was_measured(
    factor: float, workers: int, consumer_ms: float
) -> None:
    plain, found = (document(stretched(recorded(workers, consumer_ms), one)) for one in (1.0, factor))
    measured, predicted = found["run"]["samples_per_s"], found["predictions"]
    assert measured == pytest.approx(plain["run"]["samples_per_s"] / factor, rel=0.02)
    assert predicted["workers"][str(workers)] == pytest.approx(measured, rel=1e-3)
    assert min(predicted["without"].values()) >= 0.999 * measured
    assert found["limit"]["without_per_s"] == max(predicted["without"].values()) >= measured
    for row in found["stages"]:
        assert row["without_per_s"] == predicted["without"][row["name"]]


def test_a_quicker_consumer_never_gets_less() -> None:
    """Though batches of odd lengths may fall to the workers such that a slower one is served better."""
    for seed, cores in ((239, 64), (1, 2), (2, 2)):
        times = Times(2, 2, 1, (30.0,), (), 1.0)
        computing = frozenset({"sample0"} if cores == 2 else ())
        recording = Clockwork(times, cores, computing, spread=1.0, seed=seed).run(24)
        model = model_of(recording)
        slower, quicker = (model.rate(2, 2, consumer_s=seconds) for seconds in (0.01, 0.0))
        assert cores == 2 or slower > 1.02 * quicker  # this is such a case
        rates = list(document(recording)["predictions"]["consumer_ms"].values())
        assert rates == sorted(rates, reverse=True), seed


def test_the_settings_of_the_run_are_among_those_predicted_whatever_they_are() -> None:
    found = document(Clockwork(Times(7, 3, 2, (20.0,), (), 9.0)).run(60))
    assert found["predictions"]["workers"]["7"] == pytest.approx(found["run"]["samples_per_s"], rel=1e-3)
    assert "more workers would not help" in found["words"][2]


@pytest.mark.parametrize(
    ("part", "begin", "end"),
    [
        ("plan", "plan limits: ", "(plan: choosing the samples of each batch, in the consumer's process.)"),
        ("deliver", "deliver limits: ", "to hand a batch over, beside its stages.)"),
        ("transfer", "transfer limits: ", "receiving them in the consumer's process.)"),
        ("rest of the worker", "The rest of making a batch limits: ", "outside of its stages.)"),
        ("sample1", "sample1 limits: ", "if it cost nothing."),
        ("consumer", "The consumer limits: ", "that the pipeline could give."),
    ],
)
def test_a_part_that_is_no_stage_is_explained(part: str, begin: str, end: str) -> None:
    found = document(recorded(0))
    first = told(found | {"limit": found["limit"] | {"name": part, "clear": True}})[0]
    assert first.startswith(begin) and first.endswith(end)
    assert "worker" not in first.replace("no workers", "").replace("in the workers", "")


@pytest.mark.parametrize(("threads", "text"), [({"1": 5.0}, "with 1 thread at most 5"), ({"2": 5.0}, "with 2 threads")])
def test_one_thread_is_no_threads(threads: dict[str, float], text: str) -> None:
    found = document(recorded(0))
    assert text in told(found | {"predictions": found["predictions"] | {"threads": threads}})[2]


def test_asking_ends_the_recording() -> None:
    gauge = Gauge(torch.device("cpu"))
    with Profile(recorded(), Times(0, 2, 2, (), (), 0.0).pipeline(1), gauge) as profile:
        assert gauge.recording is profile.recording
        profile.words()
        assert gauge.recording is None

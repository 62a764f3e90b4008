"""Profiles of real loaders: they change nothing that is delivered, and tell where the time went."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import time
from array import array
from pathlib import Path
from typing import Any

import pytest

from ecopipe.insight.profile_codecs import codecs
from ecopipe.insight.profile_model import REST, _staged, worker_costs
from ecopipe.insight.profile_words import told
from ecopipe.insight.trace import events, to_tensorboard, write_trace
from ecopipe.insight.tuning import memory_of, tune, tuned_text
from ecopipe.pipeline.pipeline import Pipeline
from ecopipe.pipeline.toml import dumps, load, loads
from ecopipe.pipeline.tuning import Tuning
from ecopipe.run.loader import Loader
from ecopipe.run.metering import BatchTimes, Calls
from ecopipe.stages.audio import DecodeAudio
from ecopipe.stages.collate import Collate
from ecopipe.stages.foreign import Map
from ecopipe.stages.plan import Batch, Shuffle
from ecopipe.stages.source import TarShards
from ecopipe.vocabulary.errors import ConfigError, DataError, SampleError

from ..conftest import ROOT
from ..laws import seen, trace
from .waiting import Times

TIMES = Times(2, 2, 2, (5.0, 15.0), (2.0,), 2.0)


@pytest.fixture
def speech(shards: Path) -> Pipeline:
    source = TarShards(str(shards / "librispeech" / "train-clean-100"))
    return Pipeline(source, Shuffle(), Batch(2), DecodeAudio(), Collate("audio"))


@pytest.mark.parametrize("workers", [0, 2])
def test_nothing_of_what_is_delivered_changes(speech: Pipeline, workers: int) -> None:
    whole = trace(speech)
    with Loader(speech, workers=workers) as loader:
        found = [seen(batch) for batch in itertools.islice(loader, 4)]
        with loader.profile() as profile:
            again = [seen(batch) for batch in loader]
        rest = [seen(batch) for batch in itertools.islice(loader, 2)]
    assert (found, again) == (whole[:4], whole)
    assert [batch.epoch for batch in rest] == [1, 1]
    assert len(profile.recording.deliveries) == len(whole)


@pytest.mark.parametrize("name", ["librispeech", "imdb", "cifar10"])
@pytest.mark.parametrize("workers", [0, 1])
def test_every_stage_of_a_pipeline_file_has_its_row(shards: Path, name: str, workers: int) -> None:
    split = {"librispeech": "train-clean-100"}.get(name, "train")
    overrides: dict[str, Any] = {"source.path": str(shards / name / split)}
    overrides |= {"cifar10": {"Batch.size": 4}, "imdb": {"Bucket.max_padded": 1000.0}}.get(
        name, {"Bucket.max_padded": 9.0}
    )
    pipeline = load(ROOT / "pipelines" / f"{name}.toml", overrides)
    with pipeline.loader(workers=workers) as loader, loader.profile() as profile:
        count = sum(1 for _ in loader)
    document = json.loads(json.dumps(profile.as_json()))
    behind = {stage.label for stage in [*pipeline.sample_stages, pipeline.collate, *pipeline.device_stages]}
    rows = {row["name"]: row for row in document["stages"]}
    assert set(rows) == behind | {"read", "plan"}
    assert document["run"]["batches"] == count == len(document["batches"])
    assert all(row["p50_us"] <= row["p95_us"] <= row["p99_us"] for row in rows.values())
    assert sum(row["share"] for row in rows.values()) == pytest.approx(1, abs=0.01)
    assert rows["Collate"]["bytes_out"] > 0 and rows["read"]["where"] == ("worker" if workers else "main")
    assert {row["pid"] for row in document["workers"]}.isdisjoint({os.getpid()}) == bool(workers)
    assert document["limit"]["name"] in {
        *behind,
        "read",
        "plan",
        "rest of the worker",
        "transfer",
        "deliver",
        "consumer",
    }
    if name != "cifar10":
        assert sum(document["lengths"]["counts"]) == document["run"]["samples"]


def test_the_words_name_what_limits_and_what_would_help() -> None:
    with Loader(TIMES.pipeline(24), workers=1) as loader, loader.profile() as profile:
        for _ in loader:
            time.sleep(0.002)
    first, second, third, *_ = profile.words().split("\n")
    assert first.startswith("sample1 limits: ") and "with 1 worker, of " in first
    assert "of the consumer's time is waiting for data." in second
    assert "workers would give about" in third


def test_a_slow_consumer_is_what_limits() -> None:
    with Loader(TIMES.pipeline(12), workers=2) as loader, loader.profile() as profile:
        for _ in loader:
            time.sleep(0.1)
    assert profile.words().startswith("The consumer limits: ")
    assert profile.as_json()["run"]["waiting_share"] < 0.5


def test_too_few_batches_are_told(speech: Pipeline) -> None:
    with Loader(speech) as loader, loader.profile() as profile:
        next(iter(loader))
    with pytest.raises(
        DataError,
        match=r"profile: 1 batch was recorded; at least 3 are wanted\. Take more inside its 'with' \(from the shell: "
        r"with a larger --seconds\)",
    ):
        profile.words()


def test_one_profile_at_a_time(speech: Pipeline) -> None:
    with Loader(speech) as loader:
        first = loader.profile()
        with pytest.raises(ConfigError, match="loader: a profile goes on already. Leave its 'with'"):
            loader.profile()
        first.stop()
        first.stop()
        with loader.profile() as second:
            first.stop()  # it is over, and leaves the second one alone
            list(loader)
        assert len(second.recording.deliveries) == 12 and not first.recording.deliveries


def test_workers_answer_without_times_when_nobody_listens(speech: Pipeline) -> None:
    with Loader(speech, workers=1) as loader:
        list(loader)
        with loader.profile() as profile:
            for number, _ in enumerate(loader):
                if number == 5:
                    profile.stop()
        assert len(profile.recording.deliveries) == 6
        list(loader)
        assert len(profile.recording.deliveries) == 6


def doubled(audio: Any) -> Any:
    return audio * 2


def test_threads_are_foretold_where_they_are_not_refused(shards: Path) -> None:
    source = TarShards(str(shards / "librispeech" / "train-clean-100"))
    for stages, foretold in (((), True), ((Map(doubled, field="audio"),), False)):
        pipeline = Pipeline(source, Batch(2), DecodeAudio(), *stages, Collate("audio"))
        with Loader(pipeline) as loader, loader.profile() as profile:
            list(loader)
        assert ("threads" in profile.as_json()["predictions"]) == foretold
        assert (re.search("with [0-9]+ threads? at most", profile.words()) is not None) == foretold


def broken(sample: Any) -> Any:
    raise ValueError("no")


def test_an_error_of_a_stage_is_the_same_under_a_profile(shards: Path) -> None:
    source = TarShards(str(shards / "librispeech" / "train-clean-100"))
    pipeline = Pipeline(source, Batch(2), DecodeAudio(), Map(broken, field="audio"), Collate("audio"))
    for workers in (0, 1):
        messages = []
        for listen in (False, True):
            with Loader(pipeline, workers=workers) as loader:
                profile = loader.profile() if listen else None
                with pytest.raises(SampleError) as caught:
                    list(loader)
                messages.append(str(caught.value))
                if profile is not None:
                    profile.stop()
        assert messages[0] == messages[1]


def test_another_codec_is_really_tried(speech: Pipeline) -> None:
    with Loader(speech) as loader, loader.profile() as profile:
        list(loader)
        (row,) = codecs(loader, profile.model, profile.recording)
    assert (row["of"], row["to"], row["stage"], row["samples"]) == ("FLAC", "16-bit WAV", "DecodeAudio", 24)
    assert row["disk"] > 1.05
    assert row["decode_us_then"] < row["decode_us"]
    document = profile.as_json()
    now = document["run"]["samples_per_s"]
    sentence = told(document | {"codecs": [row | {"samples_per_s": 1.06 * now}]})[-1]
    assert sentence.startswith("Storing 16-bit WAV instead of FLAC would give about ")
    assert sentence.endswith("x the disk.")
    for gain in (0.9, 1.0, 1.04):  # of no gain nothing is said
        assert told(document | {"codecs": [row | {"samples_per_s": gain * now}]}) == told(document)


def test_some_samples_of_a_large_batch_stand_for_all() -> None:
    """Every batch counts all of its calls, whatever it holds, and what they took is about right."""
    for count in (1, 15, 16, 31, 32, 33, 100, 127):
        times = Times(0, 2, count, (0.0,), (), 0.0)
        with Loader(times.pipeline(4)) as loader, loader.profile() as profile:
            list(loader)
        for one in profile.recording.deliveries:
            assert one.times is not None
            found = {name: tally.wall for name, tally in one.times.stages.items()}
            assert {name: wall.count for name, wall in found.items()} == {
                "read": count, "sample0": count, "Collate": 1
            }, count  # fmt: skip
            assert sum(found["sample0"].bins.values()) == count


def test_where_samples_stand_for_others_a_batch_still_takes_its_time() -> None:
    """Of ten calls two are timed, once short and once long ones: a batch took 100 ns, 80 of them in its calls."""

    def made(*walls_ns: int, each: int) -> BatchTimes:
        calls = {"sample0": Calls(array("q", walls_ns), each, each, 1.0)}
        return BatchTimes(1, 0, 0, 100, 100, 0, 0, 0, calls)

    sampled = [made(4, 4, each=5), made(12, 12, each=5)]
    share = _staged([*sampled, made(50, each=1)])
    assert share == pytest.approx(0.8)
    for times in sampled:
        costs = worker_costs(times, 1.0, share)
        assert {name: round(1e9 * cost.wall_s) for name, cost in costs.items()} == {"sample0": 80, REST: 20}
    exact = worker_costs(made(50, each=1), 1.0, share)
    assert {name: round(1e9 * cost.wall_s) for name, cost in exact.items()} == {"sample0": 50, REST: 50}


def test_a_second_recording_knows_the_memory_of_its_process_too() -> None:
    with Loader(TIMES.pipeline(6)) as loader:
        for _ in range(2):
            with loader.profile() as profile:
                list(loader)
            assert all(one.times and one.times.rss_bytes > 1 << 20 for one in profile.recording.deliveries)


# -- trace and counters -------------------------------------------------------------------------------------------


def test_the_trace_holds_what_chrome_trace_events_have(tmp_path: Path) -> None:
    with Loader(TIMES.pipeline(12), workers=2) as loader, loader.profile() as profile:
        list(loader)
    write_trace(profile.recording, tmp_path / "trace.json")
    document = json.loads((tmp_path / "trace.json").read_text())
    found = document["traceEvents"]
    assert found == json.loads(json.dumps(events(profile.recording)))
    for event in found:
        assert isinstance(event["pid"], int) and isinstance(event["tid"], int) and isinstance(event["name"], str)
        assert event["ph"] in "XMsf"
        assert event["ph"] == "M" or event["ts"] >= 0
        assert event["ph"] != "X" or event["dur"] >= 0
    names = {event["args"]["name"]: event["pid"] for event in found if event["name"] == "process_name"}
    assert set(names) == {"consumer's process", "worker 1", "worker 2"} and len(set(names.values())) == 3
    batches = [event for event in found if event["ph"] == "X" and event["name"].startswith("batch ")]
    for number in range(12):  # made in a worker, and worked on by the consumer, with an arrow from one to the other
        made, *taken = sorted((one for one in batches if one["name"] == f"batch {number}"), key=lambda one: one["ts"])
        assert made["pid"] != names["consumer's process"]
        assert all(one["pid"] == names["consumer's process"] for one in taken)
        (start,) = (one for one in found if one["ph"] == "s" and one["id"] == number)
        (end,) = (one for one in found if one["ph"] == "f" and one["id"] == number)
        assert made["ts"] <= start["ts"] <= made["ts"] + made["dur"] and start["ts"] <= end["ts"]
        inside = [
            one for one in found
            if one["ph"] == "X" and one["pid"] == made["pid"] and one["name"] == "sample1"
            and made["ts"] <= one["ts"] <= made["ts"] + made["dur"]
        ]  # fmt: skip
        assert len(inside) == 1 and inside[0]["args"]["calls"] == 2
    per_track: dict[tuple[int, int], float] = {}
    for one in sorted((one for one in batches), key=lambda one: one["ts"]):
        track = one["pid"], one["tid"]
        assert one["ts"] >= per_track.get(track, 0.0) - 1e-3  # those of one track do not overlap
        per_track[track] = one["ts"] + one["dur"]


@pytest.mark.parametrize(("workers", "threads", "made"), [(0, 2, "2 threads"), (1, 2, "1 worker of 2 threads")])
def test_threads_have_rows_words_and_tracks_of_their_own(workers: int, threads: int, made: str) -> None:
    with Loader(TIMES.pipeline(20), workers=workers, threads=threads) as loader, loader.profile() as profile:
        list(loader)
    document, recording = profile.as_json(), profile.recording
    used = {(one.times.pid, one.times.thread) for one in recording.deliveries if one.times}
    assert len(used) == threads
    assert all(one.times and recording.is_beside(one.times) for one in recording.deliveries)
    (row,) = document["workers"]
    assert (row["threads"], row["batches"]) == (threads, len(recording.deliveries))
    assert (document["settings"]["threads"], document["settings"]["beside"]) == (threads, threads)
    assert f"samples/s with {made}" in told(document)[0]
    assert "What workers would give is told by a profile without threads" in told(document)[2]
    assert "workers" not in document["predictions"]
    mode = "interpreter lock alone" if workers else "threads of the training process"
    assert any(mode in sentence for sentence in told(document))
    found = events(recording)
    names = {(one["pid"], one["tid"]) for one in found if one["ph"] == "M" and one["args"]["name"] == "batches"}
    assert names == used
    for pid, tid in used:
        mine = [one for one in found if (one["pid"], one["tid"]) == (pid, tid) and one["ph"] == "X"]
        batches = sorted((one["ts"], one["dur"]) for one in mine if one["name"].startswith("batch"))
        assert all(one + lasted <= other for (one, lasted), (other, _) in itertools.pairwise(batches))
    assert len({one["id"] for one in found if one["ph"] == "s"}) == len(recording.deliveries)


def test_counters_count_with_and_without_a_profile(speech: Pipeline) -> None:
    with Loader(speech, workers=1) as loader:
        list(loader)
        found = loader.metrics()
        assert (found["batches_total"], found["samples_total"], found["workers"], found["epoch"]) == (12, 24, 1, 1)
        assert found["wait_seconds_total"] > 0
        list(loader)
        assert loader.metrics()["batches_total"] == 24


def test_counters_in_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path)) as writer:
        to_tensorboard(writer, {"batches_total": 3.0}, 7)
    read = EventAccumulator(str(tmp_path)).Reload()
    assert [(one.step, one.value) for one in read.Scalars("ecopipe/batches_total")] == [(7, 3.0)]


# -- tuning -------------------------------------------------------------------------------------------------------

FILE = """# a comment that stays
[source]
path = "shards/cifar10/train"

[loader]  # of another machine
workers = 64

[[stages]]
stage = "Batch"
size = 8

[[stages]]
stage = "DecodeImage"

[[stages]]
stage = "Collate"
input = "image"
layout = "stack"
"""


def test_a_tuned_file_is_the_same_pipeline() -> None:
    made = tuned_text(FILE, Tuning(workers=3, prefetch=4), "a.toml")
    assert made.startswith("# a comment that stays\n[source]") and "64" not in made
    before, after = loads(FILE), loads(made)
    assert after.tuning == Tuning(workers=3, prefetch=4) and before.tuning == Tuning(workers=64)
    assert after.identity == before.identity and after != before
    assert loads(dumps(after)) == after and "workers = 3" in dumps(after)
    assert loads(FILE, {"loader.workers": 2}).tuning.workers == 2


def test_a_table_that_cannot_be_replaced_is_refused() -> None:
    text = "loader = {workers = 2}\n" + FILE.replace("[loader]  # of another machine\nworkers = 64\n", "")
    with pytest.raises(ConfigError, match=r"a\.toml: its settings of the loader stand where they cannot be replaced"):
        tuned_text(text, Tuning(workers=1, prefetch=2), "a.toml")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("workers = -1", "TOML: [loader]: workers must be at least 0, got -1."),
        ("prefetch = 0", "TOML: [loader]: prefetch must be at least 1, got 0."),
        ("worker = 2", "TOML: [loader]: unknown key 'worker'. Did you mean 'workers'?"),
        ("workers = 'two'", "TOML: [loader]: workers = 'two' has the wrong type."),
    ],
)
def test_settings_of_the_loader_are_checked(table: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        loads(FILE.replace("workers = 64", table))
    assert str(caught.value).startswith(message)


def test_the_loader_takes_what_it_is_not_told_from_the_tuning(speech: Pipeline) -> None:
    tuned = Pipeline(speech.source, *speech.stages, tuning=Tuning(workers=1, prefetch=3))
    with tuned.loader() as loader:
        assert (loader.workers, loader.prefetch) == (1, 3)
        list(itertools.islice(loader, 5))
        assert len(loader.worker_pids) == 1
        state = json.loads(json.dumps(loader.state_dict()))
    with tuned.loader(workers=0, prefetch=1) as loader:
        assert (loader.workers, loader.prefetch) == (0, 1)
    with speech.loader() as loader:
        assert (loader.workers, loader.prefetch) == (0, 2)
        loader.load_state_dict(state)  # a checkpoint of the tuned pipeline is one of this one
        assert [seen(batch) for batch in loader] == trace(speech)[5:]


def test_tuning_prefers_what_is_faster() -> None:
    times = Times(0, 2, 2, (20.0, 20.0), (1.0,), 0.0)
    pipeline = times.pipeline(400)
    best, *others = tune(pipeline, pipeline.open(), seconds=4)
    assert best.workers >= 2
    assert {0} < {trial.workers for trial in [best, *others]}
    assert all(trial.samples_per_s and trial.memory_bytes > 0 for trial in [best, *others])


def test_tuning_keeps_to_the_memory(speech: Pipeline) -> None:
    with contextlib.closing(speech.open()) as shards:
        with pytest.raises(
            ConfigError, match=r"tune: without workers it takes [\d,]+ bytes, more than the limit of 1,000"
        ):
            tune(speech, shards, memory_bytes=1000, seconds=0.5)
        room = memory_of(os.getpid()) + 2**20 * 30
        best, *others = tune(speech, shards, memory_bytes=room, seconds=1)
    assert best.fits and best.memory_bytes <= room
    assert all(trial.fits == (trial.memory_bytes <= room) for trial in others)

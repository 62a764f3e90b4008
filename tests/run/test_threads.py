"""Threads that make batches: the stream is the same, and nothing of them is left."""

from __future__ import annotations

import gc
import itertools
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from ecopipe.pipeline.pipeline import Pipeline
from ecopipe.pipeline.tuning import Tuning
from ecopipe.run.loader import Loader
from ecopipe.run.settings import tuned
from ecopipe.stages.collate import Collate
from ecopipe.stages.foreign import Map
from ecopipe.stages.image import DecodeImage
from ecopipe.stages.plan import Batch
from ecopipe.stages.source import TarShards
from ecopipe.vocabulary.errors import ConfigError, SampleError, WorkerError

from ..laws import seen, trace
from .conftest import Plain, images
from .test_pool import pids


def makers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "ecopipe maker"]


def noted(sample: Mapping[str, Any]) -> dict[str, Any]:
    """The image, and where it was made."""
    return {"image": sample["image"], "made": f"{os.getpid()} {threading.get_ident()}"}


def slow_at_first(sample: Any, *, key: str) -> dict[str, Any]:
    time.sleep(0.2 if sample.key == key else 0)
    return {"image": sample["image"]}


def stuck(sample: Any, *, key: str, until: str) -> dict[str, Any]:
    give_up = time.monotonic() + 60
    while sample.key == key and not Path(until).exists() and time.monotonic() < give_up:
        time.sleep(0.01)
    return {"image": sample["image"]}


def bad(sample: Any, *, key: str) -> dict[str, Any]:
    if sample.key == key:
        raise RuntimeError("no")
    return {"image": sample["image"]}


@pytest.mark.parametrize(("workers", "threads"), [(0, 1), (0, 2), (0, 5), (1, 2), (2, 3)])
def test_the_stream_is_that_of_one_thread(pipeline, workers, threads):
    expected = trace(pipeline, epochs=3)
    assert trace(pipeline, epochs=3, workers=workers, threads=threads) == expected
    assert trace(pipeline, epochs=3, workers=workers, threads=threads, prefetch=1) == expected


@pytest.mark.parametrize(("workers", "threads"), [(0, 0), (0, 3), (2, 0), (2, 2)])
def test_batches_are_made_where_it_was_asked_for(shards, workers, threads):
    pause = Plain(slow_at_first, into="image", kwargs={"key": "none"}, name="pause")
    stages = (DecodeImage(), pause, Plain(noted, into=("image", "made")))
    collate = Collate("image", layout="stack", keep=("made",))
    pipeline = Pipeline(TarShards(str(shards / "cifar10" / "train")), Batch(2), *stages, collate)
    with Loader(pipeline, workers=workers, threads=threads) as loader:
        places = {tuple(map(int, made.split())) for _ in range(20) for batch in loader for made in batch["made"]}
        processes = {pid for pid, _ in places}
        here = {(os.getpid(), threading.get_ident())}
        assert processes == (set(pids(loader)) if workers else {os.getpid()})
        assert len(places) == max(workers, 1) * max(threads, 1)
        assert (places == here) == (not workers and not threads)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_slow_batch_is_waited_for_and_not_overtaken(shards, workers):
    pipeline = images(shards)
    expected = trace(pipeline)
    slow = images(shards, Plain(slow_at_first, into="image", kwargs={"key": expected[1].keys[0]}))
    assert [one.keys for one in trace(slow, workers=workers, threads=3)] == [one.keys for one in expected]


@pytest.mark.parametrize("workers", [0, 1])
def test_states_are_of_what_was_taken(pipeline, expected, workers):
    with Loader(pipeline, workers=workers, threads=2) as loader:
        taken = [seen(batch) for batch in itertools.islice(loader, 3)]
        state = loader.state_dict()
    with Loader(pipeline, workers=workers, threads=3) as loader:
        loader.load_state_dict(state)
        assert taken + [seen(batch) for batch in loader] == expected


def test_iterating_anew_drops_what_was_under_way(pipeline, expected):
    with Loader(pipeline, threads=2) as loader:
        for _ in range(10):
            old = iter(loader)
            assert seen(next(old)) == expected[0]
        loader.set_epoch(0)
        assert [seen(batch) for batch in loader] == expected
        with pytest.raises(RuntimeError, match="this iterator is over"):
            next(old)


def test_an_error_is_raised_where_its_batch_was_wanted(shards):
    expected = trace(images(shards))
    pipeline = images(shards, Plain(bad, into="image", kwargs={"key": expected[2].keys[1]}))
    with Loader(pipeline, threads=2) as loader:
        batches = iter(loader)
        assert [tuple(next(batches)["keys"]) for _ in range(2)] == [one.keys for one in expected[:2]]
        with pytest.raises(SampleError, match="RuntimeError: no") as caught:
            next(batches)
        assert caught.value.key == expected[2].keys[1]


def test_a_thread_that_hangs_is_an_error_that_names_the_batch(shards, tmp_path):
    expected = trace(images(shards))
    where = {"key": expected[1].keys[0], "until": str(tmp_path / "now")}
    pipeline = images(shards, Plain(stuck, into="image", kwargs=where))
    with Loader(pipeline, threads=1, timeout_s=0.5) as loader:
        batches = iter(loader)
        next(batches)
        said = r"batch 1 of epoch 0 \(first sample .*\) was not made in 0.5 s by a thread.*use workers instead"
        with pytest.raises(WorkerError, match=said):
            next(batches)
        (tmp_path / "now").touch()


class Unheard(BaseException):
    """Not derived from Exception, as what Rust's panics become is not."""


def panics(sample: Any, *, key: str) -> dict[str, Any]:
    if sample.key == key:
        raise Unheard("of")
    return {"image": sample["image"]}


@pytest.mark.parametrize("workers", [0, 1])
def test_what_is_no_exception_ends_no_thread_in_silence(shards, workers, caplog):
    expected = trace(images(shards))
    pipeline = images(shards, Plain(panics, into="image", kwargs={"key": expected[2].keys[1]}))
    with Loader(pipeline, workers=workers, threads=2, timeout_s=60) as loader:
        for _ in range(2):
            loader.set_epoch(0)
            batches = iter(loader)
            assert [tuple(next(batches)["keys"]) for _ in range(2)] == [one.keys for one in expected[:2]]
            with pytest.raises(SampleError, match="Unheard: of"):
                next(batches)
    assert not caplog.records  # no worker died


def naps(sample: Any) -> dict[str, Any]:
    time.sleep(0.1)
    return {"image": sample["image"]}


def test_a_batch_that_was_dropped_leaves_its_thread_to_the_next(shards):
    """Its time is not counted as that of another."""
    with Loader(images(shards, Plain(naps, into="image"), size=12), threads=1, timeout_s=2) as loader:
        for _ in range(4):  # a batch takes 1.2 s
            began = time.monotonic()
            next(iter(loader))
            assert time.monotonic() - began < 20
            time.sleep(0.2)


def collects(sample: Any) -> dict[str, Any]:
    gc.collect()
    return {"image": sample["image"]}


def test_a_loader_that_is_collected_in_a_thread_of_its_own(shards, capfd):
    before = len(makers())
    loader = Loader(images(shards, Plain(collects, into="image")), threads=2)
    batches = iter(loader)
    next(batches)
    loader.itself = (loader, batches)  # so that it goes when garbage is collected, and not before
    del loader, batches
    give_up = time.monotonic() + 20
    while len(makers()) > before and time.monotonic() < give_up:
        gc.collect()
        time.sleep(0.01)
    assert len(makers()) == before
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("how", ["close", "collect"])
def test_no_thread_is_left(pipeline, how):
    before = len(makers())
    loader = Loader(pipeline, threads=3)
    next(iter(loader))
    assert len(makers()) == before + 3
    if how == "close":
        loader.close()
    else:
        del loader
        gc.collect()
    give_up = time.monotonic() + 20
    while len(makers()) > before and time.monotonic() < give_up:
        time.sleep(0.01)
    assert len(makers()) == before


@pytest.mark.parametrize("end", ["", "raise SystemExit(0)", "del loader"])
def test_a_program_that_leaves_its_loader_open_ends(shards, end):
    program = f"""
import ecopipe
from ecopipe import Batch, Collate, DecodeImage, Pipeline, TarShards
pipe = Pipeline(TarShards({str(shards / "cifar10" / "train")!r}), Batch(2), DecodeImage(),
                Collate("image", layout="stack"))
loader = pipe.loader(threads=2)
print(len(next(iter(loader))["keys"]))
{end}
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert (run.returncode, run.stdout, run.stderr) == (0, "2\n", "")


def test_a_program_ends_while_a_thread_is_within_torch(shards, tmp_path):
    """A thread of which the interpreter is gone would abort the process."""
    program = f"""
import time, torch, ecopipe
from ecopipe import Batch, Collate, DecodeImage, Pipeline, TarShards
from ecopipe.stages.foreign import Map
class Plain(Map):
    seeds_process = False
def slow(image):
    began = time.time()
    while time.time() - began < 0.5:
        torch.linalg.qr(torch.rand(300, 300))
    return image
pipe = Pipeline(TarShards({str(shards / "cifar10" / "train")!r}), Batch(6), DecodeImage(), Plain(slow, field="image"),
                Collate("image", layout="stack"))
loader = pipe.loader(threads=2, prefetch=4)
print(len(next(iter(loader))["keys"]), flush=True)
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert (run.returncode, run.stdout, run.stderr) == (0, "6\n", "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_fork_has_threads_of_its_own(pipeline, expected, tmp_path):
    with Loader(pipeline, threads=2) as loader:
        next(iter(loader))
        child = os.fork()
        if child == 0:
            code = 1
            try:
                loader.set_epoch(0)
                code = 0 if [seen(batch) for batch in loader] == expected else 2
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        loader.set_epoch(0)
        assert [seen(batch) for batch in loader] == expected


def test_metrics_and_a_profile_count_the_batches_of_threads(pipeline, expected):
    with Loader(pipeline, threads=2) as loader:
        with loader.profile() as profile:
            list(loader)
        assert len(profile.recording.deliveries) == len(expected)
        assert all(one.times is not None and one.times.pid == os.getpid() for one in profile.recording.deliveries)


# -- what a process has one of ---------------------------------------------------------------------------------------


def drawn(image: Any) -> Any:
    return image + torch.rand(1).item()


def test_threads_beside_the_consumer_run_nothing_that_seeds_what_it_draws_from(shards):
    pipeline = images(shards, Map(drawn, field="image"))
    with pytest.raises(ConfigError, match=r"threads without workers .* Map seeds .* or workers=1, threads=2\."):
        Loader(pipeline, threads=2)
    expected = trace(pipeline)
    torch.manual_seed(5)
    wanted = torch.rand(100)
    torch.manual_seed(5)
    draws = []
    with Loader(pipeline, workers=1, threads=2) as loader:
        found = [(draws.append(torch.rand(1)), seen(batch))[1] for batch in loader]
    assert found == expected
    assert torch.equal(torch.cat(draws), wanted[: len(draws)])


# -- settings -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [-1, 1.5, True, "2"])
def test_odd_numbers_of_threads_are_refused(pipeline, threads):
    with pytest.raises(ConfigError, match="loader: threads must be"):
        Loader(pipeline, threads=threads)


@pytest.mark.parametrize(
    ("tuning", "given", "found"),
    [
        (Tuning(), (None, None, None), (0, 0, 2)),
        (Tuning(workers=2, threads=3, prefetch=4), (None, None, None), (2, 3, 4)),
        (Tuning(workers=2, threads=3), (2, None, None), (2, 3, 2)),
        (Tuning(workers=2, threads=3), (0, None, None), (0, 0, 2)),
        (Tuning(workers=0, threads=3), (4, None, 1), (4, 0, 1)),
        (Tuning(workers=2, threads=3), (1, 2, None), (1, 2, 2)),
        (Tuning(threads=2), (None, 0, None), (0, 0, 2)),
    ],
)
def test_what_is_given_goes_before_what_was_tuned(tuning, given, found):
    assert tuned(tuning, *given) == found


def test_the_tuning_of_a_file_is_used(pipeline, expected):
    tuned = Pipeline(pipeline.source, *pipeline.stages, tuning=Tuning(workers=0, threads=2))
    assert tuned.identity == pipeline.identity
    with Loader(tuned) as loader:
        assert (loader.workers, loader.threads, loader.made_ahead) == (0, 2, 4)
        assert [seen(batch) for batch in loader] == expected
        assert makers()

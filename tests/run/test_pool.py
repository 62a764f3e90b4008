"""The pool against real processes and real signals: whatever happens to workers, the stream is the same."""

from __future__ import annotations

import contextlib
import itertools
import logging
import mmap
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from ecopipe.pipeline.pipeline import Pipeline
from ecopipe.run.loader import Loader
from ecopipe.run.pool import Pool
from ecopipe.run.worker import Failure, Task
from ecopipe.stages.foreign import Map
from ecopipe.vocabulary.errors import EcopipeError, SampleError, WorkerError
from ecopipe.vocabulary.sample import Batch, Place

from ..laws import Seen, seen, trace
from .conftest import Plain, images

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are looked up in /proc")


def pids(loader: Loader) -> list[int]:
    assert loader._pool is not None
    return loader._pool.pids


def ended(pid: int, within_s: float = 20) -> bool:
    """Whether a process ends within some seconds."""
    give_up = time.monotonic() + within_s
    while time.monotonic() < give_up:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state in "ZX":
            return True
        time.sleep(0.01)
    return False


def slow(sample: Mapping[str, Any], *, seconds: float) -> dict[str, Any]:
    time.sleep(seconds)
    return {"image": sample["image"]}


def deadly(sample: Any, *, key: str, deed: str, unless: str) -> dict[str, Any]:
    if sample.key == key and not Path(unless).exists():
        if deed == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if deed == "look behind the end":
            Path(unless).with_name("cut").write_bytes(b"1" * 100_000)
            with open(Path(unless).with_name("cut"), "r+b") as file:
                memory = mmap.mmap(file.fileno(), 0)
                file.truncate(4096)
            return memory[90_000]
        if deed == "exit":
            os._exit(3)
        time.sleep(1000)
    return {"image": sample["image"]}


# -- the stream is the same ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("context", ["fork", "forkserver", "spawn"])
def test_workers_of_every_kind_are_replaced(pipeline: Pipeline, expected: list[Seen], context: str) -> None:
    with Loader(pipeline, workers=1, multiprocessing_context=context) as loader:
        batches = iter(loader)
        taken = [seen(next(batches))]
        os.kill(pids(loader)[0], signal.SIGKILL)
        assert taken + [seen(batch) for batch in batches] == expected
        last = pids(loader)
    assert all(map(ended, last))


def test_workers_killed_again_and_again_change_nothing(shards: Path, caplog: pytest.LogCaptureFixture) -> None:
    pipeline = images(shards, Map(slow, into="image", kwargs={"seconds": 0.002}), size=2)
    draw = random.Random(5)
    killed, over = 0, threading.Event()
    with Loader(pipeline, workers=3, worker_retries=1000) as loader:

        def kill() -> None:
            nonlocal killed
            while not over.wait(draw.uniform(0, 0.08)):
                with contextlib.suppress(ProcessLookupError, IndexError):  # it is being replaced
                    os.kill(draw.choice(pids(loader)), signal.SIGKILL)
                    killed += 1

        expected = trace(pipeline)
        next(iter(loader))
        killer = threading.Thread(target=kill)
        killer.start()
        try:
            for _ in range(100):
                loader.set_epoch(0)
                assert [seen(batch) for batch in loader] == expected
                if killed >= 20:
                    break
        finally:
            over.set()
            killer.join()
    assert killed >= 20
    assert "was killed by SIGKILL" in caplog.text


def test_workers_killed_all_at_once_while_the_trainer_is_busy(pipeline: Pipeline, expected: list[Seen]) -> None:
    handler = signal.getsignal(signal.SIGCHLD)
    with Loader(pipeline, workers=3) as loader:
        batches = iter(loader)
        taken = [seen(batch) for batch in itertools.islice(batches, 4)]
        for pid in pids(loader):
            os.kill(pid, signal.SIGKILL)
        busy = time.monotonic() + 0.2
        while time.monotonic() < busy:
            torch.ones(8).sum()
        assert signal.getsignal(signal.SIGCHLD) is handler
        assert taken + [seen(batch) for batch in batches] == expected


def test_workers_that_die_between_two_epochs_are_replaced(pipeline: Pipeline, expected: list[Seen]) -> None:
    with Loader(pipeline, workers=2) as loader:
        assert [seen(batch) for batch in loader] == expected
        for pid in pids(loader):
            os.kill(pid, signal.SIGKILL)
        loader.set_epoch(0)
        assert [seen(batch) for batch in loader] == expected


def test_a_stopped_worker_is_replaced_after_the_deadline(
    pipeline: Pipeline, expected: list[Seen], caplog: pytest.LogCaptureFixture
) -> None:
    with Loader(pipeline, workers=2, timeout_s=1, worker_retries=20) as loader:
        batches = iter(loader)
        taken = [seen(next(batches))]
        stopped = pids(loader)[1]
        os.kill(stopped, signal.SIGSTOP)
        assert taken + [seen(batch) for batch in batches] == expected
        assert ended(stopped)
    assert f"loader: worker {stopped} did not answer in 1 s on batch " in caplog.text


def test_a_terminated_worker_is_told_and_replaced_and_ctrl_c_is_left_to_the_parent(
    pipeline: Pipeline, expected: list[Seen], caplog: pytest.LogCaptureFixture
) -> None:
    with Loader(pipeline, workers=1) as loader:
        batches = iter(loader)
        taken = [seen(next(batches))]
        worker = pids(loader)[0]
        os.kill(worker, signal.SIGINT)
        taken += [seen(next(batches)) for _ in range(4)]  # more than it had been asked for before
        assert pids(loader) == [worker]
        os.kill(worker, signal.SIGTERM)
        assert ended(worker)
        assert taken + [seen(batch) for batch in batches] == expected
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert f"loader: worker {worker} was killed by SIGTERM" in caplog.text
    assert "Another one takes over." in caplog.text


# -- a batch that no worker survives ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("deed", "settings", "told", "remedy"),
    [
        ("die", {}, r"was killed by SIGKILL \(3 times\)", "use fewer workers, or give them more memory"),
        ("look behind the end", {}, r"was killed by SIGBUS \(3 times\)", "see who writes to the shards"),
        ("exit", {"worker_retries": 0}, "ended with exit code 3", "leave that out with Where"),
        ("hang", {"worker_retries": 1, "timeout_s": 1}, r"did not answer in 1 s \(2 times\)", "raise timeout_s"),
    ],
)
def test_a_batch_that_no_worker_survives_is_named_and_the_state_before_it_is_good(
    shards: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    deed: str,
    settings: dict[str, Any],
    told: str,
    remedy: str,
) -> None:
    expected = trace(images(shards))
    bad, mended = expected[6], tmp_path / "mended"
    kwargs = {"key": bad.keys[2], "deed": deed, "unless": str(mended)}
    pipeline = images(shards, Map(deadly, into="image", kwargs=kwargs))
    name = rf"batch 6 of epoch 0 \(first sample '{bad.keys[0]}' in train-\d+\.tar\)"
    taken = []
    with Loader(pipeline, workers=2, **settings) as loader:
        with pytest.raises(WorkerError, match=rf"^loader: {name} cannot be made: its worker {told}\. ") as caught:
            taken += map(seen, loader)
        assert "The state after the last batch is good: continue from it." in str(caught.value)
        assert remedy in str(caught.value)
        assert taken == expected[:6]
        assert len(caplog.records) == settings.get("worker_retries", 2) + 1  # only the batch that they were on counts
        assert all("batch 6 of epoch 0" in record.getMessage() for record in caplog.records)
        mended.touch()
        loader.load_state_dict(loader.state_dict())
        assert taken + [seen(batch) for batch in loader] == expected


def test_with_threads_the_batch_that_ends_its_worker_is_found_and_no_other_blamed(
    shards: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expected = trace(images(shards))
    kwargs = {"key": expected[6].keys[2], "deed": "die", "unless": str(tmp_path / "never")}
    taken: list[Seen] = []
    with (
        Loader(images(shards, Plain(deadly, into="image", kwargs=kwargs)), workers=1, threads=3) as loader,
        pytest.raises(WorkerError, match=r"batch 6 of epoch 0 .* was killed by SIGKILL \(3 times\)"),
    ):
        taken += map(seen, loader)
    assert taken == expected[:6]
    told = [record.getMessage() for record in caplog.records]
    assert sum("on batch 6 of epoch 0" in line for line in told) == 3
    assert all("on batch 6 of epoch 0" in line or "on one of 4 batches, from batch" in line for line in told)


def without_descriptors(sample: Any, *, key: str) -> dict[str, Any]:
    if sample.key == key:
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    return {"image": sample["image"]}


def test_a_worker_that_cannot_answer_by_its_threads_ends(shards: Path, caplog: pytest.LogCaptureFixture) -> None:
    expected = trace(images(shards))
    pipeline = images(shards, Plain(without_descriptors, into="image", kwargs={"key": expected[5].keys[0]}))
    with Loader(pipeline, workers=1, threads=3, timeout_s=60) as loader, pytest.raises(EcopipeError):
        list(loader)
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 4 and "on one of 4 batches" in told[0]
    assert all("ended with exit code 1 on batch 5 of epoch 0" in line for line in told[1:])


class EndsAtOnce:
    """A maker that no process can take in."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os._exit, (7,)

    def __call__(self, task: Task) -> Batch:
        raise NotImplementedError


def test_workers_that_end_as_they_start_are_not_started_for_ever() -> None:
    pool = Pool(EndsAtOnce(), workers=1, prefetch=1, timeout_s=0, retries=1, context="spawn")
    with pytest.raises(WorkerError, match="end as they start: 2 in a row, and the last ended with exit code 7"):
        next(pool.run(tasks(1)))
    pool.close()


# -- the pool by itself -------------------------------------------------------------------------------------------


def tasks(count: int, size: int = 1) -> Iterator[Task]:
    for number in range(count):
        rows = pa.RecordBatch.from_pydict({"key": [f"k{number}"], "shard": ["s.tar"], "payload": [bytes(size)]})
        yield Task(rows, Place(0, number), 0)


def echo(task: Task) -> Batch:
    return Batch({"keys": task.rows["key"].to_pylist(), "x": torch.full((3,), task.place.number)}, place=task.place)


def large(task: Task) -> Batch:
    assert len(task.rows["payload"][0].as_py()) == 5 * 2**20
    return Batch({"keys": ["k"], "x": torch.full((17 * 2**20,), float(task.place.number))}, place=task.place)


def pool_of(maker: Any, workers: int = 2, prefetch: int = 2, **settings: Any) -> Pool:
    return Pool(
        maker, workers=workers, prefetch=prefetch, **({"timeout_s": 300, "retries": 2, "context": "fork"} | settings)
    )


def numbers(made: Iterator[Batch | Failure]) -> list[int]:
    return [batch.place.number for batch in made if isinstance(batch, Batch) and batch.place is not None]


def test_descriptors_do_not_leak_over_batches_runs_and_deaths() -> None:
    pool = pool_of(echo)
    assert numbers(pool.run(tasks(10))) == list(range(10))
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        assert numbers(pool.run(tasks(150))) == list(range(150))
        os.kill(pool.pids[0], signal.SIGKILL)
        assert numbers(pool.run(tasks(5))) == list(range(5))
        next(pool.run(tasks(50)))  # is abandoned
    assert numbers(pool.run(tasks(5))) == list(range(5))
    assert len(os.listdir("/proc/self/fd")) == before
    pool.close()
    pool.close()
    assert len(os.listdir("/proc/self/fd")) < before


def test_large_batches_and_large_tasks_block_nobody() -> None:
    pool = pool_of(large, workers=1, prefetch=3)
    for number, batch in enumerate(pool.run(tasks(4, size=5 * 2**20))):
        assert isinstance(batch, Batch)
        assert batch["x"].nbytes > 64 * 10**6
        assert batch["x"][0] == batch["x"][-1] == number
    pool.close()


def test_no_more_tasks_are_drawn_than_may_be_outstanding_and_their_error_waits_its_turn() -> None:
    drawn = 0

    def failing() -> Iterator[Task]:
        nonlocal drawn
        for task in tasks(9):
            drawn += 1
            yield task
        raise OSError("the index is gone")

    pool = pool_of(echo, workers=2, prefetch=2)
    made, taken = pool.run(failing()), []
    with pytest.raises(OSError, match="the index is gone"):
        for batch in made:
            taken += numbers(iter([batch]))
            assert drawn <= len(taken) + 4
    assert taken == list(range(9))
    pool.close()


def test_a_new_run_drops_the_old_one() -> None:
    pool = pool_of(echo, workers=1, prefetch=8)
    old = pool.run(tasks(50))
    next(old)
    new = pool.run(tasks(3))
    assert numbers(iter([next(new)])) == [0]
    with pytest.raises(RuntimeError, match="pool: this run is over, because another one began or the pool was closed"):
        next(old)
    assert numbers(new) == [1, 2]
    last = pool.run(tasks(3))
    next(last)
    pool.close()
    with pytest.raises(RuntimeError, match="the pool was closed"):
        next(last)


class OnlyThere:
    """Can be pickled, and cannot be made again."""

    def __reduce__(self) -> tuple[Any, ...]:
        return int, ("no number",)


def unreadable(task: Task) -> Batch:
    return Batch({"keys": ["k"], "x": OnlyThere()}, place=task.place)


def raising(task: Task) -> Batch:
    raise LookupError("nobody thought of this")


@pytest.mark.parametrize(
    ("maker", "told"), [(unreadable, "invalid literal for int"), (raising, "LookupError: nobody thought of this")]
)
def test_what_nobody_thought_of_is_a_failure_in_its_place(maker: Any, told: str) -> None:
    pool = pool_of(maker)
    made = list(pool.run(tasks(3)))
    assert [type(one) for one in made] == [Failure] * 3
    for number, one in enumerate(made):
        assert isinstance(one, Failure)
        assert isinstance(one.error, SampleError)
        assert (one.error.key, one.error.shard) == (f"k{number}", "s.tar")
        assert told in one.error.reason
    pool.close()


# -- ends ---------------------------------------------------------------------------------------------------------

SCRIPT = """
import os, sys, time
from ecopipe import Batch, Collate, DecodeImage, Map, Pipeline, TarShards

def late(sample):
    if sys.argv[2] == "busy" and late.made:
        time.sleep(1000)
    late.made += 1
    return {"image": sample["image"]}
late.made = 0

collate = Collate("image", target="label", layout="stack")
pipe = Pipeline(TarShards(sys.argv[1]), Batch(1), DecodeImage(), Map(late, into="image"), collate)
loader = pipe.loader(workers=2, multiprocessing_context="fork")
batches = iter(loader)
next(batches)
workers = loader._pool.pids
print(*workers, flush=True)
"""


def shared_memory(pid: int) -> list[str]:
    """What a process has open or mapped in /dev/shm."""
    names = [os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink()]
    names += Path(f"/proc/{pid}/maps").read_text().splitlines()
    return [name for name in names if "/dev/shm" in name]


def test_a_killed_parent_leaves_no_worker_and_nothing_in_shared_memory(shards: Path) -> None:
    arguments = [sys.executable, "-c", SCRIPT + "time.sleep(1000)", str(shards / "cifar10" / "train"), "busy"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None and parent.stderr is not None
        workers = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(workers) == 2
        assert [shared_memory(pid) for pid in (parent.pid, *workers)] == [[], [], []]
        parent.kill()
        assert all(map(ended, workers))
        assert parent.stderr.read() == ""


@pytest.mark.parametrize("state", ["idle", "busy"])
def test_a_program_ends_cleanly_and_silently_with_a_live_pool(shards: Path, state: str) -> None:
    arguments = [sys.executable, "-W", "error", "-c", SCRIPT, str(shards / "cifar10" / "train"), state]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert all(ended(int(pid)) for pid in done.stdout.split())


FORKED = """
for deed in ("drop", "close", "iterate"):
    child = os.fork()
    if child == 0:
        if deed == "iterate":
            print(len(list(loader)), set(loader._pool.pids) & set(workers), flush=True)
        if deed != "drop":
            loader.close()
        del loader, batches
        sys.exit(0)
    assert os.waitpid(child, 0)[1] == 0
print(len(list(batches)), loader._pool.pids == workers)
"""


def test_a_fork_of_the_parent_leaves_the_workers_alone(shards: Path) -> None:
    arguments = [sys.executable, "-W", "error", "-c", SCRIPT + FORKED, str(shards / "cifar10" / "train"), "idle"]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[1:] == ["60 set()", "59 True"]


def test_closing_ends_a_worker_that_is_stopped(pipeline: Pipeline) -> None:
    loader = Loader(pipeline, workers=2)
    next(iter(loader))
    workers = pids(loader)
    os.kill(workers[0], signal.SIGSTOP)
    loader.close()
    assert all(map(ended, workers))

"""The checkpoint of a job: one file, written by rank 0, read by all, whole at every moment."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import ecopipe
from ecopipe.pipeline.pipeline import Pipeline
from ecopipe.run.checkpoint import Checkpoint, load_state, save_state
from ecopipe.run.loader import Loader
from ecopipe.vocabulary.errors import ConfigError, OutputError, StateError

from ..laws import Seen, seen, trace
from .test_loader import images


@pytest.fixture
def pipeline(shards: Path) -> Pipeline:
    return images(shards)


def rest_of(pipeline: Pipeline, path: Path, epochs: int = 2, **settings: Any) -> list[Seen]:
    """What a new loader delivers up to the end of the epochs, from the checkpoint on."""
    with Loader(pipeline, **settings) as loader:
        assert Checkpoint(path, loader).load() is not None
        rest = [seen(batch) for batch in loader]
        while loader.epoch < epochs:
            rest += [seen(batch) for batch in loader]
    return rest


def test_a_job_goes_on_after_each_of_its_steps(pipeline: Pipeline, tmp_path: Path) -> None:
    expected, path = trace(pipeline, epochs=2), tmp_path / "runs" / "loader.json"
    with Loader(pipeline) as loader:
        checkpoint = ecopipe.Checkpoint(path, loader)
        assert checkpoint.load() is None
        taken = 0
        while loader.epoch < 2:
            for _ in loader:
                taken += 1
                checkpoint.save(step=taken)
                assert rest_of(pipeline, path) == expected[taken:]
                with Loader(pipeline) as other:
                    assert Checkpoint(str(path), other).load() == {"step": taken}
    assert taken == len(expected)
    assert os.listdir(path.parent) == ["loader.json"]


@pytest.mark.parametrize("workers", [0, 2])
def test_what_was_made_ahead_is_not_in_the_file(pipeline: Pipeline, tmp_path: Path, workers: int) -> None:
    path = tmp_path / "loader.json"
    with Loader(pipeline, workers=workers, prefetch=4) as loader:
        batches = iter(loader)
        for _ in range(3):
            next(batches)
        Checkpoint(path, loader).save()
        next(batches)
    assert rest_of(pipeline, path, epochs=1, workers=2 - workers) == trace(pipeline)[3:]


def test_rank_0_writes_and_any_number_of_ranks_read(pipeline: Pipeline, tmp_path: Path) -> None:
    path = tmp_path / "loader.json"
    for rank in (1, 0):
        with Loader(pipeline, rank=rank, world_size=2) as loader:
            for _ in itertools.islice(loader, 2):
                pass
            Checkpoint(path, loader).save(rank=rank)
            assert path.exists() == (rank == 0)
    for world_size in (1, 2, 3):
        ranks = [rest_of(pipeline, path, 1, rank=rank, world_size=world_size) for rank in range(world_size)]
        interleaved = [batch for step in zip(*ranks, strict=True) for batch in step]
        assert [batch for batch in interleaved if not batch.repeat] == trace(pipeline)[4:]


def test_the_state_is_the_same_on_all_ranks(shards: Path) -> None:
    pipeline = images(shards, seed_block=7)
    states = []
    for rank in range(3):
        with Loader(pipeline, rank=rank, world_size=3) as loader:
            states.append([json.dumps(loader.state_dict()) for _ in range(2) for _ in loader])
    assert states[0] == states[1] == states[2]


def test_the_extra_comes_back_as_json_holds_it(pipeline: Pipeline, tmp_path: Path) -> None:
    path = tmp_path / "loader.json"
    extra = {"step": 7, "best": float("inf"), "names": ("a", "b"), "by_epoch": {1: "ü", "1": "u"}, "none": None}
    with Loader(pipeline) as loader:
        Checkpoint(path, loader).save(**extra)
        assert Checkpoint(path, loader).load() == json.loads(json.dumps(extra))
        Checkpoint(path, loader).save()
        assert Checkpoint(path, loader).load() == {}


@pytest.mark.parametrize("rank", [0, 1])
def test_an_extra_that_is_not_json_is_named_on_every_rank(pipeline: Pipeline, tmp_path: Path, rank: int) -> None:
    with Loader(pipeline, rank=rank, world_size=2) as loader:
        checkpoint = Checkpoint(tmp_path / "loader.json", loader)
        circle: list[object] = []
        circle.append(circle)
        for value, kind in ((torch.ones(1), "Tensor"), ({"a": {1, 2}}, "dict"), (circle, "list"), (b"x", "bytes")):
            with pytest.raises(
                ConfigError, match=rf"checkpoint: extra 'loss' \({kind}\) cannot be written as JSON: .+"
            ):
                checkpoint.save(step=1, loss=value)
    assert os.listdir(tmp_path) == []


def test_a_file_that_is_damaged_anywhere_is_refused(pipeline: Pipeline, tmp_path: Path) -> None:
    path = tmp_path / "loader.json"
    with Loader(pipeline) as loader:
        next(iter(loader))
        checkpoint = Checkpoint(path, loader)
        checkpoint.save(step=1)
        whole = path.read_bytes()
        before = loader.state_dict()
        for length in (*range(0, len(whole) - 2, 7), len(whole) - 2):
            path.write_bytes(whole[:length])
            with pytest.raises(StateError, match=r"loader\.json: is .*[Rr]e(store|move)"):
                checkpoint.load()
        for at in range(0, len(whole) - 1, 7):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
            with pytest.raises(StateError, match=r"loader\.json: (is|has version|holds)"):
                checkpoint.load()
        assert loader.state_dict() == before


def test_what_is_no_checkpoint_is_refused_with_a_remedy(pipeline: Pipeline, tmp_path: Path) -> None:
    path = tmp_path / "loader.json"
    with Loader(pipeline) as loader:
        checkpoint = Checkpoint(path, loader)
        path.write_text('{"step": 3}')
        with pytest.raises(StateError, match="no checkpoint of ecopipe: it begins with b'{\"step\": 3}'. Give another"):
            checkpoint.load()
        with pytest.raises(OutputError, match=r"loader\.json: is no checkpoint of ecopipe .* is not replaced. Choose"):
            checkpoint.save()
        assert path.read_text() == '{"step": 3}'
        path.write_text("")
        with pytest.raises(StateError, match="is no checkpoint of ecopipe: it is empty"):
            checkpoint.load()
        checkpoint.save()  # over an empty file, as tempfile makes one
        text = path.read_text()
        path.write_text(text.replace('"version": 1', '"version": 99', 1))
        with pytest.raises(StateError, match="has version 99; this ecopipe reads 1"):
            checkpoint.load()
        save_state(path, {"mine": 1})
        assert load_state(path) == {"mine": 1}
        with pytest.raises(StateError, match="holds no loader's state. Give the file that Checkpoint.save wrote"):
            checkpoint.load()
        path.unlink()
        path.mkdir()
        with pytest.raises(StateError, match=r"loader\.json: cannot be read: Is a directory"):
            checkpoint.load()
        with pytest.raises(ConfigError, match="checkpoint: s3://bucket/x is a URL"):
            Checkpoint("s3://bucket/x", loader)


def test_a_state_of_another_pipeline_is_refused_with_the_file_named(
    pipeline: Pipeline, shards: Path, tmp_path: Path
) -> None:
    path = tmp_path / "loader.json"
    with Loader(pipeline) as loader:
        Checkpoint(path, loader).save()
    with (
        Loader(images(shards, size=4)) as loader,
        pytest.raises(StateError, match=r"loader\.json: state: belongs to another pipeline: .*size was 8 and is 4"),
    ):
        Checkpoint(path, loader).load()


KILLED = r"""
import itertools, json, os, random, signal, sys, time
from pathlib import Path
from ecopipe.run.checkpoint import load_state, save_state

path = Path(sys.argv[1])
filler = "x" * 200_000

def whole(number):
    found = load_state(path)
    assert found is not None and found["filler"] == filler and found["number"] in number, found and found["number"]
    return found["number"]

def forked(work):
    child = os.fork()
    if not child:
        try:
            work()
        finally:
            os._exit(0)
    return child

def save_and_die(number, lines):
    left = lines
    def count(frame, event, argument):
        nonlocal left
        if event == "line" and frame.f_globals["__name__"].startswith("ecopipe."):
            left -= 1
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)
        return count
    sys.settrace(count)
    save_state(path, {"number": number, "filler": filler})

save_state(path, {"number": 0, "filler": filler})
last, killed, leftovers = 0, 0, 0
for lines in itertools.count(1):  # killed before each of our lines that a save runs
    assert lines < 1000
    status = os.waitpid(forked(lambda: save_and_die(lines, lines)), 0)[1]
    leftovers += len(os.listdir(path.parent)) > 1
    last = whole((last, lines))
    if not os.WIFSIGNALED(status):
        break
    killed += 1
assert last == lines and killed > 30 and leftovers > 5, (last, lines, killed, leftovers)
assert os.listdir(path.parent) == [path.name]

def save_for_ever():
    for number in itertools.count(last + 1):
        save_state(path, {"number": number, "filler": filler})

random.seed(0)
for _ in range(15):  # and at random moments, while it is being read
    child = forked(save_for_ever)
    until = time.monotonic() + random.uniform(0.0, 0.15)
    while time.monotonic() < until:
        last = whole(range(last, last + 10**6))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    last = whole(range(last, last + 10**6))
assert last > lines + 5, (last, lines)
save_state(path, {"number": -1, "filler": filler})
assert os.listdir(path.parent) == [path.name], os.listdir(path.parent)
print("killed", killed)
"""


def test_a_save_that_is_killed_at_any_moment_leaves_a_whole_file(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", "-c", KILLED, str(tmp_path / "only" / "loader.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("killed")

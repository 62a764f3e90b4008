"""``ecopipe audit`` as a user runs it, on the ledgers of commands, and of trainings that were killed."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import signal
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch

import ecopipe
from ecopipe.run.ledger import read_ledger
from tests.insight.trainings import Training, images

from ..conftest import ROOT
from .test_cli import call, fails


@pytest.fixture
def streamed(shards: Path, tmp_path: Path) -> tuple[Path, Path]:
    """The shards of 60 images, and the ledger of two ranks that streamed them for two epochs by command."""
    source, ledger = shards / "cifar10" / "train", tmp_path / "runs" / "ledger"
    for rank in range(2):
        call(
            "stream", ROOT / "pipelines" / "cifar10.toml", "--set", f"source.path={source}", "--set", "Batch.size=4",
            "--ledger", ledger, "--rank", str(rank), "--world-size", "2", "--epochs", "2",
        )  # fmt: skip
    return source, ledger


def test_a_clean_ledger_is_one_line_and_a_table(streamed: tuple[Path, Path]) -> None:
    source, ledger = streamed
    shown, _ = call("audit", ledger, "--index", source, "--epochs", "2")
    lines = shown.strip().splitlines()
    assert lines[-1] == "every sample exactly as often as the pipeline says: 2 epochs, 120 samples, 0 restarts"
    for heading in ("batches", "samples", "as planned", "repeats", "attempt begun", "ranks"):
        assert heading in shown
    for heading in ("skipped", "substituted", "rolled back"):  # there was none
        assert heading not in shown
    assert [line.split() for line in lines if line.strip().startswith(("0 ", "1 "))] == [
        ["0", "15", "60", "60", "1"],
        ["1", "15", "60", "60", "1"],
    ]


def test_an_unfinished_epoch_is_said_and_a_problem_where_more_was_asked_for(streamed: tuple[Path, Path]) -> None:
    source, ledger = streamed
    more = ["--set", f"source.path={source}", "--set", "Batch.size=4", "--ledger", ledger]
    call("stream", ROOT / "pipelines" / "cifar10.toml", *more, "--epoch", "2", "--limit-batches", "7")
    shown, _ = call("audit", ledger, "--index", source)
    assert "epoch 2: 7 batches so far\n" in shown
    assert shown.endswith("says: 3 epochs, 148 samples, 1 restart\n")
    shown, _ = call("audit", ledger, "--index", source, "--epochs", "3", code=1)
    assert shown.endswith("  epoch 2: not finished: 7 batches so far\n1 problem\n")


def test_problems_are_listed_and_the_rest_is_counted(streamed: tuple[Path, Path], shards: Path) -> None:
    source, ledger = streamed
    training = Training(images(shards), ledger)
    training.edit(lambda messages: [rows.pop() for rows in messages[1:6]] and None)
    training.edit(lambda messages: messages[:3] + messages[4:], rank=1)
    shown, _ = call("audit", ledger, "--index", source, "--most", "2", code=1)
    assert shown.endswith("  ... and 4 more\n6 problems\n")
    assert shown.count("epoch 0, step ") == 2
    out, _ = call("audit", *sorted(ledger.iterdir()), "--index", source, "--json", code=1)
    figures = json.loads(out)
    assert figures["problem_count"] == len(figures["problems"]) == 6
    assert sorted({problem["kind"] for problem in figures["problems"]}) == ["lost", "missing"]


def test_bad_samples_and_torn_files_are_told(streamed: tuple[Path, Path], shards: Path) -> None:
    source, ledger = streamed
    training = Training(images(shards), ledger)
    training.edit(lambda messages: messages[3][1].update(skipped=True))
    training.edit(lambda messages: messages[3][2].update(substitute="other"), rank=1)
    path = training.files()[0]
    path.write_bytes(path.read_bytes() + b"\xff\xff\xff\xff\0")
    shown, _ = call("audit", ledger, "--index", source)
    assert "skipped" in shown and "substituted" in shown and "rolled back" not in shown
    assert f"note: {path} ends within a batch, as a killed process leaves it; that batch was not handed out" in shown
    assert shown.endswith("says: 2 epochs, 120 samples (1 skipped, 1 substituted), 0 restarts\n")


def test_misuse_is_one_clear_error(streamed: tuple[Path, Path], shards: Path, tmp_path: Path) -> None:
    source, ledger = streamed
    fails("audit", tmp_path / "nope", "--index", source, message="nope: there is no such file or folder. Name the")
    fails("audit", tmp_path, "--index", source, message=r"the folder holds no ledger \(rank\*")
    fails("audit", ledger, "--index", shards / "cifar10" / "test", message="is not what was streamed: its fingerprint")
    fails("audit", ledger, "--index", tmp_path / "nope", message="nope")
    assert "Missing option '--index'" in call("audit", ledger, code=2)[1]
    (tmp_path / "notes.txt").write_text("mine")
    more = ["--set", f"source.path={source}", "--ledger", tmp_path / "notes.txt"]
    fails("stream", ROOT / "pipelines" / "cifar10.toml", *more, message="a file stands where a folder is needed")
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_mixture_is_shown_by_source(shards: Path, tmp_path: Path) -> None:
    names = ("train", "test")
    parts = tuple(ecopipe.TarShards(str(shards / "cifar10" / name), name=name) for name in names)
    mix = ecopipe.Mix(parts, weights=(3, 1), stop="all")
    (tmp_path / "mix.toml").write_text(ecopipe.dumps(ecopipe.Pipeline(mix, *images(shards).stages)))
    call("stream", tmp_path / "mix.toml", "--ledger", tmp_path / "l")
    where = [word for name in names for word in ("--index", f"{name}={shards / 'cifar10' / name}")]
    shown, _ = call("audit", tmp_path / "l", *where, "--epochs", "1")
    heading = next(line for line in shown.splitlines() if "as planned" in line)
    assert heading.split()[-2:] == ["test", "train"]
    assert ["0", "18", "72", "72", "12", "60"] in [line.split() for line in shown.splitlines()]
    assert shown.endswith("1 epoch, 72 samples, 0 restarts\n")


FORK = multiprocessing.get_context("fork")


def take(shards: Path, ledger: Path, rank: int, told: Connection) -> None:
    """One rank of two, in a process of its own, without an end: its state after each step, as JSON."""
    torch.set_num_threads(1)  # OpenMP's threads of the parent are not here
    with images(shards).loader(rank=rank, world_size=2, ledger=ledger, workers=0) as loader:
        for _ in range(10**6):
            for _batch in loader:
                told.send(json.dumps(loader.state_dict()))


@pytest.mark.parametrize("steps", [3, pytest.param(300, marks=pytest.mark.long)])
def test_killed_ranks_resumed_by_another_number_of_them(shards: Path, tmp_path: Path, steps: int) -> None:
    ledger = tmp_path / "ledger"
    ranks, told = [], []
    for number in range(2):
        ours, theirs = FORK.Pipe(duplex=False)
        ranks.append(FORK.Process(target=take, args=(shards, ledger, number, theirs)))
        ranks[-1].start()
        theirs.close()
        told.append(ours)
    states = [[ours.recv() for _ in range(steps)] for ours in told]
    for rank in ranks:
        rank.kill()
    for taken, rank, ours in zip(states, ranks, told, strict=True):
        with ours, contextlib.suppress(EOFError):  # until it was killed
            while True:
                taken.append(ours.recv())
        rank.join(60)
        assert rank.exitcode == -signal.SIGKILL
    last = min(map(len, states))  # steps that both ranks have made, and that a checkpoint could be of
    state = states[0][last - 1]
    assert state == states[1][last - 1]
    before = read_ledger(ledger).num_rows
    Training(images(shards), ledger).run(3, state=state)
    assert read_ledger(ledger).num_rows > before
    epoch = json.loads(state)["epoch"]
    shown, _ = call("audit", ledger, "--index", shards / "cifar10" / "train", "--epochs", str(epoch + 1))
    assert shown.strip().splitlines()[-1].startswith("every sample exactly as often as the pipeline says: ")
    assert shown.strip().endswith("1 restart")

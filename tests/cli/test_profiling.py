"""``ecopipe profile`` and ``ecopipe tune``, as commands."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from ecopipe.cli import profiling
from ecopipe.insight.profile_words import HELPS
from ecopipe.pipeline.toml import load
from ecopipe.vocabulary.errors import EcopipeError

from ..conftest import ROOT


def ecopipe(*arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ecopipe", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == code, done.stderr
    return done


@pytest.fixture
def cifar10(shards: Path) -> tuple[object, ...]:
    return (ROOT / "pipelines" / "cifar10.toml", "--set", f"source.path={shards / 'cifar10' / 'train'}", "--set",
            "Batch.size=4")  # fmt: skip


def test_profile_answers_in_words_first_and_then_in_a_table(cifar10: tuple[object, ...], tmp_path: Path) -> None:
    done = ecopipe("profile", *cifar10, "--seconds", 1, "--consumer", 20, "--trace", tmp_path / "trace.json")
    first, second, *_ = done.stdout.splitlines()
    assert first.startswith("The consumer limits: ") and "samples/s with no workers, of " in first
    assert "of the consumer's time is waiting for data." in second
    for word in ("DecodeImage", "Collate", "Normalize", "read", "plan", "warm:", "cold:", "a batch:", "p95"):
        assert word in done.stdout
    assert json.loads((tmp_path / "trace.json").read_text())["traceEvents"]


def test_profile_as_json(cifar10: tuple[object, ...]) -> None:
    found = json.loads(ecopipe("profile", *cifar10, "--seconds", 1, "--workers", 1, "--json").stdout)
    assert (found["format"], found["settings"]["workers"]) == (1, 1)
    assert found["cold"]["batches"] > 0 and found["cold"]["files_dropped"] > 0
    (row,) = found["codecs"]
    assert row["to"] == "raw arrays"
    told = any(sentence.startswith("Storing raw arrays instead of PNG") for sentence in found["words"])
    assert told == (row["samples_per_s"] > found["run"]["samples_per_s"] * HELPS)


def test_what_was_found_is_told_before_a_file_is_written(cifar10: tuple[object, ...], tmp_path: Path) -> None:
    out = tmp_path / "trace.json"
    command = [sys.executable, "-m", "ecopipe", "profile", *map(str, cifar10), "--seconds", "1", "--trace", str(out)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=180, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)),  # as if the disk were full
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == f"ecopipe: {out}: cannot be written: File too large.\n"
    assert " limits: " in done.stdout and "DecodeImage" in done.stdout and "warm:" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_written_where_nobody_reads_what_is_told(cifar10: tuple[object, ...], tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "ecopipe", "profile", *map(str, cifar10), "--seconds", "1", "--trace", "t.json"]
    with open(writing) as closed:
        done = subprocess.run(
            command, stdout=closed, stderr=subprocess.PIPE, text=True, timeout=180, check=False, cwd=tmp_path
        )
    assert (done.returncode, done.stderr) == (1, "")
    assert json.loads((tmp_path / "t.json").read_text())["traceEvents"]


def test_tune_tells_what_it_found_before_it_writes(cifar10: tuple[object, ...], tmp_path: Path) -> None:
    """Both to one terminal, so that the order shows."""
    ours, theirs = os.openpty()
    terminal = os.ttyname(theirs)
    command = [sys.executable, "-m", "ecopipe", "tune", *map(str, cifar10), "--seconds", "1", "-o", terminal]
    with subprocess.Popen(command, stdout=theirs, stderr=subprocess.PIPE) as child:
        os.close(theirs)
        shown = b""
        while more := _read(ours):
            shown += more
    os.close(ours)
    assert child.returncode == 0
    text = shown.decode()
    order = [text.index(what) for what in ("samples/s", "predicted", "# CIFAR-10", "[loader]", "Written to")]
    assert order == sorted(order)


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 1 << 16)
    except OSError:  # so ends a terminal that nobody writes to any more
        return b""


def test_tune_writes_a_file_of_the_same_identity(cifar10: tuple[object, ...], tmp_path: Path) -> None:
    out = tmp_path / "tuned.toml"
    found = json.loads(ecopipe("tune", *cifar10, "--seconds", 2, "-o", out, "--json").stdout)
    tuned, before = load(out), load(cifar10[0])  # type: ignore[arg-type]
    assert tuned.identity == before.identity
    assert (tuned.tuning.workers, tuned.tuning.prefetch) == (found["best"]["workers"], found["best"]["prefetch"])
    assert "# CIFAR-10" in out.read_text()
    assert isinstance(found["noisy"], bool)
    for trial in found["trials"]:
        assert len(trial["turns_per_s"]) == 2
        assert min(trial["turns_per_s"]) <= trial["samples_per_s"] <= max(trial["turns_per_s"])
    streamed = json.loads(ecopipe("stream", out, *cifar10[1:], "--limit-batches", 2, "--json").stdout)
    assert streamed["workers"] == tuned.tuning.workers
    streamed = json.loads(ecopipe("stream", out, *cifar10[1:], "--workers", 1, "--limit-batches", 2, "--json").stdout)
    assert streamed["workers"] == 1


def test_a_limit_that_is_no_size_is_refused(cifar10: tuple[object, ...]) -> None:
    assert "--memory" in ecopipe("tune", *cifar10, "--memory", "much", code=2).stderr


def test_a_report_is_written_and_named(cifar10: tuple[object, ...], tmp_path: Path) -> None:
    pytest.importorskip("vl_convert", reason="vl-convert-python is not installed: pip install 'ecopipe[report]'")
    out = tmp_path / "report.html"
    done = ecopipe("profile", *cifar10, "--seconds", 1, "--html", out)
    page = unescape(out.read_text(encoding="utf-8"))
    assert done.stdout.splitlines()[-1] == f"wrote {out}"
    assert done.stdout.splitlines()[0] in page and "after DecodeImage" in page and 'id="cold"' in page
    assert list(tmp_path.iterdir()) == [out]


def refused(tmp_path: Path, **places: object) -> str:
    """What is said of places, of a pipeline whose shards are not there either: nothing has been looked at before."""
    file = ROOT / "pipelines" / "cifar10.toml"
    settings: dict[str, Any] = {
        "workers": 0,
        "threads": None,
        "prefetch": None,
        "seconds": 1.0,
        "consumer_ms": 0.0,
        "device": "cpu",
    }
    settings |= {"trace": None, "html": None, "as_json": False} | places
    with pytest.raises(EcopipeError) as caught:
        profiling.profile(file, [f"source.path={tmp_path / 'nowhere'}"], **settings)
    return str(caught.value)


@pytest.mark.parametrize("name", ["html", "trace"])
def test_a_place_that_cannot_be_written_is_refused_before_anything_runs(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    missing = tmp_path / "missing" / "out"
    assert refused(tmp_path, **{name: missing}) == (
        f"{missing}: there is no folder {missing.parent}. Make it, or choose another place with --{name}."
    )
    assert "there is no folder" in refused(tmp_path, **{name: tmp_path / "file" / "out"})
    assert refused(tmp_path, **{name: tmp_path}) == f"{tmp_path}: is a folder. Name a file for --{name}."
    assert refused(tmp_path, **{name: Path("-")}) == (
        f"--{name} -: standard output is where the answer goes. Name a file for --{name}."
    )
    os.mkfifo(tmp_path / "fifo")
    assert refused(tmp_path, **{name: tmp_path / "fifo"}) == f"{tmp_path / 'fifo'}: is a pipe. Name a file."
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fifo", "file"]


def test_one_file_for_two_things_is_refused_before_anything_runs(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("out")
    for html in ("out", "link", f"../{tmp_path.name}/out"):
        told = refused(tmp_path, trace=tmp_path / "out", html=tmp_path / html)
        assert told == f"{tmp_path / html}: cannot be both --html and --trace. Name two files."


def test_a_step_that_is_longer_than_what_is_measured_is_refused_before_anything_runs(tmp_path: Path) -> None:
    assert refused(tmp_path, consumer_ms=100_000.0) == (
        "--consumer: a step of 100 s is longer than the 1 s that are measured. Give it --seconds 100, or a shorter "
        "step."
    )
    assert refused_to_tune(tmp_path, consumer_ms=500.0) == (
        "--consumer: a step of 0.5 s is longer than the 0.0714 s that are measured. Give it --seconds 7, or a shorter "
        "step."
    )


def refused_to_tune(tmp_path: Path, file: Path = ROOT / "pipelines" / "cifar10.toml", **given: object) -> str:
    settings: dict[str, Any] = {"memory": None, "seconds": 1.0, "consumer_ms": 0.0, "device": "cpu", "out": None}
    with pytest.raises(EcopipeError) as caught:
        profiling.tuned(file, [f"source.path={tmp_path / 'nowhere'}"], **settings | given, as_json=False)
    return str(caught.value)


def test_a_place_that_cannot_be_tuned_to_is_refused_before_anything_runs(tmp_path: Path) -> None:
    assert refused_to_tune(tmp_path, out=tmp_path) == f"{tmp_path}: is a folder. Name a file for --out."
    missing = tmp_path / "missing" / "t.toml"
    assert refused_to_tune(tmp_path, out=missing) == (
        f"{missing}: there is no folder {missing.parent}. Make it, or choose another place with --out."
    )
    text = (ROOT / "pipelines" / "cifar10.toml").read_text(encoding="utf-8")
    inline = tmp_path / "inline.toml"
    inline.write_text("loader = {workers = 2}\n" + text, encoding="utf-8")
    assert "where they cannot be replaced" in refused_to_tune(tmp_path, inline, out=tmp_path / "t.toml")
    assert list(tmp_path.iterdir()) == [inline]


def test_a_report_without_its_packages_is_refused_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "vl_convert", None)  # as if it were not installed
    assert refused(tmp_path, html=tmp_path / "out.html") == (
        "an HTML report needs vl-convert-python. Install what reports need: pip install 'ecopipe[report]'"
    )
    assert list(tmp_path.iterdir()) == []

"""``ecopipe profile`` and ``ecopipe tune``, as commands."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ecopipe.cli import profiling
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
    assert [row["to"] for row in found["codecs"]] == ["raw arrays"]
    assert any(sentence.startswith("Storing raw arrays instead of PNG") for sentence in found["words"])


def test_tune_writes_a_file_of_the_same_identity(cifar10: tuple[object, ...], tmp_path: Path) -> None:
    out = tmp_path / "tuned.toml"
    found = json.loads(ecopipe("tune", *cifar10, "--seconds", 2, "-o", out, "--json").stdout)
    tuned, before = load(out), load(cifar10[0])  # type: ignore[arg-type]
    assert tuned.identity == before.identity
    assert (tuned.tuning.workers, tuned.tuning.prefetch) == (found["best"]["workers"], found["best"]["prefetch"])
    assert "# CIFAR-10" in out.read_text()
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
    page = out.read_text(encoding="utf-8")
    assert done.stdout.splitlines()[-1] == f"wrote {out}"
    assert done.stdout.splitlines()[0] in page and "after DecodeImage" in page and 'id="cold"' in page
    assert "raw arrays instead of PNG" in page
    assert list(tmp_path.iterdir()) == [out]


def refused(tmp_path: Path, **places: Path) -> str:
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
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_report_without_its_packages_is_refused_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "vl_convert", None)  # as if it were not installed
    assert refused(tmp_path, html=tmp_path / "out.html") == (
        "an HTML report needs vl-convert-python. Install what reports need: pip install 'ecopipe[report]'"
    )
    assert list(tmp_path.iterdir()) == []

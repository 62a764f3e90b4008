"""The trainings of examples/, each on small data, on the CPU: they end, and their loss falls."""

from __future__ import annotations

import os
import re
import runpy
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ecopipe.datasets.corpus import open_corpus
from ecopipe.sharding.write import write_corpus

from ..conftest import ROOT


def run(name: str, *arguments: object, ranks: int = 0) -> str:
    """What an example prints."""
    start = [sys.executable]
    if ranks:
        start += ["-m", "torch.distributed.run", "--nproc-per-node", str(ranks), "--rdzv-backend", "c10d"]
        start += ["--rdzv-endpoint", "127.0.0.1:0", "--local-addr", "127.0.0.1"]
    done = subprocess.run(
        [*start, str(ROOT / "examples" / f"{name}.py"), *map(str, arguments)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def losses(printed: str) -> list[float]:
    return [float(found) for found in re.findall(r"loss (\d+\.\d+)", printed)]


def falls(printed: str) -> bool:
    found = losses(printed)
    third = len(found) // 3
    assert third >= 1, printed
    return sum(found[-third:]) < 0.9 * sum(found[:third])


@pytest.mark.long
def test_speech_on_two_ranks_and_resumed_on_one(shards: Path, tmp_path: Path) -> None:
    split, out = shards / "librispeech" / "train-clean-100", tmp_path / "run"
    settings = (split, "--out", out, "--batch-s", 12, "--save-every", 2, "--epochs", 5)
    first = run("speech_ctc", *settings, "--steps", 5, "--workers", 1, ranks=2)
    assert {"rank 0", "rank 1"} <= set(re.findall(r"rank \d", first))
    second = run("speech_ctc", *settings, "--workers", 0)
    assert "resumed in epoch" in second
    assert falls(first + second)
    audit = [str(Path(sys.executable).parent / "ecopipe"), "audit", str(out / "ledger"), "--index", str(split)]
    told = subprocess.run([*audit, "--epochs", "5"], capture_output=True, text=True, check=False, timeout=100)
    assert told.returncode == 0, told.stdout + told.stderr
    assert "every sample exactly as often as the pipeline says: 5 epochs" in told.stdout


@pytest.mark.long
def test_wav2vec2(shards: Path) -> None:
    split = shards / "librispeech" / "train-clean-100"
    assert falls(run("wav2vec2", split, "--size", "tiny", "--batch-s", 6, "--steps", 9, "--workers", 0))


def write_digits(folder: Path, count: int) -> None:
    """Digits that are easy to tell apart, in MNIST's files: a bright row for each."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for split in ("train", "t10k"):
        labels = rng.integers(0, 10, count).astype(np.uint8)
        images = rng.integers(0, 60, (count, 28, 28)).astype(np.uint8)
        images[np.arange(count), 2 * labels + 4] = 255
        (folder / f"{split}-images-idx3-ubyte").write_bytes(struct.pack(">4i", 0x803, count, 28, 28) + images.tobytes())
        (folder / f"{split}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 0x801, count) + labels.tobytes())


@pytest.mark.long
def test_mnist(tmp_path: Path) -> None:
    write_digits(tmp_path / "raw", 1500)
    with open_corpus("mnist", tmp_path / "raw") as corpus:
        write_corpus(corpus, tmp_path / "shards")
    printed = run("mnist", tmp_path / "shards", "--epochs", 2, "--workers", 1)
    assert falls(printed)
    assert float(printed.split()[-1]) > 0.9


@pytest.mark.long
def test_cifar(shards: Path) -> None:
    assert falls(run("cifar_resnet", shards / "cifar10", "--epochs", 8, "--batch", 20, "--workers", 1, "--size", 64))


@pytest.mark.long
def test_imdb(shards: Path, tmp_path: Path) -> None:
    vocabulary = tmp_path / "vocab.json"
    printed = run("imdb_embedding_bag", shards / "imdb", "--vocab", vocabulary, "--epochs", 40, "--workers", 1)
    assert vocabulary.exists()
    assert falls(printed)


def test_every_example_is_tried() -> None:
    tried = Path(__file__).read_text(encoding="utf-8")
    for path in (ROOT / "examples").glob("*.py"):
        assert f'run("{path.stem}"' in tried, path.name


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.stem)
def test_it_tells_how_it_is_run(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [str(path), "--help"])
    monkeypatch.syspath_prepend(path.parent)  # as python does with a script's folder
    with pytest.raises(SystemExit) as left:
        runpy.run_path(str(path), run_name="__main__")
    assert left.value.code == 0
    assert f"python examples/{path.name} " in capsys.readouterr().out

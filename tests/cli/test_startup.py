"""Help, wrong options and wrong pipeline files are answered before anything heavy is imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {"numpy", "pyarrow", "torch", "fsspec"}


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--help"], 0, "Shard corpora into WebDataset tars"),
        (["shard", "--help"], 0, "Write a raw corpus as WebDataset tars"),
        (["stream", "--help"], 0, "Stream a pipeline and say what came"),
        (["strem"], 2, "No such command 'strem'. Did you mean 'stream'?"),
        (["stream", "bad.toml", "--wokers", "2"], 2, "No such option: --wokers"),
        (["stream", "nowhere.toml"], 2, "ecopipe: nowhere.toml: there is no such file. Name a pipeline file"),
        (["stream", "bad.toml"], 2, "ecopipe: bad.toml: is no TOML: "),
        (["stats", "."], 2, "ecopipe: .: cannot be read: Is a directory"),
        (["vocab", "nowhere.toml"], 2, "ecopipe: nowhere.toml: there is no such file"),
        (["train-tokenizer", "nowhere.toml"], 2, "ecopipe: nowhere.toml: there is no such file"),
    ],
)
def test_nothing_heavy_is_imported_for_an_answer_without_it(
    tmp_path: Path, arguments: list[str], code: int, message: str
) -> None:
    (tmp_path / "bad.toml").write_text("[source")
    command = [sys.executable, "-X", "importtime", "-m", "ecopipe", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, timeout=120)
    assert done.returncode == code, done.stderr
    lines = done.stderr.splitlines()
    imported = {line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")}
    assert "ecopipe.cli.main" in imported
    assert not HEAVY & imported
    told = done.stdout + "\n".join(line for line in lines if not line.startswith("import time:"))
    assert message in told

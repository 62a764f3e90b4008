"""Help, wrong options and wrong pipeline files are answered before anything heavy is imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

BEGINNINGS = (["-m", "ecopipe"], ["-c", "from ecopipe.cli.main import main; main()"])
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


@pytest.mark.parametrize("beginning", BEGINNINGS, ids=["module", "script"])
@pytest.mark.parametrize("module", ["typer", "torch"])
def test_ctrl_c_while_modules_are_imported_is_told_in_a_line(tmp_path: Path, beginning: list[str], module: str) -> None:
    (tmp_path / f"{module}.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    file = tmp_path / "a.toml"
    file.write_text("[source]\npath = 'nowhere'\n")
    done = subprocess.run(
        [sys.executable, *beginning, "profile", str(file)],
        capture_output=True, text=True, check=False, timeout=120, env=os.environ | {"PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "ecopipe: interrupted.\n")

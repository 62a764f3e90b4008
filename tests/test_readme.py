"""The README's commands and examples are run as they stand, by someone who has made the demo's corpora."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ecopipe.datasets import synthetic

from .conftest import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(sh|python)\n(.*?)^```", README, flags=re.M | re.S)


@pytest.mark.long
def test_every_command_and_example_works_in_turn(tmp_path: Path) -> None:
    corpora = tmp_path / "shards" / "demo" / "corpora"
    synthetic.write_librispeech(corpora / "librispeech")
    synthetic.write_imdb(corpora / "imdb")
    synthetic.write_cifar10(corpora / "cifar10")
    os.symlink(ROOT / "pipelines", tmp_path / "pipelines")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    assert [kind for kind, _ in BLOCKS].count("sh") >= 1
    assert [kind for kind, _ in BLOCKS].count("python") >= 2
    for kind, block in BLOCKS:
        command = (
            ["bash", "-euo", "pipefail", "-c", block] if kind == "sh" else [sys.executable, "-W", "error", "-c", block]
        )
        done = subprocess.run(
            command,
            cwd=tmp_path,
            env=os.environ | {"PATH": path},
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"


def test_ci_runs_the_two_commands_of_the_readme() -> None:
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    for command in ("make demo", "make test", "make test-long", "make test-torchtext", "make lint"):
        assert command in README
        assert command in ci


def test_the_files_it_names_are_there() -> None:
    for name in re.findall(r"`((?:tests|pipelines|benchmarks|ecopipe|shards)/[\w./-]*\.\w+)`", README):
        assert (ROOT / name).exists(), name

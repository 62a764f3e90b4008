"""What a stream does not import: modules that it has no use for, and in a worker any that its parent can import."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import importlib.abc, os, sys
from ecopipe import *

class Told(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        with open(sys.argv[2], "a") as file:
            print("parent" if os.getpid() == PARENT else "worker", name, file=file)

PARENT = os.getpid()
pipe = Pipeline(TarShards(sys.argv[1]), Shuffle(), STAGES)
sys.meta_path.insert(0, Told())
with pipe.loader(workers=2, multiprocessing_context="fork") as loader:
    assert sum(1 for _ in loader) > 1
"""

SPEECH = 'Where("duration_s", at_least=0.1), Bucket("duration_s", max_padded=60.0), DecodeAudio(), Collate("audio")'
TEXT = 'Bucket("chars", max_count=4), TokenizeBasicEnglish(), Collate("tokens")'
IMAGES = 'Batch(4), DecodeImage(), Collate("image")'
DECODER = {"pyspng", "pyspng.lib", "pyspng._pyspng_c", "PIL", "PIL.Image"}


@pytest.mark.parametrize(
    ("where", "stages", "allowed"),
    [("librispeech/train-clean-100", SPEECH, set()), ("imdb/train", TEXT, set()), ("cifar10/train", IMAGES, DECODER)],
)
def test_a_stream_imports_no_pandas_and_its_workers_nothing_new(
    shards: Path, tmp_path: Path, where: str, stages: str, allowed: set[str]
) -> None:
    program, told = tmp_path / "program.py", tmp_path / "told"
    program.write_text(PROGRAM.replace("STAGES", stages))
    subprocess.run([sys.executable, str(program), str(shards / where), str(told)], check=True)
    found = [line.split() for line in told.read_text().splitlines()]
    assert {name for who, name in found if who == "parent"} <= {"multiprocessing.popen_fork"}
    assert {name for who, name in found if who == "worker"} <= allowed

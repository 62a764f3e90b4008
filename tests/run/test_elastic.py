"""Real torchrun jobs, killed at random steps and resumed on other numbers of ranks and workers.

What all ranks of all attempts were handed, put together, is the uninterrupted stream, keys and tensors bit for bit,
and the audit of their ledgers is clean. ``ECOPIPE_CHAINS=20 pytest -m long tests/run/test_elastic.py`` walks through
the whole matrix of 1 to 4 ranks and 0 to 2 workers twenty times, in another order each.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import pytest

import ecopipe
from ecopipe.datasets import synthetic
from ecopipe.datasets.corpus import open_corpus
from ecopipe.insight.audit import audit
from ecopipe.insight.digest import Digest
from ecopipe.run.checkpoint import load_state
from ecopipe.run.loader import Loader
from ecopipe.sharding.limits import Limits
from ecopipe.sharding.write import write_corpus

from .test_bad_samples import flip

CELLS = list(product((1, 2, 3, 4), (0, 1, 2)))
"""(ranks, workers)."""

EPOCHS = 3
JOB_LIMIT_S = 240

PIPELINE = """
[source]
weights = [2, 1]
stop = "all"
lanes = 2
block_rows = 12

[[source.sources]]
name = "clean"
path = {clean}

[[source.sources]]
name = "other"
path = {other}

[[stages]]
stage = "Where"
measure = "duration_s"
at_least = 0.7

[[stages]]
stage = "Shuffle"

[[stages]]
stage = "Bucket"
measure = "frames"
max_count = 2
group = 2

[[stages]]
stage = "DecodeAudio"

[[stages]]
stage = "Collate"
input = "audio"

[[stages]]
stage = "LogMel"
rate_hz = 16000

[[stages]]
stage = "SpecAugment"

[bad_samples]
policy = "{policy}"
max_share = 1.0
"""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of two sources with two damaged samples each."""
    root = tmp_path_factory.mktemp("elastic")
    subsets = ("train-clean-100", "train-other-500")
    synthetic.write_librispeech(root / "raw", subsets=subsets, utterances=26, speakers=2, shortest_s=0.6, longest_s=2.0)
    with open_corpus("librispeech", root / "raw") as raw:
        write_corpus(raw, root / "shards", limits=Limits(max_count=6))
    for number, subset in enumerate(subsets):
        flip(root / "shards" / subset, 2, seed=number)
    return root / "shards"


class Training:
    """One training in a folder, attempt by attempt."""

    def __init__(self, corpus: Path, out: Path, policy: str) -> None:
        self.out = out
        self.corpus = corpus
        self.attempts: list[tuple[int, int]] = []  # (epoch, batch) at which each began
        paths = {
            "clean": json.dumps(str(corpus / "train-clean-100")),
            "other": json.dumps(str(corpus / "train-other-500")),
        }
        (out / "pipeline.toml").write_text(PIPELINE.format(policy=policy, **paths))

    def uninterrupted(self) -> list[list[Any]]:
        """Every batch of all epochs: epoch, number, keys, digest."""
        found = []
        with Loader(ecopipe.load(self.out / "pipeline.toml"), seed=3) as loader:
            for _ in range(EPOCHS):
                for batch in loader:
                    digest = Digest()
                    digest.add(batch)
                    assert batch.place is not None
                    found.append([batch.place.epoch, batch.place.number, batch["keys"], digest.hexdigest()])
        return found

    def attempt(self, ranks: int, workers: int, **faults: Any) -> bool:
        """Starts the job on so many ranks; says whether it came to its end."""
        saved = load_state(self.out / "loader.json")
        state = saved["loader"] if saved is not None else {}
        self.attempts.append((state.get("epoch", 0), state.get("batch", 0)))
        plan = {"out": str(self.out), "workers": workers, "epochs": EPOCHS, "attempt": len(self.attempts) - 1}
        plan |= {"kill_at": None, "moment": "after", "victim": 0, "save_every": 1, "kill_worker_at": None} | faults
        (self.out / "plan.json").write_text(json.dumps(plan))
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
        command += ["--run-path", "--start-method=fork"]  # torch is imported once a job and not once a rank
        job = subprocess.Popen(
            [*command, str(Path(__file__).with_name("elastic_job.py")), str(self.out / "plan.json")],
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            told, _ = job.communicate(timeout=JOB_LIMIT_S)
        except subprocess.TimeoutExpired:
            os.killpg(job.pid, signal.SIGKILL)
            told, _ = job.communicate()
            pytest.fail(f"{ranks} ranks with {workers} workers hang:\n{told}")
        ended = len(list(self.out.glob("finished-rank*"))) == ranks
        assert ended or faults.get("kill_at"), told
        assert "Error" not in told.replace("ChildFailedError", "") or not ended, told
        return ended

    def delivered(self) -> list[list[Any]]:
        """What counts of all attempts: each until the place where the next one began."""
        found: dict[tuple[int, int], list[Any]] = {}
        for number, began in enumerate(self.attempts):
            found = {place: line for place, line in found.items() if place < began}
            for log in sorted(self.out.glob(f"attempt{number:03}-rank*.jsonl")):
                for text in log.read_text().splitlines():
                    epoch, batch, _step, repeat, keys, digest = json.loads(text)
                    if not repeat:
                        assert (epoch, batch) not in found, "twice"
                        found[epoch, batch] = [epoch, batch, keys, digest]
        return [found[place] for place in sorted(found)]


def walk(corpus: Path, out: Path, cells: list[tuple[int, int]], seed: int, policy: str) -> None:
    """One training through the cells, killed in each but the last."""
    chance = random.Random(seed)
    training = Training(corpus, out, policy)
    expected = training.uninterrupted()
    for ranks, workers in cells:
        faults = {
            "kill_at": chance.randint(1, 5),
            "moment": chance.choice(["before", "after"]),
            "victim": chance.randrange(4),
            "save_every": chance.choice([1, 1, 2]),
            "kill_worker_at": chance.randint(1, 3),
        }
        if training.attempt(ranks, workers, **faults):
            break
    else:
        assert training.attempt(*cells[0])
    assert training.delivered() == expected
    keys = [key for _, _, batch, _ in expected for key in batch]
    assert len(set(keys)) > 40
    report = audit(
        [out / "ledger"],
        [f"clean={corpus / 'train-clean-100'}", f"other={corpus / 'train-other-500'}"],
        epochs=EPOCHS,
    )
    assert report.problems == []
    bad = {json.loads(line)["key"] for line in (out / "bad.jsonl").read_text().splitlines()}
    assert len(bad) == 4


def test_killed_and_resumed_on_other_ranks_and_workers_the_stream_is_the_same(corpus: Path, tmp_path: Path) -> None:
    walk(corpus, tmp_path, [(2, 1), (3, 0), (1, 2)], 0, "skip")


@pytest.mark.long
@pytest.mark.parametrize("seed", range(1, 1 + int(os.environ.get("ECOPIPE_CHAINS", "1"))))
def test_through_the_whole_matrix(corpus: Path, tmp_path: Path, seed: int) -> None:
    cells = CELLS.copy()
    random.Random(seed).shuffle(cells)
    walk(corpus, tmp_path, cells, seed, "substitute" if seed % 2 else "skip")
    shutil.rmtree(tmp_path)

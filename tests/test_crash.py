"""After SIGKILL at any moment: no half-written thing under a final name, nothing in shared memory, no process, no lock.

``ECOPIPE_KILLS=50 pytest -m long tests/test_crash.py`` kills as often as that.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import ecopipe
from ecopipe.datasets import synthetic
from ecopipe.datasets.shards import verify_folder
from ecopipe.formats.index import FILE_NAME
from tests.cli.test_cli import call

LIMIT_S = 60
MANY = int(os.environ.get("ECOPIPE_KILLS", "4"))


def start(*words: object) -> subprocess.Popen[str]:
    """The command line in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "ecopipe", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def run(*words: object) -> str:
    """The command line, to a good end, in this process, which has torch already."""
    return call(*map(str, words))[0]


def kill_when(process: subprocess.Popen[str], begun: Callable[[], bool], delay_s: float) -> None:
    """SIGKILL for the one process, so long after something has begun (or after its end)."""
    give_up = time.monotonic() + LIMIT_S
    while process.poll() is None and not begun():
        assert time.monotonic() < give_up
        time.sleep(0.002)
    time.sleep(delay_s)
    process.kill()
    process.communicate(timeout=LIMIT_S)


def group(leader: int) -> Iterator[int]:
    """Living processes of a process group."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(fields[2]) == leader and fields[0] != "Z":
                yield int(entry.name)


def in_shared_memory(leader: int) -> set[str]:
    """What the processes of a group hold open or mapped in /dev/shm: only that could be left there."""
    found = set()
    for pid in group(leader):
        with contextlib.suppress(OSError):
            names = [os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir()]
            names += Path(f"/proc/{pid}/maps").read_text().split()
            found |= {name for name in names if name.startswith("/dev/shm/")}
    return found


def leftovers(folder: Path) -> list[Path]:
    return list(folder.rglob(".ecopipe-*"))


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Reviews enough that writing them takes a while."""
    root = tmp_path_factory.mktemp("raw")
    synthetic.write_imdb(root / "imdb", reviews=600, median_words=60)
    return root / "imdb"


def kill_sharding(raw: Path, out: Path, chance: random.Random) -> None:
    """Killed, then started again: what stands is whole before, and all of it after."""
    process = start("shard", "imdb", raw, out, "--max-count", 50)
    kill_when(process, lambda: out.exists() and bool(leftovers(out)), chance.random() * 0.25)
    for split in out.glob("[a-z]*/"):
        assert sum(shard_rows(split)) == 600
        assert verify_folder(str(split)).problems == []
    run("shard", "imdb", raw, out, "--max-count", 50, "--overwrite")
    assert leftovers(out) == []
    assert sorted(path.name for path in out.iterdir()) == ["dataset.json", "test", "train"]


def shard_rows(split: Path) -> list[int]:
    opened = ecopipe.TarShards(str(split)).open()
    rows = opened.rows_per_shard
    opened.close()
    return list(rows)


def kill_indexing(tars: Path, folder: Path, chance: random.Random) -> None:
    """Killed, then started again: there is a whole index, or none."""
    shutil.copytree(tars, folder, ignore=shutil.ignore_patterns(FILE_NAME))
    process = start("index", folder)
    kill_when(process, lambda: bool(leftovers(folder)), chance.random() * 0.08)
    if (folder / FILE_NAME).exists():
        assert sum(shard_rows(folder)) == 600
    run("index", folder)
    assert leftovers(folder) == []
    assert sum(shard_rows(folder)) == 600


PIPELINE = Path(__file__).resolve().parents[1] / "pipelines" / "imdb.toml"


def kill_streaming(tars: Path, ledger: Path, chance: random.Random) -> None:
    """Killed with its workers at work: they end, and what it had handed out is in the ledger."""
    words = (PIPELINE, "--set", f"source.path={tars}", "--set", "Bucket.max_padded=2000", "--workers", 2)
    process = start("stream", *words, "--epochs", 500, "--ledger", ledger)
    enough = chance.randrange(100_000)
    held: set[str] = set()

    def begun() -> bool:
        held.update(in_shared_memory(process.pid))
        return sum(path.stat().st_size for path in ledger.glob("*")) > enough

    kill_when(process, begun, chance.random() * 0.05)
    assert held == set()
    give_up = time.monotonic() + 10
    while left := list(group(process.pid)):
        assert time.monotonic() < give_up, left
        time.sleep(0.05)
    table = ecopipe.read_ledger(ledger)
    assert table.num_rows > 0
    run("audit", ledger, "--index", tars)
    run("stream", *words, "--limit-batches", 3)


@pytest.mark.parametrize("seed", range(2))
def test_sharding_that_is_killed_leaves_whole_things(raw: Path, tmp_path: Path, seed: int) -> None:
    kill_sharding(raw, tmp_path / "out", random.Random(seed))


@pytest.fixture(scope="module")
def tars(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tars")
    run("shard", "imdb", raw, out, "--max-count", 50, "--split", "train")
    return out / "train"


def test_indexing_that_is_killed_leaves_whole_things(tars: Path, tmp_path: Path) -> None:
    kill_indexing(tars, tmp_path / "tars", random.Random(0))


def test_streaming_that_is_killed_leaves_no_process_and_no_memory(tars: Path, tmp_path: Path) -> None:
    kill_streaming(tars, tmp_path / "ledger", random.Random(0))


@pytest.mark.long
@pytest.mark.parametrize("seed", range(10, 10 + MANY))
def test_killed_again_and_again(raw: Path, tars: Path, tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    kill_sharding(raw, tmp_path / "out", chance)
    kill_indexing(tars, tmp_path / "tars", chance)
    kill_streaming(tars, tmp_path / "ledger", chance)


def test_a_disk_that_fills_under_a_ledger_is_one_clear_error(tars: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a small tmpfs takes rights that are not here")
    try:
        words = (PIPELINE, "--set", f"source.path={tars}", "--set", "Bucket.max_padded=2000", "--epochs", 100)
        process = start("stream", *words, "--ledger", disk / "ledger")
        _, complained = process.communicate(timeout=LIMIT_S)
        assert process.returncode == 2
        assert "no space left on the device. Free some, or write somewhere else." in complained
        assert "Traceback" not in complained
        assert ecopipe.read_ledger(disk / "ledger").num_rows > 0
        run("audit", disk / "ledger", "--index", tars)
    finally:
        subprocess.run(["umount", disk], check=True)


def test_shards_and_index_in_a_place_that_cannot_be_written(
    tars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a small tmpfs takes rights that are not here")
    try:
        shutil.copytree(tars, folder / "tars", ignore=shutil.ignore_patterns(FILE_NAME))
        subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
        monkeypatch.setenv("ECOPIPE_CACHE", str(tmp_path / "cache"))  # where an index goes that has no place beside
        words = (PIPELINE, "--set", f"source.path={folder / 'tars'}", "--set", "Bucket.max_padded=2000")
        first, second = (run("stream", *words, "--workers", workers, "--json") for workers in (0, 2))
        assert first.split('"digest"')[1] == second.split('"digest"')[1]
        process = start("stream", *words, "--ledger", folder / "ledger")
        _, complained = process.communicate(timeout=LIMIT_S)
        assert process.returncode == 2
        assert "cannot be written: Read-only file system. Choose a folder that you may write to." in complained
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_worker_that_was_stopped_ends_when_it_goes_on_without_its_parent(tars: Path, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    words = (PIPELINE, "--set", f"source.path={tars}", "--set", "Bucket.max_padded=2000", "--workers", 2)
    process = start("stream", *words, "--epochs", 500, "--ledger", ledger)
    give_up = time.monotonic() + LIMIT_S
    while len(workers := [pid for pid in group(process.pid) if pid != process.pid]) < 2:
        assert time.monotonic() < give_up
        time.sleep(0.05)
    os.kill(workers[0], signal.SIGSTOP)
    process.kill()
    process.wait(timeout=LIMIT_S)
    os.kill(workers[0], signal.SIGCONT)
    process.communicate(timeout=LIMIT_S)
    give_up = time.monotonic() + 10
    while list(group(process.pid)):
        assert time.monotonic() < give_up
        time.sleep(0.05)

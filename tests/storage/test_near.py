"""What is fetched whole, what is kept, and what is read by ranges, while batches are taken."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ecopipe import Batch, Collate, DecodeImage, Pipeline, TarShards
from ecopipe.formats.index import FILE_NAME
from ecopipe.insight.digest import Digest
from ecopipe.plan.blocks import Slice
from ecopipe.run import fetching
from ecopipe.storage.cache import Cache, Wanted
from ecopipe.vocabulary.errors import SampleError, ShardError
from tests.conftest import SPLITS
from tests.servers import Fault, FaultProxy


@pytest.fixture
def folder(shards: Path) -> Path:
    """Some shards of at most 13 images."""
    return shards / "cifar10" / SPLITS["cifar10"]


def in_order(path: str, **settings: Any) -> Pipeline:
    """Blocks of one shard each, one after the other."""
    return Pipeline(TarShards(path, block_rows=13), Batch(4), DecodeImage(), Collate("image"), **settings)


def taken(pipe: Pipeline, **settings: Any) -> tuple[str, dict[str, int]]:
    found = Digest()
    with pipe.loader(**settings) as loader:
        for batch in loader:
            found.add(batch)
        return found.hexdigest(), loader.cache_counters


def test_what_comes_next_does_not_evict_what_was_fetched_and_is_not_read_yet(folder: Path, tmp_path: Path) -> None:
    """With room for two shards: the one that was read goes, though it was used after the other had come."""
    sizes = [path.stat().st_size for path in folder.glob("*.tar")]
    for turn in range(5):
        _, counters = taken(in_order(folder.as_uri()), cache=tmp_path / str(turn), cache_limit=2 * max(sizes))
        assert counters["bytes_read_through"] == 0
        assert counters["bytes_fetched"] == sum(sizes)
        assert counters["evictions"] == len(sizes) - 2


def test_what_is_kept_is_not_removed_for_others(folder: Path, tmp_path: Path) -> None:
    tars = sorted(folder.glob("*.tar"))[:3]
    wanted = [Wanted(path.as_uri(), path.stat().st_size, "") for path in tars]
    cache = Cache(tmp_path / "cache", 2 * max(one.size for one in wanted))
    assert cache.fetch(wanted[0], _fine) and cache.fetch(wanted[1], _fine)
    assert cache.fetch(wanted[2], _fine, kept={wanted[0].name, wanted[1].name}) is False
    os.utime(cache.folder / wanted[0].name, (0, 0))
    assert cache.fetch(wanted[2], _fine, kept={wanted[0].name})
    left = {path.name for path in cache.folder.iterdir()}
    assert wanted[0].name in left and wanted[1].name not in left


def _fine(path: Path) -> str:
    return ""


@pytest.mark.parametrize(("workers", "threads"), [(0, 0), (2, 0), (0, 3)])
@pytest.mark.parametrize("policy", ["skip", "raise"])
def test_an_entry_that_was_damaged_heals_before_a_sample_is_called_bad(
    folder: Path, tmp_path: Path, policy: str, workers: int, threads: int
) -> None:
    """Also where some members are damaged and others are not."""
    pipe = in_order(folder.as_uri(), bad_samples=policy)
    local, _ = taken(in_order(str(folder), bad_samples=policy))
    assert taken(pipe, cache=tmp_path)[0] == local
    entries = list(tmp_path.glob("[0-9a-f]*"))
    for entry in entries:
        with open(entry, "r+b") as file:
            file.seek(entry.stat().st_size // 3)
            file.write(b"\xff" * 3000)
    with pipe.loader(cache=tmp_path, workers=workers, threads=threads) as loader:
        found = Digest()
        for batch in loader:
            assert batch.place is not None and not batch.place.faults
            found.add(batch)
        assert found.hexdigest() == local
        assert loader.cache_counters["bytes_read_through"] > 0
    assert taken(pipe, cache=tmp_path)[1]["bytes_read_through"] == 0  # they were fetched again, or are now


def test_what_is_damaged_at_its_url_is_as_bad_as_in_a_folder(folder: Path, tmp_path: Path) -> None:
    """One bad sample is one bad sample, and not the whole shard."""
    bad = tmp_path / "bad"
    shutil.copytree(folder, bad)
    opened = TarShards(str(bad)).open()
    members = opened.read([Slice(1, 5, 6)])["members"][0].as_py()
    opened.close()
    with open(sorted(bad.glob("*.tar"))[1], "r+b") as file:
        for member in members:
            file.seek(member["offset"])
            file.write(b"\xaa" * min(50, member["size"]))
    faults = []
    for path, settings in ((str(bad), {}), (bad.as_uri(), {"cache": tmp_path / "cache"})):
        with in_order(path, bad_samples="skip").loader(**settings) as loader:
            places = [batch.place for batch in loader]
        faults.append([(one.key, one.shard) for place in places if place is not None for one in place.faults])
    assert faults[0] == faults[1] and len(faults[0]) == 1
    with pytest.raises((SampleError, ShardError), match="is not what was indexed"):
        taken(in_order(bad.as_uri()), cache=tmp_path / "cache")


@pytest.mark.parametrize("workers", [0, 2])
def test_the_first_batch_does_not_wait_for_large_shards(
    served: tuple[Path, str], proxy: FaultProxy, folder: Path, tmp_path: Path, impatient: None,
    monkeypatch: pytest.MonkeyPatch, workers: int,
) -> None:  # fmt: skip
    monkeypatch.setattr(fetching, "LARGE", 0)
    monkeypatch.setenv("ECOPIPE_RETRY_ATTEMPTS", "60")
    there = served[0] / "large"
    shutil.copytree(folder, there, dirs_exist_ok=True)
    local, _ = taken(in_order(str(folder)))
    names = sorted(path.name for path in folder.glob("*.tar"))
    whole = min(path.stat().st_size for path in folder.glob("*.tar"))
    shutil.copy(folder / FILE_NAME, there / FILE_NAME)
    pipe = in_order("nowhere")
    urls = TarShards(tuple(f"{proxy.url}/large/{name}" for name in names), block_rows=13)
    pipe = Pipeline(urls, *pipe.stages)
    found = Digest()
    with pipe.loader(cache=tmp_path / "cache", workers=workers) as loader:
        proxy.always = Fault("stall", over=whole - 2000)  # of a batch less is asked for
        stream = iter(loader)
        found.add(next(stream))
        proxy.always = None
        for batch in stream:
            found.add(batch)
        size = sum(path.stat().st_size for path in folder.glob("*.tar"))
        for _ in range(200):  # they come beside the batches, whoever is faster
            if loader.cache_counters["bytes_fetched"] == size:
                break
            assert sum(1 for _ in loader) > 1
        counters = loader.cache_counters
    assert found.hexdigest() == local
    assert counters["bytes_read_through"] > 0
    assert counters["bytes_fetched"] == size


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(folder)], capture_output=True)
    if made.returncode:
        pytest.skip("file systems cannot be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_is_full_is_one_without_room(small_disk: Path, folder: Path) -> None:
    """Old entries go where the disk is smaller than the limit; others' files leave no room, and no part is left."""
    local, _ = taken(in_order(str(folder)))
    there, counters = taken(in_order(folder.as_uri()), cache=small_disk / "cache", cache_limit="1GB")
    assert there == local and counters["evictions"] > 0 < counters["bytes_fetched"]
    shutil.rmtree(small_disk / "cache")
    disk = os.statvfs(small_disk)
    (small_disk / "others").write_bytes(bytes(disk.f_bavail * disk.f_frsize - 8192))
    there, counters = taken(in_order(folder.as_uri()), cache=small_disk / "cache", cache_limit="1GB")
    assert there == local and counters["bytes_fetched"] == 0 < counters["bytes_read_through"]


def test_a_disk_that_fills_while_a_shard_is_written_keeps_no_part(folder: Path, tmp_path: Path) -> None:
    tar = sorted(folder.glob("*.tar"))[0]
    wanted = Wanted(tar.as_uri(), tar.stat().st_size, "")
    cache = Cache(tmp_path / "cache", 10**9)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handled = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
        assert cache.fetch(wanted, _fine) is False
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handled)
    assert [path.name for path in cache.folder.iterdir() if path.name != "lock"] == []
    assert cache.counters.misses == 1
    assert cache.fetch(wanted, _fine)


def test_a_file_system_without_locks_keeps_nothing_and_reads_on(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusals: list[int] = []

    def refused(*_: object) -> None:
        raise OSError(refusals[-1], os.strerror(refusals[-1]))

    local, _ = taken(in_order(str(folder)))
    monkeypatch.setattr(fcntl, "flock", refused)
    for refusal in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
        refusals.append(refusal)
        there, counters = taken(in_order(folder.as_uri()), cache=tmp_path / "cache")
        assert there == local and counters["bytes_fetched"] == 0 < counters["bytes_read_through"]
    assert [path.name for path in (tmp_path / "cache").iterdir() if path.name != "lock"] == []

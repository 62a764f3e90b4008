"""The shared cache: real processes, real kills, a real server."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from ecopipe.storage.cache import Cache, Wanted, cache_limit
from ecopipe.storage.sizes import parse_bytes
from ecopipe.vocabulary.errors import ConfigError, ShardError, StorageError
from tests.servers import Fault, FaultProxy

SIZE = 400_000
FORK = multiprocessing.get_context("fork")


def content(number: int) -> bytes:
    return bytes([number]) * SIZE


@pytest.fixture
def shards(served: tuple[Path, str], proxy: FaultProxy, impatient: None) -> list[Wanted]:
    """Ten shards behind a proxy that counts the requests."""
    for number in range(10):
        (served[0] / f"{number}.tar").write_bytes(content(number))
    return [Wanted(f"{proxy.url}/{number}.tar", SIZE, "digest") for number in range(10)]


def right(path: Path) -> str:
    data = path.read_bytes()
    return "" if data == data[:1] * SIZE else "it is mixed up"


def entries(folder: Path) -> list[str]:
    return sorted(path.name.split("-")[-1] for path in folder.iterdir() if path.name != "lock")


def test_a_shard_is_fetched_once_and_then_lies_here(tmp_path: Path, shards: list[Wanted], proxy: FaultProxy) -> None:
    cache = Cache(tmp_path / "cache", 10 * SIZE)
    assert cache.lease(shards[3]) is None
    assert cache.fetch(shards[3], right) and cache.fetch(shards[3], right)
    lease = cache.lease(shards[3])
    assert lease is not None and lease.path.read_bytes() == content(3)
    assert lease.give_back() is False
    assert len(proxy.requests) == 1
    assert cache.counters.figures() == {
        "hits": 1, "misses": 1, "evictions": 0, "bytes_fetched": SIZE, "bytes_read_through": 0
    }  # fmt: skip


def test_the_limit_holds_and_what_was_not_used_for_longest_goes(tmp_path: Path, shards: list[Wanted]) -> None:
    cache = Cache(tmp_path / "cache", 3 * SIZE + 5)
    for number in (0, 1, 2):
        assert cache.fetch(shards[number], right)
        os.utime(cache.folder / shards[number].name, (number, number))
    held = cache.lease(shards[1])
    assert held is not None
    os.utime(held.path, (0, 0))  # used least recently, and being read
    assert cache.fetch(shards[3], right)
    assert entries(cache.folder) == ["1.tar", "2.tar", "3.tar"]
    held.give_back()
    assert cache.fetch(shards[4], right)
    assert entries(cache.folder) == ["2.tar", "3.tar", "4.tar"]
    assert cache.counters.evictions == 2


def test_no_room_is_an_answer_and_no_error(tmp_path: Path, shards: list[Wanted], proxy: FaultProxy) -> None:
    small = Cache(tmp_path / "small", SIZE - 1)
    assert small.fetch(shards[0], right) is False and not proxy.requests
    full = Cache(tmp_path / "full", SIZE)
    assert full.fetch(shards[0], right)
    lease = full.lease(shards[0])
    assert lease is not None and full.fetch(shards[1], right) is False
    lease.give_back()
    assert full.fetch(shards[1], right)
    assert entries(full.folder) == ["1.tar"]


def test_what_is_not_what_was_indexed_is_not_kept(tmp_path: Path, shards: list[Wanted]) -> None:
    cache = Cache(tmp_path / "cache", 10 * SIZE)
    with pytest.raises(ShardError, match=r"5\.tar: is not what was indexed: it is bad"):
        cache.fetch(shards[5], lambda path: "it is bad")
    with pytest.raises(ShardError, match=r"nothing\.tar: the shard is missing"):
        cache.fetch(Wanted(shards[0].url.replace("0.tar", "nothing.tar"), SIZE, ""), right)
    with pytest.raises(ShardError, match="it ends too early"):
        cache.fetch(Wanted(shards[0].url, SIZE + 1, ""), right)
    assert [name for name in os.listdir(cache.folder) if not name.startswith(("lock", "part-"))] == []


def test_a_fetch_goes_on_where_a_killed_one_stopped(
    tmp_path: Path, shards: list[Wanted], proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = Cache(tmp_path / "cache", 10 * SIZE)
    monkeypatch.setenv("ECOPIPE_STALL_S", "60")
    proxy.faults.append(Fault("stall", after=100_000))
    child = FORK.Process(target=cache.fetch, args=(shards[2], right))
    child.start()
    part = cache.folder / f"part-{shards[2].name}"
    for _ in range(1000):
        if part.exists() and part.stat().st_size == 100_000:
            break
        time.sleep(0.01)
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    assert cache.lease(shards[2]) is None
    assert cache.fetch(shards[2], right)
    assert [wanted for _, wanted in proxy.requests] == ["bytes=0-399999", "bytes=100000-399999"]
    assert cache.counters.bytes_fetched == 300_000
    assert entries(cache.folder) == ["2.tar"]


def test_a_part_that_a_crash_damaged_is_fetched_anew(tmp_path: Path, shards: list[Wanted]) -> None:
    cache = Cache(tmp_path / "cache", 10 * SIZE)
    (cache.folder / f"part-{shards[2].name}").write_bytes(b"\0" * 5000)
    assert cache.fetch(shards[2], right)
    lease = cache.lease(shards[2])
    assert lease is not None and lease.path.read_bytes() == content(2)
    lease.give_back()


def on_disk(path: Path) -> int:
    """The bytes that a file takes; another process may have evicted it since it was listed."""
    try:
        return path.stat().st_blocks * 512
    except FileNotFoundError:
        return 0


def _use(folder: Path, limit: int, shards: list[Wanted], first: int, told: Any) -> None:
    cache = Cache(folder, limit)
    wrong = 0
    for turn in range(30):
        number = (first + turn * 7) % len(shards)
        cache.fetch(shards[number], right)
        if (lease := cache.lease(shards[number])) is not None:
            wrong += lease.path.read_bytes() != content(number)
            lease.give_back()
        used = sum(map(on_disk, cache.folder.glob("[0-9a-f]*")))
        wrong += used > limit + SIZE  # one may come between the listing and the look
    told.put((wrong, cache.counters.bytes_fetched))


@pytest.mark.parametrize("room", [3.5, 20.0])
def test_eight_processes_share_it(tmp_path: Path, shards: list[Wanted], room: float) -> None:
    folder, told = tmp_path / "cache", FORK.Queue()
    users = [FORK.Process(target=_use, args=(folder, int(room * SIZE), shards, at, told)) for at in range(8)]
    for user in users:
        user.start()
    figures = [told.get(timeout=120) for _ in users]
    for user in users:
        user.join(30)
    assert [user.exitcode for user in users] == [0] * 8
    assert sum(wrong for wrong, _ in figures) == 0
    if room == 20.0:  # each shard once, of all eight
        assert sum(fetched for _, fetched in figures) == len(shards) * SIZE
    assert sum(int(path.name.split("-")[1]) for path in folder.glob("[0-9a-f]*")) <= room * SIZE


def test_processes_that_are_killed_at_random_leave_it_sound(tmp_path: Path, shards: list[Wanted]) -> None:
    folder, told = tmp_path / "cache", FORK.Queue()
    for turn in range(8):
        users = [FORK.Process(target=_use, args=(folder, 4 * SIZE, shards, at, FORK.SimpleQueue())) for at in range(3)]
        for user in users:
            user.start()
        time.sleep(0.02 + 0.03 * turn)
        for user in users:
            assert user.pid is not None
            os.kill(user.pid, signal.SIGKILL)
            user.join()
    _use(folder, 4 * SIZE, shards, 0, told)
    assert told.get(timeout=30)[0] == 0


def test_a_folder_that_cannot_be_written_is_read(tmp_path: Path, shards: list[Wanted], proxy: FaultProxy) -> None:
    Cache(tmp_path / "cache", 10 * SIZE).fetch(shards[1], right)
    cache = Cache(tmp_path / "cache", 10 * SIZE, read_only=True)
    assert cache.fetch(shards[1], right) is True
    lease = cache.lease(shards[1])
    assert lease is not None
    lease.give_back()
    before = len(proxy.requests)
    assert cache.fetch(shards[2], right) is False and len(proxy.requests) == before
    (tmp_path / "file").write_text("")
    assert Cache(tmp_path / "file" / "cache", SIZE).fetch(shards[0], right) is False


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user takes root")
def test_other_users_read_it_and_add_to_it_where_they_may(tmp_path: Path, shards: list[Wanted]) -> None:
    for folder in (tmp_path, *list(tmp_path.parents)[:3]):
        folder.chmod(folder.stat().st_mode | 0o055)
    shared, own = tmp_path / "shared", tmp_path / "own"
    shared.mkdir()
    shared.chmod(0o777)
    for folder in (shared, own):
        assert Cache(folder, 2 * SIZE).fetch(shards[0], right)
    told = FORK.Queue()

    def be_another() -> None:
        os.setgid(65534)
        os.setuid(65534)
        for folder in (shared, own):
            cache = Cache(folder, 2 * SIZE)
            lease = cache.lease(shards[0])
            read = lease is not None and lease.path.read_bytes() == content(0)
            if lease is not None:
                lease.give_back()
            told.put((read, [cache.fetch(shards[number], right) for number in (0, 1, 2)]))

    other = FORK.Process(target=be_another)
    other.start()
    assert told.get(timeout=30) == (True, [True, True, True])  # evicting the first user's
    assert told.get(timeout=30) == (True, [True, False, False])
    other.join()


def test_an_entry_that_is_deleted_under_its_reader_is_read_on(tmp_path: Path, shards: list[Wanted]) -> None:
    cache = Cache(tmp_path / "cache", 2 * SIZE)
    cache.fetch(shards[0], right)
    lease = cache.lease(shards[0])
    assert lease is not None
    with open(lease.path, "rb") as file:
        lease.path.unlink()
        assert file.read() == content(0)
    assert lease.give_back() is True


def test_a_new_signature_is_no_new_shard_and_is_in_no_name(tmp_path: Path) -> None:
    one, other = (Wanted(f"https://u:hidden@host/a.tar?sig={sign}", 5, "d") for sign in ("hidden1", "hidden2"))
    assert one.name == other.name and "hidden" not in one.name and one.name.endswith("-5-a.tar_...")
    assert Wanted("https://host/a.tar", 6, "d").name != Wanted("https://host/a.tar", 5, "d").name


def test_an_outage_is_an_error_and_what_came_is_kept(
    tmp_path: Path, shards: list[Wanted], proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ECOPIPE_RETRY_ATTEMPTS", "2")
    cache = Cache(tmp_path / "cache", 2 * SIZE)
    proxy.faults.append(Fault("truncate", after=50_000))
    proxy.always = Fault("status", status=503)
    with pytest.raises(StorageError, match=r"0\.tar: reading failed 2 times in a row"):
        cache.fetch(shards[0], right)
    proxy.always = None
    assert cache.fetch(shards[0], right)
    assert proxy.requests[-1][1] == "bytes=50000-399999"


def test_sizes_are_read_as_people_write_them(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse_bytes("20GB", "x") == 20 * 10**9 and parse_bytes("1.5 MiB", "x") == 3 << 19
    assert parse_bytes("7", "x") == 7 and parse_bytes("2tb", "x") == 2 * 10**12
    monkeypatch.setenv("ECOPIPE_CACHE_LIMIT", "much")
    with pytest.raises(ConfigError, match="ECOPIPE_CACHE_LIMIT: 'much' is no size"):
        cache_limit()
    monkeypatch.delenv("ECOPIPE_CACHE_LIMIT")
    assert cache_limit() == 20 * 10**9
    with pytest.raises(ConfigError, match="at least 0 bytes"):
        Cache(Path("x"), -1)

"""Shards at URLs brought near: whole ones into a cache, or the ranges of a batch if fewer bytes.

:class:`Ahead` runs in the loader's process and looks at the blocks that come next; :class:`NearMaker` runs where
batches are made, and gives the maker what is near. What is delivered never depends on either.
"""

from __future__ import annotations

import contextlib
import functools
import mmap
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
from zlib_ng.zlib_ng import crc32

from ecopipe.formats.index_arrays import of_texts, to_numpy
from ecopipe.pipeline.plan import Plan
from ecopipe.plan.alike import Alike
from ecopipe.plan.blocks import Slice
from ecopipe.plan.mixed import MixedShards
from ecopipe.plan.sequence import Cursor, Planned
from ecopipe.plan.shards import Shards
from ecopipe.run.maker import BatchMaker, Failure, Task
from ecopipe.run.ranks import place_on_host
from ecopipe.run.worth import AHEAD, EpochPieces, HostRanks, ShardFigures, Wants
from ecopipe.storage import remote
from ecopipe.storage.cache import Cache, Lease, Wanted, cache_folder, cache_limit
from ecopipe.storage.files import REMOTE_GAP, Held, base_name, is_url, merged
from ecopipe.storage.retries import without_credentials
from ecopipe.storage.sizes import parse_bytes
from ecopipe.vocabulary.errors import EcopipeError, ShardError
from ecopipe.vocabulary.sample import Batch

THREADS = 8
"""Ranges that one process reads at once."""

LARGE = 8 << 20
"""Bytes of a shard from which on the first batches do not wait for it, but read their ranges: 256 MB come in seconds,
the ranges of a batch in milliseconds. They come twice; for smaller shards that is not worth it."""


def wanted_of(opened: Shards | MixedShards) -> dict[str, Wanted]:
    """What the cache knows the opened shards by, by their paths, in the order of their numbers."""
    found = {}
    for part in opened.parts.values():
        columns = (part.shards[name].to_pylist() for name in ("path", "size", "digest"))
        for path, size, digest in zip(*columns, strict=True):
            found[path] = Wanted(path if is_url(path) else Path(path).absolute().as_uri(), size, digest)
    return found


@dataclass(frozen=True)
class Near:
    """That shards are brought near, and where they are kept; None if nowhere."""

    cache: Cache | None


def cache_for(
    opened: Shards | MixedShards, cache: Cache | str | Path | Literal[False] | None, limit: int | str | None
) -> Near | None:
    """What is done about the shards: nothing if they are local, unless a folder is given.

    Raises:
        ConfigError: The limit is no size in bytes.
    """
    bytes_ = parse_bytes(limit, "cache_limit") if isinstance(limit, str) else limit
    if isinstance(cache, Cache):
        return Near(cache)
    remote_ = any(is_url(path) for part in opened.parts.values() for path in part.shards["path"].to_pylist())
    if cache is False or (cache is None and not remote_):
        return Near(None) if remote_ else None
    folder = cache_folder() if cache is None else Path(cache)
    return Near(Cache(folder, cache_limit() if bytes_ is None else bytes_))


class Ahead:
    """Fetches the shards of the blocks that come next into a cache.

    Args:
        cache: Where they are kept.
        opened: The pipeline's shards.
        reads: Extensions of members that are looked at; None for all.
        host: The ranks of this host.
        verify: Whether a fetched shard is compared with the CRC-32 of its members.
        first: Batches at the beginning of an iteration that do not wait for large shards.
    """

    def __init__(
        self,
        cache: Cache,
        opened: Shards | MixedShards,
        reads: set[str] | None,
        host: HostRanks,
        *,
        verify: bool,
        first: int,
    ) -> None:
        self._cache, self._opened, self._verify, self._host, self._first = cache, opened, verify, host, first
        wanted = wanted_of(opened)
        self._wanted = list(wanted.values())
        self._numbers = {path: number for number, path in enumerate(wanted)}
        self._figures = ShardFigures.of(opened, reads)
        self._unfit: set[int] = set()
        self._stop = threading.Event()
        self._threads = ThreadPoolExecutor(THREADS // 2, thread_name_prefix="ecopipe fetch")
        self._futures: dict[tuple[int, int], dict[int, Future[bool]]] = {}
        weakref.finalize(self, self._stop.set)

    def follow(self, plan: Plan, start: Cursor) -> None:
        """Begins with an epoch, at some place of it."""
        self._drop(list(self._futures))
        self._group, self._lanes = plan.group, plan.lanes()
        self._begun_at, self._issued = start.number, 0
        pieces = EpochPieces(plan, self._lanes, self._figures.rows)
        self._wants = Wants(self._host, self._lanes, self._group, self._figures, pieces, self._cache.limit_bytes, start)

    def ready(self, planned: Planned, paths: Sequence[str]) -> None:
        """Waits until the shards of a batch are here, or are known not to come; those of the next blocks are begun.

        A shard that is missing, or not what was indexed, is one that does not come: whose sample that is, and whether
        it is a bad one, is said where it is read.

        Raises:
            StorageError: A shard cannot be reached.
        """
        cursor, lanes = planned.after, len(planned.after.lanes)
        ends = (planned.batch + 1) % self._group == 0 or planned.batch + 1 == len(planned.block.batches)
        lane = (cursor.turn - 1) % lanes if ends else cursor.turn
        block = cursor.lanes[lane][0]
        self._drop([place for place in self._futures if place[0] == lane and place[1] < block])
        for number in range(block, int(min(block + AHEAD + 1, self._lanes[lane].blocks))):
            if (lane, number) not in self._futures:
                self._begin(lane, number, planned, now=number == block)
        coming = self._futures[lane, block]
        self._issued += 1
        for path in paths:
            shard = self._numbers.get(path, -1)
            if (future := coming.get(shard)) is None:
                continue
            if self._issued <= self._first and self._wanted[shard].size >= LARGE and not future.done():
                continue
            try:
                future.result()
            except ShardError:
                self._unfit.add(shard)

    def _begin(self, lane: int, block: int, planned: Planned, *, now: bool) -> None:
        """Fetches the shards of a block that are worth it, if those of all blocks that are held have room together."""
        rows = sum(len(batch) for batch in planned.block.batches)
        kept = min(1.0, rows / max(1, planned.block.planned.num_rows))
        turn_began = planned.number - planned.batch % self._group
        rank = (turn_began - self._begun_at) % self._host.world_size
        worth = [shard for shard in self._wants.whole(lane, block, rank, kept) if shard not in self._unfit]
        held = {shard for futures in self._futures.values() for shard in futures}.union(worth)
        if sum(self._wanted[shard].size for shard in held) > self._cache.limit_bytes:
            if not now:
                return  # there may be room when it is its turn
            worth = []
        kept_here = frozenset(self._wanted[shard].name for shard in held)
        self._cache.touch(kept_here)  # else what was fetched first and is not read yet would seem used least recently
        turn = place_on_host() % max(1, len(worth))  # not all ranks wait for the same shard
        futures = {shard: self._fetch(shard, kept_here) for shard in [*worth[turn:], *worth[:turn]]}
        self._futures[lane, block] = futures

    def _fetch(self, shard: int, kept: frozenset[str]) -> Future[bool]:
        wanted = self._wanted[shard]
        check: Callable[[Path], str] = _unchecked
        if self._verify and not (self._cache.folder / wanted.name).exists():
            rows = int(self._figures.rows[shard])
            members = self._opened.read([Slice(shard, 0, rows)], ("members",))["members"]
            flat = members.combine_chunks().flatten()
            offsets, sizes, checks = (to_numpy(flat.field(name)) for name in ("offset", "size", "crc32"))
            check = functools.partial(_check, offsets, sizes, checks)
        return self._threads.submit(self._cache.fetch, wanted, check, self._stop.is_set, kept)

    def _drop(self, places: Sequence[tuple[int, int]]) -> None:
        for place in places:
            for future in self._futures.pop(place).values():
                future.cancel()

    def close(self) -> None:
        """Ends what is being fetched; a part of a shard is kept, to go on from."""
        self._stop.set()
        self._threads.shutdown(wait=True, cancel_futures=True)


def _unchecked(path: Path) -> str:
    return ""


def _check(offsets: Any, sizes: Any, checks: Any, path: Path) -> str:
    """What is wrong with a shard; empty if each member has its CRC-32."""
    with (
        open(path, "rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as memory,
        memoryview(memory) as content,
    ):
        for offset, size, check in zip(offsets.tolist(), sizes.tolist(), checks.tolist(), strict=True):
            with content[offset : offset + size] as member:
                if len(member) != size or crc32(member) != check:
                    return f"the member at byte {offset:,} has another CRC-32 than the index says"
    return ""


@dataclass(frozen=True)
class Made:
    """What was made of a task, and the bytes that were read past the cache for it, in whatever process that was."""

    answer: Batch | Failure
    read_through: int


class NearMaker:
    """A maker of batches whose tasks name shards at URLs: it hands them on with local files in their places.

    A whole shard comes from the cache, if it is there. Of others the ranges of the batch's members are read, those of
    all shards at once.

    Args:
        maker: Makes the batch.
        cache: Where whole shards are; None if none are kept.
        wanted: What the cache knows each shard by, by its path in the index rows.
        reads: Extensions of members that are looked at; None for all.
    """

    def __init__(
        self, maker: BatchMaker, cache: Cache | None, wanted: dict[str, Wanted], reads: set[str] | None
    ) -> None:
        self._maker, self._cache, self._wanted, self._reads = maker, cache, wanted, reads
        self._read_through = 0

    def another(self) -> NearMaker:
        """One for another thread."""
        return NearMaker(self._maker.another(), self._cache, self._wanted, self._reads)

    def __call__(self, task: Task) -> Made:
        self._read_through = 0
        answer, leased = self._near(task, self._cache)
        if self._cache is not None and (damaged := _doubted(answer, leased)):
            for path in damaged:  # a disk may have damaged what was right when it was fetched
                self._cache.drop(self._wanted[path])
            self._maker.close()
            answer, _ = self._near(task, None)
        return Made(answer, self._read_through)

    def _near(self, task: Task, cache: Cache | None) -> tuple[Batch | Failure, list[str]]:
        tables = [rows for rows in (task.rows, task.spares) if rows is not None]
        paths = {path for table in tables for path in paths_of(table) if path in self._wanted}
        leases: dict[str, Lease] = {}
        gone = False
        try:
            for path in paths if cache is not None else ():
                if (lease := cache.lease(self._wanted[path])) is not None:  # type: ignore[union-attr]
                    leases[path] = lease
            self._maker.reader.hold(self._read(sorted(paths - set(leases)), tables))
            local = {path: str(lease.path) for path, lease in leases.items()}
            near = [_with_paths(table, local) for table in tables]
            answer = self._maker(replace(task, rows=near[0], spares=near[1] if len(near) > 1 else None))
            return _in_terms_of(answer, local), list(leases)
        except EcopipeError as error:
            return Failure(error), []
        finally:
            self._maker.reader.hold({})
            for lease in leases.values():
                gone |= lease.give_back()
            if gone:
                self._maker.close()  # what it holds open of them takes up room

    def _read(self, paths: Sequence[str], tables: Sequence[pa.RecordBatch | Alike]) -> Held:
        """The members of some rows that lie in some shards, by shard and place."""
        ranges: dict[str, list[tuple[int, int]]] = {path: [] for path in paths if is_url(path)}
        for table in tables if ranges else ():
            for path, extension, offset, size in _members(table):
                if path in ranges and (self._reads is None or extension in self._reads):
                    ranges[path].append((offset, size))
        jobs = [(path, *piece) for path, pieces in ranges.items() for piece in merged(pieces, REMOTE_GAP)]
        held: Held = {}
        with ThreadPoolExecutor(THREADS) if len(jobs) > 1 else contextlib.nullcontext() as threads:
            run: Any = map if threads is None else threads.map
            for (path, offset, _), data in zip(jobs, run(_read_piece, jobs), strict=True):
                held.setdefault(path, {})[offset] = data
                self._read_through += len(data)
        return held

    def close(self) -> None:
        """Closes the files that this process opened."""
        self._maker.close()


def _read_piece(job: tuple[str, int, int]) -> bytes:
    path, offset, size = job
    data = bytearray()
    with contextlib.suppress(FileNotFoundError):  # the maker says so, of the sample that it is missing for
        remote.read_into(path, offset, offset + size, data.extend)
    return bytes(data)


def _doubted(answer: Batch | Failure, leased: Sequence[str]) -> list[str]:
    """Those of some shards in the cache that may be damaged there: what was read of them was not what was indexed."""
    if isinstance(answer, Failure):
        reading = isinstance(answer.error, ShardError) or getattr(answer.error, "stage", "") == "read"
        return list(leased) if reading else []
    faults = answer.place.faults if answer.place is not None else ()
    bad = {fault.shard for fault in faults if fault.stage == "read"}
    return [path for path in leased if base_name(path) in bad]


def paths_of(rows: pa.Table | pa.RecordBatch | Alike) -> list[str]:
    """The shards that index rows lie in, each once."""
    if isinstance(rows, Alike):
        return [path for _, path in rows.shards]
    found: list[str] = rows["path"].unique().to_pylist()
    return found


def _members(rows: pa.RecordBatch | Alike) -> Iterator[tuple[str, str, int, int]]:
    """The path, extension, offset and size of each member of some index rows."""
    if isinstance(rows, Alike):
        for shard, members in zip(rows.which.tolist(), rows.members.tolist(), strict=True):
            for extension, (offset, size, _) in zip(rows.extensions, members, strict=True):
                yield rows.shards[shard][1], extension, offset, size
        return
    for path, listed in zip(rows["path"].to_pylist(), rows["members"].to_pylist(), strict=True):
        for member in listed:
            yield path, member["extension"], member["offset"], member["size"]


def _with_paths(rows: pa.RecordBatch | Alike, local: dict[str, str]) -> pa.RecordBatch | Alike:
    """Index rows with other paths."""
    if isinstance(rows, Alike):
        return replace(rows, shards=tuple((name, local.get(path, path)) for name, path in rows.shards))
    paths = of_texts(local.get(path, path) for path in rows["path"].to_pylist())
    return rows.set_column(rows.schema.get_field_index("path"), "path", paths)


def _in_terms_of(answer: Batch | Failure, local: dict[str, str]) -> Batch | Failure:
    """An answer whose errors name the shards, and not the files that stood for them."""

    def told(text: str) -> str:
        for path, name in local.items():
            text = text.replace(name, without_credentials(path))
        return text

    if isinstance(answer, Failure):
        error = answer.error
        return Failure(type(error)(*(told(item) if isinstance(item, str) else item for item in error.args)))
    if answer.place is not None and answer.place.faults:
        faults = tuple(replace(fault, reason=told(fault.reason)) for fault in answer.place.faults)
        answer.place = replace(answer.place, faults=faults)
    return answer

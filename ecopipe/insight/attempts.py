"""Which deliveries of a ledger count: a training is a chain of attempts, and what it went back behind does not count.

A ledger file holds *segments*: one for each iteration that its loader began, within one epoch. Segments of several
ranks that begin at the same epoch and batch, with the same number of ranks, are one *attempt*. A restart goes back to
a checkpoint: an attempt that begins at batch b of epoch e continues the latest earlier attempt that had come that far
(if none had, the latest that began before that place), and whatever else was delivered there or later is *rolled
back*: it was delivered, but the model that was trained on it is gone. The attempts that lead to the last one make the
training; all others are rolled back whole.

This assumes that the clocks of the hosts agree to within the time that a restart takes, that a restart begins when the
processes before it have ended, and that who begins an epoch anew has gone back to the model's state of that time too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from ecopipe.run.ledger import BEGIN, END, SAMPLE, LedgerFile
from ecopipe.vocabulary.errors import DataError

_SHARED = ("event", "epoch", "step", "batch", "rank", "repeat")


@dataclass(frozen=True)
class Entry:
    """One record batch of a ledger: a delivered batch, or a begin or an end."""

    event: int
    epoch: int
    step: int
    batch: int
    rank: int
    repeat: bool
    time_ns: int
    rows: pa.RecordBatch


@dataclass
class Segment:
    """One iteration of one rank: where it began, and how far it came.

    ``offset`` is the place of its first delivered batch in the file; ``last`` the highest number of a delivered batch,
    -1 without one; ``ended`` the steps of the epoch by its end, None if it did not come to it; ``first`` says that the
    file begins with it.
    """

    file: LedgerFile
    rank: int
    world_size: int
    epoch: int
    batch: int
    step: int
    began_ns: int
    last_ns: int
    first: bool
    offset: int = 0
    last: int = -1
    ended: int | None = None
    samples: int = 0

    @property
    def key(self) -> tuple[int, int, int]:
        """What segments of one attempt agree in."""
        return self.epoch, self.batch, self.world_size

    def entries(self) -> Iterator[Entry]:
        """Its delivered batches, in the order of the file."""
        if not self.offset:
            return
        for _, rows in self.file.batches(self.offset):
            if rows.num_rows:
                entry = _entry(rows)
                if entry.event != SAMPLE:
                    return
                yield entry


@dataclass
class Attempt:
    """The segments of several ranks that began together.

    ``until`` is the batch where the next attempt of the epoch took over, None if none did; ``last`` says that no
    attempt came after this one.
    """

    segments: dict[int, Segment] = field(default_factory=dict)
    until: int | None = None
    last: bool = False

    @property
    def any(self) -> Segment:
        """The segment of the lowest rank that has one."""
        return self.segments[min(self.segments)]

    @property
    def place(self) -> tuple[int, int]:
        """Epoch and batch where it begins."""
        return self.any.epoch, self.any.batch

    @property
    def world_size(self) -> int:
        """Its number of ranks."""
        return self.any.world_size

    @property
    def began_ns(self) -> int:
        """When its first rank began."""
        return min(segment.began_ns for segment in self.segments.values())

    @property
    def fresh(self) -> bool:
        """Whether processes were started for it."""
        return any(segment.first for segment in self.segments.values())

    def came_to(self, epoch: int, batch: int) -> bool:
        """Whether each of its ranks came up to a place, as far as the last of its batches tells."""
        if batch == 0:
            ended = all(segment.ended is not None for segment in self.segments.values())
            return self.place[0] == epoch - 1 and ended and len(self.segments) == self.world_size
        if self.place[0] != epoch:
            return False
        steps = batch - self.place[1]
        ranks = range(min(steps, self.world_size))
        return all(
            rank in self.segments and self.segments[rank].last + self.world_size >= batch
            for rank in ranks  # ranks beyond have no batch before that place
        )


def segments_of(file: LedgerFile) -> list[Segment]:
    """The segments of a ledger file, by reading it once.

    Raises:
        DataError: The file is damaged.
    """
    found: list[Segment] = []
    for at, rows in file.batches():
        if not rows.num_rows:
            continue
        entry = _entry(rows)
        if any(not _alike(rows.column(name)) for name in _SHARED):
            raise _broken(file, at, "a record batch holds rows of several batches")
        header: dict[str, Any] = file.header or {}
        if entry.event == BEGIN:
            where = (entry.epoch, entry.batch, entry.step, entry.time_ns, entry.time_ns)
            found.append(Segment(file, header["rank"], header["world_size"], *where, first=not found))
            continue
        if not found or entry.epoch != found[-1].epoch:
            raise _broken(file, at, f"batch {entry.batch} of epoch {entry.epoch} comes without a begin")
        segment = found[-1]
        segment.last_ns = max(segment.last_ns, entry.time_ns)
        if entry.event == END:
            segment.ended = entry.step
            continue
        segment.offset = segment.offset or at
        segment.last = max(segment.last, entry.batch)
        segment.samples += rows.num_rows
    return found


def attempts_of(segments: Iterable[Segment]) -> list[Attempt]:
    """Segments as attempts, in the order in which they began.

    Several starts at one place are told apart from the last one back: to a rank that began last belong the last of the
    other ranks, but for those that began while its own process before was still at work.
    """
    by_key: dict[tuple[int, int, int], dict[int, list[Segment]]] = {}
    for segment in sorted(segments, key=lambda segment: segment.began_ns):
        by_key.setdefault(segment.key, {}).setdefault(segment.rank, []).append(segment)
    attempts = []
    for ranks in by_key.values():
        while ranks:
            newest = max(ranks, key=lambda rank: ranks[rank][-1].began_ns)
            before_ns = ranks[newest][-2].last_ns if len(ranks[newest]) > 1 else -1
            together = [rank for rank in ranks if rank == newest or ranks[rank][-1].began_ns > before_ns]
            attempts.append(Attempt({rank: ranks[rank].pop() for rank in together}))
            ranks = {rank: left for rank, left in ranks.items() if left}
    return sorted(attempts, key=lambda attempt: attempt.began_ns)


def training(attempts: Sequence[Attempt]) -> list[Attempt]:
    """The attempts that lead to the last one, in order, each with the place where the next one took over."""
    chain = list(attempts[-1:])
    before = list(attempts[:-1])
    while chain and before:
        place = chain[0].place
        earlier = [at for at, attempt in enumerate(before) if attempt.place < place]
        if not earlier:
            break
        at = next((at for at in reversed(earlier) if before[at].came_to(*place)), earlier[-1])
        chain.insert(0, before[at])
        del before[at:]
    for attempt, following in pairwise(chain):
        attempt.until = following.place[1] if following.place[0] == attempt.place[0] else None
    for attempt in chain[-1:]:
        attempt.last = True
    return chain


def _entry(rows: pa.RecordBatch) -> Entry:
    event, epoch, step, batch, rank, repeat, time_ns = (
        rows.column(name)[0].as_py() for name in ("event", "epoch", "step", "batch", "rank", "repeat", "time_ns")
    )
    return Entry(event, epoch, step, batch, rank, bool(repeat), time_ns, rows)


def _alike(column: pa.Array) -> bool:
    values = np.asarray(column)
    return bool((values == values[0]).all())


def _broken(file: LedgerFile, at: int, what: str) -> DataError:
    return DataError(
        f"{file.path}: at byte {at:,}: {what}, which no loader writes. Restore the file, or move it out of the "
        "ledger's folder: what it holds then counts as not delivered."
    )

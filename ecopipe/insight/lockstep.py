"""One epoch of a ledger compared with its plan: the ranks of each attempt in lockstep, step by step.

What is held is one step of the plan, and of each rank's file a part; so the memory does not grow with the ledger.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, count, islice

import pyarrow as pa
import pyarrow.compute as pc

from ecopipe.insight.attempts import Attempt, Entry, Segment
from ecopipe.insight.findings import Findings, Kind
from ecopipe.plan.parts import START, STOP
from ecopipe.plan.sequence import Planned
from ecopipe.run.ledger import content
from ecopipe.run.ranks import Tail

_BEYOND = 1 << 62  # more than any batch's number


@dataclass
class EpochCount:
    """What an epoch delivered, by its ledger.

    ``samples`` counts the planned samples that were delivered or accounted for, without repeats; ``exact`` those that
    came as planned themselves, ``skipped`` bad ones that were left out, ``substituted`` those for which another came;
    ``repeats`` counts batches, ``rolled_back`` samples. ``finished`` says that the plan was followed to its end.
    """

    epoch: int
    batches: int = 0
    samples: int = 0
    exact: int = 0
    skipped: int = 0
    substituted: int = 0
    repeats: int = 0
    rolled_back: int = 0
    finished: bool = False
    sources: dict[str, int] = field(default_factory=dict)


class _Deliveries:
    """What one rank was handed in an attempt, up to where the next attempt took over."""

    def __init__(self, segment: Segment, until: int | None) -> None:
        self._entries = segment.entries()
        self._until = _BEYOND if until is None else until
        self.ended = segment.ended
        self._next = self._read()

    @property
    def over(self) -> bool:
        """Whether nothing is left."""
        return self._next is None

    def _read(self) -> Entry | None:
        entry = next(self._entries, None)
        return entry if entry is not None and entry.batch < self._until else None

    def take(self, below: int) -> Iterator[Entry]:
        """What comes before the first batch of this number or a higher one."""
        while self._next is not None and self._next.batch < below:
            entry, self._next = self._next, self._read()
            yield entry


@dataclass(frozen=True)
class _Turn:
    """A batch that a rank should have been handed in a step."""

    rank: int
    planned: Planned
    repeat: bool


class Lockstep:
    """Compares the attempts of one epoch with its plan.

    Args:
        epoch: The epoch.
        plan: Its batches, in order.
        attempts: The attempts that made it, in order.
        tail: What ranks without a batch in the last step do.
        endless: The plan never ends, so that nothing is lost where the ledger does.
        findings: Takes the problems.

    ``taken`` counts the samples of the ledger that were compared, repeats and strays included.
    """

    def __init__(
        self,
        epoch: int,
        plan: Iterator[Planned],
        attempts: Sequence[Attempt],
        *,
        tail: Tail,
        endless: bool,
        findings: Findings,
    ) -> None:
        self.taken = 0
        self._count = EpochCount(epoch)
        self._plan: Iterator[Planned] = plan
        self._attempts, self._tail, self._endless, self._findings = attempts, tail, endless, findings
        self._sources: Counter[str] = Counter()

    def run(self) -> EpochCount:
        """Compares, and says what came; ``rolled_back`` is left to who knows the other attempts."""
        reached = 0
        for attempt in self._attempts:
            first = attempt.place[1]
            if first > reached:
                list(islice(self._plan, first - reached))
                what = "in no ledger: the first attempt of the epoch begins after them"
                self._add("lost", what, batches=(reached, first - 1))
            self._attempt(attempt)
            reached = _BEYOND if attempt.until is None else attempt.until
        self._count.sources = dict(sorted(self._sources.items()))
        return self._count

    def _add(
        self,
        kind: Kind,
        what: str,
        *,
        step: int | None = None,
        batches: tuple[int, int] | None = None,
        rank: int | None = None,
    ) -> None:
        self._findings.add(kind, what, epoch=self._count.epoch, step=step, batches=batches, rank=rank)

    def _note(self, kind: Kind, what: str, entry: Entry, step: int | None = None) -> None:
        """Enters a problem of one delivered batch."""
        where = entry.step if step is None else step
        self._add(kind, what, step=where, batches=(entry.batch, entry.batch), rank=entry.rank)

    def _attempt(self, attempt: Attempt) -> None:
        world_size, (_, first), until = attempt.world_size, attempt.place, attempt.until
        ranks = {rank: _Deliveries(segment, until) for rank, segment in sorted(attempt.segments.items())}
        unfinished = until is None and (attempt.last or self._endless)
        early: set[int] = set()
        for step in count(attempt.any.step):
            low = first + (step - attempt.any.step) * world_size
            size = world_size if until is None else min(world_size, until - low)
            if size <= 0:
                return
            planned = list(islice(self._plan, size))
            at_end = len(planned) < world_size and self._plan_ends()
            found = [entry for rank in ranks.values() for entry in rank.take(_BEYOND if at_end else low + size)]
            self.taken += sum(entry.rows.num_rows for entry in found)
            turns = self._turns(planned, world_size, at_end=at_end)
            missing = self._match(found, turns, step, low)
            waiting = unfinished and all(rank.over for rank in ranks.values())
            self._lost(missing, ranks, step, len(turns), early, unfinished=unfinished, waiting=waiting)
            if at_end or (waiting and not found):
                self._count.finished = at_end
                break
        ended = {rank: found.ended for rank, found in ranks.items() if found.ended is not None}
        self._ended(ended, step + bool(turns), early)

    def _plan_ends(self) -> bool:
        """Whether the plan has no further batch. (An attempt may begin where the last step of another ended.)"""
        following = next(self._plan, None)
        if following is not None:
            self._plan = chain([following], self._plan)
        return following is None

    def _turns(self, planned: Sequence[Planned], world_size: int, *, at_end: bool) -> list[_Turn]:
        """Whose turn it is in a step: the last one of an epoch is repeated to all ranks, or dropped."""
        if not at_end:
            return [_Turn(rank, one, repeat=False) for rank, one in enumerate(planned)]
        if not planned or self._tail == "drop":
            return []
        size = len(planned)
        return [_Turn(rank, planned[rank % size], repeat=rank >= size) for rank in range(world_size)]

    def _match(self, found: Sequence[Entry], turns: Sequence[_Turn], step: int, low: int) -> list[_Turn]:
        """Compares what was handed out in a step with whose turn it was; returns the turns that were not taken."""
        open_turns = {(turn.rank, turn.planned.number): turn for turn in turns}
        owners = {turn.planned.number: turn for turn in turns if not turn.repeat}
        strays: list[Entry] = []
        moved: dict[tuple[int, int], int] = {}
        for entry in found:
            turn = open_turns.pop((entry.rank, entry.batch), None)
            if turn is None:
                strays.append(entry)
            else:
                self._delivered(entry, turn, step)
        for entry in strays:
            owner = owners.get(entry.batch)
            if owner is not None and not entry.repeat and open_turns.pop((owner.rank, entry.batch), None) is not None:
                self._delivered(entry, owner, step)
                moved[owner.rank, entry.rank] = entry.batch
                continue
            if entry.repeat:
                self._note("repeat", "marked as a repeat where none belongs", entry)
            elif owner is None and entry.batch >= low:
                self._note("unplanned", "delivered, and the plan has no such batch for it", entry)
            else:
                self._note("twice", "delivered again, and not marked as a repeat", entry)
        self._moved(moved, step)
        return list(open_turns.values())

    def _moved(self, moved: dict[tuple[int, int], int], step: int) -> None:
        for (owner, rank), batch in moved.items():
            other = moved.get((rank, owner))
            if other is None:
                what = f"delivered to rank {rank}, and rank {owner} had the turn"
                self._add("rank", what, step=step, batches=(batch, batch), rank=rank)
            elif owner < rank:
                span = min(batch, other), max(batch, other)
                self._add("swapped", f"ranks {owner} and {rank} are swapped", step=step, batches=span)

    def _lost(
        self,
        missing: Sequence[_Turn],
        ranks: dict[int, _Deliveries],
        step: int,
        turns: int,
        early: set[int],
        *,
        unfinished: bool,
        waiting: bool,
    ) -> None:
        """Enters the turns that nobody took, less those that are still to come, and those after a rank's early end."""
        lost = []
        for turn in missing:
            rank = ranks.get(turn.rank)
            if rank is not None and rank.over and rank.ended is not None and rank.ended <= step:
                early.add(turn.rank)
            elif not (waiting if rank is None else unfinished and rank.over and rank.ended is None):
                lost.append(turn)
        if len(lost) == turns > 1:
            numbers = [turn.planned.number for turn in lost]
            self._add("lost", "not delivered", step=step, batches=(min(numbers), max(numbers)))
            return
        for turn in lost:
            number = turn.planned.number
            what = "not delivered again, to fill the last step" if turn.repeat else "not delivered"
            if turn.rank not in ranks:
                what += ": there is no ledger of this rank"
            self._add("lost", what, step=step, batches=(number, number), rank=turn.rank)

    def _ended(self, ended: dict[int, int], steps: int, early: set[int]) -> None:
        """Enters an epoch that ended too early, or not on all ranks alike."""
        if len(set(ended.values())) > 1:
            made = ", ".join(f"rank {rank}: {number:,}" for rank, number in list(ended.items())[:8])
            self._add("steps", f"the ranks made different numbers of steps ({made})")
        elif early:
            number = next(iter(ended.values()))
            self._add("ended", f"ended after {number:,} steps, before its last batch", step=number)
        elif self._count.finished and any(number != steps for number in ended.values()):
            number = next(iter(ended.values()))
            self._add("steps", f"the ranks made {number:,} steps, and the plan has {steps:,}")

    def _delivered(self, entry: Entry, turn: _Turn, step: int) -> None:
        """Compares a batch with the plan, and counts it."""
        if entry.repeat and not turn.repeat:
            self._note("repeat", "marked as a repeat where none belongs", entry, step)
        elif turn.repeat and not entry.repeat:
            self._note("twice", "delivered again, and not marked as a repeat", entry, step)
        if entry.step != step:
            self._note("step", "entered under another step's number", entry, step)
        planned = content(turn.planned.rows())
        exact = len(planned["key"])
        if not all(entry.rows.column(name).equals(column) for name, column in planned.items()):
            exact = self._differences(entry.rows, planned, step, entry)
        if turn.repeat:
            self._count.repeats += 1
            return
        skipped = pc.sum(entry.rows.column("skipped")).as_py() or 0
        substituted = entry.rows.num_rows - entry.rows.column("substitute").null_count
        self._count.batches += 1
        self._count.samples += entry.rows.num_rows
        self._count.exact += exact - skipped - substituted
        self._count.skipped += skipped
        self._count.substituted += substituted
        for part in pc.value_counts(entry.rows.column("source").drop_null()):
            self._sources[part["values"].as_py()] += part["counts"].as_py()

    def _differences(self, rows: pa.RecordBatch, planned: Mapping[str, pa.Array], step: int, entry: Entry) -> int:
        """Enters how a batch differs from its plan; returns the samples that are as planned, wherever they stand."""
        found = _named({name: rows.column(name) for name in planned})
        wanted = _named(planned)
        lacking, extra = Counter(wanted) - Counter(found), Counter(found) - Counter(wanted)
        for name in lacking:
            self._note("missing", f"without {_told(name)}, planned at position {wanted.index(name)}", entry, step)
        for name in extra:
            if name in wanted:
                self._note("repeated", f"with {_told(name)} more often than planned", entry, step)
            else:
                self._note("unplanned", f"with {_told(name)}, which the plan does not hold there", entry, step)
        if not lacking and not extra:
            order = [*zip(found, rows.column("position").to_pylist(), strict=True)]
            at = next((at for at, (name, position) in enumerate(order) if (name, position) != (wanted[at], at)), None)
            if at is not None:
                what = f"in another order from position {at} on, with {_told(order[at][0])} for {_told(wanted[at])}"
                self._note("order", what, entry, step)
        checks = dict(zip(wanted, planned["crc"].to_pylist(), strict=True))
        damaged = 0
        for name, crc in zip(found, rows.column("crc").to_pylist(), strict=True):
            if crc != checks.get(name, crc):
                what = f"{_told(name)} has the CRC {crc:08x}, and {checks[name]:08x} in the index"
                self._note("crc", what, entry, step)
                damaged += 1
        return sum((Counter(wanted) & Counter(found)).values()) - damaged


_Named = tuple[str | None, str, str, int | None, int | None]


def _named(rows: Mapping[str, pa.Array]) -> list[_Named]:
    """The samples of a batch by source, shard, key and part."""
    return list(zip(*(rows[name].to_pylist() for name in ("source", "shard", "key", START, STOP)), strict=True))


def _told(name: _Named) -> str:
    source, shard, key, start, stop = name
    part = "" if start is None else f"[{start}:{stop}] of "
    return f"{part}sample {key!r} of {shard}" + (f" in {source}" if source else "")

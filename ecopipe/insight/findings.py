"""What an audit found: problems, each with its place, and how many."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal[
    "lost",  # a batch that was not delivered
    "twice",  # a batch that was delivered again, and is not marked as a repeat
    "rank",  # a batch that another rank received than the one whose turn it was
    "swapped",  # two ranks that received each other's batches
    "step",  # a batch or a begin under another step's number
    "missing",  # a sample that its batch lacks
    "repeated",  # a sample that its batch holds more often than planned
    "order",  # the samples of a batch in another order
    "unplanned",  # a sample or a batch that the plan does not hold there
    "crc",  # a sample whose members' CRC-32 is not that of the index
    "repeat",  # a batch that is marked as a repeat where none belongs
    "ended",  # an epoch that ended before its last batch
    "steps",  # ranks that made different numbers of steps
    "unfinished",  # an epoch that was asked for and is not finished
]


@dataclass
class Problem:
    """One problem: what it is, and where; ``steps`` and ``batches`` are first and last, ``rank`` None for all ranks."""

    kind: Kind
    what: str
    epoch: int
    steps: tuple[int, int] | None = None
    batches: tuple[int, int] | None = None
    rank: int | None = None

    def __str__(self) -> str:
        place = [f"epoch {self.epoch}"]
        for one, several, span in (("step", "steps", self.steps), ("batch", "batches", self.batches)):
            if span is not None:
                low, high = span
                place.append(f"{one} {low:,}" if low == high else f"{several} {low:,} to {high:,}")
        if self.rank is not None:
            place.append(f"rank {self.rank}")
        return f"{', '.join(place)}: {self.what}"

    def figures(self) -> dict[str, Any]:
        """The problem as JSON."""
        return {
            "kind": self.kind, "what": self.what, "epoch": self.epoch, "rank": self.rank,
            "steps": self.steps and list(self.steps), "batches": self.batches and list(self.batches),
        }  # fmt: skip


class Findings:
    """Collects problems: the first ``most`` of them are kept, the rest is counted.

    One that goes on from step to step is one problem.
    """

    def __init__(self, most: int) -> None:
        self.problems: list[Problem] = []
        self.count = 0
        self._most = most
        self._going_on: dict[tuple[Kind, str, int, int | None], Problem] = {}

    def add(
        self,
        kind: Kind,
        what: str,
        *,
        epoch: int,
        step: int | None = None,
        batches: tuple[int, int] | None = None,
        rank: int | None = None,
    ) -> None:
        """Enters a problem."""
        going_on = self._going_on.get((kind, what, epoch, rank))
        if going_on is not None and step is not None and going_on.steps and going_on.steps[1] in (step, step - 1):
            going_on.steps = going_on.steps[0], step
            if going_on.batches and batches:
                spanned = (*going_on.batches, *batches)
                going_on.batches = min(spanned), max(spanned)
            return
        self.count += 1
        if len(self.problems) < self._most:
            problem = Problem(kind, what, epoch, None if step is None else (step, step), batches, rank)
            self.problems.append(problem)
            self._going_on[kind, what, epoch, rank] = problem

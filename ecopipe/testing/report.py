"""What a check found: a verdict with its evidence for each law."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

Outcome = Literal["pass", "fails", "hangs", "raises", "not offered"]
BROKEN = ("fails", "hangs", "raises")


class Stop(Exception):
    """A law's way to say at once that it does not hold, or cannot be asked, and on what evidence."""

    def __init__(self, outcome: Outcome, evidence: str) -> None:
        super().__init__(outcome, evidence)
        self.outcome, self.evidence = outcome, evidence


@dataclass(frozen=True)
class Verdict:
    """How one law fared: its name and statement, the outcome, and in a sentence what was seen."""

    law: str
    statement: str
    outcome: Outcome
    evidence: str
    seconds: float

    @property
    def broken(self) -> bool:
        """Whether the loader offers this and does not keep it."""
        return self.outcome in BROKEN

    def __str__(self) -> str:
        return f"{self.law}: {self.outcome}: {self.evidence}"


@dataclass(frozen=True)
class Report:
    """The verdicts on one loader."""

    target: str
    verdicts: tuple[Verdict, ...]

    @property
    def failures(self) -> list[Verdict]:
        """The laws that the loader breaks: what it does not offer is none."""
        return [verdict for verdict in self.verdicts if verdict.broken]

    def table(self) -> str:
        """A Markdown table, a row per law."""
        lines = ["| law | outcome | evidence |", "|---|---|---|"]
        lines += [f"| {cell(v.statement)} | {v.outcome} | {cell(v.evidence)} |" for v in self.verdicts]
        return "\n".join(lines)

    def json(self) -> str:
        """The verdicts as JSON."""
        return json.dumps(asdict(self), indent=2)

    def __str__(self) -> str:
        width = max((len(verdict.law) for verdict in self.verdicts), default=0)
        lines = [f"{v.outcome:<11}  {v.law:<{width}}  {v.evidence}" for v in self.verdicts]
        return "\n".join([self.target, *lines])


def cell(text: str) -> str:
    """A text that may stand in a cell of a Markdown table."""
    return " ".join(text.split()).replace("|", "\\|")


def listed(names: Sequence[str], most: int = 3) -> str:
    """The first few of some names.

    >>> listed(["a", "b", "c", "d"])
    'a, b, c ...'
    """
    return ", ".join(names[:most]) + (" ..." if len(names) > most else "")

"""What is to be measured, and what came out: the measurements take turns, each once in every round."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.bench import health, limits, others, runner

GROUPS = ("speech", "limits", "start", "images", "reviews", "health")
ONCE = ("check", "health")
"""Kinds that one round is enough for."""
SLOW = 6
"""Times the limit of a run that a kind may take that prepares much: an index of a million rows, a remote store."""


@dataclass
class Measured:
    """A measurement: its group, what it is asked, the figures of each round; or the reason why there are none."""

    group: str
    task: dict[str, Any]
    runs: list[dict[str, Any]] = field(default_factory=list)
    reason: str = ""

    def values(self, name: str) -> list[float]:
        """One figure in each round."""
        return [run[name] for run in self.runs]

    def median(self, name: str) -> float | None:
        """Its median; None if it was not measured."""
        return statistics.median(self.values(name)) if self.runs else None


@dataclass
class Results:
    """All of a run of the benchmark, as it is kept in JSON."""

    settings: dict[str, Any]
    corpus: dict[str, Any]
    about: dict[str, dict[str, Any]]
    measured: list[Measured]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def of_json(cls, saved: dict[str, Any]) -> Results:
        """What :meth:`to_json` gave."""
        measured = [Measured(**one) for one in saved["measured"]]
        return cls(saved["settings"], saved["corpus"], saved["about"], measured)

    def joined(self, other: Results) -> Results:
        """These, and those of another run: what both measured in as many rounds as both had, and what only it did."""
        found = [replace(one, runs=list(one.runs)) for one in self.measured]
        for one in other.measured:
            same = next((mine for mine in found if (mine.group, mine.task) == (one.group, one.task)), None)
            if same is None:
                found.append(one)
            elif one.task.get("kind") not in ONCE:
                same.runs += one.runs
        commands = dict.fromkeys([*self.settings["command"].split("`; and `"), other.settings["command"]])
        rounds = max([len(one.runs) for one in found], default=0)
        settings = {**self.settings, "repeats": rounds, "command": "`; and `".join(commands)}
        return Results(settings, self.corpus, {**other.about, **self.about}, found)

    def of(self, group: str, **asked: Any) -> list[Measured]:
        """The measurements of a group that were asked so."""
        return [
            one
            for one in self.measured
            if one.group == group and all(one.task.get(name) == value for name, value in asked.items())
        ]

    def best(self, figure: str, group: str, **asked: Any) -> tuple[float, Measured] | None:
        """The greatest median among them, and whose it is."""
        found = [(median, one) for one in self.of(group, **asked) if (median := one.median(figure)) is not None]
        return max(found, key=lambda pair: pair[0], default=None)


def planned(
    about: dict[str, dict[str, Any]], groups: Sequence[str], workers: Sequence[int], seconds: float, rows: int
) -> list[Measured]:
    """The measurements of some groups, of loaders that could be prepared."""
    found: list[Measured] = []
    most = max(workers)
    ready = {peer: told for peer, told in about.items() if "reason" not in told}
    for peer, told in ready.items() if "speech" in groups else ():
        for decoder in told["decoders"]:
            asked = {"peer": peer, "decoder": decoder}
            found.append(Measured("check", {"kind": "check", **asked, "workers": _near(told["workers"], most)}))
            for number in workers:
                if number in told["workers"]:
                    found.append(Measured("speech", {"kind": "speech", **asked, "workers": number, "seconds": seconds}))
    for way in limits.WAYS if "limits" in groups else ():
        for number in [number for number in limits.PARALLEL if number <= max(most, 1)] if ", " in way else [1]:
            found.append(Measured("limits", {"kind": "limits", "way": way, "workers": number, "seconds": seconds}))
    for peer, told in ready.items() if "start" in groups else ():
        task = {"kind": "start", "peer": peer, "decoder": told["decoders"][0], "workers": _near(told["workers"], 2)}
        found.append(Measured("start", task))
    for group, ways in (("images", others.image_ways()), ("reviews", others.REVIEW_WAYS)):
        for way in ways if group in groups else ():
            found.append(Measured(group, {"kind": "others", "set": group, "way": way, "seconds": seconds}))
    for way in health.WAYS if "health" in groups else ():
        found.append(Measured("health", {"kind": "health", "way": way, "rows": rows}))
    return found


def _near(possible: Sequence[int], wanted: int) -> int:
    return min(possible, key=lambda number: abs(number - wanted))


def prepare(names: Iterable[str], folder: Path, work: Path, timeout_s: float) -> dict[str, dict[str, Any]]:
    """Makes the format of each loader; what each says of itself, or the reason why it cannot be measured."""
    about = {}
    for peer in names:
        outcome = runner.run({"kind": "prepare", "peer": peer, "folder": str(folder)}, work, SLOW * timeout_s)
        about[peer] = outcome.figures or {"name": peer, "reason": outcome.reason}
    return about


def measure(
    found: list[Measured],
    rounds: int,
    timeout_s: float,
    work: Path,
    folders: dict[str, dict[str, str]],
    tell: Callable[[str], None],
    until_s: float = float("inf"),
) -> int:
    """Runs them in turn, round by round; how many rounds there were. One that fails is not tried again.

    Args:
        found: The measurements, whose runs are added to.
        rounds: How often each is run.
        timeout_s: The limit of one run.
        work: Where processes get their temporary folders.
        folders: For each group, what its tasks are told beside what they were asked.
        tell: Is told of each run.
        until_s: When to have ended, on the clock of time.monotonic: a round that would last longer, if it takes as long
            as the one before less what is not done again, is not begun. The first one always is.
    """
    took = 0.0
    for number in range(rounds):
        if number and time.monotonic() + took > until_s:
            tell(f"no time for round {number + 1}")
            return number
        took = 0.0
        for one in found:
            if one.reason or (number and one.task["kind"] in ONCE):
                continue
            limit, began = timeout_s * (SLOW if one.group == "health" else 1), time.monotonic()
            outcome = runner.run({**one.task, **folders[one.group]}, work, limit)
            if outcome.figures is None:
                one.reason, one.runs = outcome.reason, []
            else:
                one.runs.append(outcome.figures)
            asked = " ".join(str(value) for name, value in one.task.items() if name not in ("kind", "seconds"))
            said = outcome.reason or "  ".join(f"{name} {_short(value)}" for name, value in (one.runs[-1]).items())
            tell(f"round {number + 1}, {one.task['kind']} {asked}: {said[:200]}")
            took += 0.0 if one.task["kind"] in ONCE else time.monotonic() - began
    return rounds


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)

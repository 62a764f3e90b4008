"""Who is ahead, in words: for each figure of the tables, the best of ecopipe and the best of its peers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.bench.measurements import Measured, Results

OURS = "ecopipe"


@dataclass(frozen=True)
class Contest:
    """A figure that loaders are compared by: what it is called, in which measurements it is, and how it is shown."""

    text: str
    group: str
    figure: str
    shown: str
    least: bool = False
    workers: int | None = None
    decoder: str | None = None


CONTESTS = (
    *(Contest(f"utterances/s, warm, {n} workers", "speech", "rate", "{:,.0f}", workers=n) for n in (0, 1, 2)),
    Contest("utterances/s, warm, best number of workers", "speech", "rate", "{:,.0f}"),
    Contest("utterances/s, warm, all with dr_flac", "speech", "rate", "{:,.0f}", decoder="dr_flac"),
    Contest("utterances/s, cold, start included", "speech", "cold_rate", "{:,.0f}"),
    Contest("useful seconds of audio a second", "speech", "useful_s_per_s", "{:,.0f}"),
    Contest("CPU for an utterance, ms", "speech", "cpu_ms", "{:.2f}", least=True),
    Contest("padding", "speech", "padding", "{:.1%}", least=True),
    Contest("first batch, s", "start", "first_batch_s", "{:.2f}", least=True),
)


def words(results: Results) -> Iterator[str]:
    """A sentence for each figure that both were measured by; **a peer that is ahead stands first, and in bold**."""
    for contest in CONTESTS:
        ours, theirs = (_best(results, contest, own=own) for own in (True, False))
        if ours is None or theirs is None:
            continue
        won = ours[0] <= theirs[0] if contest.least else ours[0] >= theirs[0]
        first, second = (ours, theirs) if won else (theirs, ours)
        names = [f"{_named(results, one)} {contest.shown.format(value)}" for value, one in (first, second)]
        ahead = names[0] if won else f"**a peer wins: {names[0]}**"
        close = " (ranges overlap)" if _overlap(first[1], second[1], contest.figure) else ""
        yield f"{contest.text}: {ahead}, before {names[1]}{close}"


def _best(results: Results, contest: Contest, *, own: bool) -> tuple[float, Measured] | None:
    found = []
    for one in results.of(contest.group):
        peer = one.task["peer"]
        decoder = contest.decoder or results.about[peer]["decoders"][0]
        asked = contest.workers is None or one.task["workers"] == contest.workers
        if asked and one.task["decoder"] == decoder and peer.startswith(OURS) == own:
            value = one.median(contest.figure)
            if value is not None:
                found.append((value, one))
    pick = min if contest.least else max
    return pick(found, key=lambda pair: pair[0], default=None)


def _named(results: Results, one: Measured) -> str:
    return f"{results.about[one.task['peer']]['name']} ({one.task['workers']} workers)"


def _overlap(one: Measured, other: Measured, figure: str) -> bool:
    mine, theirs = one.values(figure), other.values(figure)
    return len(mine) > 1 and min(mine) <= max(theirs) and min(theirs) <= max(mine)

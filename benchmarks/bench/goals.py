"""The goals, each a line: reached or not, and the figure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from benchmarks.bench import health
from benchmarks.bench.measurements import Measured, Results

OURS = "ecopipe"
PROCESSES = "2 worker processes"


@dataclass(frozen=True)
class Goal:
    """What is wanted, of a figure that is None where it was not measured; ``whose`` says of what it is."""

    text: str
    figure: float | None
    wanted: float
    at_most: bool = False
    whose: str = ""
    unit: str = ""

    def __str__(self) -> str:
        if self.figure is None:
            return f"goal {self.text}: not measured{f' ({self.whose})' if self.whose else ''}"
        good = self.figure <= self.wanted if self.at_most else self.figure >= self.wanted
        shown = f"{self.figure:.1%}" if self.unit == "%" else f"{self.figure:.3g}{self.unit and ' ' + self.unit}"
        return f"goal {self.text}: {'reached' if good else 'not reached'} ({shown}{self.whose and '; ' + self.whose})"


def goals(results: Results) -> list[Goal]:
    """All of them; what was not measured says so."""
    return [*_speech(results), *_costs(results), *_images(results), *_reviews(results)]


def lines(results: Results) -> Iterator[str]:
    """A line each."""
    yield from map(str, goals(results))


def _name(results: Results, one: Measured) -> str:
    name = results.about.get(one.task.get("peer", ""), {}).get("name", one.task.get("way", ""))
    return f"{name}, {one.task['workers']} workers" if "workers" in one.task else name


def _ratio(one: tuple[float, Measured] | None, other: float | None) -> float | None:
    return None if one is None or not other else one[0] / other


def _speech(results: Results) -> list[Goal]:
    rates = {
        peer: best
        for peer, told in results.about.items()
        if "decoders" in told and (best := results.best("rate", "speech", peer=peer, decoder=told["decoders"][0]))
    }
    ours = [best for peer, best in rates.items() if peer.startswith(OURS)]
    floats = [best for best in ours if best[1].runs[0]["dtype"] == "float32"]
    best = max(floats, key=lambda pair: pair[0], default=None)
    bounds = [results.best("rate", "limits", way=f"dr_flac, {kind}", workers=2) for kind in ("threads", "processes")]
    bound = max((found[0] for found in bounds if found), default=None)
    others = {p: found for p, found in rates.items() if not p.startswith(OURS) and p != "dali"}
    fastest = max(others.values(), key=lambda pair: pair[0], default=None)
    dali = rates.get("dali")
    processes = results.best("rate", "speech", peer=OURS, workers=2)
    padding = processes and processes[1].median("padding")
    of = "" if best is None else _name(results, best[1])
    behind = "" if fastest is None else f"{of} against {_name(results, fastest[1])}"
    return [
        Goal("speech, best mode, of the decoder alone at 2, at least 0.9", _ratio(best, bound), 0.9, whose=of),
        Goal(f"speech, {PROCESSES}, of the decoder alone at 2, at least 0.75", _ratio(processes, bound), 0.75),
        Goal("speech, best mode, times DALI on CPU, at least 1.8", _ratio(best, dali and dali[0]), 1.8, whose=of),
        Goal("speech, best mode, times every Python peer, at least 2.5",
             _ratio(best, fastest and fastest[0]), 2.5, whose=behind),
        Goal("speech, padding, at most 3 %", padding, 0.03, at_most=True, unit="%"),
    ]  # fmt: skip


def _costs(results: Results) -> list[Goal]:
    def figure(way: str, name: str) -> tuple[float | None, str]:
        of = results.of("health", way=way)
        return (of[0].median(name), of[0].reason) if of else (None, "")

    def goal(text: str, way: str, name: str, wanted: float, at_most: bool = True, unit: str = "") -> Goal:
        found, reason = figure(way, name)
        return Goal(text, found, wanted, at_most, reason, unit)

    begun = results.of("start", peer=OURS)
    first, cpu = (begun[0].median(name) if begun else None for name in ("first_batch_s", "first_batch_cpu_s"))
    reason = f"{cpu:.2f} s of CPU in all processes" if cpu is not None else begun[0].reason if begun else ""
    found = [
        Goal("time to the first batch with 2 workers, at most 0.3 s", first, 0.3, True, reason, "s"),
        goal("opening an index, CPU for a million rows at most 50 ms", "index", "open_ms", 50, unit="ms"),
        goal("opening it and reading what planning looks at, CPU for a million rows at most 50 ms",
             "index", "touched_ms", 50, unit="ms"),
    ]  # fmt: skip
    for number in (0, 1, 2):
        way, with_ = health.EPOCHS_OF.format(number), f"over {health.EPOCHS} epochs with {number} workers"
        found.append(goal(f"own memory {with_}, growth at most 5 %", way, "growth", 0.05, unit="%"))
        found.append(goal(f"open files {with_}, more by at most 0", way, "more_files", 0))
    for which in ("first", "second"):
        text = f"remote with 20 ms of latency, {which} epoch, of the local rate at least 0.9"
        one, alone = goal(text, "remote", f"of_local {which}", 0.9, False), figure("remote", f"alone {which}")[0]
        said = one.whose if alone is None else f"{alone:.3g} without the servers' share of the cores"
        found.append(replace(one, whose=said))
    return found


def _of_way(results: Results, group: str, begins: str) -> tuple[float, Measured] | None:
    found = [(one.median("rate"), one) for one in results.of(group) if one.task["way"].startswith(begins)]
    known = [(rate, one) for rate, one in found if rate is not None]
    return max(known, key=lambda pair: pair[0], default=None)


def _images(results: Results) -> list[Goal]:
    raw, theirs_raw = (_of_way(results, "images", f"{who}, raw") for who in (OURS, "webdataset"))
    png, theirs_png = (_of_way(results, "images", f"{who}, PNG") for who in (OURS, "webdataset"))
    dali = _of_way(results, "images", "DALI")
    return [
        Goal("CIFAR-10 raw, times webdataset, at least 100", _ratio(raw, theirs_raw and theirs_raw[0]), 100),
        Goal("CIFAR-10 PNG, times webdataset, at least 5", _ratio(png, theirs_png and theirs_png[0]), 5),
        Goal("CIFAR-10 PNG, times DALI on CPU, at least 1", _ratio(png, dali and dali[0]), 1),
    ]


def _reviews(results: Results) -> list[Goal]:
    ours, theirs = (_of_way(results, "reviews", who) for who in (OURS, "webdataset"))
    return [Goal("IMDB tokens, times webdataset, at least 2", _ratio(ours, theirs and theirs[0]), 2)]

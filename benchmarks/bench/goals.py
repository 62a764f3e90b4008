"""The goals, each a line: reached or not, and the figure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

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
    usable = {p: best for p, best in rates.items() if p.startswith(OURS) and not results.about[p].get("prototype")}
    floats = [best for best in usable.values() if best[1].runs[0]["dtype"] == "float32"]
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
    found = [
        Goal("speech, best mode, of the decoder alone at 2, at least 0.9", _ratio(best, bound), 0.9, whose=of),
        Goal(f"speech, {PROCESSES}, of the decoder alone at 2, at least 0.75", _ratio(processes, bound), 0.75),
        Goal("speech, best mode, times DALI on CPU, at least 1.8", _ratio(best, dali and dali[0]), 1.8, whose=of),
        Goal("speech, best mode, times every Python peer, at least 2.5",
             _ratio(best, fastest and fastest[0]), 2.5, whose=behind),
        Goal("speech, padding, at most 3 %", padding, 0.03, at_most=True, unit="%"),
    ]  # fmt: skip
    for peer, trial in rates.items():
        if results.about[peer].get("prototype"):
            said = f"{_name(results, trial[1])}; not what is delivered yet"
            text = "prototype of threads, of the decoder alone at 2, at least 0.9"
            found.append(Goal(text, _ratio(trial, bound), 0.9, whose=said))
    return found


def _costs(results: Results) -> list[Goal]:
    def figure(way: str, name: str) -> tuple[float | None, str]:
        of = results.of("health", way=way)
        return (of[0].median(name), of[0].reason) if of else (None, "")

    begun = results.of("start", peer=OURS)
    first = begun[0].median("first_batch_s") if begun else None
    opened, growth, files, remote = (
        figure(*what)
        for what in (
            ("index", "ms_per_million_rows"), ("epochs", "growth"), ("epochs", "more_files"), ("remote", "of_local")
        )
    )  # fmt: skip
    return [
        Goal("time to the first batch with 2 workers, at most 0.3 s", first, 0.3, at_most=True, unit="s"),
        Goal("opening an index, of a million rows at most 50 ms", opened[0], 50, True, opened[1], "ms"),
        Goal("own memory of workers over 20 epochs, growth at most 5 %", growth[0], 0.05, True, growth[1], "%"),
        Goal("open files over 20 epochs, more by at most 0", files[0], 0, True, files[1]),
        Goal("remote with 20 ms of latency, of the local rate at least 0.9", remote[0], 0.9, whose=remote[1]),
    ]


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

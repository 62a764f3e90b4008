"""LibriSpeech from shards to padded batches: ecopipe beside its peers, on the same bytes, to the same delivered thing.

First install ``benchmarks/bench/requirements.txt``: a loader that is not installed is left out, and the table says why.
SOURCE is a LibriSpeech tree, a folder of WebDataset tars with flac, or a folder that holds ``LibriSpeech`` and, for the
images and texts, ``cifar-10-python.tar.gz`` and ``aclImdb_v1.tar.gz``.

A full run (5 rounds, workers 0, 1, 2, all loaders) takes some two hours on two cores. ``--medium`` is as many rounds of
short epochs, with 0 and 2 workers, as end within 12 minutes: with ``--groups speech limits`` one to three. ``--quick``
only tells whether everything runs and delivers the same audio.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.bench import corpus, goals, measurements, peers, report, runner
from benchmarks.bench.measurements import GROUPS, Results

QUICK = {"repeats": 1, "seconds": 0.5, "copies": 1, "workers": [0, 1, 2]}
MEDIUM = {"repeats": 5, "seconds": 0.7, "copies": 3, "workers": [0, 2], "minutes": 11.5}
FULL = {"repeats": 5, "seconds": 4.0, "copies": 20, "workers": [0, 1, 2]}
QUICK_ROWS, ROWS = 100_000, 1_000_000


def parsed(given: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, nargs="?", help="see above; not needed with --from")
    parser.add_argument("--peers", nargs="+", choices=peers.ALL, default=list(peers.ALL), metavar="PEER")
    parser.add_argument("--groups", nargs="+", choices=GROUPS, default=list(GROUPS), metavar="GROUP", help=f"{GROUPS}")
    parser.add_argument("--workers", nargs="+", type=int, help="0 1 2, or 0 2 with --medium")
    parser.add_argument("--repeats", type=int, help="rounds, 5 unless --medium or --quick")
    parser.add_argument("--seconds", type=float, help="of warm epochs in a run, at least; 4 unless --medium or --quick")
    parser.add_argument("--copies", type=int, help="how often each utterance is there, 20 unless --medium or --quick")
    parser.add_argument("--timeout-s", type=float, default=120.0, help="of one run")
    parser.add_argument("--work", type=Path, help="keep the data here, and use again what is there")
    parser.add_argument(
        "--from", dest="saved", type=Path, nargs="+", metavar="JSON",
        help="make the report of the results in this JSON file; those of further ones are further rounds",
    )  # fmt: skip
    parser.add_argument("--json", type=Path, help="write the results here")
    parser.add_argument("--table", type=Path, help="write all tables here, as Markdown")
    parser.add_argument("--chart", type=Path, help="draw the chart here, as SVG")
    parser.add_argument("--readme", type=Path, help="put chart and table between the markers of this README")
    parser.add_argument("--minutes", type=float, help="begin no round, but the first, that would end later")
    parser.add_argument("--medium", action="store_true")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args(given)
    if (options.source is None) == (options.saved is None):
        parser.error("give SOURCE, or --from results.json")
    for name, value in (QUICK if options.quick else MEDIUM if options.medium else FULL).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    return options


def run(options: argparse.Namespace, work: Path) -> Results:
    """Prepares and measures."""
    until_s = time.monotonic() + 60 * options.minutes if options.minutes else float("inf")
    source: Path = options.source.resolve()
    beside = source if (source / "LibriSpeech").exists() else source.parent
    speech = source / "LibriSpeech" if beside == source else source
    archives = {"images": beside / "cifar-10-python.tar.gz", "reviews": beside / "aclImdb_v1.tar.gz"}
    data, told = work / f"speech-{options.copies}", work / f"speech-{options.copies}.json"
    if not told.exists():
        told.write_text(json.dumps(corpus.make_files(speech, data / "files", options.copies)))
    corpus.truth(data)
    print(f"preparing {', '.join(options.peers)}", flush=True)
    about = measurements.prepare(options.peers, data, work, options.timeout_s)
    folders: dict[str, dict[str, str]] = {group: {"folder": str(data)} for group in ("check", *GROUPS)}
    groups = list(options.groups)
    for name, archive in archives.items():
        folders[name] = {"folder": str(work / name), "source": str(archive)}
        if name in groups and not _prepared(name, archive, work, folders[name], options.timeout_s):
            groups.remove(name)
    rows = QUICK_ROWS if options.quick else ROWS
    found = measurements.planned(about, groups, options.workers, options.seconds, rows)
    rounds = measurements.measure(
        found, options.repeats, options.timeout_s, work, folders, lambda text: print(text, flush=True), until_s
    )
    settings: dict[str, Any] = {"repeats": rounds, "seconds": options.seconds, "quick": options.quick}
    settings |= {"cores": len(os.sched_getaffinity(0)), "python": platform.python_version()}
    settings["command"] = "python -m benchmarks.bench " + shlex.join(["SOURCE", *_told(sys.argv[1:], options.source)])
    return Results(settings, json.loads(told.read_text()), about, found)


def _told(given: list[str], source: Path) -> list[str]:
    """The options that say what is measured, not where it is written."""
    left, skip = [], False
    for word in given:
        if skip or word == str(source):
            skip = False
        elif word in ("--json", "--table", "--chart", "--readme", "--work"):
            skip = True
        else:
            left.append(word)
    return left


def _prepared(name: str, archive: Path, work: Path, folder: dict[str, str], timeout_s: float) -> bool:
    if (work / f"{name}.done").exists():
        return True
    if not archive.exists():
        print(f"{name}: left out, {archive.name} is not beside the speech")
        return False
    Path(folder["folder"]).mkdir(exist_ok=True)
    task = {"kind": "others", "set": name, "way": "", **folder}
    outcome = runner.run(task, work, measurements.SLOW * timeout_s)
    if outcome.figures is None:
        print(f"{name}: left out, {outcome.reason}")
        return False
    (work / f"{name}.done").touch()
    return True


def main() -> None:
    options = parsed(sys.argv[1:])
    if options.saved:
        results, *more = (Results.of_json(json.loads(path.read_text())) for path in options.saved)
        for other in more:
            results = results.joined(other)
    elif options.work:
        options.work.mkdir(parents=True, exist_ok=True)
        results = run(options, options.work.resolve())
    else:
        with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as folder:
            results = run(options, Path(folder))
    if options.json:
        options.json.write_text(json.dumps(results.to_json(), indent=1))
    if options.table:
        options.table.write_text(report.full(results), encoding="utf-8")
    if options.chart:
        report.draw(results, options.chart)
    if options.readme:
        chart = os.path.relpath(options.chart, options.readme.parent) if options.chart else None
        report.into_readme(options.readme, report.summary(results, chart))
    print(report.full(results))
    print(*goals.lines(results), sep="\n")


if __name__ == "__main__":
    main()

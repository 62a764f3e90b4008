"""``ecopipe profile`` and ``ecopipe tune``."""

from __future__ import annotations

import json
import math
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from ecopipe.cli.progress import clock, stderr
from ecopipe.cli.streaming import open_source
from ecopipe.insight import profile_words
from ecopipe.insight.profile import Profile
from ecopipe.insight.profile_budgets import budgets
from ecopipe.insight.profile_codecs import codecs
from ecopipe.insight.profile_memory import bring_into_memory, drop_from_memory
from ecopipe.insight.report_figures import spoken_us
from ecopipe.insight.trace import write_trace
from ecopipe.insight.tuning import Trial, best_of, measured_s, taken, tune, tuned_text
from ecopipe.pipeline.document import read_text
from ecopipe.pipeline.toml import load, parse_override
from ecopipe.pipeline.tuning import Tuning
from ecopipe.run.loader import Loader
from ecopipe.storage.publish import final_place, publish_file
from ecopipe.storage.sizes import parse_bytes
from ecopipe.vocabulary.errors import ConfigError, OutputError

COLD, READING = 0.25, 0.15
"""The parts of the time that the cold run gets, and then at most reading what it did not come to."""

WIDE = 120
"""Columns that the table needs."""


def profile(
    file: Path,
    overrides: Sequence[str],
    *,
    workers: int | None,
    threads: int | None,
    prefetch: int | None,
    seconds: float,
    consumer_ms: float,
    device: str,
    trace: Path | None,
    html: Path | None,
    as_json: bool,
) -> dict[str, Any]:
    """Profiles a pipeline file, cold and then warm, and prints what was found; gives the document of the warm run, with
    ``cold`` (the ``run`` of the cold one) and ``codecs`` beside.

    Raises:
        MissingDependency: A report is wanted, and a package for it is not installed.
        OutputError: The place of the report or the trace cannot be written, or both are one. Nothing was run then.
        ConfigError: A consumer's step is longer than what is measured. Nothing was run then.
    """
    for path, option in ((html, "--html"), (trace, "--trace")):
        if path is not None:
            check_place(path, option)
    if html is not None and trace is not None and os.path.realpath(html) == os.path.realpath(trace):
        raise OutputError(f"{html}: cannot be both --html and --trace. Name two files.")
    check_step(consumer_ms / 1e3, seconds, consumer_ms / 1e3)
    if html is not None:
        from ecopipe.insight import report, report_examples

        report.check_installed()
    pipeline = load(file, dict(parse_override(text) for text in overrides))
    shards = open_source(pipeline)
    settings: dict[str, Any] = {
        "workers": workers, "threads": threads, "prefetch": prefetch, "device": device, "shards": shards,
    }  # fmt: skip
    dropped = drop_from_memory(shards)
    with clock(f"{_about(seconds)}: cold") as now:
        with Loader(pipeline, **settings) as loader:
            cold = _run(loader, COLD * seconds, consumer_ms / 1e3)
        now(f"{_about(seconds)}: reading")
        began = time.monotonic()
        held = bring_into_memory(pipeline, shards, READING * seconds)
        left_s = (1 - COLD) * seconds - (time.monotonic() - began)
        now(f"{_about(seconds)}: warm")
        with Loader(pipeline, **settings) as loader:
            warm = _run(loader, left_s, consumer_ms / 1e3, held)
            now("working out what would be faster")
            document = warm.as_json() | {"codecs": codecs(loader, warm.model, warm.recording)}
            document["budgets"] = budgets(loader, warm.model, warm.recording)
    document["run"]["only_batches"] = held
    document |= {"pipeline": str(file), "cold": cold.as_json()["run"] | {"files_dropped": dropped}}
    document["words"] = profile_words.told(document)
    try:
        if as_json:
            print(json.dumps(document), flush=True)
        else:
            _print(document)
    finally:  # after it, since the disk may be full; and also if nobody reads it to the end
        if trace is not None:
            write_trace(warm.recording, trace)
        if html is not None:
            found = report_examples.examples(pipeline, shards)
            made = report.page(document, pipeline, found, ready=report.ready_when_asked(warm.recording))
            report.write_report(html, made)
    for path in (trace, html):
        if path is not None and not as_json:
            print(f"wrote {path}")
    return document


def check_place(path: Path, option: str) -> None:
    """Refuses a place where no file can be written, before the work is done.

    Raises:
        OutputError: It is ``-``, a folder or a pipe; or its folder is missing or cannot be written to.
    """
    if str(path) == "-":
        raise OutputError(f"{option} -: standard output is where the answer goes. Name a file for {option}.")
    if path.is_dir():
        raise OutputError(f"{path}: is a folder. Name a file for {option}.")
    if not path.parent.is_dir():
        raise OutputError(f"{path}: there is no folder {path.parent}. Make it, or choose another place with {option}.")
    place = final_place(path)
    if place.is_char_device():
        return
    try:
        with tempfile.TemporaryFile(dir=place.parent):
            pass
    except OSError as error:
        raise OutputError(
            f"{path}: cannot be written ({error.strerror}). Choose another place with {option}."
        ) from error


def check_step(step_s: float, measured_s: float, least_s: float) -> None:
    """Refuses a consumer's step that is longer than ``measured_s``, and names the ``--seconds`` that it takes."""
    if step_s > measured_s:
        raise ConfigError(
            f"--consumer: a step of {step_s:g} s is longer than the {measured_s:.3g} s that are measured. Give it "
            f"--seconds {math.ceil(least_s)}, or a shorter step."
        )


def _about(seconds: float) -> str:
    return f"measuring for about {seconds:g} s"


def _run(loader: Loader, seconds: float, consumer_s: float, only: int | None = None) -> Profile:
    with loader.profile() as found:
        for _ in taken(loader, seconds, consumer_s, only=only):
            pass
    return found


def _print(document: dict[str, Any]) -> None:
    console = Console()
    for sentence in document["words"]:
        console.print(sentence, highlight=False, soft_wrap=True)
    console = Console(width=max(console.width, WIDE))
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for title in ("stage", "where", "items/s", "self, s", "share", "p50", "p95", "p99", "per", "in", "out", "if free"):
        table.add_column(title, justify="left" if title in ("stage", "where", "per") else "right", no_wrap=True)
    for row in document["stages"]:
        times = (spoken_us(row[f"p{share}_us"]) for share in (50, 95, 99))
        free = "" if row["without_per_s"] is None else profile_words.rate(row["without_per_s"])
        speed = "" if row["items_per_s"] is None else profile_words.rate(row["items_per_s"])
        table.add_row(
            row["name"], row["where"], speed, f"{row['self_s']:.3f}", f"{row['share']:.0%}", *times, row["per"],
            decimal(row["bytes_in"]), decimal(row["bytes_out"]), free,
        )  # fmt: skip
    console.print(table)
    for title, text in _figures(document):
        console.print(f"{title}: {text}", highlight=False)


def _figures(document: dict[str, Any]) -> list[tuple[str, str]]:
    run, cold, queues, way = (document[name] for name in ("run", "cold", "queues", "transfer"))
    only = f", of the first {run['only_batches']:,} batches again and again" if run["only_batches"] else ""
    found = [
        ("warm", _rate(run) + only),
        ("cold", _rate(cold)),
        ("a batch", f"{decimal(run['batch_bytes'])}, {run['samples'] / run['batches']:.1f} samples"),
        ("tasks waited for a worker", _spread(queues["before_worker"])),
        ("batches waited for the consumer", _spread(queues["before_consumer"])),
        ("packing a batch" + (", tried" if way["tried_only"] else ""), _spread(way["pack"])),
        ("unpacking it", _spread(way["unpack"])),
    ]
    if run["padding_fraction"] is not None:
        found.insert(2, ("padding", f"{run['padding_fraction']:.1%}"))
    for row in document["workers"] if document["settings"]["workers"] else ():
        shares = (
            f"{row['busy_share']:.0%} busy, {row['cpu_share']:.0%} of a core, {row['starved_share']:.0%} without one"
        )
        found.append((f"worker {row['pid']}", f"{row['batches']} batches, {shares}, {decimal(row['rss_bytes'])}"))
    predicted = document["predictions"].get("prefetch", {})
    if len(predicted) > 1:
        rates = ", ".join(f"{count}: {profile_words.rate(value)}" for count, value in predicted.items())
        found.append(("samples/s by prefetch", rates))
    for row in document["budgets"]:
        size = f"{row['samples_per_batch']:.1f} samples, {row['padding']:.1%} padding"
        found.append(
            (f"{row['setting']}={row['value']:g}", f"{size}, {profile_words.rate(row['samples_per_s'])} samples/s")
        )
    cpu, memory = run["main_cpu_share"], decimal(run["main_rss_bytes"])
    found.append(("consumer's process", f"{cpu:.0%} of a core, {memory}"))
    return found


def _rate(run: Mapping[str, Any]) -> str:
    return f"{profile_words.rate(run['samples_per_s'])} samples/s, first batch after {run['first_batch_s']:.2f} s"


def _spread(figures: dict[str, Any]) -> str:
    return f"p50 {spoken_us(figures['p50_us'])}, p95 {spoken_us(figures['p95_us'])}, p99 {spoken_us(figures['p99_us'])}"


def tuned(
    file: Path,
    overrides: Sequence[str],
    *,
    memory: str | None,
    seconds: float,
    consumer_ms: float,
    device: str,
    out: Path | None,
    as_json: bool,
) -> None:
    """Finds workers, threads and prefetch by measurement, prints what it measured, and writes the tuned file.

    Raises:
        OutputError: The place of the tuned file cannot be written. Nothing was run then.
        ConfigError: The file cannot be tuned, or a consumer's step is longer than what is measured. Nothing was run
            then. Or not even without workers does it keep to the limit.
    """
    text = read_text(file)
    if out is not None:
        check_place(out, "--out")
        tuned_text(text, Tuning(), str(file))
    each = measured_s(seconds)
    check_step(consumer_ms / 1e3, each, consumer_ms / 1e3 * seconds / each)
    pipeline = load(file, dict(parse_override(one) for one in overrides))
    limit = None if memory is None else parse_bytes(memory, "--memory")

    def told(trial: Trial) -> None:
        if stderr.is_terminal:
            stderr.print(f"{_named(trial)}: {trial.samples_per_s:,.1f} samples/s")

    shards = open_source(pipeline)
    with clock(_about(seconds)):
        trials = tune(
            pipeline,
            shards,
            memory_bytes=limit,
            seconds=seconds,
            consumer_s=consumer_ms / 1e3,
            device=device,
            told=told,
        )
    best, told_apart = best_of(trials)
    try:
        if as_json:
            found = {"best": asdict(best), "noisy": not told_apart, "trials": [asdict(trial) for trial in trials]}
            print(json.dumps({"pipeline": str(file)} | found), flush=True)
        else:
            _print_trials(trials, best, told_apart)
    finally:  # after it, as in profile
        if out is not None:
            tuning = Tuning(workers=best.workers, threads=best.threads, prefetch=best.prefetch)
            with publish_file(out) as temporary:
                temporary.write_text(tuned_text(text, tuning, str(file)), encoding="utf-8")
    if out is not None and not as_json:
        print(f"Written to {out}. Checkpoints stay valid.")


def _print_trials(trials: Sequence[Trial], best: Trial, told_apart: bool) -> None:
    console = Console()
    console.print(
        f"{_named(best)}: {best.samples_per_s:,.1f} samples/s, {decimal(best.memory_bytes)}.", highlight=False
    )
    if not told_apart:
        widest = max(trials, key=lambda trial: trial.range_per_s[1] - trial.range_per_s[0])
        least, most = widest.range_per_s
        console.print(
            f"The machine was too noisy to tell settings apart: {_named(widest)} gave {least:,.1f} and {most:,.1f} "
            "samples/s. Of those that may be the fastest, the one above is the simplest. Measure again with more "
            "--seconds, or when the machine does nothing else.",
            highlight=False,
            soft_wrap=True,
        )
    table = Table(box=SIMPLE_HEAD, padding=0)  # so that it fits into 80 columns
    for title in ("workers", "threads", "prefetch", "samples/s", "from", "to", "predicted", "memory", "fits"):
        table.add_column(title, justify="right")
    for trial in sorted(trials, key=lambda trial: (trial.workers, trial.threads, trial.prefetch)):
        rates = (trial.samples_per_s or 0.0, *trial.range_per_s, trial.predicted_per_s)
        table.add_row(
            *map(str, (trial.workers, trial.threads, trial.prefetch)), *map(profile_words.rate, rates),
            decimal(trial.memory_bytes), "yes" if trial.fits else "no",
        )  # fmt: skip
    console.print(table)


def _named(trial: Trial) -> str:
    return f"workers={trial.workers}, threads={trial.threads}, prefetch={trial.prefetch}"

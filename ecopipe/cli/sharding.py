"""``ecopipe shard``, ``index`` and ``verify``."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ecopipe.cli.progress import bytes_bar, records_bar
from ecopipe.datasets import shards
from ecopipe.datasets.catalogue import entries, parse_options
from ecopipe.datasets.corpus import Corpus, open_corpus
from ecopipe.datasets.sharded import Sharded
from ecopipe.pipeline.bad_samples import BadSamples
from ecopipe.sharding.limits import Limits
from ecopipe.sharding.local import Note
from ecopipe.sharding.recipe import Recipe, keep
from ecopipe.sharding.staging import QUARANTINE
from ecopipe.sharding.write import write_corpus
from ecopipe.sharding.writer import SplitSummary
from ecopipe.stages.plan import Where
from ecopipe.stages.stage import Stage
from ecopipe.storage import files
from ecopipe.storage.retries import without_credentials
from ecopipe.storage.sizes import parse_bytes
from ecopipe.vocabulary.errors import ConfigError
from ecopipe.vocabulary.meters import cores

MOST_PROBLEMS = 50
"""Problems that are listed; the rest is counted."""

MOST_LABELS = 12
"""Labels that are listed; the rest is counted."""


def human_bytes(count: float) -> str:
    """A number of bytes for people.

    >>> human_bytes(3_500_000)
    '3.5 MB'
    """
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def counted(number: int, noun: str) -> str:
    """A number with its noun.

    >>> counted(1, "shard"), counted(2000, "shard")
    ('1 shard', '2,000 shards')
    """
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


@dataclass(frozen=True, kw_only=True)
class How:
    """The options that ``shard`` and ``reshard`` share."""

    max_bytes: str
    max_count: int | None
    max_duration: str | None
    shards: int | None
    shuffle: bool
    seed: int
    stages: Path | None
    workers: int | None
    bad_samples: str
    max_bad_share: float
    overwrite: bool
    sha256: bool
    engine: str = "local"
    ray_address: str | None = None

    def limits(self) -> Limits:
        """How large shards may become."""
        duration_s = None if self.max_duration is None else parse_seconds(self.max_duration)
        return Limits(parse_bytes(self.max_bytes, "--max-bytes"), self.max_count, duration_s, self.shards)

    def settings(self, recipe: tuple[Stage, ...] | None = None) -> dict[str, Any]:
        """Arguments of :func:`write_corpus`."""
        stages = recipe if recipe is not None else self.recipe()
        return {
            "limits": self.limits(),
            "recipe": Recipe(stages, self.seed),
            "shuffle": self.shuffle,
            "seed": self.seed,
            "workers": self._workers(),
            "engine": self.engine,
            "ray_address": self.ray_address,
            "bad_samples": BadSamples(self.bad_samples, max_share=self.max_bad_share),  # type: ignore[arg-type]
            "overwrite": self.overwrite,
            "sha256": self.sha256,
        }

    def recipe(self) -> tuple[Stage, ...]:
        """The stages of the file."""
        if self.stages is None:
            return ()
        from ecopipe.pipeline.toml import load_stages

        return load_stages(self.stages)

    def _workers(self) -> int:
        if self.workers is not None:
            return self.workers
        return 0 if self.engine == "ray" else cores()


def shard(
    name: str,
    source: str,
    out: str,
    *,
    splits: Sequence[str] | None,
    options: Sequence[str],
    storage: str | None,
    how: How,
) -> None:
    """Shards a corpus and prints what was written."""
    settings = parse_options(name, options)
    if storage is not None:
        stored = [each.name for each in entries() if any(option.name == "storage" for option in each.options)]
        if name not in stored:
            raise ConfigError(f"shard: --storage is for {', '.join(stored)}; {name} is stored as it is.")
        settings.setdefault("storage", storage)
    how.limits()
    _check_apart(source, out)
    with open_corpus(name, source, **settings) as corpus:
        told = without_credentials(source) if files.is_url(source) else Path(source).resolve().name
        _write(corpus, out, how.settings(), splits=splits, source=told, options=settings)


def _check_apart(source: str, out: str) -> None:
    """Refuses to write into the source, where the next run would take what is written for samples.

    Raises:
        ConfigError: It is so.
    """
    if files.is_url(source) or files.is_url(out):
        return
    if Path(source).is_dir() and Path(out).resolve().is_relative_to(Path(source).resolve()):
        raise ConfigError(f"shard: {out} lies in the source, {source}. Write to a place outside of it.")


def reshard(named: Sequence[str], out: str, *, split: str, where: Sequence[str], how: How) -> None:
    """Writes shards anew and prints what was written."""
    wanted = [parse_where(text) for text in where]
    how.limits()
    with closing(Sharded(named, split=split)) as corpus:
        stages = how.recipe()
        while stages and isinstance(stages[0], Where):
            wanted, stages = [*wanted, stages[0]], stages[1:]
        before = len(corpus.table)
        for stage in wanted:
            keep(corpus, stage)
        if wanted:
            print(f"{counted(before - len(corpus.table), 'sample')} of {before:,} left out by --where or Where")
        source = ", ".join(without_credentials(path) if files.is_url(path) else Path(path).name for path in named)
        filters = [repr(stage) for stage in wanted]
        _write(corpus, out, how.settings(stages), source=source, options={"where": filters} if filters else {})


def _write(corpus: Corpus, out: str, how: dict[str, Any], **settings: Any) -> None:
    began = time.perf_counter()
    fresh = _Fresh()
    with ExitStack() as bars:

        def progress(split: str, samples: int, before: int) -> Note:
            fresh.before += before
            advance = bars.enter_context(records_bar(f"sharding {split}", samples, before))

            def note(samples: int, size: int, bad: int) -> None:
                fresh.samples += samples
                fresh.bytes += size
                advance(samples, size, bad)

            return note

        try:
            written = write_corpus(corpus, out, progress=progress, **how, **settings)
        except KeyboardInterrupt:
            print("ecopipe: shards that are finished are kept; the same command goes on.", file=sys.stderr)
            raise
    print(out)
    Console().print(_table(written, corpus.classes))
    wall = time.perf_counter() - began
    if fresh.samples:
        print(f"{counted(fresh.samples, 'sample')} read in {wall:.1f} s ({human_bytes(fresh.bytes / wall)}/s written)")
    if fresh.before:
        print(f"{counted(fresh.before, 'sample')} had been written before, and were left as they are.")
    elif not fresh.samples:
        print("Nothing was to do: all of it had been written by the same command before.")
    for split, summary in written.items():
        if summary.bad:
            listed = files.join(files.join(out, split), QUARANTINE)
            print(f"{counted(summary.bad, 'bad sample')} of {split} left out, and listed in {listed}")
    for line in corpus.report():
        if line.partition(":")[0] in written or line.partition(":")[0] not in corpus.splits():
            print(f"note: {line}")


@dataclass
class _Fresh:
    """What this run wrote, and what earlier ones had."""

    samples: int = 0
    bytes: int = 0
    before: int = 0


def _table(written: dict[str, SplitSummary], classes: Sequence[str]) -> Table:
    table = Table()
    for heading in ("split", "samples", "shards", "size", "audio", "labels"):
        table.add_column(heading, justify="left" if heading in ("split", "labels") else "right")
    for split, summary in written.items():
        hours = summary.totals.get("duration_s", 0) / 3600
        named = [
            f"{classes[int(label)] if 0 <= int(label) < len(classes) else label} {count:,}"
            for label, count in summary.labels.items()
        ]
        rest = f", and {len(named) - MOST_LABELS:,} more" if len(named) > MOST_LABELS else ""
        labels = ", ".join(named[:MOST_LABELS]) + rest
        audio = f"{hours:.2f} h" if hours else "-"
        table.add_row(
            split, f"{summary.samples:,}", f"{summary.shards:,}", human_bytes(summary.bytes), audio, labels or "-"
        )
    return table


def add_columns(named: Sequence[str], measures: Sequence[str], *, workers: int | None) -> None:
    """Adds measures to the indexes of folders and prints where the indexes lie."""
    from ecopipe.sharding.measuring import add_measures, check_measures

    parsed = [parse_measure(text) for text in measures]
    check_measures(parsed)
    folders = shards.by_folder([tar for name in named for tar in shards.find_tars(name)])
    for folder, tars in folders.items():
        if shards.unlisted({folder: tars}):
            shards.index_tars(shards.unlisted({folder: tars}))
        with shards.opened(shards.index_path(folder)) as found:
            total = sum(info.rows for info in found.shards)
        with records_bar(f"measuring {folder}", total, 0) as advance:
            target = add_measures(folder, parsed, workers=cores() if workers is None else workers, note=advance)
        names = ", ".join(name for name, _ in parsed)
        print(f"{target}: {names} of {counted(total, 'sample')}")


def parse_measure(text: str) -> tuple[str, tuple[Any, ...]]:
    """``NAME=STAGE`` as a name and stages.

    Raises:
        ConfigError: It is not of that form; the stage is unknown.
    """
    from ecopipe.pipeline.toml import load_stages, parse_stage

    name, equals, stage = text.partition("=")
    if not equals or not stage.strip():
        raise ConfigError(f"--measure {text!r}: write NAME=STAGE, such as words=TokenizeWhitespace.")
    return name.strip(), load_stages(stage) if stage.endswith(".toml") else (parse_stage(stage),)


def parse_where(text: str) -> Where:
    """``MEASURE=LOW:HIGH`` or ``MEASURE=A,B`` as a stage.

    Raises:
        ConfigError: It is not of that form.
    """
    measure, equals, told = text.partition("=")
    if not equals or not measure or not told:
        raise ConfigError(f"--where {text!r}: write MEASURE=LOW:HIGH, such as duration_s=1:20, or label=0,1.")
    if ":" in told:
        low, _, high = told.partition(":")
        bounds = [None if not bound else _number(bound) for bound in (low, high)]
        if any(isinstance(bound, str) for bound in bounds):
            raise ConfigError(f"--where {text!r}: the bounds of a range are numbers.")
        return Where(measure, at_least=bounds[0], at_most=bounds[1])  # type: ignore[arg-type]
    values = [_number(value) for value in told.split(",")]
    if any(isinstance(value, str) for value in values):
        return Where(measure, one_of=tuple(told.split(",")))
    return Where(measure, one_of=tuple(values))


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def parse_seconds(text: str) -> float:
    """``"90s"``, ``"30min"`` or ``"1.5h"`` in seconds.

    Raises:
        ConfigError: It is no duration.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(s|min|m|h)?\s*", text.lower())
    if not match:
        raise ConfigError(f"--max-duration {text!r}: write a number and a unit, such as 90s, 30min or 1h.")
    return float(match[1]) * {"s": 1, "min": 60, "m": 60, "h": 3600}[match[2] or "s"]


def index(named: Sequence[str]) -> None:
    """Indexes tars and prints where the indexes lie."""
    tars = list(dict.fromkeys(tar for name in named for tar in shards.find_tars(name)))
    with bytes_bar(f"indexing {len(tars):,} tars", sum(files.size_of(tar) for tar in tars)) as advance:
        targets = shards.index_tars(tars, advance)
    for target in targets:
        with shards.opened(target) as found:
            rows = sum(info.rows for info in found.shards)
            print(f"{target}: {counted(rows, 'sample')} in {counted(len(found.shards), 'shard')}")


def verify(folders: Sequence[str]) -> int:
    """Verifies folders, prints what was found, and returns the number of problems."""
    places = list(dict.fromkeys(place for folder in folders for place in shards.indexed_folders(folder)))
    problems = 0
    for place in places:
        total = sum(files.size_of(tar) for tar in shards.tars_in(place))
        with bytes_bar(f"verifying {place}", total) as advance:
            found = shards.verify_folder(place, advance)
        print(
            f"{place}: {counted(found.samples, 'sample')}, {counted(found.members, 'member')} in "
            f"{counted(found.shards, 'shard')} ({human_bytes(found.bytes)}): "
            + (counted(len(found.problems), "problem") if found.problems else "all right")
        )
        for problem in found.problems[:MOST_PROBLEMS]:
            member = f" sample {problem.key!r} member {problem.extension!r}" if problem.key else ""
            print(f"  {problem.shard}:{member} {problem.what}")
        if len(found.problems) > MOST_PROBLEMS:
            print(f"  ... and {len(found.problems) - MOST_PROBLEMS:,} more")
        problems += len(found.problems)
    return problems

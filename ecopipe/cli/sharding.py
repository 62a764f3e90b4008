"""``ecopipe shard``, ``index`` and ``verify``."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ecopipe.cli.progress import bytes_bar, count_bar
from ecopipe.datasets import shards
from ecopipe.datasets.catalogue import entries, parse_options
from ecopipe.datasets.corpus import open_corpus
from ecopipe.run.writer import Progress, SplitSummary, write_corpus
from ecopipe.storage import files
from ecopipe.vocabulary.errors import ConfigError

MOST_PROBLEMS = 50
"""Problems that are listed; the rest is counted."""

MOST_LABELS = 12
"""Labels that are listed; the rest is counted."""

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}


def parse_bytes(text: str) -> int:
    """``"256MiB"`` or ``"1GB"`` as a number of bytes.

    Raises:
        ConfigError: It is no number of bytes.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmg]i?)?b?\s*", text.lower())
    if not match:
        raise ConfigError(f"--max-bytes {text!r}: write a number and a unit, such as 256MiB or 1GB.")
    return int(float(match[1]) * _UNITS[match[2] or ""])


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


def shard(
    name: str,
    source: Path,
    out: Path,
    *,
    splits: Sequence[str] | None,
    max_bytes: str,
    max_count: int | None,
    options: Sequence[str],
    storage: str | None,
    overwrite: bool,
) -> None:
    """Shards a corpus and prints what was written."""
    settings = parse_options(name, options)
    if storage is not None:
        stored = [each.name for each in entries() if any(option.name == "storage" for option in each.options)]
        if name not in stored:
            raise ConfigError(f"shard: --storage is for {', '.join(stored)}; {name} is stored as it is.")
        settings.setdefault("storage", storage)
    limit = parse_bytes(max_bytes)
    began = time.perf_counter()
    with open_corpus(name, source, **settings) as corpus, ExitStack() as bars:

        def progress(split: str, samples: int) -> Progress:
            advance = bars.enter_context(count_bar(f"sharding {split}", samples))
            return lambda count, _bytes: advance(count)

        written = write_corpus(
            corpus,
            out,
            splits=splits,
            max_bytes=limit,
            max_count=max_count,
            overwrite=overwrite,
            source=source.resolve().name,
            progress=progress,
        )
        notes, classes = corpus.report(), corpus.classes
    print(out)
    Console().print(_table(written, classes))
    total = sum(summary.bytes for summary in written.values())
    wall = time.perf_counter() - began
    print(f"{human_bytes(total)} in {wall:.1f} s ({human_bytes(total / wall)}/s)")
    for note in notes:
        print(f"note: {note}")


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

"""Progress bars on the terminal; nothing where there is none."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from rich import filesize
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

stderr = Console(stderr=True)

Advance = Callable[[float], None]


def _bar(*columns: ProgressColumn) -> Progress:
    fixed = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    return Progress(
        *fixed,
        *columns,
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=stderr,
        transient=True,
        disable=not stderr.is_terminal,
    )


@contextlib.contextmanager
def bytes_bar(description: str, total: int) -> Iterator[Advance]:
    """A bar over bytes; gives what is called with the bytes done since the last call."""
    with _bar(DownloadColumn(), TransferSpeedColumn()) as progress:
        task = progress.add_task(description, total=total)
        yield lambda done: progress.advance(task, done)


@contextlib.contextmanager
def count_bar(description: str, total: int | None) -> Iterator[Advance]:
    """A bar over things; gives what is called with the things done since the last call."""
    with _bar(MofNCompleteColumn()) as progress:
        task = progress.add_task(description, total=total)
        yield lambda done: progress.advance(task, done)


@contextlib.contextmanager
def clock(description: str) -> Iterator[Callable[[str], None]]:
    """The time since it began, beside what is measured, which it does not disturb: it is drawn twice a second, and
    nobody has to call it. Gives what changes the description."""
    columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
    with Progress(
        *columns, console=stderr, transient=True, refresh_per_second=2, disable=not stderr.is_terminal
    ) as progress:
        task = progress.add_task(description, total=None)
        yield lambda text: progress.update(task, description=text)


@contextlib.contextmanager
def records_bar(description: str, total: int, before: int) -> Iterator[Callable[[int, int, int], None]]:
    """A bar over samples, ``before`` of them done, with their bytes, the rate, and the bad ones; gives what is called
    with the samples, bytes and bad samples done since the last call."""
    began, size, bad = time.monotonic(), 0, 0
    with _bar(MofNCompleteColumn(), TextColumn("{task.fields[told]}")) as progress:
        task = progress.add_task(description, total=total, completed=before, told="")

        def advance(samples: int, more: int, bad_ones: int) -> None:
            nonlocal size, bad
            size, bad = size + more, bad + bad_ones
            rate = size / max(time.monotonic() - began, 1e-3)
            told = f"{filesize.decimal(size)}, {filesize.decimal(int(rate))}/s" + (f", {bad:,} bad" if bad else "")
            progress.update(task, advance=samples, told=told)

        yield advance

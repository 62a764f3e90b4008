"""``ecopipe audit``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from ecopipe.cli.progress import stderr
from ecopipe.cli.sharding import counted
from ecopipe.insight.audit import Begun, Report, audit
from ecopipe.insight.lockstep import EpochCount


def audited(ledgers: Sequence[Path], indexes: Sequence[str], *, epochs: int | None, most: int, as_json: bool) -> int:
    """Audits ledgers, prints what was found, and returns the number of problems."""
    with stderr.status("reading ledgers ...") as status:
        report = audit(
            ledgers,
            indexes,
            epochs=epochs,
            most=most,
            progress=lambda what, done, total: status.update(f"{what} {done + 1:,} of {total:,} ..."),
        )
    if as_json:
        print(json.dumps(report.figures()))
    else:
        _print(report)
    return report.problem_count


def _print(report: Report) -> None:
    console = Console()
    console.print(_epochs(report.epochs))
    console.print(_attempts([attempt for attempt in report.attempts if not attempt.goes_on]))
    for path in report.torn:
        print(f"note: {path} ends within a batch, as a killed process leaves it; that batch was not handed out")
    for epoch in report.epochs:
        if not epoch.finished and (epoch.batches or not epoch.rolled_back):
            print(f"epoch {epoch.epoch}: {epoch.batches:,} {'batch' if epoch.batches == 1 else 'batches'} so far")
    for problem in report.problems:
        print(f"  {problem}")
    if report.problem_count > len(report.problems):
        print(f"  ... and {report.problem_count - len(report.problems):,} more")
    print(_verdict(report))


def _verdict(report: Report) -> str:
    if report.problem_count:
        return counted(report.problem_count, "problem")
    bad = [
        f"{number:,} {what}"
        for number, what in (
            (sum(epoch.skipped for epoch in report.epochs), "skipped"),
            (sum(epoch.substituted for epoch in report.epochs), "substituted"),
        )
        if number
    ]
    told = [
        counted(sum(1 for epoch in report.epochs if epoch.batches), "epoch"),
        counted(report.samples, "sample") + (f" ({', '.join(bad)})" if bad else ""),
        counted(report.restarts, "restart"),
    ]
    return f"every sample exactly as often as the pipeline says: {', '.join(told)}"


def _epochs(epochs: Sequence[EpochCount]) -> Table:
    """A row for each epoch; what there was none of has no column."""
    sources = sorted({name for epoch in epochs for name in epoch.sources})
    columns = [
        ("batches", [epoch.batches for epoch in epochs]),
        ("samples", [epoch.samples for epoch in epochs]),
        ("as planned", [epoch.exact for epoch in epochs]),
        ("skipped", [epoch.skipped for epoch in epochs]),
        ("substituted", [epoch.substituted for epoch in epochs]),
        ("repeats", [epoch.repeats for epoch in epochs]),
        ("rolled back", [epoch.rolled_back for epoch in epochs]),
        *((name, [epoch.sources.get(name, 0) for epoch in epochs]) for name in sources),
    ]
    shown = [(heading, numbers) for at, (heading, numbers) in enumerate(columns) if at < 3 or any(numbers)]
    table = Table(box=box.SIMPLE_HEAD, padding=0)  # so that it fits into 80 columns
    for heading in ("epoch", *(heading for heading, _ in shown)):
        table.add_column(heading, justify="right")
    for epoch, *numbers in zip((epoch.epoch for epoch in epochs), *(numbers for _, numbers in shown), strict=True):
        table.add_row(str(epoch), *(f"{number:,}" for number in numbers))
    return table


def _attempts(attempts: Sequence[Begun]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("attempt begun", "epoch", "batch", "ranks", ""):
        table.add_column(heading, justify="left" if heading in ("attempt begun", "") else "right")
    for attempt in attempts:
        note = "rolled back" if attempt.rolled_back else ""
        if attempt.until is not None:
            note = f"until batch {attempt.until:,}"
        table.add_row(attempt.when, str(attempt.epoch), f"{attempt.batch:,}", f"{attempt.world_size:,}", note)
    return table

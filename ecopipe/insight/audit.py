"""The audit: what the trainer took, by the ledger of all ranks and restarts, compared with the plan of the epoch.

The order is a value, so index, pipeline and seed are enough to plan each epoch again. What came is then compared batch
by batch: its number, rank and step, and position by position the key, the shard and the CRC-32 of each sample.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

from ecopipe.insight.attempts import Attempt, attempts_of, segments_of, training
from ecopipe.insight.findings import Findings, Problem
from ecopipe.insight.lockstep import EpochCount, Lockstep
from ecopipe.insight.replan import Replanned, plan_part, replanned
from ecopipe.pipeline.identity import first_difference, less_weights
from ecopipe.plan.mixed import Opened
from ecopipe.run.ledger import LedgerFile, ledger_files
from ecopipe.vocabulary.errors import ConfigError, DataError

MOST = 50
"""Problems that are listed; the rest is counted."""

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""


@dataclass(frozen=True)
class Begun:
    """An attempt: when and where it began, on how many ranks.

    ``until`` is the batch where the next one of its epoch took over, None without one; ``rolled_back`` says that the
    training does not contain it; ``goes_on`` that it is just the next epoch, in the same processes.
    """

    when: str
    epoch: int
    batch: int
    world_size: int
    until: int | None
    rolled_back: bool
    goes_on: bool


@dataclass
class Report:
    """What an audit found.

    ``problems`` are the first ones, ``problem_count`` is the number of all. ``torn`` names files that end within a
    record batch, as a killed process leaves them: that batch was not handed out.
    """

    epochs: list[EpochCount] = field(default_factory=list)
    attempts: list[Begun] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    problem_count: int = 0
    torn: list[str] = field(default_factory=list)

    @property
    def restarts(self) -> int:
        """Attempts after the first that did not just go on with the next epoch."""
        return sum(not attempt.goes_on for attempt in self.attempts[1:])

    @property
    def samples(self) -> int:
        """Samples of all epochs, without repeats."""
        return sum(epoch.samples for epoch in self.epochs)

    def figures(self) -> dict[str, Any]:
        """The report as JSON."""
        return {
            "clean": not self.problem_count,
            "samples": self.samples,
            "restarts": self.restarts,
            "epochs": [asdict(epoch) for epoch in self.epochs],
            "attempts": [asdict(attempt) for attempt in self.attempts],
            "torn": self.torn,
            "problem_count": self.problem_count,
            "problems": [problem.figures() for problem in self.problems],
        }


def audit(
    ledgers: Sequence[str | Path],
    indexes: Sequence[str],
    *,
    epochs: int | None = None,
    most: int = MOST,
    progress: Progress | None = None,
) -> Report:
    """Audits the ledgers of one training.

    Args:
        ledgers: Ledger files, or folders of them: those of all ranks and restarts.
        indexes: Where the shards lie that were streamed; ``NAME=PATH`` for each source of a mixture.
        epochs: Epochs 0 to ``epochs - 1`` must be finished; without it an unfinished last one is no problem.
        most: Problems that are kept; the rest is counted.
        progress: Told how far it is.

    Raises:
        DataError: There is no ledger; a file is damaged; ledgers of several trainings; another index.
        ConfigError: ``indexes`` do not suit the pipeline.
    """
    tell = progress or _silent
    files = [LedgerFile(path) for place in ledgers for path in ledger_files(place)]
    files = list({file.path.resolve(): file for file in files if file.header is not None}.values())
    if not files:
        raise DataError(f"{', '.join(map(str, ledgers))}: holds no more than the beginning of a ledger. Nothing came.")
    _check_headers(files)
    segments = []
    for number, file in enumerate(files):
        tell("reading ledgers", number, len(files))
        segments += segments_of(file)
    attempts = attempts_of(segments)
    chain = training(attempts)
    begun = [
        _begun(attempt, before, rolled_back=attempt not in chain)
        for before, attempt in zip([None, *attempts], attempts, strict=False)
    ]
    report = Report(attempts=begun, torn=[str(file.path) for file in files if file.torn])
    delivered: dict[int, int] = {}
    for segment in segments:
        delivered[segment.epoch] = delivered.get(segment.epoch, 0) + segment.samples
    findings = Findings(most)
    shards = _open(files[0], indexes)
    try:
        by_epoch = {epoch: list(made) for epoch, made in groupby(chain, key=lambda attempt: attempt.place[0])}
        for number, epoch in enumerate(sorted(delivered)):
            tell("comparing epochs", number, len(delivered))
            made = by_epoch.get(epoch, [])
            report.epochs.append(_compared(epoch, made, indexes, shards, delivered[epoch], findings))
    finally:
        shards.close()
    _check_epochs(report.epochs, by_epoch, epochs, findings)
    report.problems, report.problem_count = findings.problems, findings.count
    return report


def _silent(_what: str, _done: int, _total: int) -> None:
    """No progress is shown."""


def _check_headers(files: Sequence[LedgerFile]) -> None:
    """Refuses ledgers of several trainings."""
    first, *others = ((file.path, _agreed(file.header or {})) for file in files)
    for path, agreed in others:
        if difference := first_difference(first[1], agreed):
            raise DataError(
                f"{path}: is the ledger of another training than {first[0]}: {difference}. Audit each training by "
                "itself, with a folder of its own."
            )


def _agreed(header: dict[str, Any]) -> dict[str, Any]:
    """What all ledgers of a training agree in; weights of a mixture may change between two epochs."""
    return {
        "index": header["index"],
        "seed": header["seed"],
        "tail": header["tail"],
        "pipeline": less_weights(plan_part(header["pipeline"])),
    }


def _open(file: LedgerFile, indexes: Sequence[str]) -> Opened:
    """Opens what was streamed."""
    header = file.header or {}
    shards = replanned(header["pipeline"], indexes).source.open(tolerant=True)
    if shards.fingerprint != header["index"]:
        shards.close()
        raise DataError(
            f"--index {', '.join(indexes)}: is not what was streamed: its fingerprint is {shards.fingerprint}, the "
            f"ledger's {header['index']}. Name the same shards, in the pipeline's order."
        )
    return shards


def _begun(attempt: Attempt, before: Attempt | None, *, rolled_back: bool) -> Begun:
    when = datetime.fromtimestamp(attempt.began_ns / 1e9, timezone.utc).isoformat(timespec="seconds")
    goes_on = before is not None and not attempt.fresh and attempt.place == (before.place[0] + 1, 0)
    until = None if rolled_back else attempt.until
    return Begun(when, *attempt.place, attempt.world_size, until, rolled_back, goes_on)


def _compared(
    epoch: int,
    made: Sequence[Attempt],
    indexes: Sequence[str],
    shards: Opened,
    delivered: int,
    findings: Findings,
) -> EpochCount:
    """Compares an epoch with its plan; ``delivered`` counts all its samples in the ledger."""
    if not made:
        return EpochCount(epoch, rolled_back=delivered)
    plan = _plan_of(epoch, made, indexes, shards)
    _check_steps(epoch, made, findings)
    header = made[0].any.file.header or {}
    lockstep = Lockstep(
        epoch,
        plan.sequence(shards, header["seed"], epoch),
        made,
        tail=header["tail"],
        endless=plan.endless(shards),
        findings=findings,
    )
    count = lockstep.run()
    count.rolled_back = delivered - lockstep.taken
    return count


def _plan_of(epoch: int, made: Sequence[Attempt], indexes: Sequence[str], shards: Opened) -> Replanned:
    """The plan part of an epoch's pipeline, and whether the names of its sources are the ledger's."""
    first, *others = (segment.file for attempt in made for segment in attempt.segments.values())
    identity = plan_part((first.header or {})["pipeline"])
    for file in others:
        if difference := first_difference(identity, plan_part((file.header or {})["pipeline"])):
            raise DataError(f"{file.path}: goes on with epoch {epoch} of {first.path} by another plan: {difference}.")
    for entry in (entry for attempt in made for entry in attempt.any.entries()):
        names = set(entry.rows.column("source").drop_null().to_pylist())
        if unknown := sorted(names - set(shards.parts)):
            raise ConfigError(
                f"--index: names the sources {', '.join(shards.parts)}, and the ledger has {unknown[0]!r}. Write "
                f"--index {unknown[0]}=PATH."
            )
        break
    return replanned(identity, indexes)


def _check_steps(epoch: int, made: Sequence[Attempt], findings: Findings) -> None:
    """Enters attempts that count the steps of an epoch otherwise than those before them."""
    if made[0].place[1] == 0 and made[0].any.step != 0:
        findings.add("step", f"begins at step {made[0].any.step:,} instead of 0", epoch=epoch, batches=(0, 0))
    for before, attempt in pairwise(made):
        batches = attempt.place[1] - before.place[1]
        expected = before.any.step + -(-batches // before.world_size)
        if attempt.any.step != expected:
            what = f"an attempt begins at step {attempt.any.step:,}, and those before it made {expected:,}"
            findings.add("step", what, epoch=epoch, batches=(attempt.place[1], attempt.place[1]))


def _check_epochs(
    counts: Sequence[EpochCount], by_epoch: dict[int, list[Attempt]], epochs: int | None, findings: Findings
) -> None:
    """Enters epochs between others that were never begun, and those that were asked for and are not finished."""
    found = {count.epoch: count for count in counts if count.epoch in by_epoch}
    for epoch in range(min(found, default=0), max(found, default=0)):
        if epoch not in found:
            findings.add("lost", "never begun", epoch=epoch)
    for epoch in range(epochs or 0):
        if epoch not in found:
            findings.add("unfinished", "is in no ledger", epoch=epoch)
        elif not found[epoch].finished:
            findings.add("unfinished", f"not finished: {found[epoch].batches:,} batches so far", epoch=epoch)

"""One task: the samples of a shard, read, made, written. A pure function of the corpus and the plan."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ecopipe.datasets.corpus import Corpus
from ecopipe.formats.index import IndexWriter
from ecopipe.formats.measures import MEASURES
from ecopipe.pipeline.bad_samples import SHARE_OVER, BadSamples
from ecopipe.sharding.local import Note
from ecopipe.sharding.planning import ShardPlan, read_sample
from ecopipe.sharding.recipe import Recipe
from ecopipe.sharding.staging import Staging
from ecopipe.sharding.writer import Record, ShardFile, ShardWriter, SplitSummary
from ecopipe.storage import files
from ecopipe.storage.publish import explained
from ecopipe.vocabulary.errors import CorpusError, DataError, OutputError, SampleError


@dataclass(frozen=True)
class BadRecord:
    """A sample that was left out: its key, and why."""

    key: str
    error: str


@dataclass(frozen=True)
class Done:
    """What a task wrote."""

    task: int
    shard: ShardFile
    summary: SplitSummary
    bad: tuple[BadRecord, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """This as JSON holds it."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Done:
        """What :meth:`as_json` gave."""
        bad = tuple(BadRecord(**record) for record in told["bad"])
        return cls(told["task"], ShardFile(**told["shard"]), SplitSummary(**told["summary"]), bad)


@dataclass(frozen=True)
class Job:
    """A split to be written: all that its tasks need to know."""

    corpus: Corpus
    plan: ShardPlan
    recipe: Recipe
    staging: Staging
    bad_samples: BadSamples = field(default_factory=BadSamples)
    sha256: bool = False


def run_task(job: Job, task: int, note: Note) -> Done:
    """Writes one shard, and leaves it with the rows of its index in the staging place.

    Raises:
        CorpusError, SampleError: A bad sample, where the policy is to raise, or too many of them in a row.
        OutputError: The place cannot be written; the disk is full.
    """
    with explained(Path(job.staging.where)), job.staging.workplace(task) as folder:
        writer = ShardWriter(folder / job.staging.shard_name(task), sha256=job.sha256)
        bad: list[BadRecord] = []
        told = 0
        try:
            for record in _records(job, task, bad):
                note(1, 0 if record is None else writer.add(record), len(bad) - told)
                told = len(bad)
            shard, summary = writer.finish()
        except BaseException:
            writer.abandon()
            raise
        index = IndexWriter(folder / job.staging.index_name(task), extras=job.plan.columns)
        try:
            index.add(shard.name, shard.size, writer.rows, digest=shard.digest)
            index.finish()
        except BaseException:
            index.abandon()
            raise
        summary.bad = len(bad)
        done = Done(task, shard, summary, tuple(bad))
        job.staging.keep(task, folder, done.as_json())
    return done


def _records(job: Job, task: int, bad: list[BadRecord]) -> Iterator[Record | None]:
    """The samples in the order of writing; None for one that is left out. Bad ones are listed."""
    places = job.plan.places(task).tolist()
    in_a_row = 0
    ahead: dict[int, Record | DataError | None] = {}
    if job.corpus.in_order and places != sorted(places):
        ahead = {place: _make(job, place) for place in sorted(places)}
    for place in places:
        made = ahead.pop(place) if ahead else _make(job, place)
        if isinstance(made, DataError):
            if job.bad_samples.policy == "raise":
                raise made
            in_a_row += 1
            bad.append(BadRecord(job.corpus.key(job.plan.split, place), str(made)))
            if in_a_row > job.bad_samples.max_consecutive:
                raise CorpusError(
                    f"{in_a_row} bad samples in a row, over max_consecutive {job.bad_samples.max_consecutive}. The "
                    f"last: {made} Is the source as it should be? The same command goes on with what is left to do."
                ) from made
            yield None
        else:
            in_a_row = 0
            yield made


def _make(job: Job, place: int) -> Record | DataError | None:
    if place in job.plan.twice:
        return twice(job.corpus.key(job.plan.split, place))
    try:
        record = job.recipe.apply(read_sample(job.corpus, job.plan.split, place), job.corpus.columns)
        return record if record is None else _fitting(record, job.plan.columns)
    except DataError as error:
        if _is_gone(job.corpus):
            raise OutputError(
                f"{job.corpus.path}: the source is gone; it was there when the run began. Put it back (is its disk "
                "mounted?), and run the same command again: it goes on with what is left to do."
            ) from error
        return error


def twice(key: str) -> CorpusError:
    """The error of a sample whose key an earlier one has."""
    return CorpusError(
        f"sample {key!r}: another sample has this key, and a key names one sample. Rename one, or leave it out."
    )


def _fitting(record: Record, columns: Mapping[str, str]) -> Record:
    """The record, if the index has a column for each of its values."""
    for name, value in record.values.items():
        if name in MEASURES or value is None:
            continue
        if name not in columns:
            raise SampleError(
                "shard", record.key, "",
                f"it has a value {name!r}, which no sample had that was tried beforehand, so the index has no column "
                "for it. Let the stage give it for every sample, or drop it",
            )  # fmt: skip
        if isinstance(value, float) and "int" in columns[name]:
            raise SampleError(
                "shard", record.key, "",
                f"{name} = {value!r} is no whole number, and was one in every sample that was tried beforehand. Let "
                "the stage give a float for every sample",
            )  # fmt: skip
    return record


def _is_gone(corpus: Corpus) -> bool:
    """Tells a source that vanished from a bad sample of it."""
    path = os.fspath(corpus.path)
    return bool(path) and not files.is_url(path) and not os.path.exists(path)


def check_share(policy: BadSamples, summary: SplitSummary, last: BadRecord | None) -> None:
    """Refuses more bad samples than the policy allows.

    Raises:
        CorpusError: There are too many.
    """
    tried = summary.samples + summary.bad
    if last is not None and summary.bad > policy.max_share * max(tried, SHARE_OVER):
        raise CorpusError(
            f"{summary.bad:,} of {tried:,} samples are bad, over max_share {policy.max_share}. The last: {last.error} "
            "Mend the source, or allow more with --max-bad-share, and run the same command again: it goes on with what "
            "is left to do."
        )

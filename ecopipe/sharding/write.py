"""Sharding a corpus: plan, run the tasks that are not done yet, put the index together, publish."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

from ecopipe.datasets.corpus import Corpus
from ecopipe.formats.index import IndexFile, IndexWriter
from ecopipe.pipeline.bad_samples import BadSamples
from ecopipe.sharding.description import Description, check_own, check_replaceable
from ecopipe.sharding.limits import Limits
from ecopipe.sharding.local import Note, run_local
from ecopipe.sharding.planning import list_split, plan_shards
from ecopipe.sharding.recipe import Recipe
from ecopipe.sharding.staging import LocalStaging, RemoteStaging, Staging
from ecopipe.sharding.tasks import Done, Job, check_share, run_task, twice
from ecopipe.sharding.writer import MADE_BY, SplitSummary
from ecopipe.storage import files
from ecopipe.storage.publish import explained
from ecopipe.vocabulary.errors import ConfigError, nearest

Engine = Literal["local", "ray"]
"""Where the tasks run: in processes of this machine, or on a Ray cluster."""

Progress = Callable[[str, int, int], Note]
"""Called with (split, samples in it, samples of earlier runs); gives what is told of the progress."""


def write_corpus(
    corpus: Corpus,
    out: str | Path,
    *,
    splits: Iterable[str] | None = None,
    limits: Limits | None = None,
    recipe: Recipe | None = None,
    shuffle: bool = False,
    seed: int = 0,
    workers: int = 0,
    engine: Engine = "local",
    ray_address: str | None = None,
    bad_samples: BadSamples | None = None,
    overwrite: bool = False,
    sha256: bool = False,
    source: str = "",
    options: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> dict[str, SplitSummary]:
    """Shards a corpus: ``out/SPLIT/SPLIT-000000.tar ...``, an index in each split's folder, and ``out/dataset.json``.

    The tars and the index are the same bytes for any number of workers and either engine. A run that was interrupted,
    even killed, is gone on with by the same call; shards that were in work then are written anew. A split that the
    same call finished before is left as it is.

    Args:
        corpus: What to shard.
        out: The folder of the dataset, made if it is not there; or its URL.
        splits: Some splits only.
        limits: How large shards may become.
        recipe: What becomes of each sample; as it is, unless given.
        shuffle: Writes the samples of a split in random order, drawn by ``seed``; else in the corpus's order.
        seed: Of the shuffling.
        workers: Processes; 0 works in this one. With Ray, tasks at a time; 0 is as many as the cluster has CPUs.
        engine: ``"local"``, or ``"ray"``.
        ray_address: Of a running cluster; None starts one on this machine, or takes ``RAY_ADDRESS``.
        bad_samples: ``"raise"`` an error at the first bad one (the default), or ``"skip"``: left out and listed in
            ``quarantine.jsonl`` beside the index.
        overwrite: Replace splits that are there already. Only folders that hold nothing but shards are replaced.
        sha256: Also take the SHA-256 of each tar, for dataset.json: about a quarter of the time of copying. What
            the index holds, and ``ecopipe verify`` compares, are CRC-32s.
        source: What the corpus was read from, for dataset.json.
        options: The settings of the corpus's reader, for dataset.json.
        progress: Called as a split is begun; gives what is called as samples are written.

    Returns:
        What was written, by split.

    Raises:
        OutputError: A split is there already, the place cannot be written, or the source vanished.
        CorpusError, SampleError: A sample is bad. Shards that are finished are kept for the same call.
        WorkerError: A worker died.
    """
    out = str(out).removeprefix("file://")
    limits, recipe = limits or Limits(), recipe or Recipe()
    bad_samples = bad_samples or BadSamples()
    _check(workers, engine, bad_samples)
    description = Description.read(out)
    description.check_name(corpus.name)
    chosen = list(splits) if splits else list(corpus.splits())
    for split in chosen:
        if split not in corpus.splits():
            raise ConfigError(f"shard: {corpus.name} has no split {split!r} here. {nearest(split, corpus.splits())}")
    if bad_samples.policy == "raise":
        for split in chosen:
            corpus.check(split)
    how: dict[str, Any] = {"recipe": recipe, "limits": limits, "shuffle": shuffle, "seed": seed}
    settings: dict[str, Any] = {
        "limits": {name: value for name, value in asdict(limits).items() if value is not None},
        "recipe": recipe.identity() or None,
        "shuffle": seed if shuffle else None,
        "bad_samples": bad_samples.policy,
        "options": dict(options or {}),
    }
    listed = {split: list_split(corpus, split, **how, options=options) for split in chosen}
    if bad_samples.policy == "raise":
        for listing in listed.values():
            for place in sorted(listing.twice)[:1]:
                raise twice(corpus.key(listing.split, place))
    staged = {split: _staging(out, split, replace=overwrite) for split in chosen}
    there = [split for split in chosen if files.exists(files.join(out, split))]
    finished = [] if overwrite else [split for split in there if description.holds(split, listed[split].fingerprint)]
    missing = [split for split in chosen if split not in there]
    for split in chosen:
        if split not in finished and not staged[split].is_published(listed[split].fingerprint):
            differs = "" if overwrite or split not in there else description.difference(split, settings)
            check_replaceable(out, split, overwrite=overwrite, missing=missing, differs=differs)
    written: dict[str, SplitSummary] = {}
    with ExitStack() as cluster:  # connected to once for all splits
        for split in chosen:
            listing, staging = listed[split], staged[split]
            if split in finished:
                staging.tidy(listing.fingerprint)
                written[split] = description.summary(split)
                continue
            plan = plan_shards(corpus, listing, **how, workers=workers if engine == "local" else 0)
            job = Job(corpus, plan, recipe, staging, bad_samples, sha256)
            with staging.begun(plan.fingerprint):
                if staging.is_published(plan.fingerprint):  # by a run that was killed before it said so
                    done = _kept(job)
                else:
                    done = _run(job, progress or _silent, workers, engine, ray_address, cluster)
                    _publish(job, done)
                written[split] = _summed(done)
                description.enter(corpus, source, plan, done, written[split], settings)
                staging.clear()
    return written


def _check(workers: int, engine: str, bad_samples: BadSamples) -> None:
    if not isinstance(workers, int) or isinstance(workers, bool) or workers < 0:
        raise ConfigError(f"shard: workers must be a whole number from 0, got {workers!r}.")
    if engine not in get_args(Engine):
        raise ConfigError(f"shard: unknown engine {engine!r}. {nearest(str(engine), get_args(Engine))}")
    if bad_samples.policy == "substitute":
        raise ConfigError("shard: a bad sample cannot be substituted when sharding. Raise, or skip.")


def _staging(out: str, split: str, *, replace: bool) -> Staging:
    if files.is_url(out):
        return RemoteStaging(files.join(out, split))
    place = Path(out) / split
    return LocalStaging(place, replace=replace, check=partial(check_own, name=place, prefix=split))


def _silent(_split: str, _samples: int, _before: int) -> Note:
    return lambda _done, _bytes, _bad: None


def _run(
    job: Job, progress: Progress, workers: int, engine: str, ray_address: str | None, cluster: ExitStack
) -> list[Done]:
    """What all tasks of a split wrote, in order; those that an earlier run did are not run again."""
    done = {one.task: one for one in _kept(job)}
    if job.bad_samples.policy == "raise":
        done = {task: one for task, one in done.items() if not one.bad}
    done = {task: one for task, one in done.items() if one.shard.sha256 or not job.sha256}
    total = _summed(list(done.values()))
    last = next((one.bad[-1] for one in done.values() if one.bad), None)
    left = [task for task in range(job.plan.tasks) if task not in done]
    before = sum(len(job.plan.places(task)) for task in done)
    note = progress(job.plan.split, len(job.plan.order), before)
    ending = _engine(job, left, note, workers, engine, ray_address, cluster)
    with ThreadPoolExecutor(1) as settling, closing(ending) as ended:
        for one in ended:
            done[one.task] = one
            settling.submit(job.staging.settle, one.task)  # in the background; what fails is told when it is published
            total.add(one.summary)
            last = one.bad[-1] if one.bad else last
            check_share(job.bad_samples, total, last)
    check_share(job.bad_samples, total, last)
    return [done[task] for task in sorted(done)]


def _kept(job: Job) -> list[Done]:
    """What earlier runs wrote, in order."""
    kept = job.staging.kept()
    return [Done.from_json(kept[task]) for task in sorted(kept)]


def _summed(done: Sequence[Done]) -> SplitSummary:
    summary = SplitSummary()
    for one in done:
        summary.add(one.summary)
    return summary


def _engine(
    job: Job, tasks: Sequence[int], note: Note, workers: int, engine: str, ray_address: str | None, cluster: ExitStack
) -> Generator[Done, None, None]:
    if engine == "ray":
        from ecopipe.sharding.on_ray import run_on_ray

        return run_on_ray(job, tasks, note, workers, ray_address, cluster)
    return run_local(partial(run_task, job), tasks, note, workers)


def _publish(job: Job, done: Sequence[Done]) -> None:
    """Puts the index together, and publishes the split."""
    with explained(Path(job.staging.where)), job.staging.workplace(job.plan.tasks) as folder:
        path = folder / "index.arrow"
        _join_indexes(job, done, path)
        bad = [record for one in done for record in one.bad]
        quarantine = folder / "quarantine.jsonl"
        lines = (json.dumps({"key": record.key, "error": record.error}, ensure_ascii=False) + "\n" for record in bad)
        if bad:
            quarantine.write_text("".join(lines), encoding="utf-8")
        job.staging.finish(path, quarantine if bad else None)


def _join_indexes(job: Job, done: Sequence[Done], path: Path) -> None:
    writer = IndexWriter(path, extras=job.plan.columns, made_by=MADE_BY)
    try:
        for one in done:
            with job.staging.read_index(one.task) as local:
                index = IndexFile(str(local))
                try:
                    shard = index.shards[0]
                    writer.add_table(shard, index.read(0, 0, shard.rows))
                finally:
                    index.close()
        writer.finish()
    except BaseException:
        writer.abandon()
        raise

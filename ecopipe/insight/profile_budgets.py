"""What batches of another size would give: the epoch is really planned anew, on metadata, and then predicted."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from ecopipe.insight.predictions import CONSUMER, Model
from ecopipe.insight.profile_model import BUDGETS, PER_BATCH, calibration
from ecopipe.pipeline.pipeline import Pipeline
from ecopipe.plan.items import OpenedItems
from ecopipe.plan.mixed import Opened
from ecopipe.plan.sequence import sequence
from ecopipe.run.gauge import Recording
from ecopipe.run.loader import Loader
from ecopipe.stages.plan import Batch, Bucket
from ecopipe.vocabulary.errors import SampleError

BATCHES = 200
"""Batches of ``1 / BUDGETS`` of the size that are planned for each budget: of all the same samples, about."""


@dataclass(frozen=True)
class Planned:
    """Batches as they are planned: the samples of one, and how much of the padded lengths is padding."""

    samples: float
    padding: float


def budgets(loader: Loader, model: Model, recording: Recording) -> list[dict[str, Any]]:
    """For half, double and four times the budget: samples per batch, padding, and the samples per second that it would
    give, in proportion to what was measured, with a consumer whose step takes longer as the padded batch grows.

    Nothing is said of a pipeline without a budget, or of an iterable, which cannot be planned beforehand.
    """
    if isinstance(loader.shards, OpenedItems) or (now := _planned(loader.pipeline, loader.shards, 1.0)) is None:
        return []
    rows = []
    for factor in BUDGETS:
        changed = with_budget(loader.pipeline, factor)
        try:
            then = None if changed is None else _planned(changed, loader.shards, factor)
        except SampleError:  # a sample is longer than that budget
            continue
        if changed is None or then is None or then.samples == now.samples:
            continue
        rate = _rate(loader.pipeline, model, recording, now, then)
        name, value = budget_of(changed)
        rows.append({
            "setting": name,
            "value": value,
            "factor": factor,
            "samples_per_batch": round(then.samples, 2),
            "padding": round(then.padding, 5),
            "padding_now": round(now.padding, 5),
            "samples_per_s": round(rate, 2),
        })  # fmt: skip
    return rows


def budget_of(pipeline: Pipeline) -> tuple[str, float]:
    """The setting that limits a batch, and its value; an empty name if there is none."""
    stage = pipeline.batching
    if isinstance(stage, Batch):
        return f"{stage.label}.size", stage.size
    if isinstance(stage, Bucket):
        name = "max_count" if stage.max_padded is None else "max_padded"
        return f"{stage.label}.{name}", getattr(stage, name)
    return "", 0.0


def with_budget(pipeline: Pipeline, factor: float) -> Pipeline | None:
    """The pipeline whose batches may hold ``factor`` times as much; None if no stage says how much."""
    old = pipeline.batching
    name, value = budget_of(pipeline)
    setting = name.rpartition(".")[2]
    if not setting:
        return None
    wanted: Any = value * factor if setting == "max_padded" else max(round(value * factor), 1)
    stages = [replace(old, **{setting: wanted}) if stage is old else stage for stage in pipeline.stages]
    return Pipeline(pipeline.source, *stages, bad_samples=pipeline.bad_samples, tuning=pipeline.tuning)


def _planned(pipeline: Pipeline, shards: Opened, factor: float) -> Planned | None:
    """What the first batches of an epoch hold; None if there are none."""
    measure = pipeline.batching.measure if isinstance(pipeline.batching, Bucket) else None
    samples = batches = 0
    true = padded = 0.0
    for one in islice(sequence(pipeline.plan(shards, 0, 0), shards.read), max(round(BATCHES / factor), 1)):
        rows = one.rows(None)
        samples, batches = samples + len(rows), batches + 1
        if measure is not None:
            lengths = rows[measure].to_pylist()
            true, padded = true + sum(lengths), padded + max(lengths) * len(lengths)
    return Planned(samples / batches, 1 - true / padded if padded else 0.0) if batches else None


def _rate(pipeline: Pipeline, model: Model, recording: Recording, now: Planned, then: Planned) -> float:
    more = then.samples / now.samples
    stretched = more * (1 - now.padding) / max(1 - then.padding, 1e-9)  # what is padded is worked on as well
    padded = {CONSUMER, *(stage.label for stage in [pipeline.collate, *pipeline.device_stages])}
    grown = {name: stretched if name in padded else more for name in model.parts() if name not in PER_BATCH}
    rate = model.scaled(grown).rate(recording.workers, recording.prefetch, threads=recording.threads)
    return rate * more * calibration(model, recording)

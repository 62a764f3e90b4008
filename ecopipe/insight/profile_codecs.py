"""What storing samples in another format would give: some are really encoded anew, and decoded again."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Sequence
from itertools import chain, islice
from typing import Any

from ecopipe.insight.predictions import Model
from ecopipe.insight.profile_memory import raw_batches
from ecopipe.insight.profile_model import calibration
from ecopipe.pipeline.pipeline import Pipeline
from ecopipe.run.gauge import Recording
from ecopipe.run.loader import Loader
from ecopipe.run.metering import READ, size_of
from ecopipe.stages.audio import DecodeAudio
from ecopipe.stages.encoding import EncodeAudio, EncodeImage
from ecopipe.stages.image import DecodeImage
from ecopipe.stages.stage import SampleStage
from ecopipe.vocabulary.errors import EcopipeError
from ecopipe.vocabulary.randomness import Chance
from ecopipe.vocabulary.sample import Sample

SAMPLES = 24
"""Samples that are encoded anew."""

OTHERS: tuple[tuple[type[SampleStage], SampleStage], ...] = (
    (DecodeAudio, EncodeAudio("wav")),
    (DecodeImage, EncodeImage("raw")),
)
"""By the stage that decodes: what could be stored instead."""

_NAMES = {"wav": "16-bit WAV", "raw": "raw arrays"}


def codecs(loader: Loader, model: Model, recording: Recording) -> list[dict[str, Any]]:
    """For each other format: the samples per second that it would give, in proportion to what was measured, and how
    much disk it would take.

    Nothing is said of a pipeline that has none of the decoders, or whose samples cannot be encoded so.
    """
    return [
        row
        for decoder, encoder in OTHERS
        for stage in loader.pipeline.sample_stages
        if isinstance(stage, decoder) and (row := _tried(loader, stage, encoder, model, recording)) is not None
    ]


def _tried(
    loader: Loader, stage: SampleStage, encoder: Any, model: Model, recording: Recording
) -> dict[str, Any] | None:
    samples = some_samples(loader.pipeline, loader)
    before = loader.pipeline.sample_stages[: loader.pipeline.sample_stages.index(stage)]
    chance = Chance(0, 0, stage.label)
    member = "|".join(stage.needs()).split("|")
    old_s, new_s, old_bytes, new_bytes, of = [], [], [], [], ""
    try:
        for sample in samples:
            for earlier in before:
                sample = earlier.apply(sample, Chance(0, 0, earlier.label))
            names = [name for name in member if name in sample]
            fastest, decoded = _fastest(stage, sample, chance)
            encoded = encoder.apply(decoded, chance)
            new = next(name for name in encoder.gives())
            again = sample.without(*names).with_fields(**{new: encoded[new]})
            old_s.append(fastest)
            new_s.append(_fastest(stage, again, chance)[0])
            old_bytes.append(sum(size_of(sample[name]) for name in names))
            new_bytes.append(size_of(encoded[new]))
            of = names[0].upper()
    except (EcopipeError, ValueError, StopIteration):
        return None
    if not old_s or of.lower() in encoder.gives():
        return None
    decode, disk = sum(new_s) / sum(old_s), sum(new_bytes) / sum(old_bytes)
    rate = model.scaled({stage.label: decode, READ: disk}).rate(
        recording.workers, recording.prefetch, threads=recording.threads
    )
    return {
        "of": of,
        "to": _NAMES[encoder.format],
        "stage": stage.label,
        "samples": len(old_s),
        "decode_us": round(1e6 * statistics.fmean(old_s), 2),
        "decode_us_then": round(1e6 * statistics.fmean(new_s), 2),
        "disk": round(disk, 4),
        "samples_per_s": round(rate * calibration(model, recording), 2),
    }


def _fastest(stage: SampleStage, sample: Sample, chance: Chance) -> tuple[float, Sample]:
    """The least seconds on a core of three times, and what came out."""
    taken = []
    for _ in range(3):
        began = time.thread_time()
        made = stage.apply(sample, chance)
        taken.append(time.thread_time() - began)
    return min(taken), made


def some_samples(pipeline: Pipeline, loader: Loader) -> Sequence[Sample]:
    """The first samples of an epoch as they lie in the shards, before any stage; at most :data:`SAMPLES`."""
    with contextlib.closing(raw_batches(pipeline, loader.shards)) as batches:
        return list(islice(chain.from_iterable(batches), SAMPLES))

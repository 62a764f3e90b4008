"""Examples from a pipeline's own first batch, after each of its stages: audio, features, texts and images, for people.

All is made by what makes batches: the loader makes the first batch of the epoch, device stages are applied to it one by
one, and the sample stages to its first rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ecopipe.insight import report_pictures as pictures
from ecopipe.insight.report_text import Text, text_of
from ecopipe.pipeline.pipeline import Pipeline
from ecopipe.plan.mixed import Opened
from ecopipe.plan.sequence import sequence
from ecopipe.run.device import apply_stages as apply_on_device
from ecopipe.run.loader import Loader
from ecopipe.run.maker import BatchMaker, apply_stages, make_task
from ecopipe.stages.stage import DeviceStage
from ecopipe.vocabulary.errors import DataError
from ecopipe.vocabulary.randomness import Chance
from ecopipe.vocabulary.sample import Batch, Place, Sample

Array = npt.NDArray[Any]

SHOWN = 3
"""Recordings and texts."""

IMAGES = 24
LARGE_IMAGES = 8
AUDIO = "audio"


@dataclass(frozen=True)
class Picture:
    """One picture and what it shows. ``wave`` is the outline of a waveform, ``uri`` an image; one of them is there."""

    title: str
    about: str
    wave: str = ""
    uri: str = ""


@dataclass(frozen=True)
class Spoken:
    """One recording: what it is, and its pictures in the order of the stages."""

    key: str
    about: str
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class Grid:
    """The images of some samples after one stage; ``images`` are a caption and a data URI each."""

    title: str
    about: str
    images: tuple[tuple[str, str], ...]
    small: bool


@dataclass(frozen=True)
class Field:
    """One field of a batch as the trainer gets it."""

    name: str
    kind: str
    shape: str


@dataclass
class Examples:
    """What is shown of the first batch; kinds of data that it does not hold are empty.

    ``length`` is a unit for the lengths of samples, and how many of the batch's ``lengths`` are one, before any device
    stage.
    """

    seed: int
    epoch: int
    spoken: list[Spoken] = field(default_factory=list)
    texts: list[Text] = field(default_factory=list)
    grids: list[Grid] = field(default_factory=list)
    fields: list[Field] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    length: tuple[str, float] = ("", 1.0)


@dataclass(frozen=True)
class _Traced:
    """A sample after each of its stages, by name; first as it lies in the shard."""

    states: tuple[tuple[str, Sample], ...]

    @property
    def last(self) -> Sample:
        return self.states[-1][1]


def examples(pipeline: Pipeline, shards: Opened, *, seed: int = 0, epoch: int = 0) -> Examples:
    """Examples from the first batch of an epoch.

    Raises:
        EcopipeError: It cannot be made, as in a loader.
    """
    found = Examples(seed, epoch)
    bare = Pipeline(
        pipeline.source,
        *(stage for stage in pipeline.stages if not isinstance(stage, DeviceStage)),
        bad_samples=pipeline.bad_samples,
    )
    with Loader(bare, workers=0, rank=0, world_size=1, seed=seed, epoch=epoch, shards=shards) as loader:
        batch = next(iter(loader))
    batches = [(pipeline.collate.label, batch)]
    for stage in pipeline.device_stages:
        batches.append((stage.label, apply_on_device(batches[-1][1], [stage], seed)))
    traced = list(_traced(pipeline, shards, seed, epoch))
    found.fields = [_field(name, value) for name, value in batches[-1][1].items()]
    if batch.place is not None:
        found.faults = [f"{fault.key}: {fault.stage}: {fault.reason}" for fault in batch.place.faults]
    rate_hz, counted = batch.get("rate_hz"), str(getattr(pipeline.collate, "input", ""))
    found.length = ("seconds of audio", float(rate_hz)) if isinstance(rate_hz, int) else (counted, 1.0)
    found.spoken = [spoken for one in traced[:SHOWN] if (spoken := _spoken(one, batches)) is not None]
    found.texts = [text for one in traced[:SHOWN] for text in text_of(pipeline.sample_stages, one.states)]
    found.grids = _grids(traced, batches)
    return found


def _traced(pipeline: Pipeline, shards: Opened, seed: int, epoch: int) -> Iterator[_Traced]:
    """The first samples of the epoch's first batch, after each stage; bad ones are left out."""
    stages = pipeline.sample_stages
    chances = [Chance(seed, epoch, stage.label) for stage in stages]
    maker = BatchMaker(pipeline)
    try:
        planned = next(iter(sequence(pipeline.plan(shards, seed, epoch), shards.read)))
        task = make_task(planned.rows(None), Place(epoch, planned.number), seed, None)
        for row in task.rows.to_pylist()[:IMAGES]:
            try:
                states = [("in the shard", maker.raw(row))]
                for stage, chance in zip(stages, chances, strict=True):
                    states.append((stage.label, apply_stages([stage], [chance], states[-1][1])))
            except DataError:
                continue
            yield _Traced(tuple(states))
    finally:
        maker.close()


def _field(name: str, value: Any) -> Field:
    if isinstance(value, torch.Tensor):
        return Field(name, str(value.dtype).removeprefix("torch."), " x ".join(map(str, value.shape)) or "one")
    return Field(name, type(value).__name__, str(len(value)) if hasattr(value, "__len__") else str(value))


# -- audio and features -----------------------------------------------------------------------------------------------


def _spoken(one: _Traced, batches: Sequence[tuple[str, Batch]]) -> Spoken | None:
    states = [(name, sample) for name, sample in one.states if _is_audio(sample.get(AUDIO))]
    if not states:
        return None
    drawn: list[Picture] = []
    before: Array | None = None
    for name, sample in states:
        audio: Array = sample[AUDIO]
        if before is None or audio.shape != before.shape or not np.array_equal(audio, before):
            seconds = (
                f"{len(audio) / sample['rate_hz']:.2f} s at {sample['rate_hz']:,} Hz" if "rate_hz" in sample else ""
            )
            about = f"{seconds}, peak {pictures.peak(audio):.2f} of full scale".removeprefix(", ")
            drawn.append(Picture(f"waveform after {name}", about, wave=pictures.wave_path(audio)))
        before = audio
    return Spoken(one.last.key, one.last.shard, (*drawn, *_features(one.last, batches)))


def _is_audio(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.ndim in (1, 2) and value.dtype.kind in "fi" and bool(value.size)


def _features(sample: Sample, batches: Sequence[tuple[str, Batch]]) -> list[Picture]:
    """The sample's features after each device stage that gives or changes any."""
    found: list[tuple[str, Array]] = []
    for name, batch in batches[1:]:
        features = _of_sample(batch, sample)
        if features is not None and not (found and np.array_equal(features, found[-1][1])):
            found.append((name, features))
    drawn = []
    ends = scale = (0.0, 0.0)
    for name, features in found:
        finite = features[np.isfinite(features)] if np.isfinite(features).any() else np.zeros(1)
        least, most = float(finite.min()), float(finite.max())
        if not ends[0] <= least < most <= ends[1]:  # else what is left of the features before looks as it did
            scale = float(np.quantile(finite, 0.01)), float(np.quantile(finite, 0.995))
        ends = least, most
        about = f"{features.shape[0]:,} frames x {features.shape[1]} bins, {scale[0]:.3g} to {scale[1]:.3g}"
        drawn.append(Picture(f"features after {name}", about, uri=pictures.heat_uri(features, *scale)))
    return drawn


def _of_sample(batch: Batch, sample: Sample) -> Array | None:
    """The features [frames, bins] of one sample of a batch, without padding; None if the batch holds none."""
    features, lengths, offsets = batch.get("features"), batch.get("lengths"), batch.get("offsets")
    name = sample.key if sample.part is None else f"{sample.key}[{sample.part.start}:{sample.part.stop}]"
    if not isinstance(features, torch.Tensor) or not isinstance(lengths, torch.Tensor) or lengths.dim() != 1:
        return None
    if features.dim() != (3 if offsets is None else 2) or name not in batch.sample_keys:
        return None
    at = batch.sample_keys.index(name)
    length = int(lengths[at])
    begin = 0 if offsets is None else int(offsets[at])
    row = features[at] if offsets is None else features
    return np.asarray(row[begin : begin + length].float().numpy()) if length else None


# -- images -----------------------------------------------------------------------------------------------------------


def _grids(traced: Sequence[_Traced], batches: Sequence[tuple[str, Batch]]) -> list[Grid]:
    """A grid for each stage that makes or changes images: of samples first, then of the batch."""
    kept = [one for one in traced if any(_is_image(value) for value in one.last.values())]
    if not kept:
        return []
    field = next(name for name, value in kept[0].last.items() if _is_image(value))
    large = max(kept[0].last[field].shape[1:]) > pictures.SMALL
    kept = kept[: LARGE_IMAGES if large else IMAGES]
    stages: list[tuple[str, list[Array]]] = []
    for at in range(len(kept[0].states)):
        images = [one.states[at][1].get(field) for one in kept]
        if all(map(_is_image, images)):
            stages.append((kept[0].states[at][0], [np.asarray(image) for image in images]))
    for name, batch in batches[1:]:
        images = [_image_in(batch, field, one.last.key) for one in kept]
        if all(map(_is_image, images)):
            stages.append((name, [np.asarray(image) for image in images]))
    changed = [
        (name, images)
        for number, (name, images) in enumerate(stages)
        if not number or not all(map(np.array_equal, images, stages[number - 1][1]))
    ]
    captions = [_caption(one.last) for one in kept]
    return [_grid(name, images, captions, not large) for name, images in changed]


def _grid(name: str, images: Sequence[Array], captions: Sequence[str], small: bool) -> Grid:
    least, most = 0.0, 255.0
    if images[0].dtype != np.uint8:
        least, most = min(float(np.nanmin(image)) for image in images), max(float(np.nanmax(image)) for image in images)
    about = f"{images[0].dtype}, {' x '.join(map(str, images[0].shape))}"
    if images[0].dtype != np.uint8:
        about += f"; {least:.3g} is drawn black and {most:.3g} white"
    drawn = (pictures.image_uri(image, least, most) for image in images)
    return Grid(f"after {name}", about, tuple(zip(captions, drawn, strict=True)), small)


def _is_image(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.ndim == 3 and value.shape[0] in (1, 3) and bool(value.size)


def _image_in(batch: Mapping[str, Any], field: str, key: str) -> Array | None:
    """The image of a sample in a batch: under its own name, or as features."""
    value = batch.get(field, batch.get("features"))
    if not isinstance(value, torch.Tensor) or value.dim() != 4 or key not in batch["keys"]:
        return None
    image = value[batch["keys"].index(key)]
    return np.asarray((image.float() if image.is_floating_point() else image).numpy())


def _caption(sample: Sample) -> str:
    label = sample.get("label")
    return sample.key if label is None else f"{sample.key}, label {label}"

"""What the stages that change images share: on a batch or on a sample, and the checks of their settings."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from math import isfinite
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ecopipe.stages.stage import DeviceStage, SampleStage, Stage
from ecopipe.vocabulary.randomness import Chance
from ecopipe.vocabulary.sample import Batch, Sample

Size = int | tuple[int, int]
Fill = float | tuple[float, ...]


@dataclass(frozen=True)
class OfImages(Stage, abstract=True):
    """A stage that changes images in place of making something else of them."""

    _: KW_ONLY
    field: str = "image"

    def needs(self) -> tuple[str, ...]:
        return (self.field,)

    def gives(self) -> tuple[str, ...]:
        return (self.field,)

    def images(self, batch: Batch) -> Tensor:
        """The images of a batch: uint8 or float [B, C, H, W].

        Raises:
            ConfigError: They are something else.
        """
        images: Tensor = batch[self.field]
        if images.dim() != 4 or not (images.dtype == torch.uint8 or images.is_floating_point()):
            raise self.refuse(
                f"{self.field} must be uint8 or float [B, C, H, W], got {images.dtype} {list(images.shape)}; "
                "Collate(..., layout='stack') makes such a batch"
            )
        return images


@dataclass(frozen=True)
class ChangedImages(OfImages, abc.ABC, abstract=True):
    """A stage whose images do not depend on the others in the batch."""

    @abc.abstractmethod
    def changed(self, images: Tensor, keys: Sequence[str], chance: Chance) -> Tensor:
        """Other images for the images [B, C, H, W] of the samples of these keys. The input is not changed."""


@dataclass(frozen=True)
class ImagesInBatch(ChangedImages, DeviceStage, abstract=True):
    """A stage that changes the images of a batch, each by itself."""

    def apply(self, batch: Batch, chance: Chance) -> Batch:
        return batch.with_fields(**{self.field: self.changed(self.images(batch), batch.sample_keys, chance)})


@dataclass(frozen=True)
class ImageInSample(ChangedImages, SampleStage, abstract=True):
    """A stage that changes the image of a sample."""

    def apply(self, sample: Sample, chance: Chance) -> Sample:
        image = sample[self.field]
        wrong = not isinstance(image, np.ndarray) or image.ndim != 3 or image.dtype not in (np.uint8, np.float32)
        if wrong or not image.size:
            found = f"{image.dtype} {list(image.shape)}" if isinstance(image, np.ndarray) else type(image).__name__
            raise ValueError(f"its {self.field} is {found}; uint8 or float32 [C, H, W] wanted, as DecodeImage gives it")
        image = np.ascontiguousarray(image)
        pixels = torch.from_numpy(image if image.flags.writeable else image.copy())
        made = self.changed(pixels[None], (sample.key,), chance)[0].contiguous()
        return sample.with_fields(**{self.field: made.numpy()})


def check_size(stage: Stage, size: Any, *, name: str = "size") -> None:
    """Refuses a size that is no positive int, and no two; lists become tuples."""
    sides = size if isinstance(size, (tuple, list)) else (size, size)
    if len(sides) != 2 or not all(is_int(side) and side > 0 for side in sides):
        raise stage.refuse(f"{name} must be a positive int, or two as (height, width), got {size!r}")
    object.__setattr__(stage, name, tuple(sides) if isinstance(size, (tuple, list)) else size)


def both(size: Size) -> tuple[int, int]:
    """The height and the width; one int is both."""
    return size if isinstance(size, tuple) else (size, size)


def check_fill(stage: Stage, fill: Any) -> None:
    """Refuses a ``fill`` that is no number, and no tuple of one for each channel; lists become tuples."""
    numbers = fill if isinstance(fill, (tuple, list)) else (fill,)
    if not numbers or not all(is_number(number) for number in numbers):
        raise stage.refuse(f"fill must be a number, or one for each channel, got {fill!r}")
    object.__setattr__(stage, "fill", tuple(numbers) if isinstance(fill, (tuple, list)) else fill)


def fill_for(stage: Stage, fill: Fill, images: Tensor) -> tuple[float, ...]:
    """One number, or one for each channel, that the images can hold.

    Raises:
        ConfigError: There are too few or too many, or they are none of uint8.
    """
    numbers = fill if isinstance(fill, tuple) else (fill,)
    if len(numbers) not in (1, images.shape[1]):
        raise stage.refuse(f"fill has {len(numbers)} numbers, and the images have {images.shape[1]} channels")
    if images.dtype == torch.uint8 and not all(number in range(256) for number in numbers):
        raise stage.refuse(f"fill must be whole and in 0..255 for uint8 images, got {fill!r}")
    return tuple(map(float, numbers))


def check_span(stage: Stage, name: str, least: float, most: float) -> None:
    """Refuses a setting that is no two numbers, the lesser first, within bounds; lists become tuples."""
    value = getattr(stage, name)
    span = tuple(value) if isinstance(value, (tuple, list)) else ()
    if len(span) != 2 or not all(is_number(number) for number in span) or not least <= span[0] <= span[1] <= most:
        bounds = f"in [{least:g}, {most:g}]" if isfinite(most) else f"of at least {least:g}"
        raise stage.refuse(f"{name} must be two numbers {bounds}, the lesser first, got {value!r}")
    object.__setattr__(stage, name, tuple(map(float, span)))


def is_int(value: Any) -> bool:
    """Whether it is an int, and no bool."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether it is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)

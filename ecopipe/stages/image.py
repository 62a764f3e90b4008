"""Stages that make arrays of images, and features of them."""

from __future__ import annotations

import functools
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal, get_args

import numpy as np

from ecopipe.formats import image as codec
from ecopipe.formats.image import IMAGE_EXTENSIONS
from ecopipe.stages.stage import DeviceStage, SampleStage
from ecopipe.vocabulary.errors import nearest
from ecopipe.vocabulary.randomness import Chance
from ecopipe.vocabulary.sample import Batch, Sample

Mode = Literal["rgb", "grey"]


@dataclass(frozen=True)
class DecodeImage(SampleStage):
    """Encoded image -> ``image``: uint8 [C, H, W] in 0..255. The encoded bytes are taken away.

    Args:
        field: The member to decode, such as ``"png"``; by default the one whose extension is of an image. A sample
            that holds several is refused unless one is named.
        mode: ``"rgb"`` has C = 3, grey images being repeated; ``"grey"`` has C = 1, of coloured images the luma
            (299 R + 587 G + 114 B) / 1000 of ITU-R BT.601, rounded.
    """

    _: KW_ONLY
    field: str | None = None
    mode: Mode = "rgb"

    def __post_init__(self) -> None:
        if self.mode not in get_args(Mode):
            raise self.refuse(f"unknown mode {self.mode!r}. {nearest(str(self.mode), get_args(Mode))}")

    def needs(self) -> tuple[str, ...]:
        return (self.field or "|".join(IMAGE_EXTENSIONS),)

    def gives(self) -> tuple[str, ...]:
        return ("image",)

    def takes_away(self) -> tuple[str, ...]:
        return (self.field,) if self.field else IMAGE_EXTENSIONS

    def apply(self, sample: Sample, chance: Chance) -> Sample:
        field = self.field or self._find(sample)
        if field not in sample:
            raise ValueError(f"no field {field!r}; it has {', '.join(sorted(sample))}")
        pixels = codec.decode(sample[field], field.rpartition(".")[2].lower())
        channels = pixels.shape[2]
        if channels not in (1, 3):
            raise ValueError(f"{channels} channels; 1 (grey) or 3 (red, green, blue) wanted")
        if self.mode == "grey" and channels == 3:
            luma = pixels.astype(np.uint32) @ np.array([299, 587, 114], dtype=np.uint32)
            pixels = ((luma + 500) // 1000).astype(np.uint8)[:, :, None]
        planes = np.ascontiguousarray(pixels.transpose(2, 0, 1))
        if self.mode == "rgb" and channels == 1:
            planes = np.repeat(planes, 3, axis=0)
        return sample.without(field).with_fields(image=planes)

    def _find(self, sample: Sample) -> str:
        found = [name for name in IMAGE_EXTENSIONS if name in sample]
        if len(found) > 1:
            raise ValueError(f"several fields of images ({', '.join(found)}); name the one to decode with field=...")
        if not found:
            raise ValueError(f"no field of images ({', '.join(IMAGE_EXTENSIONS)}); it has {', '.join(sorted(sample))}")
        return found[0]


@dataclass(frozen=True)
class Normalize(DeviceStage):
    """Images -> ``features``: float32 [B, C, H, W], (x - mean) / std for each channel.

    ``uint8`` images are taken as x / 255 in [0, 1]; float images as they are. The images are taken away.

    Args:
        mean: One for each channel, in units of [0, 1].
        std: One for each channel, in units of [0, 1].
        field: The images: uint8 or float [B, C, H, W].
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    _: KW_ONLY
    field: str = "image"

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            numbers = getattr(self, name)
            if not isinstance(numbers, (tuple, list)) or not numbers:
                raise self.refuse(f"{name} must hold one number for each channel, got {numbers!r}")
            object.__setattr__(self, name, tuple(map(float, numbers)))
        if len(self.mean) != len(self.std):
            raise self.refuse(f"mean has {len(self.mean)} numbers and std has {len(self.std)}")
        if min(self.std) <= 0:
            raise self.refuse(f"std must be positive, got {min(self.std)}")

    def needs(self) -> tuple[str, ...]:
        return (self.field,)

    def gives(self) -> tuple[str, ...]:
        return ("features",)

    def takes_away(self) -> tuple[str, ...]:
        return () if self.field == "features" else (self.field,)

    def apply(self, batch: Batch, chance: Chance) -> Batch:
        import torch

        images: Any = batch[self.field]
        if images.dim() != 4 or images.shape[1] != len(self.mean):
            raise self.refuse(f"images of [B, {len(self.mean)}, H, W] wanted, got {list(images.shape)}")
        whole = images.dtype == torch.uint8
        features = images.to(torch.float32, copy=True)
        if whole:
            features.div_(255)
        mean, std = (_planes(numbers, images.device) for numbers in (self.mean, self.std))
        return batch.without(*self.takes_away()).with_fields(features=features.sub_(mean).div_(std))


@functools.lru_cache(maxsize=32)
def _planes(numbers: tuple[float, ...], device: Any) -> Any:
    """float32 [C, 1, 1] on the device."""
    import torch

    return torch.tensor(numbers, dtype=torch.float32, device=device).view(-1, 1, 1)

"""Stages that make arrays of images, and features of them."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from ecopipe.formats import image as codec
from ecopipe.formats.image import IMAGE_EXTENSIONS
from ecopipe.stages.columns import Columns, OfOneSize
from ecopipe.stages.stage import DeviceStage, SampleStage
from ecopipe.vocabulary.errors import nearest
from ecopipe.vocabulary.randomness import Chance
from ecopipe.vocabulary.sample import Batch, Sample

Mode = Literal["rgb", "grey"]
FloatDtype = Literal["float32", "bfloat16", "float16"]

_FIRST = 64
"""Images of a batch that are decoded before the size of one is known."""

_AT_ONCE = 2**21
"""Bytes of pixels that are decoded before they go to their place in the batch: few enough to stay in a cache."""


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
        super().__post_init__()

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
        planes = self._planes(codec.decode(sample[field], _kind(field)))
        return sample.without(field).with_fields(image=np.ascontiguousarray(planes))

    def apply_columns(self, columns: Columns, chance: Chance) -> Columns | None:
        """All images of a batch, straight into its array; None if they differ in shape."""
        names = [self.field] if self.field else IMAGE_EXTENSIONS
        found = [name for name in names if name in columns.fields]
        if len(found) != 1:
            return None
        (field,) = found
        images = self._in_place(columns.fields[field], field)
        if images is None:
            images = self._by_rows(columns, field)
        return None if images is None else columns.replaced(field, image=images)

    def _in_place(self, column: Any, field: str) -> npt.NDArray[np.uint8] | None:
        """The images of a batch, if they are stored as they are to be, behind heads that are equal; else None."""
        if _kind(field) != "npy" or not isinstance(column, OfOneSize):
            return None
        first = column.first()
        pixels = codec.decode_rows(first, "npy")
        if pixels is None:
            return None
        planes = self._planes(pixels)
        begin = first.nbytes - planes.nbytes
        if not planes.flags.c_contiguous or planes.ctypes.data != first.ctypes.data + begin:
            return None
        images = column.behind(first[0, :begin].tobytes())
        return None if images is None else images.reshape(-1, *planes.shape[1:])

    def _by_rows(self, columns: Columns, field: str) -> npt.NDArray[np.uint8] | None:
        images: npt.NDArray[np.uint8] | None = None
        low, high = 0, _FIRST
        while low < len(columns):
            pixels = codec.decode_rows(columns.fields[field][low:high], _kind(field))
            if pixels is None:
                return None
            planes = self._planes(pixels)
            if images is None:
                images = columns.memory.empty((len(columns), *planes.shape[1:]), np.uint8)
            elif images.shape[1:] != planes.shape[1:]:
                return None
            images[low:high] = planes
            low, high = high, high + max(_AT_ONCE // max(pixels[0].nbytes, 1), 1)
        return images

    def _planes(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """[..., H, W, C] -> [..., C, H, W] in the mode, not contiguous."""
        channels = pixels.shape[-1]
        if channels not in (1, 3):
            raise ValueError(f"{channels} channels; 1 (grey) or 3 (red, green, blue) wanted")
        if self.mode == "grey" and channels == 3:
            luma = pixels.astype(np.uint32) @ np.array([299, 587, 114], dtype=np.uint32)
            pixels = ((luma + 500) // 1000).astype(np.uint8)[..., None]
        elif self.mode == "rgb" and channels == 1:
            pixels = np.broadcast_to(pixels, (*pixels.shape[:-1], 3))
        return np.moveaxis(pixels, -1, -3)

    def _find(self, sample: Sample) -> str:
        found = [name for name in IMAGE_EXTENSIONS if name in sample]
        if len(found) > 1:
            raise ValueError(f"several fields of images ({', '.join(found)}); name the one to decode with field=...")
        if not found:
            raise ValueError(f"no field of images ({', '.join(IMAGE_EXTENSIONS)}); it has {', '.join(sorted(sample))}")
        return found[0]


def _kind(field: str) -> str:
    return field.rpartition(".")[2].lower()


@dataclass(frozen=True)
class Normalize(DeviceStage):
    """Images -> ``features``: float [B, C, H, W], (x - mean) / std for each channel.

    ``uint8`` images are taken as x / 255 in [0, 1]; float images as they are. The images are taken away.

    Args:
        mean: One for each channel, in units of [0, 1].
        std: One for each channel, in units of [0, 1].
        field: The images: uint8 or float [B, C, H, W].
        dtype: Of the features.
        channels_last: Whether the channels of a place lie side by side in memory
            (``torch.channels_last``), as convolutions on tensor cores want it. The shape is the same.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    _: KW_ONLY
    field: str = "image"
    dtype: FloatDtype = "float32"
    channels_last: bool = False

    def __post_init__(self) -> None:
        self.check_choices(dtype=FloatDtype)
        for name in ("mean", "std"):
            numbers = getattr(self, name)
            if not isinstance(numbers, (tuple, list)) or not numbers:
                raise self.refuse(f"{name} must hold one number for each channel, got {numbers!r}")
            if not all(isinstance(number, int | float) for number in numbers):
                raise self.refuse(f"{name} must hold numbers, got {numbers!r}")
            object.__setattr__(self, name, tuple(map(float, numbers)))
        if len(self.mean) != len(self.std):
            raise self.refuse(f"mean has {len(self.mean)} numbers and std has {len(self.std)}")
        if min(self.std) <= 0:
            raise self.refuse(f"std must be positive, got {min(self.std)}")
        super().__post_init__()

    def needs(self) -> tuple[str, ...]:
        return (self.field,)

    def gives(self) -> tuple[str, ...]:
        return ("features",)

    def takes_away(self) -> tuple[str, ...]:
        return () if self.field == "features" else (self.field,)

    def apply(self, batch: Batch, chance: Chance) -> Batch:
        import torch

        from ecopipe.signal.images import normalized

        images: Any = batch[self.field]
        if images.dim() != 4 or images.shape[1] != len(self.mean):
            raise self.refuse(f"images of [B, {len(self.mean)}, H, W] wanted, got {list(images.shape)}")
        dtype = getattr(torch, self.dtype)
        features = normalized(images, self.mean, self.std, dtype=dtype, channels_last=self.channels_last)
        return batch.without(*self.takes_away()).with_fields(features=features)

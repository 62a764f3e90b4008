"""Stages that cut, resize and mirror images: on the batch, each sample by its own draws, or on samples of many sizes.

A stage that is called ``Image...`` takes the batch that Collate made, on its device; ``Image...OnSample`` does the same
to one sample before Collate, for images that are not yet of one size. Both give uint8 for uint8 and float for float.
What a sample draws depends on its key, never on the others in its batch. Parameters, and what is done with them, are
those of torchvision's transforms v2 unless a stage says otherwise.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass

import numpy as np
from torch import Tensor

from ecopipe.signal.images import Ints, Padding, PadMode, cropped, filled, flipped, padded
from ecopipe.signal.resizing import Interpolation, resized
from ecopipe.stages.of_images import (
    ChangedImages,
    Fill,
    ImageInSample,
    ImagesInBatch,
    Size,
    both,
    check_fill,
    check_size,
    check_span,
    fill_for,
    is_int,
    is_number,
)
from ecopipe.vocabulary.philox import uniforms
from ecopipe.vocabulary.randomness import Chance

_TRIES = 10


def _whole(images: Tensor) -> Ints:
    """The boxes of the images as they are: int64 [B, 4], top, left, height, width."""
    return np.tile(np.array([0, 0, *images.shape[-2:]], dtype=np.int64), (len(images), 1))


# -- random -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ImageRandomCrop(ImagesInBatch):
    """A part of each image of the padded batch, from a place drawn among all, each as likely: for CIFAR, 32 and 4.

    Args:
        size: Of the part, in pixels: one int for a square, or (height, width).
        padding: Pixels around the image before: one int for all sides, or (left and right, top and bottom), or (left,
            top, right, bottom).
        mode: What they are. ``"constant"``: ``fill``. ``"edge"``: the outermost pixel. ``"reflect"``: the image
            mirrored, without its outermost pixel. ``"symmetric"``: mirrored with it.
        fill: A number, or one for each channel, in the units of the images: 0 to 255 for uint8.
        field: The images: uint8 or float [B, C, H, W].
    """

    size: Size
    padding: int | tuple[int, ...] = 0
    _: KW_ONLY
    mode: PadMode = "constant"
    fill: Fill = 0

    def __post_init__(self) -> None:
        check_size(self, self.size)
        value = self.padding
        sides = tuple(value) if isinstance(value, (tuple, list)) else (value,)
        if len(sides) not in (1, 2, 4) or not all(is_int(side) and side >= 0 for side in sides):
            raise self.refuse(f"padding must be one, two or four ints of at least 0, got {value!r}")
        object.__setattr__(self, "padding", sides if isinstance(value, (tuple, list)) else value)
        self.check_choices(mode=PadMode)
        check_fill(self, self.fill)
        super().__post_init__()

    @property
    def sides(self) -> Padding:
        """The padding at the left, top, right and bottom, in pixels."""
        sides = self.padding if isinstance(self.padding, tuple) else (self.padding,)
        left, top, right, bottom = sides * (4 // len(sides))
        return left, top, right, bottom

    def places(self, keys: Sequence[str], chance: Chance, height: int, width: int) -> tuple[Ints, Ints]:
        """The top and the left of each sample's part, int64 [B] each, in padded images of a height and a width."""
        room = np.array([height, width]) - both(self.size) + 1
        top, left = np.floor(uniforms(chance, keys, 2) * room).astype(np.int64).T
        return top, left

    def changed(self, images: Tensor, keys: Sequence[str], chance: Chance) -> Tensor:
        height, width = images.shape[-2:]
        left, top, right, bottom = self.sides
        room = {"reflect": -1, "symmetric": 0}.get(self.mode)
        if room is not None and (max(left, right) > width + room or max(top, bottom) > height + room):
            raise self.refuse(
                f"padding {self.padding!r} is too much for mode {self.mode!r} and images {height}x{width}"
            )
        height, width = height + top + bottom, width + left + right
        part = both(self.size)
        if part[0] > height or part[1] > width:
            raise self.refuse(
                f"a part of {part[0]}x{part[1]} pixels does not fit in padded images of {height}x{width}; "
                "set a smaller size or more padding"
            )
        whole = padded(images, self.sides, self.mode, fill_for(self, self.fill, images))
        return cropped(whole, *self.places(keys, chance, height, width), *part)


@dataclass(frozen=True)
class _RandomResizedCrop(ChangedImages, abc.ABC):
    size: Size
    _: KW_ONLY
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    interpolation: Interpolation = "bilinear"
    antialias: bool = True

    def __post_init__(self) -> None:
        check_size(self, self.size)
        check_span(self, "scale", 0.0, 1.0)
        check_span(self, "ratio", 0.0, float("inf"))
        for name in ("scale", "ratio"):
            if getattr(self, name)[0] == 0:
                raise self.refuse(f"{name} must be above 0, got {getattr(self, name)!r}")
        self.check_choices(interpolation=Interpolation)
        super().__post_init__()

    def boxes(self, keys: Sequence[str], chance: Chance, height: int, width: int) -> Ints:
        """Each sample's part: int64 [B, 4], top, left, height, width, in pixels.

        The area is uniform in ``scale`` of the image, the logarithm of width / height uniform in that of ``ratio``, and
        the place uniform. Of ten tries the first that fits counts; where none does, it is the middle of the image, as
        much of it as has a ratio within bounds.
        """
        drawn = uniforms(chance, keys, 2 * _TRIES + 2)
        tries = drawn[:, : 2 * _TRIES].reshape(-1, _TRIES, 2)
        area = height * width * (self.scale[0] + tries[..., 0] * (self.scale[1] - self.scale[0]))
        least, most = np.log(self.ratio)
        ratio = np.exp(least + tries[..., 1] * (most - least))
        heights = np.rint(np.sqrt(area / ratio)).astype(np.int64)
        widths = np.rint(np.sqrt(area * ratio)).astype(np.int64)
        fits = (heights > 0) & (heights <= height) & (widths > 0) & (widths <= width)
        first = fits.argmax(axis=1)[:, None]
        sides = np.concatenate([np.take_along_axis(side, first, axis=1) for side in (heights, widths)], axis=1)
        begins = np.floor(drawn[:, -2:] * ([height + 1, width + 1] - sides)).astype(np.int64)
        middle = self._middle(height, width)
        found = np.concatenate([begins, sides], axis=1)
        return np.where(fits.any(axis=1, keepdims=True), found, middle)

    def _middle(self, height: int, width: int) -> Ints:
        tall = height if width > height * self.ratio[0] else max(round(width / self.ratio[0]), 1)
        wide = width if width < height * self.ratio[1] else max(round(height * self.ratio[1]), 1)
        return np.array([(height - tall) // 2, (width - wide) // 2, tall, wide], dtype=np.int64)

    def changed(self, images: Tensor, keys: Sequence[str], chance: Chance) -> Tensor:
        boxes = self.boxes(keys, chance, *images.shape[-2:])
        return resized(images, boxes, both(self.size), interpolation=self.interpolation, antialias=self.antialias)


@dataclass(frozen=True)
class ImageRandomResizedCrop(_RandomResizedCrop, ImagesInBatch):
    """A part of each image of the batch, of an area, a shape and a place drawn for each, resized: as for ImageNet.

    uint8 comes out bit for bit as torchvision resizes the same part on a CPU.

    Args:
        size: Of what is made, in pixels: one int for a square, or (height, width).
        scale: The least and the greatest area of the part, as a fraction of the image's.
        ratio: The least and the greatest width / height of the part.
        interpolation: ``"bilinear"`` or ``"bicubic"``.
        antialias: Whether the filter is widened where an image shrinks, as Pillow does.
        field: The images: uint8 or float [B, C, H, W].
    """


@dataclass(frozen=True)
class ImageRandomResizedCropOnSample(_RandomResizedCrop, ImageInSample):
    """:class:`ImageRandomResizedCrop` before Collate, where images have many sizes: uint8 or float32 [C, H, W]."""


@dataclass(frozen=True)
class ImageRandomHorizontalFlip(ImagesInBatch):
    """Some images of the batch mirrored, left for right.

    Args:
        p: How likely each is to be mirrored.
        field: The images: uint8 or float [B, C, H, W].
    """

    p: float = 0.5

    def __post_init__(self) -> None:
        if not is_number(self.p) or not 0 <= self.p <= 1:
            raise self.refuse(f"p must be a number in [0, 1], got {self.p!r}")
        super().__post_init__()

    def changed(self, images: Tensor, keys: Sequence[str], chance: Chance) -> Tensor:
        return flipped(images, uniforms(chance, keys, 1)[:, 0] < self.p)


@dataclass(frozen=True)
class ImageCutout(ImagesInBatch):
    """Squares of each image filled, around places drawn for each; what passes the edge of the image is lost.

    DeVries and Taylor, "Improved regularization of convolutional neural networks with cutout", 2017; each pixel is as
    likely to be a middle.

    Args:
        size: The side of a square, in pixels: one int, or (height, width). Its middle is pixel size // 2 of it.
        count: How many squares each image gets; they may overlap.
        fill: A number, or one for each channel, in the units of the images: 0 to 255 for uint8.
        field: The images: uint8 or float [B, C, H, W].
    """

    size: Size
    _: KW_ONLY
    count: int = 1
    fill: Fill = 0

    def __post_init__(self) -> None:
        check_size(self, self.size)
        if not is_int(self.count) or self.count < 1:
            raise self.refuse(f"count must be a positive int, got {self.count!r}")
        check_fill(self, self.fill)
        super().__post_init__()

    def boxes(self, keys: Sequence[str], chance: Chance, height: int, width: int) -> Ints:
        """Each sample's squares: int64 [B, count, 4], top, left, bottom, right, within the image."""
        drawn = uniforms(chance, keys, 2 * self.count).reshape(-1, self.count, 2)
        sides = np.array(both(self.size))
        begins = np.floor(drawn * [height, width]).astype(np.int64) - sides // 2
        return np.concatenate([begins.clip(0), np.minimum(begins + sides, [height, width])], axis=-1)

    def changed(self, images: Tensor, keys: Sequence[str], chance: Chance) -> Tensor:
        return filled(images, self.boxes(keys, chance, *images.shape[-2:]), fill_for(self, self.fill, images))


# -- the same for all -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Resize(ChangedImages, abc.ABC):
    size: Size
    _: KW_ONLY
    interpolation: Interpolation = "bilinear"
    antialias: bool = True

    def __post_init__(self) -> None:
        check_size(self, self.size)
        self.check_choices(interpolation=Interpolation)
        super().__post_init__()

    def changed(self, images: Tensor, keys: Sequence[str], chance: Chance) -> Tensor:
        height, width = images.shape[-2:]
        size = self.size
        if not isinstance(size, tuple):
            longer = int(size * max(height, width) / min(height, width))
            size = (size, longer) if height < width else (longer, size)
        if size == (height, width):
            return images
        return resized(images, _whole(images), size, interpolation=self.interpolation, antialias=self.antialias)


@dataclass(frozen=True)
class ImageResize(_Resize, ImagesInBatch):
    """The images of the batch in another size; uint8 comes out bit for bit as torchvision resizes it on a CPU.

    Args:
        size: In pixels: (height, width), or one int for the shorter side, the longer one in proportion, rounded down.
        interpolation: ``"bilinear"`` or ``"bicubic"``.
        antialias: Whether the filter is widened where an image shrinks, as Pillow does.
        field: The images: uint8 or float [B, C, H, W].
    """


@dataclass(frozen=True)
class ImageResizeOnSample(_Resize, ImageInSample):
    """:class:`ImageResize` before Collate, where images have many sizes: uint8 or float32 [C, H, W]."""


@dataclass(frozen=True)
class _CenterCrop(ChangedImages, abc.ABC):
    size: Size

    def __post_init__(self) -> None:
        check_size(self, self.size)
        super().__post_init__()

    def changed(self, images: Tensor, keys: Sequence[str], chance: Chance) -> Tensor:
        (height, width), (tall, wide) = images.shape[-2:], both(self.size)
        below, beside = max(tall - height, 0), max(wide - width, 0)
        images = padded(images, (beside // 2, below // 2, (beside + 1) // 2, (below + 1) // 2))
        top, left = round((height + below - tall) / 2), round((width + beside - wide) / 2)
        return images[:, :, top : top + tall, left : left + wide]


@dataclass(frozen=True)
class ImageCenterCrop(_CenterCrop, ImagesInBatch):
    """The middle of the images of the batch; smaller ones get zeros around them.

    Args:
        size: In pixels: one int for a square, or (height, width).
        field: The images: uint8 or float [B, C, H, W].
    """


@dataclass(frozen=True)
class ImageCenterCropOnSample(_CenterCrop, ImageInSample):
    """:class:`ImageCenterCrop` before Collate, where images have many sizes: uint8 or float32 [C, H, W]."""

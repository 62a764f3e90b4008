"""Images resized, each from a box of its own, with the filters of Pillow and torch: the same bits in any batch.

uint8 is summed in integers: with torch's own kernel on a CPU, and elsewhere by the same arithmetic (weights of 16 bits,
columns before rows, rounded to uint8 between), so that the two agree bit for bit. Floats are summed in float32, tap
after tap.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ecopipe.signal.images import Ints, on

Interpolation = Literal["bilinear", "bicubic"]
Floats = npt.NDArray[np.float64]

_RADIUS = {"bilinear": 1, "bicubic": 2}
_MOST_BITS = 22


def resized(
    images: Tensor,
    boxes: Ints,
    size: tuple[int, int],
    *,
    interpolation: Interpolation = "bilinear",
    antialias: bool = True,
) -> Tensor:
    """[B, C, *size]: of each image its box, resized; what lies outside the box has no say.

    Args:
        images: uint8 or float [B, C, H, W].
        boxes: int64 [B, 4]: top, left, height, width; within the image, and not empty.
        size: Height and width.
        interpolation: The filter.
        antialias: Whether the filter is widened where an image shrinks.
    """
    thin = 1 in size  # torch's kernels mistake the layout of such: 1x1 fails an internal assertion
    if images.dtype == torch.uint8 and images.device.type == "cpu" and not thin:
        return _by_torch(images, boxes, size, interpolation, antialias)
    return by_taps(images, boxes, size, interpolation, antialias)


def _by_torch(images: Tensor, boxes: Ints, size: tuple[int, int], interpolation: str, antialias: bool) -> Tensor:
    """A call for each box; its sums are of integers, so one call for many images is the same."""
    same = bool((boxes == boxes[:1]).all())
    parts = torch.split(images, len(images) if same else 1)
    made = [
        torch.nn.functional.interpolate(
            part[..., top : top + height, left : left + width], size=size, mode=interpolation, antialias=antialias
        )
        for part, (top, left, height, width) in zip(parts, boxes.tolist(), strict=False)
    ]
    return made[0] if len(made) == 1 else torch.cat(made)


def by_taps(
    images: Tensor, boxes: Ints, size: tuple[int, int], interpolation: Interpolation, antialias: bool
) -> Tensor:
    """:func:`resized` for all images in one, on any device."""
    made = images if images.dtype == torch.uint8 else images.float()
    for dim in (3, 2):
        begin, length = boxes[:, dim - 2], boxes[:, dim]
        place, weight = taps(length, size[dim - 2], interpolation, antialias)
        made = _summed(made, dim, place + begin[:, None, None], weight)
    return made.to(images.dtype)


def _summed(images: Tensor, dim: int, place: Ints, weight: Floats) -> Tensor:
    """The images with each row or column a weighted sum of some: places and weights [B, out, taps]."""
    shape, out = [len(images), 1, 1, 1], place.shape[1]
    shape[dim] = out
    wanted = [*images.shape]
    wanted[dim] = out
    whole = images.dtype == torch.uint8
    if whole:
        precision = _precision(weight)
        weight = np.trunc(weight * 2.0 ** precision[:, None, None] + np.copysign(0.5, weight))
        shift = on(precision.astype(np.int32), images.device).view(-1, 1, 1, 1)
        total = (torch.ones_like(shift) << (shift - 1)).expand(wanted).clone()
    else:
        total = images.new_zeros(wanted)
    places = on(place, images.device)
    weights = on(weight.astype(np.int32 if whole else np.float32), images.device)
    for tap in range(place.shape[2]):
        found = images.gather(dim, places[:, :, tap].reshape(shape).expand(wanted))
        total += found * weights[:, :, tap].reshape(shape)
    return (total >> shift).clamp_(0, 255).to(torch.uint8) if whole else total


def taps(length: Ints, out: int, interpolation: Interpolation, antialias: bool) -> tuple[Ints, Floats]:
    """Where ``out`` places lie among ``length`` [B] ones: int64 and float64 [B, out, taps], of the places and weights.

    The weights of a place have the sum 1; a tap that is not needed weighs 0.
    """
    radius, last = _RADIUS[interpolation], length[:, None, None] - 1
    scale = (length / out)[:, None]
    centre = scale * (np.arange(out) + 0.5)
    if not antialias:
        begin = np.floor(centre - 0.5).astype(np.int64) - radius + 1
        place = begin[..., None] + np.arange(2 * radius)
        weight = _kernel(place - (centre[..., None] - 0.5), interpolation, -0.75)
        return _gathered(place.clip(0, last), weight)
    stretch = np.maximum(scale, 1.0)
    begin = np.maximum((centre - radius * stretch + 0.5).astype(np.int64), 0)
    end = np.minimum((centre + radius * stretch + 0.5).astype(np.int64), length[:, None])
    place = begin[..., None] + np.arange((end - begin).max())
    weight = _kernel((place - centre[..., None] + 0.5) * (1.0 / stretch[..., None]), interpolation, -0.5)
    weight = np.where(place < end[..., None], weight, 0.0)
    return np.minimum(place, last), weight / weight.sum(axis=-1, keepdims=True)


def _gathered(place: Ints, weight: Floats) -> tuple[Ints, Floats]:
    """Taps at one and the same place made one: weights are rounded as such."""
    for tap in range(place.shape[-1] - 1, 0, -1):
        same = place[..., tap] == place[..., tap - 1]
        weight[..., tap - 1] += np.where(same, weight[..., tap], 0.0)
        weight[..., tap] = np.where(same, 0.0, weight[..., tap])
    return place, weight


def _kernel(x: Floats, interpolation: Interpolation, a: float) -> Floats:
    """The triangle, or Keys' cubic with its parameter ``a``."""
    x = np.abs(x)
    if interpolation == "bilinear":
        return np.maximum(1.0 - x, 0.0)
    near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    far = (((x - 5.0) * x + 8.0) * x - 4.0) * a
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))


def _precision(weight: Floats) -> Ints:
    """int64 [B]: bits after the point with which the weights of a sample stay below 2**15, at most 22."""
    most = weight.max(axis=(1, 2))[:, None]
    over = np.floor(0.5 + most * 2.0 ** np.arange(1, _MOST_BITS + 1)) >= 2**15
    return np.where(over.any(axis=1), over.argmax(axis=1), _MOST_BITS)

"""Batches of images, [B, C, H, W], each image changed in its own way: cut, padded, mirrored, filled, mixed, normalised.

Where an image is cut or filled is told by numpy arrays on the host; the images stay on their device. Pixels are moved
as they are, so all of this gives the same bits on any device, whatever the batch.
"""

from __future__ import annotations

import functools
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

PadMode = Literal["constant", "edge", "reflect", "symmetric"]
Ints = npt.NDArray[np.int64]
Padding = tuple[int, int, int, int]
"""Pixels at the left, top, right and bottom, as torchvision orders them."""

_PIECE = 2**20
"""Numbers in a piece."""

_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def on(values: npt.NDArray[np.generic], device: torch.device) -> Tensor:
    """A numpy array as a tensor on a device."""
    return torch.from_numpy(values).to(device, non_blocking=True)


def pieces(images: Tensor) -> list[slice]:
    """Runs of images to change one after the other: all at once, but on a CPU so few that what is made on the way stays
    in its caches, which is two to five times as fast."""
    most = max(_PIECE // max(images[:1].numel(), 1), 1) if images.device.type == "cpu" else max(len(images), 1)
    return [slice(begin, begin + most) for begin in range(0, len(images), most)]


def either(mask: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """``one`` where bool ``mask`` holds, else ``other``; all broadcast together, ``one`` and ``other`` of one dtype.

    By the bits, whatever they mean: on a CPU that is many times as fast as ``torch.where`` with a mask that is
    broadcast, since it is vectorised.
    """
    word = _WORDS[one.element_size()]
    left, right = one.contiguous().view(word), other.contiguous().view(word)
    return (right ^ ((right ^ left) & -mask.to(word))).view(one.dtype)


def padded(images: Tensor, padding: Padding, mode: PadMode = "constant", fill: tuple[float, ...] = (0.0,)) -> Tensor:
    """Images with pixels around them, as torchvision pads.

    Args:
        images: [B, C, H, W].
        padding: At the left, top, right and bottom; none is negative.
        mode: ``"constant"``: with ``fill``. ``"edge"``: with the outermost pixels. ``"reflect"``: mirrored without
            the outermost pixels, which takes less padding than the image is long. ``"symmetric"``: mirrored with them,
            which takes no more padding than that.
        fill: One number, or one for each channel.
    """
    if not any(padding):
        return images
    left, top, right, bottom = padding
    height, width = images.shape[-2:]
    if mode == "constant":
        made = images.new_empty(*images.shape[:2], height + top + bottom, width + left + right)
        made[:] = colour(fill, images)
        made[:, :, top : top + height, left : left + width] = images
        return made
    rows, columns = (
        on(_mirrored(length, before, after, mode), images.device)
        for length, before, after in ((height, top, bottom), (width, left, right))
    )
    return images.index_select(2, rows).index_select(3, columns)


def _mirrored(length: int, before: int, after: int, mode: PadMode) -> Ints:
    """int64 [before + length + after]: which of ``length`` places stands at each place after padding."""
    place = np.arange(-before, length + after)
    if mode == "edge":
        return place.clip(0, length - 1)
    beyond = 1 if mode == "reflect" else 0
    place = np.where(place < 0, beyond - 1 - place, place)
    return np.where(place >= length, 2 * length - 1 - beyond - place, place)


def colour(fill: tuple[float, ...], images: Tensor) -> Tensor:
    """[1 or C, 1, 1] of the images' dtype and device."""
    return _colour(fill, images.dtype, images.device)


@functools.lru_cache(maxsize=64)
def _colour(fill: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor(fill, dtype=torch.float64).to(dtype).to(device).view(-1, 1, 1)


def cropped(images: Tensor, top: Ints, left: Ints, height: int, width: int) -> Tensor:
    """[B, C, height, width]: of each image the part that begins at its own ``top`` and ``left``, int64 [B] each.

    One gather of rows from all windows of the memory: on a CPU numpy's, which copies a row at a time.
    """
    batch, channels, full_height, full_width = images.shape
    planes = np.arange(batch * channels).reshape(batch, channels, 1)
    rows = (planes * full_height + top[:, None, None] + np.arange(height)) * full_width + left[:, None, None]
    flat = images.contiguous().view(_WORDS[images.element_size()]).flatten()
    windows = flat.unfold(0, width, 1)
    found = torch.from_numpy(windows.numpy()[rows]) if images.device.type == "cpu" else windows[on(rows, images.device)]
    return found.view(images.dtype)


def flipped(images: Tensor, which: npt.NDArray[np.bool_]) -> Tensor:
    """The images with those of bool ``which`` [B] mirrored, left for right."""
    return either(on(which, images.device).view(-1, 1, 1, 1), images.flip(-1), images)


def inside(boxes: Ints, height: int, width: int, device: torch.device) -> Tensor:
    """bool [B, 1, height, width]: what lies in any of the boxes, int64 [B, N, 4]: top, left, bottom, right; from the
    first two up to, and without, the last two."""
    begins, ends = on(boxes[..., :2], device)[..., None], on(boxes[..., 2:], device)[..., None]
    down, across = torch.arange(height, device=device), torch.arange(width, device=device)
    rows = (down >= begins[:, :, 0]) & (down < ends[:, :, 0])
    columns = (across >= begins[:, :, 1]) & (across < ends[:, :, 1])
    return (rows[..., :, None] & columns[..., None, :]).any(dim=1, keepdim=True)


def filled(images: Tensor, boxes: Ints, fill: tuple[float, ...]) -> Tensor:
    """The images with boxes, as of :func:`inside`, filled with one number, or one for each channel."""
    height, width = images.shape[-2:]
    mask = inside(boxes, height, width, images.device)
    return either(mask, colour(fill, images), images)


def blended(images: Tensor, others: Tensor, share: npt.NDArray[np.float64], *, rounding: bool = False) -> Tensor:
    """``share * images + (1 - share) * others``, with the shares float64 [B], in the images' dtype.

    In float32, each product and sum rounded by itself. uint8 is kept within 0..255, and cut down to whole numbers as
    torchvision does, or rounded, halves to even.

    Args:
        images: uint8 or float [B, C, H, W].
        others: Of any dtype, broadcast to the images.
        share: Of the images.
        rounding: Whether uint8 is rounded.
    """
    one, other = (on(part.astype(np.float32), images.device).view(-1, 1, 1, 1) for part in (share, 1.0 - share))
    mixed = (images.float() * one).add_(others.float() * other)
    if images.dtype != torch.uint8:
        return mixed.to(images.dtype)
    return (mixed.round_() if rounding else mixed).clamp_(0, 255).to(torch.uint8)


def normalized(
    images: Tensor,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    *,
    dtype: torch.dtype = torch.float32,
    channels_last: bool = False,
) -> Tensor:
    """(x - mean) / std for each channel, computed in float32: of a dtype, and in memory by channels or by pixels.

    Args:
        images: uint8 [B, C, H, W], taken as x / 255, or float, taken as they are.
        mean: One for each channel, in units of [0, 1].
        std: One for each channel, in units of [0, 1].
        dtype: Of what is made.
        channels_last: Whether the channels of a pixel lie side by side, as convolutions on tensor cores want it.
    """
    layout = torch.channels_last if channels_last else torch.contiguous_format
    mean_planes, std_planes = (_colour(numbers, torch.float32, images.device) for numbers in (mean, std))
    made = torch.empty(images.shape, dtype=dtype, device=images.device, memory_format=layout)
    for piece in pieces(images):
        pixels = images[piece].contiguous(memory_format=layout).to(torch.float32, copy=True)
        if images.dtype == torch.uint8:
            pixels.div_(255)
        made[piece] = pixels.sub_(mean_planes).div_(std_planes)
    return made

"""Colours of batches of images changed as torchvision's v2 defines it, each image by a factor of its own.

Images are uint8, or float in [0, 1], [B, C, H, W] with C of 1 (grey) or 3 (red, green, blue). Each function gives
images of the same dtype, uint8 cut down to whole numbers after each change. Sums are of integers or in steps of a power
of two, and everything else is rounded one by one, so that an image comes out the same, bit for bit, in any batch.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ecopipe.signal.images import blended, on
from ecopipe.signal.statistics import Frames, means

Factors = npt.NDArray[np.float64]


def greys(images: Tensor) -> Tensor:
    """The luma, 0.2989 R + 0.587 G + 0.114 B: int32 [B, 1, H, W], cut down, of uint8, else float32."""
    whole = images.dtype == torch.uint8
    if images.shape[1] == 1:
        return images.to(torch.int32 if whole else torch.float32)
    red, green, blue = images.to(torch.int32 if whole else torch.float32).unbind(1)
    if whole:
        luma: Tensor = (red * 2989 + green * 5870 + blue * 1140) // 10000
    else:
        luma = red * 0.2989 + green * 0.587 + blue * 0.114
    return luma[:, None]


def brightened(images: Tensor, factor: Factors) -> Tensor:
    """``factor`` times the images, float64 [B] of at least 0."""
    return _bounded(blended(images, images.new_zeros(1, 1, 1, 1), factor))


def contrasted(images: Tensor, factor: Factors) -> Tensor:
    """``factor`` times the difference from the mean luma of the image."""
    luma = greys(images)
    if images.dtype == torch.uint8:
        mean = luma.sum(dim=(1, 2, 3), dtype=torch.int64).double() / luma[0].numel()
    else:
        pixels = luma.flatten(1)[..., None]
        lengths = torch.full((len(images),), pixels.shape[1], device=images.device)
        mean = means(pixels, Frames(pixels, lengths), whole=True)
    return _bounded(blended(images, mean.float().view(-1, 1, 1, 1), factor))


def saturated(images: Tensor, factor: Factors) -> Tensor:
    """``factor`` times the difference from the luma of each pixel; grey images stay."""
    return images if images.shape[1] == 1 else _bounded(blended(images, greys(images), factor))


def hued(images: Tensor, turn: Factors) -> Tensor:
    """The hue of each pixel turned, float64 [B] in [-0.5, 0.5] of the whole circle; grey images stay."""
    if images.shape[1] == 1:
        return images
    whole = images.dtype == torch.uint8
    pixels = images.float() / 255 if whole else images.float()
    red, green, blue = pixels.unbind(1)
    most = torch.maximum(torch.maximum(red, green), blue)
    least = torch.minimum(torch.minimum(red, green), blue)
    spread = most - least
    divisor = torch.where(spread == 0, 1, spread)
    sector = torch.where(
        most == red,
        (green - blue) / divisor,
        torch.where(most == green, (blue - red) / divisor + 2, (red - green) / divisor + 4),
    )
    sixths = sector + on((turn * 6).astype(np.float32), images.device).view(-1, 1, 1)
    sixths = sixths - (sixths / 6).floor() * 6
    # by how much a channel lies below the greatest: nothing for a third of the circle, all for another, a ramp between
    below = (2 - (sixths - 3).abs(), (sixths - 2).abs() - 1, (sixths - 4).abs() - 1)
    made = [most - spread * part.clamp(0, 1) for part in below]
    turned = torch.stack(made, dim=1)
    return (turned * (256 - 1e-3)).to(torch.uint8) if whole else turned.to(images.dtype)


def _bounded(images: Tensor) -> Tensor:
    return images if images.dtype == torch.uint8 else images.clamp(0, 1)

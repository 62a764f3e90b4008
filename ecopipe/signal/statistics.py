"""Means and deviations of each sample's true frames: the same bits in any batch, order and layout, on any device.

A sum of floats depends on the order in which it is made, and so on the batch's shape, the threads and the device; one
of integers does not. So what is summed is first put in steps of a power of two: 2**-30 of the one above the largest
number that enters the sum, which is a 64th of the last digit of that number in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ecopipe.signal.threads import each

_BITS = 30
"""Steps are int32."""


class Frames:
    """Where the true frames of a batch lie: padded [B, F, ...], or flat [N, ...], one sample after the other.

    Attributes:
        lengths: int64 [B], the true frames of each sample.
        starts: int64 [B], the row of each sample's first frame when all frames of the batch are rows of one matrix.
        place: int64 [F] or [N], the number of a frame within its sample.
        valid: bool [B, F] or [N], whether it is a true one.

    Args:
        features: [B, F, ...], or [N, ...] with ``offsets``.
        lengths: int64 [B].
        offsets: int64 [B], ascending: where in a flat batch each sample begins. What lies between two is no true frame.
    """

    def __init__(self, features: Tensor, lengths: Tensor, offsets: Tensor | None = None) -> None:
        self.lengths = lengths
        self._owner: Tensor | None = None
        if offsets is None:
            batch, frames = features.shape[:2]
            self.place = torch.arange(frames, device=features.device)
            self.starts = torch.arange(batch, device=features.device) * frames
            self.valid = self.place < lengths[:, None]
        else:
            rows = torch.arange(features.shape[0], device=features.device)
            self._owner = (torch.searchsorted(offsets, rows, right=True) - 1).clamp_min(0)
            self.place = rows - offsets[self._owner]
            self.starts = offsets
            self.valid = (self.place >= 0) & (self.place < lengths[self._owner])

    def each(self, values: Tensor) -> Tensor:
        """Numbers of the samples, [B, ...], beside their frames: [B, 1, ...] or [N, ...]."""
        return values[:, None] if self._owner is None else values[self._owner]

    def rows(self, values: Tensor) -> list[Tensor]:
        """The true frames of each sample of numbers of all frames, [B, F, ...] or [N, ...]: B views [n, ...].

        It waits for the device.
        """
        counts = self.lengths.tolist()
        if self._owner is None:
            return [one[:count] for one, count in zip(values, counts, strict=True)]
        return [values[begin : begin + count] for begin, count in zip(self.starts.tolist(), counts, strict=True)]

    def sums(self, values: Tensor) -> Tensor:
        """int64 [B, ...]: the sums over the frames of integers that are 0 where there is no true frame."""
        if self._owner is None:
            return values.sum(dim=1, dtype=torch.int64)
        total = torch.zeros(len(self.lengths), *values.shape[1:], dtype=torch.int64, device=values.device)
        return total.index_add_(0, self._owner, values.long())

    def largest(self, values: Tensor) -> Tensor:
        """[B, ...]: the largest over the frames of numbers that are at least 0, and 0 where there is no true frame."""
        if self._owner is None:
            return values.amax(dim=1) if values.shape[1] else values.new_zeros(len(values), *values.shape[2:])
        owner = self._owner.view(-1, *[1] * (values.dim() - 1)).expand_as(values)
        return values.new_zeros(len(self.lengths), *values.shape[1:]).scatter_reduce_(0, owner, values, "amax")


def means(features: Tensor, frames: Frames, *, whole: bool = False) -> Tensor:
    """float64 [B, bins]: the mean of each bin over each sample's true frames, or, if ``whole``, [B, 1]: over all bins.

    0 for a sample without frames, NaN where a true frame holds NaN or infinity.

    Args:
        features: float [B, F, bins] or [N, bins]; what is computed with is float32.
        frames: Where the true frames lie.
        whole: One mean for all bins together.
    """
    if _apart(features):
        return _by_sample(features, frames, 1 if whole else features.shape[-1], lambda rows, _: _mean(rows, whole))
    inside = features.float().masked_fill(~frames.valid[..., None], 0)
    magnitude = inside.abs()
    largest = frames.largest(magnitude.amax(dim=-1, keepdim=True) if whole else magnitude)
    up = _BITS - _exponent(largest)
    steps = (inside * frames.each(_two_to(up).float())).round_().int()
    count = frames.lengths[:, None]
    if whole:
        steps, count = steps.sum(dim=-1, keepdim=True, dtype=torch.int64), count * features.shape[-1]
    mean = frames.sums(steps).double() / count.clamp_min(1) * _two_to(-up)
    return mean.masked_fill(~largest.isfinite(), torch.nan)


def squared_deviations(features: Tensor, frames: Frames, mean: Tensor) -> Tensor:
    """float64 [B, bins]: the sum over each sample's true frames of (feature - mean)**2; NaN where there is NaN.

    Args:
        features: As of :func:`means`.
        frames: Where the true frames lie.
        mean: float32 [B, bins].
    """
    if _apart(features):
        return _by_sample(features, frames, features.shape[-1], lambda rows, at: _squares(rows - mean[at]))
    deviation = (features.float() - frames.each(mean)).masked_fill_(~frames.valid[..., None], 0)
    largest = frames.largest(deviation.abs())
    exponent = _exponent(largest)
    squares = (deviation * frames.each(_two_to(-exponent).float())).square_()  # below 1
    total = frames.sums((squares * 2.0**_BITS).round_().int())
    return (total.double() * _two_to(2 * exponent - _BITS)).masked_fill_(~largest.isfinite(), torch.nan)


def _apart(features: Tensor) -> bool:
    """Whether samples are taken one by one: on the CPU, where one stays in the cache from pass to pass."""
    return features.device.type == "cpu" and not features.requires_grad


def _by_sample(features: Tensor, frames: Frames, width: int, work: Callable[[Tensor, int], Tensor]) -> Tensor:
    """float64 [B, width]: what ``work`` makes of each sample's true frames, float32 [n, bins], and its number."""
    samples = frames.rows(features)
    made = torch.zeros(len(samples), width, dtype=torch.float64)

    def one(at: int) -> None:
        if samples[at].numel():
            made[at] = work(samples[at].float(), at)

    each(one, range(len(samples)))
    return made


def _mean(rows: Tensor, whole: bool) -> Tensor:
    """What :func:`means` does, of one sample: float64 [bins], or the one number of all bins."""
    magnitude = rows.abs()
    largest = magnitude.amax() if whole else magnitude.amax(dim=0)
    up = _BITS - _exponent(largest)
    steps = torch.mul(rows, _two_to(up).float(), out=magnitude).round_().int().sum(dim=0, dtype=torch.int64)
    total, count = (steps.sum(), rows.numel()) if whole else (steps, len(rows))
    return (total.double() / count * _two_to(-up)).masked_fill_(~largest.isfinite(), torch.nan)


def _squares(deviation: Tensor) -> Tensor:
    """What :func:`squared_deviations` does, of one sample's float32 [n, bins]: float64 [bins]."""
    largest = deviation.abs().amax(dim=0)
    exponent = _exponent(largest)
    squares = deviation.mul_(_two_to(-exponent).float()).square_().mul_(2.0**_BITS).round_()
    total = squares.int().sum(dim=0, dtype=torch.int64)
    return (total.double() * _two_to(2 * exponent - _BITS)).masked_fill_(~largest.isfinite(), torch.nan)


def _exponent(largest: Tensor) -> Tensor:
    """int64: the power of two above numbers, within what :func:`_two_to` and float32 bear."""
    return torch.frexp(largest).exponent.long().clamp(-90, 128)


def _two_to(power: Tensor) -> Tensor:
    """float64: 2**power for int64 powers in -1022..1023, by its bits: ``exp2`` is not exact on every device."""
    return ((power + 1023) << 52).view(torch.float64)


class ExactSum:
    """Sums of float64 numbers without any rounding, and so the same for any order and grouping.

    Args:
        size: How many sums.
    """

    _UNIT = 1130  # sums are whole numbers of 2**-_UNIT: the smallest float64 is 2**-1074, the last of 53 digits of less

    def __init__(self, size: int) -> None:
        self._units = [0] * size

    def add(self, values: npt.NDArray[np.float64]) -> None:
        """Adds finite numbers: float64 [n, size]."""
        mantissa, exponent = np.frexp(values)
        digits = (mantissa * 2.0**53).astype(np.int64).T.tolist()
        shifts = (exponent + (self._UNIT - 53)).T.tolist()
        for number, (column, by) in enumerate(zip(digits, shifts, strict=True)):
            self._units[number] += sum(digit << shift for digit, shift in zip(column, by, strict=True))

    def totals(self) -> list[Fraction]:
        """The sums."""
        return [Fraction(units, 1 << self._UNIT) for units in self._units]

"""SpecAugment: features with stretches of time and bands of frequency masked, each sample by its own draws."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from ecopipe.stages.stage import DeviceStage
from ecopipe.vocabulary.errors import nearest
from ecopipe.vocabulary.randomness import Chance
from ecopipe.vocabulary.sample import Batch

Fill = Literal["mean", "zero"]


@dataclass(frozen=True)
class SpecAugment(DeviceStage):
    """Masks bands and stretches of time in ``features``, each sample by its own draws.

    Park et al., "SpecAugment", Interspeech 2019; the defaults are its LibriSpeech Double policy without time warping.
    A width is drawn from 0 to the greatest, both included, and a place from all where the mask fits. Masks lie within
    the sample's true length. Draws depend on the sample's key, so that a sample is masked alike in any batch.

    Args:
        freq_masks: How many bands are masked.
        freq_mask_width: The greatest width of one, in mel bins.
        time_masks: How many stretches of time are masked.
        time_mask_width: The greatest length of one, in frames.
        max_time_fraction: The greatest length of one, as a fraction of the sample's length.
        fill: What masked places get: the ``"mean"`` of the sample's own features before masking, or ``"zero"``.
        field: The features: float32 [B, frames, bins] with ``lengths`` int64 [B] in frames.
    """

    _: KW_ONLY
    freq_masks: int = 2
    freq_mask_width: int = 27
    time_masks: int = 2
    time_mask_width: int = 100
    max_time_fraction: float = 1.0
    fill: Fill = "mean"
    field: str = "features"

    def __post_init__(self) -> None:
        for name in ("freq_masks", "freq_mask_width", "time_masks", "time_mask_width"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 0:
                raise self.refuse(f"{name} must be an int of at least 0, got {value!r}")
        if not 0 <= self.max_time_fraction <= 1:
            raise self.refuse(f"max_time_fraction must be in 0..1, got {self.max_time_fraction!r}")
        if self.fill not in get_args(Fill):
            raise self.refuse(f"unknown fill {self.fill!r}. {nearest(str(self.fill), get_args(Fill))}")

    def needs(self) -> tuple[str, ...]:
        return (self.field, "lengths")

    def gives(self) -> tuple[str, ...]:
        return (self.field,)

    def apply(self, batch: Batch, chance: Chance) -> Batch:
        features, lengths = batch[self.field], batch["lengths"]
        if features.dim() != 3 or not features.is_floating_point():
            raise self.refuse(f"{self.field} must be float [B, frames, bins], got {list(features.shape)}")
        frames, bins = features.shape[1:]
        masks = self.freq_masks + self.time_masks
        if masks == 0 or features.numel() == 0:
            return batch
        drawn = np.stack([chance.draws(key).uniform(2 * masks) for key in batch.sample_keys]).reshape(-1, masks, 2)
        uniform = torch.from_numpy(drawn).to(features.device, non_blocking=True)
        valid = torch.arange(frames, device=features.device) < lengths[:, None]
        longest = (lengths.double() * self.max_time_fraction).floor().clamp_max(self.time_mask_width)
        widest = torch.full_like(longest, min(self.freq_mask_width, bins))
        in_freq = _masked(uniform[:, : self.freq_masks], widest, torch.full_like(longest, bins), bins)
        in_time = _masked(uniform[:, self.freq_masks :], longest, lengths, frames)
        masked = (in_time[:, :, None] | in_freq[:, None, :]) & valid[:, :, None]
        fill = _means(features, lengths, valid) if self.fill == "mean" else torch.zeros_like(features[:, 0, 0])
        return batch.with_fields(**{self.field: torch.where(masked, fill[:, None, None], features)})


def _masked(uniform: Tensor, widest: Tensor, length: Tensor, places: int) -> Tensor:
    """bool [B, places]: what the masks of each sample cover.

    Args:
        uniform: float64 [B, masks, 2] in [0, 1): for the width and the place of each mask.
        widest: [B], the greatest width.
        length: [B], within how many places the masks lie.
        places: The size of the dimension that is masked.
    """
    width = torch.floor(uniform[:, :, 0] * (widest[:, None] + 1))
    start = torch.floor(uniform[:, :, 1] * (length[:, None] - width + 1))
    place = torch.arange(places, device=uniform.device)
    return ((place >= start[:, :, None]) & (place < (start + width)[:, :, None])).any(dim=1)


def _means(features: Tensor, lengths: Tensor, valid: Tensor) -> Tensor:
    """[B]: the mean of each sample's true frames, the same bits in any batch and on any device.

    The sum is one of integers, which is the same in any order: features in steps of 2**-30 of the power of two above
    the largest one.
    """
    inside = features.float().masked_fill(~valid[:, :, None], 0)
    largest = inside.abs().amax(dim=(1, 2))
    up = 30 - torch.frexp(largest).exponent.long().clamp_min(-90)
    scale = ((up + 127) << 23).int().view(torch.float32)  # 2**up by its bits, exact on every device
    steps = (inside * scale[:, None, None]).int()
    total = steps.sum(dim=(1, 2), dtype=torch.int64).double()
    count = (lengths * features.shape[2]).clamp_min(1)
    mean = (total / count * ((1023 - up) << 52).view(torch.float64)).to(features.dtype)
    return torch.where(largest.isfinite(), mean, largest.to(features.dtype))

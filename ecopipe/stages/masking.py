"""SpecAugment: features warped in time, with stretches of time and bands of frequency masked, each sample by its own
draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from ecopipe.signal.statistics import Frames, means
from ecopipe.signal.threads import each
from ecopipe.stages.stage import DeviceStage
from ecopipe.vocabulary.randomness import Chance
from ecopipe.vocabulary.sample import Batch

Fill = Literal["mean", "zero"]

_UNLIMITED = 1_000_000


@dataclass(frozen=True)
class SpecAugment(DeviceStage):
    """Warps ``features`` in time, and masks bands and stretches of time in them, each sample by its own draws.

    Park et al., "SpecAugment", Interspeech 2019, and "SpecAugment on Large Scale Datasets", ICASSP 2020; the defaults
    are the former's LibriSpeech Double policy without time warping. A width is drawn from 0 to the greatest, both
    included, and a place from all where the mask fits; masks may overlap. All lies within the sample's true length.
    Draws depend on the sample's key, so that a sample is changed alike in any batch; and none of them on how many
    others are made, so that masks stay where they are when warping is turned on or a mask added.

    ========  ============================================================================
    preset
    ========  ============================================================================
    LB, LD    LibriSpeech basic and double
    SM, SS    Switchboard mild and strong
    adaptive  LibriSpeech of 2020: number and length of time masks grow with the sample
    ========  ============================================================================

    Args:
        freq_masks: How many bands are masked.
        freq_mask_width: The greatest width of one, in mel bins.
        time_masks: How many stretches of time are masked.
        time_mask_width: The greatest length of one, in frames.
        max_time_fraction: The greatest length of one, as a fraction of the sample's length, rounded down.
        adaptive_masks: If above 0, a sample of n frames gets ``adaptive_masks * n`` time masks, rounded down, in place
            of ``time_masks``.
        max_time_masks: The greatest number of those.
        time_warp: How many frames a point of the sample is moved at most, to either side; what lies between it and the
            two ends is moved in proportion, and interpolated linearly. The point is at least so far from both ends; a
            sample that is not longer than twice that distance has no such point, and is not warped.
        fill: What masked places get: the ``"mean"`` of the sample's own features as they came, or ``"zero"``.
        field: The features: float [B, frames, bins] with ``lengths`` int64 [B] in frames; or, with ``offsets`` int64
            [B], flat: [sum of frames, bins].
    """

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "LB": {"freq_masks": 1, "time_masks": 1, "time_warp": 80},
        "LD": {"time_warp": 80},
        "SM": {"freq_mask_width": 15, "time_mask_width": 70, "max_time_fraction": 0.2, "time_warp": 40},
        "SS": {"time_mask_width": 70, "max_time_fraction": 0.2, "time_warp": 40},
        "adaptive": {
            "adaptive_masks": 0.04,
            "max_time_fraction": 0.04,
            "time_mask_width": _UNLIMITED,
            "time_warp": 80,
        },
    }

    _: KW_ONLY
    freq_masks: int = 2
    freq_mask_width: int = 27
    time_masks: int = 2
    time_mask_width: int = 100
    max_time_fraction: float = 1.0
    adaptive_masks: float = 0.0
    max_time_masks: int = 20
    time_warp: int = 0
    fill: Fill = "mean"
    field: str = "features"

    def __post_init__(self) -> None:
        super().__post_init__()
        counts = ("freq_masks", "freq_mask_width", "time_masks", "time_mask_width", "max_time_masks", "time_warp")
        for name in counts:
            value = getattr(self, name)
            if not isinstance(value, int) or value < 0:
                raise self.refuse(f"{name} must be an int of at least 0, got {value!r}")
        for name in ("max_time_fraction", "adaptive_masks"):
            if not 0 <= getattr(self, name) <= 1:
                raise self.refuse(f"{name} must be in 0..1, got {getattr(self, name)!r}")
        self.check_choices(fill=Fill)

    def needs(self) -> tuple[str, ...]:
        return (self.field, "lengths")

    def gives(self) -> tuple[str, ...]:
        return (self.field,)

    @property
    def most_time_masks(self) -> int:
        """How many time masks a sample can have."""
        return self.max_time_masks if self.adaptive_masks else self.time_masks

    def drawn(self, keys: Sequence[str], chance: Chance) -> Tensor:
        """What the samples draw: float64 [B, 2 + 4 M] in [0, 1) on the CPU, where M is the larger number of masks.

        The first two are for the warp; then come, for each number of a mask, the width and the place of the band, and
        the width and the place of the stretch of time.
        """
        count = 2 + 4 * max(self.freq_masks, self.most_time_masks)
        return torch.from_numpy(np.stack([chance.draws(key).uniform(count) for key in keys]))

    def spans(self, drawn: Tensor, lengths: Tensor, bins: int) -> tuple[Tensor, Tensor]:
        """Where the masks begin and end.

        Args:
            drawn: float64 [B, 2 + 4 M], from :meth:`drawn`.
            lengths: int64 [B], the true frames of each sample.
            bins: The bins of the features.

        Returns:
            Bands, int32 [B, freq_masks, 2], and stretches of time, int32 [B, most_time_masks, 2], each as (begin, end);
            a mask that is not made ends where it begins.
        """
        widths, places = drawn[:, 2:].reshape(len(drawn), drawn.shape[1] // 4, 2, 2).unbind(-1)
        widest = torch.full_like(lengths, min(self.freq_mask_width, bins), dtype=torch.float64)
        longest = (lengths.double() * self.max_time_fraction).floor().clamp_max(self.time_mask_width)
        bands = _spans(widths[:, : self.freq_masks, 0], places[:, : self.freq_masks, 0], widest, bins)
        most = self.most_time_masks
        times = _spans(widths[:, :most, 1], places[:, :most, 1], longest, lengths[:, None])
        if self.adaptive_masks:
            wanted = (lengths.double() * self.adaptive_masks).floor()
            unwanted = torch.arange(most, device=lengths.device) >= wanted[:, None]
            times = times.masked_fill(unwanted[:, :, None], 0)
        return bands, times

    def warps(self, drawn: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """The point of each sample that is moved, and where to: int64 [B] and [B], in frames; equal where none is."""
        width = self.time_warp
        room = lengths - 2 * width
        point = width + torch.floor(drawn[:, 0] * room).long()
        moved = point + torch.floor(drawn[:, 1] * (2 * width + 1)).long() - width
        moved = torch.minimum(moved.clamp_min(1), lengths - 2)  # the first and the last frame stay
        return point, torch.where(room > 0, moved, point)

    def apply(self, batch: Batch, chance: Chance) -> Batch:
        features, lengths, offsets = batch[self.field], batch["lengths"], batch.get("offsets")
        if features.dim() != (3 if offsets is None else 2) or not features.is_floating_point():
            wanted = "[B, frames, bins]" if offsets is None else "[frames, bins] (there are offsets)"
            raise self.refuse(f"{self.field} must be float {wanted}, got {list(features.shape)}")
        if features.numel() == 0 or not (self.freq_masks or self.most_time_masks or self.time_warp):
            return batch
        drawn = self.drawn(batch.sample_keys, chance).to(features.device, non_blocking=True)
        frames = Frames(features, lengths, offsets)
        bands, times = self.spans(drawn, lengths, features.shape[-1])
        made = _warped(features, frames, *self.warps(drawn, lengths)) if self.time_warp else features
        fill = means(features, frames, whole=True) if self.fill == "mean" else drawn.new_zeros(len(lengths), 1)
        fill = fill.to(features.dtype)
        if features.device.type == "cpu" and not features.requires_grad:
            private = made if self.time_warp else made.clone(memory_format=torch.contiguous_format)
            _fill(frames.rows(private), bands, times, fill)
            return batch.with_fields(**{self.field: private})
        in_freq = frames.each(_covered(torch.arange(features.shape[-1], device=features.device), bands[:, None]))
        in_time = _covered(frames.place, frames.each(times))
        masked = (in_time[..., None] | in_freq) & frames.valid[..., None]
        return batch.with_fields(**{self.field: torch.where(masked, frames.each(fill), made)})


def _spans(width: Tensor, place: Tensor, widest: Tensor, length: Tensor | int) -> Tensor:
    """int32 [B, masks, 2]: masks of 0 to ``widest`` [B] places, anywhere within ``length``, by draws [B, masks]."""
    width = torch.floor(width * (widest[:, None] + 1))
    begin = torch.floor(place * (length - width + 1))
    return torch.stack([begin, begin + width], dim=-1).int()


def _fill(samples: Sequence[Tensor], bands: Tensor, times: Tensor, fill: Tensor) -> None:
    """Fills the masks of samples [n, bins] in place: bands and times [B, masks, 2], fill [B, 1]."""
    all_bands, all_times, values = bands.tolist(), times.tolist(), fill[:, 0].tolist()

    def one(at: int) -> None:
        for begin, end in all_times[at]:
            samples[at][begin:end] = values[at]
        for begin, end in all_bands[at]:
            samples[at][:, begin:end] = values[at]

    each(one, range(len(samples)))


def _covered(place: Tensor, spans: Tensor) -> Tensor:
    """bool [..., places]: whether places [places] lie in any of some spans [..., places or 1, masks, 2]."""
    return ((place[:, None] >= spans[..., 0]) & (place[:, None] < spans[..., 1])).any(dim=-1)


def _warped(features: Tensor, frames: Frames, point: Tensor, moved: Tensor) -> Tensor:
    """The features with frame ``point`` at ``moved`` and the first and last frame where they were.

    Places are counted in integers and products and sums are rounded one by one, so that all devices agree.
    """
    place, point, moved = frames.place, frames.each(point), frames.each(moved)
    last = frames.each(frames.lengths) - 1
    before = place < moved
    length = torch.where(before, moved, last - moved).clamp_min(1)
    ahead = torch.where(before, place, place - moved) * torch.where(before, point, last - point)
    source = torch.where(before, 0, point) + torch.div(ahead, length, rounding_mode="floor")
    still = (point == moved) | ~frames.valid
    source = torch.where(still, place, source)
    start, wide = frames.each(frames.starts), torch.promote_types(features.dtype, torch.float32)
    weight = (ahead.remainder(length).double() / length).to(wide)[..., None]
    rows = features.reshape(-1, features.shape[-1])
    one = rows[start + source]
    other = rows[start + torch.where(still, place, torch.minimum(source + 1, last))]
    between = (one.to(wide) * (1 - weight) + other.to(wide) * weight).to(features.dtype)
    return torch.where((still | (weight[..., 0] == 0))[..., None], one, between)

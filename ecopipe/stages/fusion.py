"""Device stages that follow each other as one or two fused kernels: features, normalisation and masks in one go.

A pipeline names its stages one by one; where kernels run, the runner asks :func:`fuse` for the same in fewer launches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ecopipe.signal import kernels
from ecopipe.signal.kernels import Normal
from ecopipe.stages.fbank import MFCC, Fbank, KaldiMFCC
from ecopipe.stages.features import FeatureStage, sizes
from ecopipe.stages.masking import SpecAugment
from ecopipe.stages.normalization import CMVN
from ecopipe.stages.spectral import LogMel, Spectrogram
from ecopipe.stages.stage import DeviceStage
from ecopipe.vocabulary.randomness import Chance
from ecopipe.vocabulary.sample import Batch


def fuse(stages: Sequence[DeviceStage], device: torch.device) -> list[DeviceStage]:
    """The stages, those that one kernel can do together as one stage.

    What is fused is a front end (:class:`LogMel`, :class:`Fbank`, :class:`Spectrogram`), with a :class:`CMVN` and then
    a :class:`SpecAugment` without time warp where they come next. Features are those of the single stages but for the
    rounding of float32; masks and their draws are the same.

    Args:
        stages: Device stages, in order.
        device: Where they will run.
    """
    made: list[DeviceStage] = []
    waiting = list(stages)
    while waiting:
        stage = waiting.pop(0)
        if isinstance(stage, FeatureStage) and _fits(stage, device):
            cmvn = waiting.pop(0) if waiting and _is_cmvn(waiting[0], stage) else None
            augment = waiting.pop(0) if waiting and _is_augment(waiting[0]) else None
            assert cmvn is None or isinstance(cmvn, CMVN)
            assert augment is None or isinstance(augment, SpecAugment)
            labels = "+".join(one.label for one in (stage, cmvn, augment) if one is not None)
            stage = FusedFrontEnd(stage, cmvn, augment, name=labels)
        made.append(stage)
    return made


def _fits(stage: FeatureStage, device: torch.device) -> bool:
    if stage.engine not in ("auto", "triton") or (stage.engine == "auto" and device.type == "cpu"):
        return False
    if isinstance(stage, MFCC | KaldiMFCC) or not isinstance(stage, LogMel | Spectrogram | Fbank):
        return False
    if isinstance(stage, Fbank) and stage.use_energy and stage.htk_compat:
        return False
    if isinstance(stage, LogMel) and not stage.max_range and (stage.shift or stage.factor != 1.0):
        return False
    return kernels.available(device) and kernels.supports(stage.recipe)


def _is_cmvn(stage: DeviceStage, front: FeatureStage) -> bool:
    ranged = isinstance(front, LogMel | Spectrogram) and front.max_range > 0
    return isinstance(stage, CMVN) and stage.field == "features" and not (ranged and stage.stats is not None)


def _is_augment(stage: DeviceStage) -> bool:
    return isinstance(stage, SpecAugment) and stage.field == "features" and not stage.time_warp


@dataclass(frozen=True)
class FusedFrontEnd(DeviceStage, abstract=True):
    """A front end, CMVN and SpecAugment at once. It takes and gives what they do.

    Args:
        front: Makes the features.
        cmvn: Normalises them; or None.
        augment: Masks them; or None.
    """

    front: FeatureStage
    cmvn: CMVN | None
    augment: SpecAugment | None

    def needs(self) -> tuple[str, ...]:
        return self.front.needs()

    def gives(self) -> tuple[str, ...]:
        return self.front.gives()

    def takes_away(self) -> tuple[str, ...]:
        return self.front.takes_away()

    def apply(self, batch: Batch, chance: Chance) -> Batch:
        audio, lengths, offsets = batch["audio"], batch["lengths"], batch.get("offsets")
        self.front.check(batch)
        recipe = self.front.recipe
        counts = recipe.framing.frames_of(lengths)
        begins = None if offsets is None else counts.cumsum(0) - counts
        total, longest = (None, None) if begins is None else sizes(counts)
        dtype = getattr(torch, self.front.dtype)
        pad_value = self.front.pad_value if self.cmvn is None else 0.0
        columns = recipe.width + (recipe.energy != "none")
        affine = None
        if self.cmvn is not None and self.cmvn.stats is not None:
            affine = self.cmvn.of_corpus(columns, audio.device)
        spans, mean_fill = self._spans(batch, counts, columns, chance)
        normal = self._normal()
        second = normal is not None or mean_fill
        features = kernels.log_mel(
            audio.contiguous(), lengths, recipe, offsets=offsets, rows=begins, total=total, affine=affine,
            frames=longest, out_dtype=torch.float32 if second else dtype,
            pad_value=pad_value, spans=None if second else spans,
        )  # fmt: skip
        if second:
            features = kernels.finish(
                features, counts, normal or Normal(), rows=begins, out_dtype=dtype, pad_value=pad_value, spans=spans,
                fill="mean" if mean_fill else None,
            )  # fmt: skip
        fields = {"features": features, "lengths": counts}
        return batch.without("audio").with_fields(**fields, **({} if begins is None else {"offsets": begins}))

    def _normal(self) -> Normal | None:
        """What is done by the sample's own statistics; None if nothing is."""
        normal = Normal()
        if isinstance(self.front, LogMel | Spectrogram) and self.front.max_range:
            normal = replace(normal, max_range=self.front.max_range)
            if isinstance(self.front, LogMel):
                normal = replace(normal, shift=self.front.shift, factor=self.front.factor)
        if self.cmvn is not None and self.cmvn.stats is None:
            cmvn = self.cmvn
            normal = replace(normal, mean=True, deviation=cmvn.norm_vars, ddof=cmvn.ddof, eps=cmvn.eps)
        return None if normal == Normal() else normal

    def _spans(
        self, batch: Batch, counts: Tensor, columns: int, chance: Chance
    ) -> tuple[tuple[Tensor, Tensor] | None, bool]:
        """Where masks lie, and whether they get the sample's mean."""
        augment = self.augment
        if augment is None or not (augment.freq_masks or augment.most_time_masks):
            return None, False
        drawn = augment.drawn(batch.sample_keys, replace(chance, stage=augment.label))
        return augment.spans(drawn.to(counts.device, non_blocking=True), counts, columns), augment.fill == "mean"

"""Mean and deviation of a pipeline's features over its corpus, for :class:`~ecopipe.stages.normalization.CMVN`.

Each sample's mean and deviation have the same bits in any batch; over samples they are added without rounding. So the
result depends on which samples there are, and on nothing else: no order, batch size, bucket or worker has a say.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch

from ecopipe.pipeline.pipeline import Pipeline
from ecopipe.signal.statistics import ExactSum, Frames, means, squared_deviations
from ecopipe.stages.masking import SpecAugment
from ecopipe.stages.normalization import CMVN
from ecopipe.stages.stage import Stage
from ecopipe.vocabulary.errors import ConfigError, DataError, SampleError, nearest
from ecopipe.vocabulary.sample import Batch


def up_to_features(pipeline: Pipeline) -> tuple[Pipeline, list[Stage]]:
    """A pipeline less its first ``CMVN`` or ``SpecAugment`` and all that follows; and the stages that were left out.

    Bad samples are skipped where others would stand in for them: who does is a matter of the order.
    """
    stages = list(pipeline.stages)
    cut = next((at for at, stage in enumerate(stages) if isinstance(stage, CMVN | SpecAugment)), len(stages))
    tolerance = pipeline.bad_samples
    if tolerance.policy == "substitute":
        tolerance = replace(tolerance, policy="skip")
    return Pipeline(pipeline.source, *stages[:cut], bad_samples=tolerance), stages[cut:]


class Accumulation:
    """Counts, mean and deviation of the features of batches. Repeats that only fill a last step are not counted.

    Args:
        field: The features: float [B, frames, bins] with ``lengths``, or with ``offsets`` too, [sum of frames, bins].
    """

    def __init__(self, field: str = "features") -> None:
        self.field = field
        self.samples = 0
        self.frames = 0
        self._sums: ExactSum | None = None
        self._bins = 0

    def add(self, batch: Batch) -> None:
        """Takes in a batch.

        Raises:
            ConfigError: It has no such features.
            SampleError: A sample's features are not finite.
        """
        if batch.place is not None and batch.place.repeat:
            return
        features, lengths, offsets = self._features(batch), batch["lengths"], batch.get("offsets")
        if self._sums is None:
            self._bins = features.shape[-1]
            self._sums = ExactSum(2 * self._bins)
        if features.shape[-1] != self._bins:
            raise ConfigError(f"stats: {self.field} has {features.shape[-1]} bins, and had {self._bins} before.")
        self.samples += len(lengths)
        self.frames += int(lengths.sum())
        if features.numel() == 0:
            return
        frames = Frames(features, lengths, offsets)
        mean = means(features, frames)
        squares = squared_deviations(features, frames, mean.float())
        total = lengths[:, None] * mean
        both = torch.cat([total, squares + total * mean], dim=1).cpu().numpy()
        self._check(batch, both)
        self._sums.add(both)

    def _features(self, batch: Batch) -> torch.Tensor:
        if self.field not in batch:
            raise ConfigError(f"stats: the batch holds no {self.field!r}. {nearest(self.field, batch)} Set --field.")
        features: torch.Tensor = batch[self.field]
        flat = "offsets" in batch
        good = isinstance(features, torch.Tensor) and features.is_floating_point() and "lengths" in batch
        if not good or features.dim() != (2 if flat else 3):
            found = f"{features.dtype} {list(features.shape)}" if isinstance(features, torch.Tensor) else "no tensor"
            raise ConfigError(
                f"stats: {self.field} must be float {'[frames, bins]' if flat else '[B, frames, bins]'} with lengths, "
                f"got {found}. Name features with --field."
            )
        return features

    def _check(self, batch: Batch, sums: np.ndarray[tuple[int, int], np.dtype[np.float64]]) -> None:
        bad = np.argwhere(~np.isfinite(sums))
        if len(bad):
            row, column = bad[0].tolist()
            shards = batch.place.shards if batch.place else ()
            raise SampleError(
                "stats",
                batch.sample_keys[row],
                shards[row] if len(shards) == len(batch.sample_keys) else "",
                f"bin {column % self._bins} of its {self.field} holds NaN or infinity, which have no mean; leave the "
                "sample out, or clamp what the logarithm is taken of",
            )

    def result(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of each bin over all frames; the deviation divides by their number.

        Raises:
            DataError: There was no frame.
        """
        if self._sums is None or not self.frames:
            raise DataError(f"stats: the pipeline gave no frame of {self.field}. Stream more of it.")
        totals = self._sums.totals()
        mean = [total / self.frames for total in totals[: self._bins]]
        variance = [total / self.frames - at * at for total, at in zip(totals[self._bins :], mean, strict=True)]
        return tuple(map(float, mean)), tuple(math.sqrt(max(0.0, float(square))) for square in variance)

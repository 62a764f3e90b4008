"""CMVN: features less their mean, over their standard deviation: of each sample, or of the whole corpus."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from ecopipe.signal.statistics import Frames, means, squared_deviations
from ecopipe.stages.stage import DeviceStage, fits, from_file, hints_of
from ecopipe.vocabulary.errors import ConfigError
from ecopipe.vocabulary.json_text import parse_json
from ecopipe.vocabulary.randomness import Chance
from ecopipe.vocabulary.sample import Batch

VERSION = 1
_LARGEST = 3e38
"""Of float32."""

_REMEDY = "Make it with 'ecopipe stats PIPELINE -o {path} --overwrite'."


@dataclass(frozen=True)
class Statistics:
    """What ``ecopipe stats`` found, and of what: the content of its JSON file.

    Attributes:
        field: The features that were measured.
        bins: Their bins.
        samples: How many samples.
        frames: How many frames.
        mean: Of each bin over all frames.
        std: Of each bin: the root of the mean squared deviation.
        epochs: How many epochs were streamed.
        limit_batches: After how many batches the stream was ended; None if it was not.
        seed: The seed of the stream.
        index: The fingerprint of the shards.
        pipeline: The identity of the pipeline up to the features.
        version: Of the file.
    """

    field: str
    bins: int
    samples: int
    frames: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    epochs: int = 1
    limit_batches: int | None = None
    seed: int = 0
    index: str = ""
    pipeline: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)
    version: int = VERSION

    def dumps(self) -> str:
        """The file's text."""
        return json.dumps(dataclasses.asdict(self), indent=1) + "\n"

    @classmethod
    def read(cls, path: str | Path) -> Statistics:
        """Reads a file of ``ecopipe stats``.

        Raises:
            ConfigError: It is missing, no such file, of another version, or its numbers cannot be.
        """
        remedy = _REMEDY.format(path=path)
        try:
            found = parse_json(Path(path).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ConfigError(f"{path}: there is no such file. {remedy.replace(' --overwrite', '')}") from None
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"{path}: cannot be read as JSON ({error}). Name a file of 'ecopipe stats', or make one: ecopipe stats "
                "PIPELINE -o FILE."
            ) from error
        if not isinstance(found, dict) or not {"version", "mean", "std"} <= found.keys():
            raise ConfigError(
                f"{path}: is no file of 'ecopipe stats'. Name one, or make one: ecopipe stats PIPELINE -o FILE."
            )
        if found["version"] != VERSION:
            raise ConfigError(f"{path}: is of version {found['version']!r}, and {VERSION} is wanted. {remedy}")
        try:
            made = cls(**{**found, "mean": tuple(found["mean"]), "std": tuple(found["std"])})
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"{path}: is damaged ({error}). {remedy}") from error
        for item in dataclasses.fields(cls):
            value, kind = getattr(made, item.name), str(item.type)
            if not fits(value, hints_of(cls)[item.name]):
                raise ConfigError(f"{path}: is damaged: {item.name} is {value!r}, and should be {kind}. {remedy}")
        if not made.bins == len(made.mean) == len(made.std):
            told = f"bins = {made.bins!r}, {len(made.mean)} means and {len(made.std)} deviations"
            raise ConfigError(f"{path}: is damaged: it has {told}. {remedy}")
        numbers = made.mean + made.std
        if not all(abs(number) < _LARGEST for number in numbers) or min(made.std, default=0.0) < 0:
            raise ConfigError(f"{path}: is damaged: a mean is not finite, or a deviation not 0 or more. {remedy}")
        return made


@dataclass(frozen=True)
class CMVN(DeviceStage):
    """``features``, in each bin, less their mean and over their standard deviation plus ``eps``.

    By default mean and deviation are those of the sample's own true frames; with ``stats`` those of the corpus. A bin
    that does not vary becomes 0, and so does the padding: of one frame only zeros are left, and of none, nothing. NaN
    or infinity in a true frame makes its bin NaN in that sample, nowhere else. Computed in float32; the dtype stays.

    ======  ==================================================================
    preset
    ======  ==================================================================
    nemo    NeMo's ``per_feature``: N - 1 in the variance, 1e-5 on the deviation
    kaldi   Kaldi's default: mean only
    ======  ==================================================================

    Args:
        stats: The JSON file of ``ecopipe stats``; without it, each sample's own statistics. What it holds is part of
            the pipeline's identity. It is read when the first batch comes.
        norm_vars: Divide by the deviation too.
        ddof: 0 divides squared deviations by the number of frames, 1 by one less. Only without ``stats``.
        eps: Added to the deviation.
        field: The features: float32, bfloat16 or float16 [B, frames, bins] with ``lengths`` int64 [B] in frames; or,
            with ``offsets`` int64 [B], flat: [sum of frames, bins].

    Raises:
        ConfigError: The file of ``stats`` is missing, damaged, of another version or of another number of bins.
    """

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "nemo": {"ddof": 1, "eps": 1e-5},
        "kaldi": {"norm_vars": False},
    }

    _: KW_ONLY
    stats: str | None = from_file(default=None)
    norm_vars: bool = True
    ddof: int = 0
    eps: float = 1e-8
    field: str = "features"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ddof not in (0, 1):
            raise self.refuse(f"ddof must be 0 or 1, got {self.ddof!r}")
        if self.ddof and self.stats is not None:
            raise self.refuse("ddof is a matter of a sample's own statistics, and stats are those of the corpus")
        if not 0 <= self.eps < math.inf:
            raise self.refuse(f"eps must be at least 0, got {self.eps!r}")
        if self.stats is not None:
            object.__setattr__(self, "stats", str(self.stats))

    def needs(self) -> tuple[str, ...]:
        return (self.field, "lengths")

    def gives(self) -> tuple[str, ...]:
        return (self.field,)

    def apply(self, batch: Batch, chance: Chance) -> Batch:
        features, lengths, offsets = batch[self.field], batch["lengths"], batch.get("offsets")
        floats = (torch.float32, torch.bfloat16, torch.float16)
        if features.dim() != (3 if offsets is None else 2) or features.dtype not in floats:
            wanted = "[B, frames, bins]" if offsets is None else "[frames, bins] (there are offsets)"
            told = f"{str(features.dtype).removeprefix('torch.')} {list(features.shape)}"
            raise self.refuse(f"{self.field} must be float32, bfloat16 or float16 {wanted}, got {told}")
        corpus = None if self.stats is None else self.of_corpus(features.shape[-1], features.device)
        if features.numel() == 0:
            return batch
        frames = Frames(features, lengths, offsets)
        mean, scale = corpus or (frames.each(moment) for moment in self.moments(features, frames))
        made = ((features.float() - mean) * scale).masked_fill_(~frames.valid[..., None], 0)
        return batch.with_fields(**{self.field: made.to(features.dtype)})

    def moments(self, features: Tensor, frames: Frames) -> tuple[Tensor, Tensor]:
        """What each sample's features are lessened by and multiplied with, by its own statistics.

        Args:
            features: [B, F, bins] or [N, bins].
            frames: Where the true frames lie.

        Returns:
            The mean and the factor, float32 [B, bins] each: the same bits in any batch and layout, on any device.
        """
        mean = means(features, frames).float()
        if not self.norm_vars:
            return mean, torch.ones_like(mean)
        count = (frames.lengths - self.ddof).clamp_min(1)[:, None]
        return mean, _factor((squared_deviations(features, frames, mean) / count).sqrt_(), self.eps)

    @functools.cached_property
    def statistics(self) -> Statistics:
        """The file's content, read once: a run is never of two contents."""
        try:
            return Statistics.read(str(self.stats))
        except ConfigError as error:
            raise ConfigError(f"{self.label}: {error}") from error

    def of_corpus(self, bins: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """What features are lessened by and multiplied with, by ``stats``: float32 [bins] each, on the device."""
        found = self.statistics
        if found.bins != bins:
            remedy = _REMEDY.format(path=self.stats)
            raise ConfigError(
                f"{self.label}: {self.stats}: holds {found.bins} bins (of {found.field!r}), and {self.field} has "
                f"{bins}: another pipeline made it. {remedy}"
            )
        return _on(found, self.norm_vars, self.eps, device)


def _factor(std: Tensor, eps: float) -> Tensor:
    """float32: 1 / (std + eps), and 0 where ``std``, float64, is 0."""
    return torch.where(std == 0, 0.0, 1 / (std + eps)).float()


@functools.lru_cache(maxsize=16)
def _on(statistics: Statistics, norm_vars: bool, eps: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """The mean and the factor of the corpus, float32 [bins] each, on a device."""
    mean = torch.tensor(statistics.mean, dtype=torch.float32)
    std = torch.tensor(statistics.std, dtype=torch.float64)
    factor = _factor(std, eps) if norm_vars else torch.ones_like(mean)
    return mean.to(device), factor.to(device)

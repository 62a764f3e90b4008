"""What the stages that make features of audio share: they take a batch, make a recipe, and give frames."""

from __future__ import annotations

import abc
import functools
from dataclasses import KW_ONLY, dataclass
from typing import Literal, cast

import torch
from torch import Tensor

from ecopipe.signal import kernels
from ecopipe.signal.dense import dense
from ecopipe.signal.spectra import Recipe, spectra
from ecopipe.stages.stage import DeviceStage
from ecopipe.vocabulary.errors import SampleError
from ecopipe.vocabulary.randomness import Chance
from ecopipe.vocabulary.sample import Batch

Engine = Literal["auto", "fft", "matmul", "triton"]
FeatureDtype = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class FeatureStage(DeviceStage, abstract=True):
    """Base of the stages that make ``features`` of ``audio``.

    They take ``audio`` float32 in [-1, 1] or int16, ``lengths`` int64 [B] in samples, and ``rate_hz``:

    - padded, ``audio`` [B, T], gives ``features`` [B, frames of T samples, width] and ``lengths`` int64 [B] in frames;
    - flat (``Collate(..., layout="flat")``), ``audio`` [sum of T] and ``offsets`` int64 [B], gives ``features``
      [sum of frames, width], ``lengths`` and ``offsets`` in frames: all true frames and none of the padding.

    The audio is taken away. Only true samples are looked at, so a sample's features are the same bits alone and in any
    batch, with any padding, on devices of one type.
    """

    _: KW_ONLY
    rate_hz: int = 16000
    pad_value: float = 0.0
    dtype: FeatureDtype = "float32"
    engine: Engine = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_choices(dtype=FeatureDtype, engine=Engine)
        self.check_positive("rate_hz")

    @property
    @abc.abstractmethod
    def recipe(self) -> Recipe:
        """What is made of each signal."""

    def finish(self, features: Tensor, lengths: Tensor, offsets: Tensor | None) -> Tensor:
        """What comes after the recipe, on float32 features, padded or flat; ``lengths`` count frames."""
        return features

    def needs(self) -> tuple[str, ...]:
        return ("audio", "lengths", "rate_hz")

    def gives(self) -> tuple[str, ...]:
        return ("features", "lengths")

    def takes_away(self) -> tuple[str, ...]:
        return ("audio",)

    def apply(self, batch: Batch, chance: Chance) -> Batch:
        self.check(batch)
        audio, lengths, offsets = batch["audio"], batch["lengths"], batch.get("offsets")
        framing = self.recipe.framing
        counts = framing.frames_of(lengths)
        with torch.no_grad(), torch.autocast(audio.device.type, enabled=False):
            features = self._made(audio, lengths, offsets)
            begins = None if offsets is None else counts.cumsum(0) - counts
            features = self.finish(features, counts, begins)
            if offsets is None:
                behind = torch.arange(features.shape[1], device=audio.device) >= counts[:, None]
                features = features.masked_fill(behind[:, :, None], self.pad_value)
            if features.device.type == "cpu":
                self._check_finite(features, counts, begins, batch)
        fields = {"features": features.to(getattr(torch, self.dtype)), "lengths": counts}
        return batch.without("audio").with_fields(**fields, **({} if begins is None else {"offsets": begins}))

    def check(self, batch: Batch) -> None:
        """Raises ConfigError for a batch that this stage cannot take."""
        audio, offsets, rate_hz = batch["audio"], batch.get("offsets"), batch.get("rate_hz")
        if rate_hz != self.rate_hz:
            raise self.refuse(
                f"the batch has rate_hz = {rate_hz}, {self.rate_hz} wanted; put Resample({self.rate_hz}) before "
                f"Collate or ResampleOnDevice({self.rate_hz}) behind it, or set rate_hz here"
            )
        if audio.dim() != (2 if offsets is None else 1) or audio.dtype not in (torch.float32, torch.int16):
            shape = "[B, T]" if offsets is None else "[sum of T]"
            raise self.refuse(
                f"audio must be float32 or int16 {shape}, got {str(audio.dtype).removeprefix('torch.')} "
                f"{list(audio.shape)}; DecodeAudio(channels='mono') makes such"
            )
        most = self.recipe.framing.pad_to
        if most and (offsets is not None or audio.shape[1] > most):  # only then is it worth to look at the lengths
            for number, length in enumerate(batch["lengths"].tolist()):
                if length > most:
                    raise self.error(
                        batch, number,
                        f"its audio lasts {length / self.rate_hz:g} s, and pad_audio_to_s is {most / self.rate_hz:g}; "
                        "cut it (RandomCrop, or DecodeAudio(duration_s=...)), or leave it out with Where",
                    )  # fmt: skip

    def error(self, batch: Batch, number: int, reason: str) -> SampleError:
        """The error for a sample of a batch; to be raised by the caller."""
        shard = batch.place.shards[number] if batch.place and number < len(batch.place.shards) else ""
        return SampleError(self.label, batch.sample_keys[number], shard, reason)

    def _made(self, audio: Tensor, lengths: Tensor, offsets: Tensor | None) -> Tensor:
        """float32: what the recipe makes, padded or flat, by the engine."""
        recipe, engine = self.recipe, self.engine
        if engine == "auto":
            fits = audio.device.type != "cpu" and kernels.available(audio.device) and kernels.supports(recipe)
            engine = "triton" if fits else "fft"
        if engine == "triton" and not kernels.available(audio.device):
            raise self.refuse(f"engine 'triton' needs triton and a CUDA device, the audio is on {audio.device}")
        if engine == "fft" or (engine == "matmul" and offsets is not None):
            return self._by_fft(audio, lengths, offsets)
        if engine == "matmul":
            return cast("Tensor", dense(recipe, audio.device)(audio, lengths)).float()
        counts = recipe.framing.frames_of(lengths)
        rows = None if offsets is None else counts.cumsum(0) - counts
        total, longest = (None, None) if offsets is None else sizes(counts)
        return kernels.log_mel(
            audio.contiguous(), lengths, recipe, offsets=offsets, rows=rows, total=total, frames=longest
        )

    def _by_fft(self, audio: Tensor, lengths: Tensor, offsets: Tensor | None) -> Tensor:
        true = lengths.tolist()
        begins = [None] * len(true) if offsets is None else offsets.tolist()
        rows = audio if offsets is None else [audio[begin:] for begin in begins]
        made = spectra([row[:length] for row, length in zip(rows, true, strict=True)], self.recipe)
        return made.flat() if offsets is not None else made.padded(self.recipe.framing.frames(audio.shape[1]))

    def _check_finite(self, features: Tensor, counts: Tensor, begins: Tensor | None, batch: Batch) -> None:
        """The sum is finite if all are; features that are not come from audio that is not."""
        if torch.isfinite(features.sum(dtype=torch.float64)):
            return
        for number in range(len(counts)):
            mine = (features[number] if begins is None else features[begins[number] :])[: counts[number]]
            if not torch.isfinite(mine).all():
                raise self.error(batch, number, "its audio holds NaN, infinite or enormous values")


def sizes(counts: Tensor) -> tuple[int, int]:
    """All frames of flat features, and the most of one sample: read back from the device, which waits for it."""
    total, longest = torch.stack([counts.sum(), counts.amax()]).tolist() if len(counts) else (0, 0)
    return total, longest


def largest(features: Tensor, counts: Tensor, offsets: Tensor | None) -> Tensor:
    """The greatest feature of each sample's true frames; -inf where it has none.

    [B, 1, 1] of padded features [B, F, width], or [sum of frames, 1] of flat ones, for each frame its sample's.
    """
    if offsets is None:
        behind = torch.arange(features.shape[1], device=features.device) >= counts[:, None]
        if not features.shape[1]:
            return features.new_full((len(features), 1, 1), -torch.inf)
        return features.masked_fill(behind[:, :, None], -torch.inf).amax(dim=(1, 2), keepdim=True)
    sample = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)
    most = features.new_full((len(counts),), -torch.inf)
    return most.scatter_reduce(0, sample, features.amax(dim=1), "amax")[sample][:, None]


def times(features: Tensor, matrix: Tensor) -> Tensor:
    """float32 [..., n] of float32 [..., m] by float64 [m, n], 512 rows at a time: the same bits in any batch."""
    size = 512  # always: a product of another shape may add in another order
    rows = features.reshape(-1, features.shape[-1])
    made = rows.new_empty(len(rows), matrix.shape[1])
    for at in range(0, len(rows), size):
        part = rows[at : at + size].double()
        if len(part) < size:
            part = torch.cat([part, part.new_zeros(size - len(part), part.shape[1])])
        made[at : at + size] = (part @ matrix)[: len(rows) - at]
    return made.view(*features.shape[:-1], matrix.shape[1])


@functools.lru_cache(maxsize=32)
def no_empty_band(recipe: Recipe) -> int | None:
    """The first mel band that no frequency of the spectrum lies in; None if there is none."""
    if recipe.bands is None:
        return None
    reached = recipe.bands.filters(recipe.framing.n_fft).max(axis=0)
    return next((band for band, most in enumerate(reached) if most == 0), None)

"""Stages that change the waveform of a sample by draws of its key: gain, speed, crop; and its norm. Noise: ``noise``.

``audio`` is float32 [T] in [-1, 1] or int16 [T], or [T, channels] of either, and keeps its dtype: int16 is rounded,
halves to even, and clipped at full scale. A stage draws what it needs in one order from the key of the sample, so the
sample is augmented alike in any batch, worker and run, and ``p`` decides only whether, never how.
"""

from __future__ import annotations

import abc
from dataclasses import KW_ONLY, dataclass
from math import floor, isfinite
from typing import Any, Literal

import numpy as np

from ecopipe.formats.audio import INT16_SCALE
from ecopipe.signal.waveform import Audio, Wave, as_dtype, resampled
from ecopipe.stages.stage import SampleStage, Stage
from ecopipe.vocabulary.randomness import Chance
from ecopipe.vocabulary.sample import Sample

Clipping = Literal["keep", "clip", "limit"]
Pad = Literal["zero", "repeat", "none"]

MAX_DB = 120.0


class AudioStage(SampleStage, abstract=True):
    """A sample stage that changes ``audio``, and gives what it needs."""

    def needs(self) -> tuple[str, ...]:
        return ("audio",)

    def gives(self) -> tuple[str, ...]:
        return self.needs()


class RandomStage(AudioStage, abstract=True):
    """Changes ``audio`` of a share ``p`` of the samples, by one draw."""

    p: float

    def apply(self, sample: Sample, chance: Chance) -> Sample:
        audio = audio_of(sample)
        coin, at = chance.draws(sample.key).uniform(2).tolist()
        if coin >= self.p or not audio.size:
            return sample
        wave = self.changed(audio, at)
        return sample if wave is audio else sample.with_fields(audio=as_dtype(wave, audio.dtype))

    @abc.abstractmethod
    def changed(self, audio: Audio, at: float) -> Audio | Wave:
        """The audio, changed by a draw in [0, 1); itself if it stays as it is."""


@dataclass(frozen=True)
class Gain(RandomStage):
    """``audio`` louder or softer, by a gain that is uniform in dB.

    Args:
        min_db: The least gain, in dB: -6 halves the amplitude.
        max_db: The greatest gain, in dB.
        clipping: What becomes of audio that passes full scale. ``"keep"``: float32 passes it, and int16, which cannot,
            is clipped. ``"clip"``: float32 is clipped to [-1, 1] too. ``"limit"``: the gain is lowered until the peak
            is at full scale.
        p: The share of samples that are changed.
    """

    min_db: float
    max_db: float
    _: KW_ONLY
    clipping: Clipping = "keep"
    p: float = 1.0

    def __post_init__(self) -> None:
        check_range(self, "min_db and max_db", (self.min_db, self.max_db))
        check_probability(self, self.p)
        self.check_choices(clipping=Clipping)
        super().__post_init__()

    def changed(self, audio: Audio, at: float) -> Wave:
        gain = 10.0 ** ((self.min_db + at * (self.max_db - self.min_db)) / 20.0)
        wave: Wave = audio.astype(np.float64)
        full = 32767.0 if audio.dtype == np.int16 else 1.0
        if self.clipping == "limit" and (peak := float(np.abs(wave).max())) * gain > full:
            gain = full / peak
        wave = wave * gain
        if self.clipping == "clip" and audio.dtype != np.int16:
            wave = np.clip(wave, -1.0, 1.0)
        return wave


@dataclass(frozen=True)
class Speed(RandomStage):
    """``audio`` faster or slower, pitch and tempo both: T frames become floor(T / factor + 1/2), at the same rate.

    Ko et al., "Audio augmentation for speech recognition", Interspeech 2015; SoX's ``speed``. By soxr (HQ): for the
    factor 1.1 the audio is taken as if recorded at 1.1 times its rate, and resampled.

    ``Bucket`` and ``Where`` plan on the lengths before: at a factor of 0.9 a batch is up to 1 / 0.9 as long as its
    ``max_padded`` says, and the fields ``frames`` and ``duration_s`` of a sample stay those of the index.

    Args:
        factors: One of these is drawn, each as likely; 1.0 leaves the audio as it is.
        p: The share of samples for which one is drawn.
    """

    factors: tuple[float, ...] = (0.9, 1.0, 1.1)
    _: KW_ONLY
    p: float = 1.0

    def __post_init__(self) -> None:
        if isinstance(self.factors, list):
            object.__setattr__(self, "factors", tuple(self.factors))
        wrong = not isinstance(self.factors, tuple) or not self.factors
        if wrong or not all(_is_number(factor) and 0.1 <= factor <= 10 for factor in self.factors):
            raise self.refuse(f"factors must be one or more numbers in [0.1, 10], got {self.factors!r}")
        check_probability(self, self.p)
        super().__post_init__()

    def changed(self, audio: Audio, at: float) -> Audio | Wave:
        factor = float(self.factors[int(at * len(self.factors))])
        return audio if factor == 1.0 else resampled(audio, factor, 1.0).astype(np.float64)


@dataclass(frozen=True)
class RandomCrop(AudioStage):
    """A stretch of ``audio`` of exactly N = floor(duration_s * rate_hz + 1/2) frames, from a place drawn among all.

    Args:
        duration_s: The length of the stretch, in seconds.
        pad: What becomes of a shorter sample. ``"zero"``: silence behind its end. ``"repeat"``: it is repeated from its
            beginning. ``"none"``: it stays short. The ``lengths`` of a batch count what is padded here as audio: take
            ``"none"`` and let ``Collate`` pad where a model is to know where each sample ends.
    """

    duration_s: float
    _: KW_ONLY
    pad: Pad = "zero"

    def __post_init__(self) -> None:
        if not _is_number(self.duration_s) or not 0 < self.duration_s < float("inf"):
            raise self.refuse(f"duration_s must be a number above 0, in seconds, got {self.duration_s!r}")
        self.check_choices(pad=Pad)
        super().__post_init__()

    def needs(self) -> tuple[str, ...]:
        return ("audio", "rate_hz")

    def apply(self, sample: Sample, chance: Chance) -> Sample:
        audio, wanted = audio_of(sample), floor(self.duration_s * rate_of(sample) + 0.5)
        if not wanted:
            raise ValueError(f"{self.duration_s} s at {sample['rate_hz']} Hz are 0 frames; set a longer duration_s")
        lack = wanted - len(audio)
        if lack < 0:
            start = chance.draws(sample.key).integer(1 - lack)
            return sample.with_fields(audio=audio[start : start + wanted])
        if lack == 0 or self.pad == "none":
            return sample
        if self.pad == "repeat":
            if not audio.size:
                raise ValueError("its audio is empty, and there is nothing to repeat; set pad='zero', or leave it out")
            return sample.with_fields(audio=np.resize(audio, (wanted, *audio.shape[1:])))
        return sample.with_fields(audio=np.pad(audio, [(0, lack)] + [(0, 0)] * (audio.ndim - 1)))


@dataclass(frozen=True)
class NormalizeAudio(AudioStage):
    """``audio`` less its mean, over the root of its variance plus ``eps``: float32, as models of raw waveforms want it.

    int16 is taken as x / 32768. With the default it is what wav2vec 2.0 was trained on with ``normalize=True``, and
    transformers' ``Wav2Vec2FeatureExtractor`` makes; silence becomes 0.

    Args:
        eps: Added to the variance.
    """

    _: KW_ONLY
    eps: float = 1e-7

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.eps > 0:
            raise self.refuse(f"eps must be above 0, got {self.eps!r}")

    def apply(self, sample: Sample, chance: Chance) -> Sample:
        audio = audio_of(sample)
        wave = audio.astype(np.float64) * (INT16_SCALE if audio.dtype == np.int16 else 1.0)
        if wave.size:
            wave = (wave - wave.mean()) / np.sqrt(wave.var() + self.eps)
        return sample.with_fields(audio=wave.astype(np.float32))


def audio_of(sample: Sample) -> Audio:
    """The audio of a sample: float32 or int16, [T] or [T, channels].

    Raises:
        ValueError: There is none, it is of another kind, or it holds NaN or infinity.
    """
    audio = _field(sample, "audio")
    if not isinstance(audio, np.ndarray) or audio.dtype not in (np.float32, np.int16) or audio.ndim not in (1, 2):
        found = f"{audio.dtype} {list(audio.shape)}" if isinstance(audio, np.ndarray) else type(audio).__name__
        raise ValueError(f"its audio is {found}; float32 or int16 [T] or [T, channels] wanted, as DecodeAudio gives it")
    if audio.dtype == np.float32 and not (finite := np.isfinite(audio)).all():
        first = int(np.argmin(finite.reshape(len(audio), -1).all(axis=1)))
        raise ValueError(
            f"its audio holds NaN or infinity, first at frame {first} of {len(audio)}; leave the sample out"
        )
    return audio


def rate_of(sample: Sample) -> int:
    """The rate of a sample's audio, in Hz.

    Raises:
        ValueError: There is none, or it is no positive number.
    """
    rate_hz = _field(sample, "rate_hz")
    if not isinstance(rate_hz, int | np.integer) or rate_hz <= 0:
        raise ValueError(f"its rate_hz is {rate_hz!r}; a positive int wanted, as DecodeAudio gives it")
    return int(rate_hz)


def _field(sample: Sample, name: str) -> Any:
    if name not in sample:
        raise ValueError(f"no field {name!r}; it has {', '.join(sorted(sample))}")
    return sample[name]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def check_probability(stage: Stage, p: Any) -> None:
    """Refuses a ``p`` that is no number in [0, 1]."""
    if not _is_number(p) or not 0 <= p <= 1:
        raise stage.refuse(f"p must be a number in [0, 1], got {p!r}")


def check_range(stage: Stage, name: str, bounds: Any) -> None:
    """Refuses bounds in dB that are no two numbers, the lesser first."""
    two = isinstance(bounds, tuple) and len(bounds) == 2
    if not two or not all(_is_number(bound) and isfinite(bound) and abs(bound) <= MAX_DB for bound in bounds):
        raise stage.refuse(f"{name} must be two numbers in [-{MAX_DB:g}, {MAX_DB:g}] dB, got {bounds!r}")
    if bounds[0] > bounds[1]:
        raise stage.refuse(f"{name} must have the lesser number first, got {bounds!r}")

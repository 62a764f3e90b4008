"""Stages that make arrays of audio: decode, resample."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from math import floor
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from ecopipe.formats import audio as codec
from ecopipe.formats.audio import AUDIO_EXTENSIONS, INT16_SCALE
from ecopipe.stages.stage import SampleStage
from ecopipe.vocabulary.errors import MissingDependency, nearest
from ecopipe.vocabulary.randomness import Chance
from ecopipe.vocabulary.sample import Sample

Audio = npt.NDArray[Any]
"""float32 in [-1, 1], or int16."""

Dtype = Literal["float32", "int16"]
Channels = Literal["mono", "first", "all"]
Quality = Literal["QQ", "LQ", "MQ", "HQ", "VHQ"]


@dataclass(frozen=True)
class DecodeAudio(SampleStage):
    """Encoded audio -> ``audio`` and ``rate_hz``.

    ``audio`` is float32 [T] in [-1, 1] or int16 [T], or [T, channels] with ``channels="all"``; ``rate_hz`` is an int in
    Hz, that of the file. The encoded bytes are taken away.

    Args:
        field: The member to decode, such as ``"flac"`` or ``"mix.wav"``; by default the one whose extension is of
            audio. A sample that holds several is refused unless one is named.
        dtype: ``"int16"`` halves the memory of a batch and is exact for 16-bit FLAC and WAV.
        channels: ``"mono"`` is the mean of all channels (int16: rounded, halves to even), ``"first"`` the first one.
    """

    _: KW_ONLY
    field: str | None = None
    dtype: Dtype = "float32"
    channels: Channels = "mono"

    def __post_init__(self) -> None:
        if self.dtype not in get_args(Dtype):
            raise self.refuse(f"unknown dtype {self.dtype!r}. {nearest(str(self.dtype), get_args(Dtype))}")
        if self.channels not in get_args(Channels):
            raise self.refuse(f"unknown channels {self.channels!r}. {nearest(str(self.channels), get_args(Channels))}")

    def needs(self) -> tuple[str, ...]:
        return (self.field or "|".join(AUDIO_EXTENSIONS),)

    def gives(self) -> tuple[str, ...]:
        return ("audio", "rate_hz")

    def takes_away(self) -> tuple[str, ...]:
        return (self.field,) if self.field else AUDIO_EXTENSIONS

    def apply(self, sample: Sample, chance: Chance) -> Sample:
        field = self.field or self._find(sample)
        if field not in sample:
            raise ValueError(f"no field {field!r}; it has {', '.join(sorted(sample))}")
        decoded, rate_hz = codec.decode(sample[field], field.rpartition(".")[2].lower())
        return sample.without(field).with_fields(audio=self._mix(decoded), rate_hz=rate_hz)

    def _find(self, sample: Sample) -> str:
        found = [name for name in AUDIO_EXTENSIONS if name in sample]
        if len(found) > 1:
            raise ValueError(f"several fields of audio ({', '.join(found)}); name the one to decode with field=...")
        if not found:
            raise ValueError(f"no field of audio ({', '.join(AUDIO_EXTENSIONS)}); it has {', '.join(sorted(sample))}")
        return found[0]

    def _mix(self, decoded: Audio) -> Audio:
        """int16 or float32 [T, channels] -> the wanted channels and dtype."""
        audio, whole = decoded, decoded.dtype == np.int16
        if self.channels == "first":
            audio = audio[:, :1]
        elif self.channels == "mono" and audio.shape[1] > 1:
            audio = audio.mean(axis=1, keepdims=True, dtype=np.float32)  # exact for the sum of 512 int16 channels
        if self.dtype == "float32":
            audio = audio * np.float32(INT16_SCALE) if whole else audio
        elif audio.dtype != np.int16:
            audio = _to_int16(audio if whole else audio / np.float32(INT16_SCALE))
        return np.ascontiguousarray(audio if self.channels == "all" else audio[:, 0])


@dataclass(frozen=True)
class Resample(SampleStage):
    """``audio`` at another rate: T frames at r Hz become floor(T * rate_hz / r + 1/2), in the same dtype.

    By soxr (https://sourceforge.net/p/soxr). Audio that has the rate already is left as it is. int16 is resampled in
    float32 and rounded: soxr's own int16 output is dithered, and noise is not a function of the sample.

    Args:
        rate_hz: The rate wanted, in Hz.
        quality: From ``"QQ"`` (quick) to ``"VHQ"`` (very high quality), as soxr names them.
    """

    rate_hz: int
    _: KW_ONLY
    quality: Quality = "HQ"

    def __post_init__(self) -> None:
        if not isinstance(self.rate_hz, int) or self.rate_hz <= 0:
            raise self.refuse(f"rate_hz must be a positive int, got {self.rate_hz!r}")
        if self.quality not in get_args(Quality):
            raise self.refuse(f"unknown quality {self.quality!r}. {nearest(str(self.quality), get_args(Quality))}")

    def needs(self) -> tuple[str, ...]:
        return ("audio", "rate_hz")

    def gives(self) -> tuple[str, ...]:
        return ("audio", "rate_hz")

    def apply(self, sample: Sample, chance: Chance) -> Sample:
        for field in self.needs():
            if field not in sample:
                raise ValueError(f"no field {field!r}; it has {', '.join(sorted(sample))}")
        audio, rate_hz = sample["audio"], sample["rate_hz"]
        if rate_hz == self.rate_hz:
            return sample
        try:
            import soxr
        except ImportError as error:
            raise MissingDependency("Resample needs soxr. Install it: pip install soxr") from error
        resampled = soxr.resample(audio.astype(np.float32, copy=False), rate_hz, self.rate_hz, quality=self.quality)
        frames = floor(len(audio) * self.rate_hz / rate_hz + 0.5)
        if len(resampled) != frames:
            raise ValueError(f"soxr made {len(resampled)} frames of {len(audio)}, {frames} expected")
        if audio.dtype == np.int16:
            resampled = _to_int16(resampled)
        return sample.with_fields(audio=resampled, rate_hz=self.rate_hz)


def _to_int16(audio: Audio) -> npt.NDArray[np.int16]:
    """float32 in [-32768, 32767] -> int16: rounded, halves to even; what lies outside is clipped."""
    return np.clip(np.rint(audio), -32768, 32767).astype(np.int16)

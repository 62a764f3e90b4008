"""The stage that takes silence from both ends of the audio."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

import numpy as np
import numpy.typing as npt

from ecopipe.formats.audio import INT16_SCALE
from ecopipe.signal.waveform import Audio
from ecopipe.stages.stage import SampleStage
from ecopipe.stages.waveform import audio_of, rate_of
from ecopipe.vocabulary.randomness import Chance
from ecopipe.vocabulary.sample import Sample

_LEAST_POWER = 1e-10
"""Power of a frame below which all is as silent, (1e-5)^2: as in librosa, digital silence is not trimmed."""


@dataclass(frozen=True)
class Trim(SampleStage):
    """``audio`` less the silence before and behind it, as librosa's ``effects.trim`` cuts it.

    The power of each frame, centred on every ``hop_length``-th sample with zeros beyond both ends, is compared with
    that of the loudest: the audio is cut to whole hops from the first that is above -``top_db`` dB to behind the last.
    Of several channels, the loudest in a frame decides. Audio that is silent throughout is left whole, and so is its
    dtype: float32 in [-1, 1] or int16, [T] or [T, channels]. The measures of the index stay those of the file.

    Args:
        top_db: How far below the loudest frame silence begins, in dB.
        frame_length: Samples of a frame.
        hop_length: Samples from frame to frame.
        margin_s: Leave so much of the silence, in seconds.
    """

    _: KW_ONLY
    top_db: float = 60.0
    frame_length: int = 2048
    hop_length: int = 512
    margin_s: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_positive("frame_length", "hop_length")
        if not self.top_db > 0:
            raise self.refuse(f"top_db must be above 0, got {self.top_db!r}")
        if not self.margin_s >= 0:
            raise self.refuse(f"margin_s must be 0 or more, in seconds, got {self.margin_s!r}")

    def needs(self) -> tuple[str, ...]:
        return ("audio", "rate_hz") if self.margin_s else ("audio",)

    def gives(self) -> tuple[str, ...]:
        return ("audio",)

    def apply(self, sample: Sample, chance: Chance) -> Sample:
        audio = audio_of(sample)
        if not audio.size:
            return sample
        start, end = self._bounds(audio)
        if self.margin_s:
            margin = round(self.margin_s * rate_of(sample))
            start, end = max(start - margin, 0), end + margin
        return sample.with_fields(audio=audio[start : min(end, len(audio))].copy())

    def _bounds(self, audio: Audio) -> tuple[int, int]:
        power = _powers(audio, self.frame_length, self.hop_length)
        decibels = 10.0 * np.log10(np.maximum(power, _LEAST_POWER) / max(float(power.max()), _LEAST_POWER))
        loud = np.flatnonzero(decibels > -self.top_db)
        return int(loud[0]) * self.hop_length, int(loud[-1] + 1) * self.hop_length


def _powers(audio: Audio, frame_length: int, hop_length: int) -> npt.NDArray[np.float64]:
    """The mean of the squares in each frame, the greatest of all channels: float64 [frames]."""
    wave = audio.astype(np.float64) * (INT16_SCALE if audio.dtype == np.int16 else 1.0)
    channels = wave.reshape(len(wave), -1).T
    each = np.stack([_powers_of_one(channel, frame_length, hop_length) for channel in channels])
    return np.asarray(each.max(axis=0), dtype=np.float64)


def _powers_of_one(wave: npt.NDArray[np.float64], frame_length: int, hop_length: int) -> npt.NDArray[np.float64]:
    padded = np.pad(np.square(wave), frame_length // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, frame_length)[::hop_length]
    return np.asarray(frames.mean(axis=1), dtype=np.float64)

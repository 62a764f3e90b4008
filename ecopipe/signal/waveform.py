"""Numerics of waveform augmentation, on numpy arrays.

All of it is worked out in float64 and rounded once. Sums are numpy's own, never those of a BLAS, whose last bits change
with the number of its threads.
"""

from __future__ import annotations

from math import floor, sqrt
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ecopipe.vocabulary.errors import MissingDependency
from ecopipe.vocabulary.randomness import Draws

Audio = npt.NDArray[Any]
"""float32 in [-1, 1], or int16: [T], or [T, channels]."""

Quality = Literal["QQ", "LQ", "MQ", "HQ", "VHQ"]
"""From quick to very high quality, as soxr names them."""

Wave = npt.NDArray[np.float64]
"""float64, in the units of what it came from."""


def to_int16(wave: Audio) -> npt.NDArray[np.int16]:
    """Floats in [-32768, 32767] -> int16: rounded, halves to even; what lies outside is clipped."""
    return np.clip(np.rint(wave), -32768, 32767).astype(np.int16)


def as_dtype(wave: Wave, dtype: npt.DTypeLike) -> Audio:
    """float64 -> float32, or int16 as :func:`to_int16` makes it.

    Raises:
        ValueError: It passes the range of float32.
    """
    if dtype == np.int16:
        return to_int16(wave)
    try:
        with np.errstate(over="raise"):
            return wave.astype(np.float32)
    except FloatingPointError:
        raise ValueError(
            f"its audio reaches {np.abs(wave).max():.3g}, which passes the range of float32; it should lie in [-1, 1]"
        ) from None


def power(wave: Audio) -> float:
    """The mean of the squares over all frames and channels; 0 of no frames."""
    return float(np.square(wave, dtype=np.float64).mean()) if wave.size else 0.0


def gaussian(draws: Draws, count: int) -> Wave:
    """float64 [count]: independent, mean 0, variance 1. By Box and Muller's method; at most 8.6 in size."""
    half = (count + 1) // 2
    radius = np.sqrt(-2.0 * np.log1p(-draws.uniform(half)))
    angle = 2.0 * np.pi * draws.uniform(half)
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:count]


def resampled(audio: Audio, from_hz: float, to_hz: float, quality: Quality = "HQ") -> npt.NDArray[np.float32]:
    """Floats or int16 [T, ...] at one rate -> float32 [floor(T * to_hz / from_hz + 1/2), ...] at another, by soxr.

    int16 is resampled in float32, not rounded: soxr's own int16 output is dithered, and noise is not a function of the
    audio.

    Raises:
        MissingDependency: soxr is not installed.
    """
    try:
        import soxr
    except ImportError as error:
        raise MissingDependency("Another rate needs soxr. Install it: pip install soxr") from error
    given = audio.astype(np.float32, copy=False)
    made: npt.NDArray[np.float32] = soxr.resample(given, from_hz, to_hz, quality=quality)
    frames = floor(len(audio) * to_hz / from_hz + 0.5)
    if len(made) != frames:
        raise ValueError(f"soxr made {len(made)} frames of {len(audio)}, {frames} expected")
    return made


def mixed(audio: Audio, noise: Wave, snr_db: float) -> Wave:
    """``audio`` [T, ...] plus ``noise`` [T], scaled to that ratio of signal to noise: float64 [T, ...].

    The ratio is 10 log10 of the one's power by the other's. If either is silent nothing is added.
    """
    wave = audio.astype(np.float64)
    of_audio, of_noise = power(wave), power(noise)
    if not of_audio or not of_noise:
        return wave
    scaled = noise * (sqrt(of_audio / of_noise) * 10.0 ** (-snr_db / 20.0))
    wave += scaled if wave.ndim == 1 else scaled[:, None]
    return wave


def reverberated(audio: Audio, response: Wave) -> Wave:
    """``audio`` [T, ...] convolved with ``response`` [L], from the response's peak on: float64 [T, ...].

    The peak is the direct sound, so what was at frame n stays there; the tail behind the last frame is cut off. By FFT.
    """
    frames = len(audio)
    if not frames:
        return audio.astype(np.float64)
    peak = int(np.abs(response).argmax())
    size = _fast_size(frames + len(response) - 1)
    filtered = np.fft.rfft(response.astype(np.float64), size)
    spectrum = np.fft.rfft(audio.astype(np.float64), size, axis=0)
    whole = np.fft.irfft(spectrum * (filtered if audio.ndim == 1 else filtered[:, None]), size, axis=0)
    return np.asarray(whole[peak : peak + frames], dtype=np.float64)


def _fast_size(least: int) -> int:
    """The smallest size of at least so many that is 8, 9, 10, 12 or 15 times a power of two."""
    return min(m << max(-(-least // m) - 1, 0).bit_length() for m in (8, 9, 10, 12, 15))

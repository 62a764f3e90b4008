"""Mel filters and the cosine transform of cepstra."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import numpy.typing as npt

MelScale = Literal["htk", "slaney", "kaldi"]
Norm = Literal["none", "slaney"]
Filters = npt.NDArray[np.float64]


def mel_filters(
    *, rate_hz: int, n_fft: int, n_mels: int, f_min: float, f_max: float, mel_scale: MelScale, norm: Norm = "none"
) -> Filters:
    """Triangular filters, equally spaced in mel: float64 [n_fft // 2 + 1, n_mels], at least 0.

    Args:
        rate_hz: The rate, in Hz.
        n_fft: Samples in a frame.
        n_mels: Bands.
        f_min: Lower edge of the lowest band, in Hz.
        f_max: Upper edge of the highest band, in Hz.
        mel_scale: ``"htk"``: mel = 2595 log10(1 + f / 700) (O'Shaughnessy 1987, HTK Book section 5.4).
            ``"slaney"``: 3 f / 200 below 1000 Hz, above it 27 steps to each factor of 6.4 (Slaney, "Auditory Toolbox",
            Interval Technical Report 1998-010). ``"kaldi"``: mel = 1127 ln(1 + f / 700), and the triangles are
            straight in mel, not in Hz; the last frequency, half the rate, is left out (Kaldi, ``mel-computations.cc``).
        norm: ``"none"``: each triangle has height 1. ``"slaney"``: each has area 1 in Hz.
    """
    low, high = hz_to_mel(np.array([f_min, f_max], dtype=np.float64), mel_scale)
    edges = np.linspace(float(low), float(high), n_mels + 2)
    bins: npt.NDArray[np.float64] = np.arange(n_fft // 2 + 1, dtype=np.float64)[:, None] * (rate_hz / n_fft)
    if mel_scale == "kaldi":
        bins = hz_to_mel(bins, mel_scale)
        bins[-1] = np.inf
    else:
        edges = _mel_to_hz(edges, mel_scale)
    lower, centre, upper = edges[:-2], edges[1:-1], edges[2:]
    rising, falling = (bins - lower) / (centre - lower), (upper - bins) / (upper - centre)
    filters = np.maximum(np.minimum(rising, falling), 0.0)
    if norm == "slaney":
        filters *= 2 / (upper - lower)
    return np.asarray(filters)


def hz_to_mel(hz: npt.NDArray[np.float64], scale: MelScale) -> npt.NDArray[np.float64]:
    """Frequencies on a mel scale."""
    if scale == "htk":
        return np.asarray(2595 * np.log10(1 + hz / 700))
    if scale == "kaldi":
        return np.asarray(1127 * np.log1p(hz / 700))
    return np.where(hz < 1000, hz * 3 / 200, 15 + np.log(np.maximum(hz, 1000) / 1000) * 27 / math.log(6.4))


def _mel_to_hz(mel: npt.NDArray[np.float64], scale: MelScale) -> npt.NDArray[np.float64]:
    if scale == "htk":
        return np.asarray(700 * (10 ** (mel / 2595) - 1))
    return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp((np.maximum(mel, 15) - 15) * math.log(6.4) / 27))


def cosines(n_mels: int, n_mfcc: int, lifter: float = 0.0) -> Filters:
    """The orthonormal DCT-II that makes cepstra of log-mel energies: float64 [n_mels, n_mfcc].

    Args:
        n_mels: Bands.
        n_mfcc: Coefficients, at most ``n_mels``.
        lifter: Coefficient k is multiplied by 1 + lifter / 2 * sin(pi k / lifter), as HTK and Kaldi do; 0 for none.
    """
    band, k = np.arange(n_mels)[:, None] + 0.5, np.arange(n_mfcc)[None, :]
    basis = np.cos(np.pi * band * k / n_mels) * math.sqrt(2 / n_mels)
    basis[:, 0] = math.sqrt(1 / n_mels)
    if lifter:
        basis *= 1 + 0.5 * lifter * np.sin(np.pi * k / lifter)
    return np.asarray(basis)

"""Windows: what a frame of audio is multiplied with."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

Window = Literal["hann", "hann_symmetric", "hamming", "hamming_symmetric", "povey", "blackman", "rectangular"]


def window(name: Window, length: int) -> npt.NDArray[np.float64]:
    """A window: float64 [length] in [0, 1].

    Args:
        name: ``"hann"`` and ``"hamming"`` are periodic, as ``torch.hann_window`` and librosa make them; the
            ``_symmetric`` ones, ``"povey"`` (a symmetric Hann window to the power of 0.85) and ``"blackman"`` (with
            coefficient 0.42) are those of Kaldi's ``feature-window.cc``.
        length: Samples in it.
    """
    place = np.arange(length, dtype=np.float64)
    if name == "rectangular" or length == 1:
        return np.ones(length)
    period = length if name in ("hann", "hamming") else length - 1
    turn = 2 * np.pi * place / period
    if name in ("hamming", "hamming_symmetric"):
        return np.asarray(0.54 - 0.46 * np.cos(turn))
    if name == "blackman":
        return np.maximum(0.42 - 0.5 * np.cos(turn) + 0.08 * np.cos(2 * turn), 0.0)
    hann = np.asarray(0.5 - 0.5 * np.cos(turn))
    return np.asarray(hann**0.85) if name == "povey" else hann

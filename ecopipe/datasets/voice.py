"""Speech-like audio made from text: for demonstrations and tests that need audio with a transcript that belongs to it.

A source and a filter, as in a vocoder: a pulse train with all harmonics of a moving pitch, and noise, both shaped frame
by frame in the frequency domain by three moving formants. Every letter has its own sound, so that the transcript can in
principle be learned from the audio. It is not intelligible speech.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ecopipe.vocabulary.randomness import Draws

RATE_HZ = 16_000
_HOP = 160  # samples a frame: 10 ms
_SIZE = 512  # samples a window
_FREQUENCIES_HZ = np.arange(_SIZE // 2 + 1) * (RATE_HZ / _SIZE)
_EDGE_FRAMES = 18  # silence before and after
_BANDWIDTHS_HZ = np.array([90.0, 110.0, 160.0])

# Formants in Hz after Peterson and Barney (1952), by the letter that carries the syllable.
_VOWELS = {
    "A": (730.0, 1090.0, 2440.0),
    "E": (530.0, 1840.0, 2480.0),
    "I": (390.0, 1990.0, 2550.0),
    "O": (570.0, 840.0, 2410.0),
    "U": (440.0, 1020.0, 2240.0),
    "Y": (270.0, 2290.0, 3010.0),
}
# Noise by consonant: (centre in Hz, loudness, share of voice); the rest are nasals and glides, voiced at their locus.
_NOISES = {
    "S": (5600.0, 0.30, 0.0),
    "Z": (5600.0, 0.20, 0.3),
    "C": (4200.0, 0.26, 0.0),
    "X": (5000.0, 0.26, 0.0),
    "J": (3600.0, 0.20, 0.3),
    "F": (6600.0, 0.14, 0.0),
    "V": (6600.0, 0.08, 0.4),
    "H": (1800.0, 0.10, 0.0),
    "T": (4600.0, 0.32, 0.0),
    "D": (3600.0, 0.16, 0.3),
    "K": (2400.0, 0.30, 0.0),
    "Q": (2300.0, 0.30, 0.0),
    "G": (2000.0, 0.16, 0.3),
    "P": (1100.0, 0.26, 0.0),
    "B": (900.0, 0.14, 0.3),
}
_SYLLABLE = re.compile(r"([^AEIOUY' ]*)([AEIOUY]+)|([^AEIOUY' ]+)")


@dataclass(frozen=True)
class Voice:
    """One speaker: ``pitch_hz`` on average, ``tract`` the scale of the formants (1 is an adult man)."""

    pitch_hz: float
    tract: float
    breath: float


def speak(text: str, duration_s: float, voice: Voice, draws: Draws) -> npt.NDArray[np.int16]:
    """int16 [T], 16 kHz mono, T = round(16000 * duration_s): ``text`` spoken so that it fills the duration."""
    total = round(duration_s * RATE_HZ)
    frames = -(-total // _HOP)
    tracks = _tracks(text, frames, voice, draws)
    phase_track = np.repeat(tracks.pitch_hz, _HOP)[:total]
    phase = np.cumsum(phase_track) * (np.pi / RATE_HZ)  # half of the phase of the pitch
    harmonics = 2 * int(7000.0 / float(tracks.pitch_hz.max())) + 1
    below = np.sin(phase)
    safe = np.where(np.abs(below) < 1e-6, 1.0, below)
    # The sum of all harmonics below 7 kHz, in closed form.
    pulses = np.where(np.abs(below) < 1e-6, 1.0, np.sin(harmonics * phase) / (harmonics * safe)) - 1.0 / harmonics
    noise = draws.uniform(total) * 2.0 - 1.0
    voiced = _spectra(pulses, frames) * _formants(tracks.formants_hz) * tracks.voiced[:, None]
    band = np.exp(-(((_FREQUENCIES_HZ[None, :] - tracks.centre_hz[:, None]) / 1100.0) ** 2))
    hiss = _spectra(noise, frames) * (band * tracks.noisy[:, None] * 0.5 + voice.breath)
    audio = _overlap_add(voiced * 4.0 + hiss, total)
    audio *= 0.5 / max(float(np.abs(audio).max()), 1e-9)
    room = 0.0002 * (draws.uniform(total) - draws.uniform(total))
    return np.asarray(np.round((audio + room) * 32767.0), dtype=np.int16)


@dataclass(frozen=True)
class _Tracks:
    """What changes from frame to frame; each float64 [F] but ``formants_hz`` [F, 3]."""

    pitch_hz: npt.NDArray[np.float64]
    formants_hz: npt.NDArray[np.float64]
    voiced: npt.NDArray[np.float64]
    noisy: npt.NDArray[np.float64]
    centre_hz: npt.NDArray[np.float64]


def _tracks(text: str, frames: int, voice: Voice, draws: Draws) -> _Tracks:
    rows: list[tuple[float, ...]] = []  # (weight, formants x 3, voiced, noisy, centre)
    locus = (350.0, 1250.0, 2300.0)
    chances = iter(draws.uniform(4 * len(text) + 8).tolist())
    for number, word in enumerate(text.split()):
        for onset, vowels, tail in _SYLLABLE.findall(word):
            for letter in (onset or tail)[:2]:
                centre, loud, share = _NOISES.get(letter, (3000.0, 0.0, 0.45))
                rows.append((0.45 + 0.3 * next(chances), *locus, share, loud, centre))
            for letter in vowels[:2]:
                rows.append((0.9 + 0.7 * next(chances), *_VOWELS[letter], 0.8 + 0.2 * next(chances), 0.0, 3000.0))
        pause = 3.2 if number % 8 == 7 else 0.25
        rows.append((pause * (0.6 + 0.8 * next(chances)), *locus, 0.0, 0.0, 3000.0))
    table = np.array(rows or [(1.0, *locus, 0.0, 0.0, 3000.0)], dtype=np.float64)
    edge = min(_EDGE_FRAMES, frames // 6)
    ends = np.round(np.cumsum(table[:, 0]) / table[:, 0].sum() * (frames - 2 * edge)).astype(np.int64)
    which = np.searchsorted(ends, np.arange(frames - 2 * edge), side="right")
    inner = table[np.minimum(which, len(table) - 1), 1:]
    smooth = np.vstack([np.repeat(inner[:1], edge, axis=0), inner, np.repeat(inner[-1:], edge, axis=0)])
    smooth[:edge, 3:5] = smooth[frames - edge :, 3:5] = 0.0
    window = np.hanning(7) / np.hanning(7).sum()
    smooth = np.stack([np.convolve(np.pad(column, 3, mode="edge"), window, "valid") for column in smooth.T], axis=1)
    seconds = np.arange(frames) * (_HOP / RATE_HZ)
    wander = draws.uniform(3)
    melody = 0.10 * np.sin(2 * np.pi * (seconds * (0.45 + 0.3 * wander[0]) + wander[1]))
    fall = 0.08 * (0.5 - np.arange(frames) / frames)
    pitch = voice.pitch_hz * np.exp(melody + fall + 0.015 * np.sin(2 * np.pi * (seconds * 5.1 + wander[2])))
    return _Tracks(pitch, smooth[:, :3] * voice.tract, smooth[:, 3], smooth[:, 4], smooth[:, 5])


def _formants(formants_hz: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """float64 [F, 257]: the gain of three resonances at each frequency, with the fall of a glottis above 500 Hz."""
    detuning = (_FREQUENCIES_HZ[None, None, :] - formants_hz[:, :, None]) / _BANDWIDTHS_HZ[None, :, None]
    gain = (np.array([1.0, 0.6, 0.35])[None, :, None] / (1.0 + detuning**2)).sum(axis=1) + 0.02
    return np.asarray(gain / (1.0 + _FREQUENCIES_HZ / 500.0)[None, :])


def _spectra(signal: npt.NDArray[np.float64], frames: int) -> npt.NDArray[np.complex128]:
    """complex128 [F, 257]: windowed spectra, one a frame."""
    padded = np.zeros((frames - 1) * _HOP + _SIZE)
    padded[_SIZE // 2 - _HOP : _SIZE // 2 - _HOP + len(signal)] = signal
    windows = np.lib.stride_tricks.sliding_window_view(padded, _SIZE)[::_HOP]
    return np.asarray(np.fft.rfft(windows * np.hanning(_SIZE), axis=1))


def _overlap_add(spectra: npt.NDArray[np.complex128], total: int) -> npt.NDArray[np.float64]:
    """float64 [total]: the frames added up where they lie."""
    pieces = np.fft.irfft(spectra, n=_SIZE, axis=1)
    frames = len(pieces)
    parts = -(-_SIZE // _HOP)
    padded = np.zeros((frames + parts, _HOP))
    wide = np.pad(pieces, ((0, 0), (0, parts * _HOP - _SIZE))).reshape(frames, parts, _HOP)
    for part in range(parts):
        padded[part : part + frames] += wide[:, part]
    start = _SIZE // 2 - _HOP
    return padded.reshape(-1)[start : start + total].copy()

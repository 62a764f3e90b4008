"""Device stages for spectra: log-mel features.

The same code runs on CPU and CUDA. What it makes of a sample is the same, bit for bit, in any batch: every sum is made
in an order that does not depend on the batch's shape.
"""

from __future__ import annotations

import functools
import math
from dataclasses import KW_ONLY, dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ecopipe.stages.stage import DeviceStage
from ecopipe.vocabulary.errors import nearest
from ecopipe.vocabulary.randomness import Chance
from ecopipe.vocabulary.sample import Batch

MelScale = Literal["htk", "slaney"]
Norm = Literal["none", "slaney"]

_CHUNK_CPU, _CHUNK_GPU = 2048, 16384
_MEL_BLOCK = 16


@dataclass(frozen=True)
class LogMel(DeviceStage):
    """``audio`` -> ``features``: natural logarithm of mel-band energies, float32 [B, frames, n_mels].

    Takes ``audio`` float32 [B, T] in [-1, 1] or int16 [B, T], ``lengths`` int64 [B] in samples, and ``rate_hz``. Gives
    ``features`` and ``lengths`` in frames: 1 + L // hop_length for L samples. The audio is taken away.

    Frames are centred (frame n on sample n * hop_length), and each sample is reflected at its own two ends, as
    ``numpy.pad(..., mode="reflect")`` does, however short it is; empty audio is one frame of silence. So features do
    not depend on the padding. The window is a periodic Hann window; energies are those of
    ``torchaudio.transforms.MelSpectrogram``, clamped to ``floor`` from below: silence is log(floor) and never -inf.

    Args:
        rate_hz: The rate of the audio, in Hz; another one is refused.
        n_mels: Mel bands.
        n_fft: Samples in a frame; even.
        win_length: Samples in the window, which stands in the middle of the frame; by default ``n_fft``.
        hop_length: Samples from one frame to the next.
        f_min: Lower edge of the lowest band, in Hz.
        f_max: Upper edge of the highest band, in Hz; by default half the rate.
        mel_scale: See :func:`mel_filters`.
        norm: See :func:`mel_filters`.
        floor: The least energy.
        power: 2.0 for energy, 1.0 for magnitude.
        pad_value: What stands in frames behind a sample's end.
    """

    _: KW_ONLY
    rate_hz: int = 16000
    n_mels: int = 80
    n_fft: int = 400
    win_length: int | None = None
    hop_length: int = 160
    f_min: float = 0.0
    f_max: float | None = None
    mel_scale: MelScale = "htk"
    norm: Norm = "none"
    floor: float = 1e-10
    power: float = 2.0
    pad_value: float = 0.0

    def __post_init__(self) -> None:
        for name in ("rate_hz", "n_mels", "n_fft", "hop_length"):
            value = getattr(self, name)
            if not isinstance(value, int) or value <= 0:
                raise self.refuse(f"{name} must be a positive int, got {value!r}")
        if self.n_fft % 2:
            raise self.refuse(f"n_fft must be even, got {self.n_fft}")
        if self.win_length is not None and not 0 < self.win_length <= self.n_fft:
            raise self.refuse(f"win_length must be in 1..n_fft = {self.n_fft}, got {self.win_length!r}")
        top = self.rate_hz / 2 if self.f_max is None else self.f_max
        if not 0 <= self.f_min < top <= self.rate_hz / 2:
            raise self.refuse(f"0 <= f_min < f_max <= {self.rate_hz / 2} Hz must hold, got {self.f_min} and {top}")
        if self.mel_scale not in get_args(MelScale):
            remedy = nearest(str(self.mel_scale), get_args(MelScale))
            raise self.refuse(f"unknown mel_scale {self.mel_scale!r}. {remedy}")
        if self.norm not in get_args(Norm):
            raise self.refuse(f"unknown norm {self.norm!r}. {nearest(str(self.norm), get_args(Norm))}")
        if not self.floor >= 1e-37:
            raise self.refuse(f"floor must be at least 1e-37 (float32), got {self.floor!r}")
        if not self.power > 0:
            raise self.refuse(f"power must be positive, got {self.power!r}")
        empty = np.flatnonzero(self._filters().max(axis=0) == 0)
        if empty.size:
            raise self.refuse(
                f"n_mels = {self.n_mels} is too many for n_fft = {self.n_fft}: band {empty[0]} lies between two "
                "frequencies of the spectrum and would always be empty; lower n_mels or raise n_fft"
            )

    def _filters(self) -> npt.NDArray[np.float64]:
        return mel_filters(
            rate_hz=self.rate_hz, n_fft=self.n_fft, n_mels=self.n_mels, f_min=self.f_min,
            f_max=self.rate_hz / 2 if self.f_max is None else self.f_max, mel_scale=self.mel_scale, norm=self.norm,
        )  # fmt: skip

    def needs(self) -> tuple[str, ...]:
        return ("audio", "lengths", "rate_hz")

    def gives(self) -> tuple[str, ...]:
        return ("features", "lengths")

    def takes_away(self) -> tuple[str, ...]:
        return ("audio",)

    def apply(self, batch: Batch, chance: Chance) -> Batch:
        audio, rate_hz = batch["audio"], batch.get("rate_hz")
        if rate_hz != self.rate_hz:
            raise self.refuse(
                f"the batch has rate_hz = {rate_hz}, {self.rate_hz} wanted; put Resample({self.rate_hz}) before "
                "Collate, or set rate_hz here"
            )
        if audio.dim() != 2 or audio.dtype not in (torch.float32, torch.int16):
            raise self.refuse(
                f"audio must be float32 or int16 [B, T], got {str(audio.dtype).removeprefix('torch.')} "
                f"{list(audio.shape)}; DecodeAudio(channels='mono') makes such"
            )
        with torch.no_grad():
            features, lengths = self._features(audio, batch["lengths"])
        return batch.without("audio").with_fields(features=features, lengths=lengths)

    def _features(self, audio: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        frames = 1 + audio.shape[1] // self.hop_length
        signal, rows = self._reflected(audio, lengths)
        window, blocks = _constants(self, audio.device)
        if audio.dtype == torch.int16:
            window = window / 32768  # a power of two: the same features as of float32 audio
        chunk = _CHUNK_CPU if audio.device.type == "cpu" else _CHUNK_GPU
        windows = signal.unfold(0, self.n_fft, self.hop_length)
        mel = torch.empty(len(windows), self.n_mels, device=audio.device)
        for at in range(0, len(windows), chunk):
            # Always ``chunk`` rows, full or not: a matrix product may add in another order for another shape.
            spectrum = torch.fft.rfft(windows[at : at + chunk] * window)
            energy = (spectrum.real.square() + spectrum.imag.square()).double()
            if self.power != 2.0:
                energy = energy.pow_(self.power / 2)
            for bins, bands, weights in blocks:
                mel[at : at + chunk, bands] = energy[:, bins] @ weights
        mel = mel.clamp_min_(self.floor).log_()
        lengths = 1 + torch.div(lengths, self.hop_length, rounding_mode="floor")
        behind = torch.arange(frames, device=audio.device) >= lengths[:, None]
        features = mel[: len(audio) * rows].view(len(audio), rows, self.n_mels)[:, :frames].contiguous()
        return features.masked_fill_(behind[:, :, None], self.pad_value), lengths

    def _reflected(self, audio: Tensor, lengths: Tensor) -> tuple[Tensor, int]:
        """The batch as one signal, each sample reflected at its ends, at multiples of ``rows`` hops.

        Frame n of sample b begins at (b * rows + n) * hop_length. Frames that reach from one sample into the next are
        computed and dropped, which costs less than gathering the others. The signal goes on to a full last chunk.
        """
        pad, hop = self.n_fft // 2, self.hop_length
        batch, width = audio.shape
        rows = -(-(width + self.n_fft) // hop)
        chunk = _CHUNK_CPU if audio.device.type == "cpu" else _CHUNK_GPU
        total = -(-batch * rows // chunk) * chunk
        signal = torch.zeros((total - 1) * hop + max(self.n_fft, hop), device=audio.device)
        lines = signal[: batch * rows * hop].view(batch, rows * hop)
        if width:
            lines[:, pad : pad + width] = audio
            around = torch.arange(pad, device=audio.device)
            # numpy's reflection: a triangle wave of period 2 (L - 1) over the places 0 to L - 1.
            places = torch.cat([(around - pad).expand(batch, pad), lengths[:, None] + around], dim=1)
            period = (2 * (lengths - 1)).clamp_min(1)[:, None]
            places = places.remainder(period)
            places = torch.minimum(places, period - places) * (lengths > 1)[:, None]
            edges = audio.gather(1, places).float().masked_fill((lengths < 1)[:, None], 0)
            lines[:, :pad] = edges[:, :pad]
            lines.scatter_(1, pad + lengths[:, None] + around, edges[:, pad:])
        return signal, rows


def mel_filters(
    *, rate_hz: int, n_fft: int, n_mels: int, f_min: float, f_max: float, mel_scale: MelScale, norm: Norm
) -> npt.NDArray[np.float64]:
    """Triangular filters, equally spaced in mel: float64 [n_fft // 2 + 1, n_mels], at least 0.

    Args:
        rate_hz: The rate, in Hz.
        n_fft: Samples in a frame.
        n_mels: Bands.
        f_min: Lower edge of the lowest band, in Hz.
        f_max: Upper edge of the highest band, in Hz.
        mel_scale: ``"htk"``: mel = 2595 log10(1 + f / 700) (O'Shaughnessy 1987, HTK Book section 5.4).
            ``"slaney"``: 3 f / 200 below 1000 Hz, above it 27 steps to each factor of 6.4 (Slaney, "Auditory Toolbox",
            Interval Technical Report 1998-010).
        norm: ``"none"``: each triangle has height 1. ``"slaney"``: each has area 1 in Hz.
    """
    low, high = _hz_to_mel(np.array([f_min, f_max], dtype=np.float64), mel_scale)
    edges = _mel_to_hz(np.linspace(float(low), float(high), n_mels + 2), mel_scale)
    bins_hz = np.arange(n_fft // 2 + 1)[:, None] * (rate_hz / n_fft)
    lower, centre, upper = edges[:-2], edges[1:-1], edges[2:]
    rising, falling = (bins_hz - lower) / (centre - lower), (upper - bins_hz) / (upper - centre)
    filters = np.maximum(np.minimum(rising, falling), 0.0)
    return filters * (2 / (upper - lower)) if norm == "slaney" else filters


def _hz_to_mel(hz: npt.NDArray[np.float64], scale: MelScale) -> npt.NDArray[np.float64]:
    if scale == "htk":
        return 2595 * np.log10(1 + hz / 700)
    return np.where(hz < 1000, hz * 3 / 200, 15 + np.log(np.maximum(hz, 1000) / 1000) * 27 / math.log(6.4))


def _mel_to_hz(mel: npt.NDArray[np.float64], scale: MelScale) -> npt.NDArray[np.float64]:
    if scale == "htk":
        return 700 * (10 ** (mel / 2595) - 1)
    return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp((np.maximum(mel, 15) - 15) * math.log(6.4) / 27))


@functools.lru_cache(maxsize=32)
def _constants(stage: LogMel, device: torch.device) -> tuple[Tensor, list[tuple[slice, slice, Tensor]]]:
    """The window float32 [n_fft], and the filters by blocks of bands, each with the bins that it reaches: float64.

    Blocks skip the zeros of the filters. float64 costs little then, and no setting of torch (TF32, bfloat16, autocast)
    makes a float64 product less exact.
    """
    width = stage.win_length or stage.n_fft
    window = torch.zeros(stage.n_fft, dtype=torch.float64)
    left = (stage.n_fft - width) // 2
    window[left : left + width] = torch.hann_window(width, periodic=True, dtype=torch.float64)
    filters = stage._filters()
    blocks = []
    for first in range(0, stage.n_mels, _MEL_BLOCK):
        bands = slice(first, min(first + _MEL_BLOCK, stage.n_mels))
        reached = np.flatnonzero(filters[:, bands].any(axis=1))
        bins = slice(int(reached[0]), int(reached[-1]) + 1)
        blocks.append((bins, bands, torch.from_numpy(filters[bins, bands].copy()).to(device)))
    return window.float().to(device), blocks

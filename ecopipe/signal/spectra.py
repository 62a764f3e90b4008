"""Spectra of frames: power, mel bands, logarithm.

What a sample gets is the same, bit for bit, in any batch: only its own true frames are made, each row on its own, and a
matrix product always has the same shape, since one of another shape may add in another order.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ecopipe.signal.framing import Framing, lay_out
from ecopipe.signal.mel import Filters, MelScale, Norm, mel_filters
from ecopipe.signal.threads import each
from ecopipe.signal.windows import window

Log = Literal["none", "ln", "log10", "db"]
Guard = Literal["clamp", "add"]
Energy = Literal["none", "raw", "windowed"]

_ROWS_ON_CPU, _ROWS_ELSEWHERE = 512, 16384
_MEL_BLOCK = 16


@dataclass(frozen=True)
class MelBands:
    """Mel bands: see :func:`ecopipe.signal.mel.mel_filters`."""

    rate_hz: int
    n_mels: int
    f_min: float
    f_max: float
    mel_scale: MelScale = "htk"
    norm: Norm = "none"

    def filters(self, n_fft: int) -> Filters:
        """float64 [n_fft // 2 + 1, n_mels]."""
        return mel_filters(
            rate_hz=self.rate_hz, n_fft=n_fft, n_mels=self.n_mels, f_min=self.f_min, f_max=self.f_max,
            mel_scale=self.mel_scale, norm=self.norm,
        )  # fmt: skip


@dataclass(frozen=True)
class Recipe:
    """What features are made of a signal.

    Args:
        framing: The frames.
        power: The spectrum's magnitude to this power: 2.0 for energy, 1.0 for magnitude.
        bands: Mel bands; None for the spectrum itself.
        log: ``"ln"``, ``"log10"``, ``"db"`` (10 log10) or ``"none"``.
        floor: What keeps the logarithm finite.
        guard: ``"clamp"``: values below ``floor`` become it. ``"add"``: it is added to each.
        energy: The logarithm of each frame's own energy too: ``"raw"`` after its mean was taken away, ``"windowed"``
            after pre-emphasis and window too (Kaldi's ``raw_energy``).
        energy_floor: The least energy of a frame.
    """

    framing: Framing
    power: float = 2.0
    bands: MelBands | None = None
    log: Log = "ln"
    floor: float = 1e-10
    guard: Guard = "clamp"
    energy: Energy = "none"
    energy_floor: float = 0.0

    @property
    def width(self) -> int:
        """Numbers in a frame, the energy not counted."""
        return self.bands.n_mels if self.bands else self.framing.n_fft // 2 + 1


@dataclass(frozen=True)
class Spectra:
    """Features of several signals.

    ``rows`` is float32 [n, width], ``energy`` float32 [n] or None; the frames of signal b are the ``counts[b]`` rows
    from ``starts[b]`` on; what lies between belongs to none.
    """

    rows: Tensor
    energy: Tensor | None
    starts: Sequence[int]
    counts: Sequence[int]

    def flat(self) -> Tensor:
        """float32 [sum of counts, width], the energy before the rest if there is one."""
        rows = self._whole()
        return torch.cat([rows[:0], *(rows[at : at + n] for at, n in zip(self.starts, self.counts, strict=True))])

    def padded(self, frames: int) -> Tensor:
        """float32 [B, frames, width], zero behind each signal's own; the energy before the rest if there is one."""
        rows = self._whole()
        made = rows.new_zeros(len(self.counts), frames, rows.shape[1])
        for line, at, n in zip(made, self.starts, self.counts, strict=True):
            line[:n] = rows[at : at + n]
        return made

    def _whole(self) -> Tensor:
        return self.rows if self.energy is None else torch.cat([self.energy[:, None], self.rows], dim=1)


def spectra(signals: Sequence[Tensor], recipe: Recipe) -> Spectra:
    """Features of signals, by the fast Fourier transform.

    Args:
        signals: int16 or float32 [L] each, without padding; int16 is taken as x / 32768.
        recipe: What to make.
    """
    framing = recipe.framing
    device = signals[0].device if signals else torch.device("cpu")
    chunk = _ROWS_ON_CPU if device.type == "cpu" else _ROWS_ELSEWHERE
    laid = lay_out(signals, framing, chunk)
    frames = laid.signal.unfold(0, framing.length, framing.hop)
    total = len(laid.signal) // framing.hop - -(-framing.length // framing.hop)
    found = torch.empty(total, recipe.width, dtype=torch.float32, device=device)
    energy = torch.empty(total, dtype=torch.float32, device=device) if recipe.energy != "none" else None
    weights = constants(recipe, device)

    def make(at: int) -> None:
        frame = frames[at : at + chunk]
        if framing.remove_dc:
            frame = frame - frame.mean(dim=1, keepdim=True)
        if energy is not None and recipe.energy == "raw":
            energy[at : at + chunk] = log_energy(frame, recipe)
        if framing.preemphasis and framing.preemphasis_of == "frame":
            before = torch.cat([frame[:, :1], frame[:, :-1]], dim=1)
            frame = frame - framing.preemphasis * before
        frame = frame * weights.window
        if energy is not None and recipe.energy == "windowed":
            energy[at : at + chunk] = log_energy(frame, recipe)
        spectrum = torch.fft.rfft(frame, n=framing.n_fft)
        power = spectrum.real.square() + spectrum.imag.square()
        if recipe.power == 2.0 and not weights.blocks:
            found[at : at + chunk] = power
            return
        exact = power.double()
        if recipe.power != 2.0:
            exact = exact.pow_(recipe.power / 2)
        if not weights.blocks:
            found[at : at + chunk] = exact
        for bins, bands, block in weights.blocks:
            found[at : at + chunk, bands] = exact[:, bins] @ block

    if device.type == "cpu":
        each(make, range(0, total, chunk))
    else:
        for at in range(0, total, chunk):
            make(at)
    return Spectra(logarithm(found, recipe), energy, laid.starts, laid.counts)


def logarithm(found: Tensor, recipe: Recipe) -> Tensor:
    """The logarithm of energies, in place."""
    if recipe.log == "none":
        return found
    found = found.clamp_min_(recipe.floor) if recipe.guard == "clamp" else found.add_(recipe.floor)
    if recipe.log == "ln":
        return found.log_()
    found = found.log10_()
    return found.mul_(10) if recipe.log == "db" else found


def log_energy(frame: Tensor, recipe: Recipe) -> Tensor:
    """ln of the sum of squares of each frame: float32 [n] of [n, length]."""
    least = max(recipe.energy_floor, recipe.floor)
    return frame.double().square().sum(dim=1).clamp_min(least).log().float()


@dataclass(frozen=True)
class Constants:
    """The window float32 [length], and the filters by blocks of bands, each with the bins that it reaches: float64.

    Blocks skip the zeros of the filters. float64 costs little then, and no setting of torch (TF32, bfloat16, autocast)
    makes a float64 product less exact.
    """

    window: Tensor
    blocks: list[tuple[slice, slice, Tensor]]


@functools.lru_cache(maxsize=32)
def constants(recipe: Recipe, device: torch.device) -> Constants:
    """What a recipe multiplies with, on a device."""
    framing = recipe.framing
    shape = torch.from_numpy(window(framing.window, framing.length)).float().to(device)
    blocks = []
    if recipe.bands:
        filters = recipe.bands.filters(framing.n_fft)
        for first in range(0, recipe.width, _MEL_BLOCK):
            bands = slice(first, min(first + _MEL_BLOCK, recipe.width))
            reached = np.flatnonzero(filters[:, bands].any(axis=1))
            bins = slice(int(reached[0]), int(reached[-1]) + 1) if reached.size else slice(0, 1)
            blocks.append((bins, bands, torch.from_numpy(filters[bins, bands].copy()).to(device)))
    return Constants(shape, blocks)


@functools.lru_cache(maxsize=32)
def transform(framing: Framing, device: torch.device) -> tuple[Tensor, Tensor]:
    """The real Fourier transform of a frame as two products: cosines and sines, float64 [half, n_fft // 2 + 1] each.

    The origin of time is put in the middle of the frame, which changes no power. Then the cosines need only the sums of
    samples at equal distance before and behind it, and the sines the differences: half the work. ``half`` is
    (length + 1) // 2; of an odd length the middle sample is the last row, with half its weight.
    """
    half = (framing.length + 1) // 2
    distance = (framing.length - 1) / 2 - np.arange(half)
    turn = 2 * math.pi * distance[:, None] * np.arange(framing.n_fft // 2 + 1) / framing.n_fft
    cosine = np.cos(turn)
    if framing.length % 2:
        cosine[-1] *= 0.5
    return torch.from_numpy(cosine).to(device), torch.from_numpy(np.sin(turn)).to(device)

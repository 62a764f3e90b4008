"""The same features by matrix products alone: no complex numbers, no loop, no word from the device to the host.

``torch.compile(fullgraph=True)`` takes it, and it is what the fused kernels are compared with. It works in float64 on
padded batches, padding and all: for speed there are :mod:`ecopipe.signal.spectra` and the kernels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ecopipe.signal.framing import places
from ecopipe.signal.spectra import Recipe, transform
from ecopipe.signal.windows import window


def dense(audio: Tensor, lengths: Tensor, recipe: Recipe) -> tuple[Tensor, Tensor | None]:
    """Features of a padded batch: float64 [B, frames of T, width], and the log energy [B, frames of T] or None.

    Frames behind a sample's own (``recipe.framing.frames_of(lengths)``) hold anything finite.

    Args:
        audio: float32 or int16 [B, T]; int16 is taken as x / 32768.
        lengths: int64 [B], the true samples of each.
        recipe: What to make.
    """
    framing = recipe.framing
    batch, width = audio.shape
    count = framing.frames(width)
    at = torch.arange((count - 1) * framing.hop + framing.length if count else 0, device=audio.device) + framing.first
    whole = lengths.clamp_min(framing.pad_to)[:, None]
    found = places(at.expand(batch, -1), whole, framing.edge)
    signal = _at(audio, lengths, found)
    if framing.preemphasis and framing.preemphasis_of == "signal":
        signal = signal - framing.preemphasis * _at(audio, lengths, found - 1)
        signal = signal.masked_fill(found >= lengths[:, None], 0.0)
    signal = signal * (framing.scale * (1 / 32768 if audio.dtype == torch.int16 else 1.0))
    if not count:
        return signal.new_empty(batch, 0, recipe.width), None
    frame = signal.unfold(1, framing.length, framing.hop)
    if framing.remove_dc:
        frame = frame - frame.mean(dim=2, keepdim=True)
    energy = _log_energy(frame, recipe) if recipe.energy == "raw" else None
    if framing.preemphasis and framing.preemphasis_of == "frame":
        frame = frame - framing.preemphasis * torch.cat([frame[:, :, :1], frame[:, :, :-1]], dim=2)
    frame = frame * torch.from_numpy(window(framing.window, framing.length)).to(audio.device)
    if recipe.energy == "windowed":
        energy = _log_energy(frame, recipe)
    cosine, sine = transform(framing, audio.device)
    before, behind = frame[:, :, : len(cosine)], frame.flip(2)[:, :, : len(cosine)]
    power = ((before + behind) @ cosine).square() + ((before - behind) @ sine).square()
    if recipe.power != 2.0:
        power = power.pow(recipe.power / 2)
    if recipe.bands:
        power = power @ torch.from_numpy(recipe.bands.filters(framing.n_fft)).to(audio.device)
    if recipe.log == "none":
        return power, energy
    power = power.clamp_min(recipe.floor) if recipe.guard == "clamp" else power + recipe.floor
    if recipe.log == "ln":
        return power.log(), energy
    return power.log10() * (10 if recipe.log == "db" else 1), energy


def _at(audio: Tensor, lengths: Tensor, found: Tensor) -> Tensor:
    """float64: the samples at ``found``; zero where it is negative or behind the end."""
    there = (found >= 0) & (found < lengths[:, None])
    taken = audio.gather(1, found.clamp(0, max(audio.shape[1] - 1, 0))) if audio.shape[1] else found
    return taken.double().masked_fill(~there, 0.0)


def _log_energy(frame: Tensor, recipe: Recipe) -> Tensor:
    least = max(recipe.energy_floor, recipe.floor)
    return frame.square().sum(dim=2).clamp_min(least).log()

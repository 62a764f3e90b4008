"""The same features by matrix products alone: no complex numbers, no loop, no word from the device to the host.

``torch.compile(fullgraph=True)`` takes it, and it is what the fused kernels are compared with. It works in float64 on
padded batches, padding and all: for speed there are :mod:`ecopipe.signal.spectra` and the kernels.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn

from ecopipe.signal.framing import places
from ecopipe.signal.spectra import Recipe, transform
from ecopipe.signal.windows import window


class Dense(nn.Module):
    """Features of a padded batch: float64 [B, frames of T, width], the log energy before the rest if it is wanted.

    Called with ``audio`` float32 or int16 [B, T] (int16 is taken as x / 32768) and ``lengths`` int64 [B], the true
    samples of each. Frames behind a sample's own (``recipe.framing.frames_of(lengths)``) hold anything finite.

    Args:
        recipe: What to make.
        device: Where.
    """

    window: Tensor
    cosine: Tensor
    sine: Tensor
    filters: Tensor | None

    def __init__(self, recipe: Recipe, device: torch.device | str = "cpu") -> None:
        super().__init__()
        framing = recipe.framing
        cosine, sine = transform(framing, torch.device(device))
        filters = recipe.bands.filters(framing.n_fft) if recipe.bands else None
        self.recipe = recipe
        self.register_buffer("window", torch.from_numpy(window(framing.window, framing.length)).to(device))
        self.register_buffer("cosine", cosine)
        self.register_buffer("sine", sine)
        self.register_buffer("filters", None if filters is None else torch.from_numpy(filters).to(device))

    def forward(self, audio: Tensor, lengths: Tensor) -> Tensor:
        recipe, framing = self.recipe, self.recipe.framing
        count = framing.frames(audio.shape[1])
        if not count:
            return self.window.new_empty(len(audio), 0, recipe.width + (recipe.energy != "none"))
        frame = self._signal(audio, lengths, count).unfold(1, framing.length, framing.hop)
        if framing.remove_dc:
            frame = frame - frame.mean(dim=2, keepdim=True)
        energy = _log_energy(frame, recipe) if recipe.energy == "raw" else None
        if framing.preemphasis and framing.preemphasis_of == "frame":
            frame = frame - framing.preemphasis * torch.cat([frame[:, :, :1], frame[:, :, :-1]], dim=2)
        frame = frame * self.window
        if recipe.energy == "windowed":
            energy = _log_energy(frame, recipe)
        half = len(self.cosine)
        before, behind = frame[:, :, :half], frame.flip(2)[:, :, :half]
        power = ((before + behind) @ self.cosine).square() + ((before - behind) @ self.sine).square()
        if recipe.power != 2.0:
            power = power.pow(recipe.power / 2)
        if self.filters is not None:
            power = power @ self.filters
        if recipe.log != "none":
            power = power.clamp_min(recipe.floor) if recipe.guard == "clamp" else power + recipe.floor
            power = power.log() if recipe.log == "ln" else power.log10() * (10 if recipe.log == "db" else 1)
        return power if energy is None else torch.cat([energy[:, :, None], power], dim=2)

    def _signal(self, audio: Tensor, lengths: Tensor, count: int) -> Tensor:
        """float64 [B, samples that the frames reach over], edges and all."""
        framing = self.recipe.framing
        at = torch.arange((count - 1) * framing.hop + framing.length, device=audio.device) + framing.first
        whole = lengths.clamp_min(framing.pad_to)[:, None]
        found = places(at.expand(len(audio), -1), whole, framing.edge)
        signal = _at(audio, lengths, found)
        if framing.preemphasis and framing.preemphasis_of == "signal":
            signal = signal - framing.preemphasis * _at(audio, lengths, found - 1)
            signal = signal.masked_fill(found >= lengths[:, None], 0.0)
        return signal * (framing.scale * (1 / 32768 if audio.dtype == torch.int16 else 1.0))


@functools.lru_cache(maxsize=16)
def dense(recipe: Recipe, device: torch.device) -> Dense:
    """The module for a recipe on a device, made once."""
    return Dense(recipe, device)


def _at(audio: Tensor, lengths: Tensor, found: Tensor) -> Tensor:
    """float64: the samples at ``found``; zero where it is negative or behind the end."""
    there = (found >= 0) & (found < lengths[:, None])
    taken = audio.gather(1, found.clamp(0, max(audio.shape[1] - 1, 0))) if audio.shape[1] else found
    return taken.double().masked_fill(~there, 0.0)


def _log_energy(frame: Tensor, recipe: Recipe) -> Tensor:
    least = max(recipe.energy_floor, recipe.floor)
    return frame.square().sum(dim=2).clamp_min(least).log()

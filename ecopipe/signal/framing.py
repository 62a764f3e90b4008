"""Framing: which samples of a signal are in which frame, at both ends and whatever the padding.

Frames are numbered from 0 in each sample. What lies outside of a sample's true samples is made by the edge rule, never
taken from the padding of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ecopipe.signal.windows import Window

Edge = Literal["reflect", "mirror", "zero"]
Placing = Literal["centered", "inside", "middle"]


@dataclass(frozen=True)
class Framing:
    """How a signal is cut into frames, and what is done to each before its spectrum.

    Args:
        length: Samples in the window.
        hop: Samples from one frame to the next.
        n_fft: Samples in the transform, at least ``length``; frames are filled up with zeros.
        window: See :func:`ecopipe.signal.windows.window`.
        placing: Where frame n stands. ``"centered"``: its middle on sample n * hop (torch.stft, librosa).
            ``"inside"``: it begins there, and only frames that lie wholly inside are made (Kaldi's
            ``snip_edges=true``). ``"middle"``: its middle between samples n * hop and (n + 1) * hop (``false``).
        edge: What stands outside: ``"reflect"`` does not repeat the end sample, ``"mirror"`` does, ``"zero"``.
        drop_last: Leave out the last frame of ``"centered"``, which has no hop of its own: L // hop frames.
        pad_to: Signals are filled up with zeros to so many samples, and these are framed too.
        scale: Audio in [-1, 1] is multiplied by it.
        preemphasis: c in x[n] - c * x[n - 1]; 0 for none.
        preemphasis_of: ``"signal"``: before framing, the first sample as it is. ``"frame"``: in each frame after its
            mean was taken away, x[0] - c * x[0] the first.
        remove_dc: Take the mean of each frame away.
    """

    length: int
    hop: int
    n_fft: int
    window: Window = "hann"
    placing: Placing = "centered"
    edge: Edge = "reflect"
    drop_last: bool = False
    pad_to: int = 0
    scale: float = 1.0
    preemphasis: float = 0.0
    preemphasis_of: Literal["signal", "frame"] = "signal"
    remove_dc: bool = False

    @property
    def first(self) -> int:
        """The sample at which the window of frame 0 begins."""
        if self.placing == "centered":
            return (self.n_fft - self.length) // 2 - self.n_fft // 2
        return 0 if self.placing == "inside" else self.hop // 2 - self.length // 2

    def frames(self, samples: int) -> int:
        """Frames of a signal of so many samples."""
        samples = max(samples, self.pad_to)
        if self.placing == "centered":
            return samples // self.hop + (not self.drop_last)
        if self.placing == "middle":
            return (samples + self.hop // 2) // self.hop
        return max(samples - self.length + self.hop, 0) // self.hop

    def frames_of(self, lengths: Tensor) -> Tensor:
        """Frames of signals of so many samples: int64 [B], on the device of ``lengths`` int64 [B]."""
        samples = lengths.clamp_min(self.pad_to)
        if self.placing == "centered":
            return samples.div(self.hop, rounding_mode="floor") + (not self.drop_last)
        if self.placing == "middle":
            return (samples + self.hop // 2).div(self.hop, rounding_mode="floor")
        return (samples - self.length + self.hop).clamp_min(0).div(self.hop, rounding_mode="floor")


def places(at: Tensor, lengths: Tensor, edge: Edge) -> Tensor:
    """Where the edge rule takes the samples ``at`` from: int64, each in 0..length - 1, or -1 for a zero.

    Args:
        at: int64, places in a signal, also outside of it.
        lengths: int64, the samples of that signal; of a shape that fits.
        edge: ``"reflect"`` goes to and fro with period 2 (L - 1), as ``numpy.pad`` does, however short the signal is;
            ``"mirror"`` with period 2 L.
    """
    if edge == "zero":
        found = at
    elif edge == "reflect":
        period = (2 * (lengths - 1)).clamp_min(1)
        found = at.remainder(period)
        found = torch.minimum(found, period - found)
    else:
        period = (2 * lengths).clamp_min(1)
        found = at.remainder(period)
        found = torch.minimum(found, period - 1 - found)
    return torch.where((found >= 0) & (found < lengths), found, -1)


@dataclass(frozen=True)
class Rows:
    """Signals laid one after another so that frames are rows of one strided view: nothing but true frames.

    ``signal`` is float32 [n * hop + length]; frame f of sample b begins at ``(starts[b] + f) * hop``, and has the
    ``counts[b]`` frames of its sample beside it. A few rows between two samples reach from one into the next.
    """

    signal: Tensor
    starts: Sequence[int]
    counts: Sequence[int]


def lay_out(signals: Sequence[Tensor], framing: Framing, chunk: int) -> Rows:
    """Lays signals out for framing, with their edges, up to a full number of ``chunk`` rows.

    Args:
        signals: int16 or float32 [L] each, less their padding; int16 is taken as x / 32768.
        framing: How.
        chunk: The number of rows is a multiple of it.
    """
    hop, reach = framing.hop, -(-framing.length // framing.hop)
    counts = [framing.frames(len(signal)) for signal in signals]
    starts, total = [], 0
    for count in counts:
        starts.append(total)
        total += count - 1 + reach if count else 0
    total = -(-total // chunk) * chunk
    device = signals[0].device if signals else torch.device("cpu")
    laid = torch.zeros((total + reach) * hop, dtype=torch.float32, device=device)
    for signal, start, count in zip(signals, starts, counts, strict=True):
        if count and len(signal):
            _lay(laid[start * hop : (start + count - 1) * hop + framing.length], signal, framing)
    return Rows(laid, starts, counts)


def _lay(line: Tensor, signal: Tensor, framing: Framing) -> None:
    """Writes one signal and its edges into its line of zeros, which begins at sample ``framing.first``."""
    true, whole = len(signal), max(len(signal), framing.pad_to)
    made = signal.float()
    scale = framing.scale * (1 / 32768 if signal.dtype == torch.int16 else 1.0)
    if scale != 1.0:
        made = made * scale
    if framing.preemphasis and framing.preemphasis_of == "signal":
        made = torch.cat([made[:1], made[1:] - framing.preemphasis * made[:-1]])
    before, ahead = max(-framing.first, 0), max(framing.first, 0)
    inside = made[ahead : ahead + len(line) - before]
    line[before : before + len(inside)] = inside
    if framing.edge == "zero":
        return
    for edge, begin in ((line[:before], framing.first), (line[whole - framing.first :], whole)):
        if len(edge):
            at = torch.arange(begin, begin + len(edge), device=line.device)
            found = places(at, torch.full_like(at, whole), framing.edge)
            edge.copy_(torch.where(found < true, made[found.clamp_max(true - 1)], 0.0))

"""Band-limited resampling on tensors: any rate to any other, on CPU and CUDA alike, whole or piece by piece.

The filter is a sinc under a Kaiser window (J. O. Smith, "Digital Audio Resampling Home Page",
https://ccrma.stanford.edu/~jos/resample; Kaiser and Schafer, IEEE Trans. ASSP 28, 1980), and is applied by overlap-save
in the frequency domain: the spectrum of a block of audio is multiplied with the filter's response, cut or extended to
the other rate, and transformed back. Of each block only the middle is kept, where no sample is missing under the
filter. With rates old / new = down / up in lowest terms, a block of ``down`` times some number of frames becomes ``up``
times that number, so that no phase is ever rounded: rates with a small common divisor only have longer blocks.

Blocks begin at fixed places of a sample, and each is transformed for itself, in batches of a fixed number of blocks:
what is made of a sample does not depend on what lies beside it. Transforms rather than products of matrices, because no
setting of torch (TF32, bfloat16, autocast) makes them less exact; they are also faster.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

INT16_SCALE = 2.0**-15
_CHUNK_CPU, _CHUNK_GPU = 2**16, 2**22
_GRID = 4


@dataclass(frozen=True)
class Filter:
    """The low-pass filter: a sinc under a Kaiser window.

    The defaults were measured to keep what lies below 0.9 of the lower Nyquist frequency within 0.001 dB, and whatever
    lies above the lower Nyquist frequency below -100 dB.

    Args:
        zeros: Zero crossings of the sinc on either side. Twice as many make the transition half as wide.
        rolloff: Where the filter is at -6 dB, as a fraction of the lower Nyquist frequency, in (0, 1].
        beta: The window's shape: more of it makes a deeper stop band and a wider transition.
    """

    zeros: int = 64
    rolloff: float = 0.95
    beta: float = 10.0


@dataclass(frozen=True)
class _Blocks:
    """How a signal is cut, and by what its blocks are multiplied. Sizes in frames; ``response`` float32 [bins]."""

    size: int
    made: int
    before: int
    hop: int
    hop_made: int
    response: Tensor
    chunk: int


def resampled_length(frames: int, old_hz: int, new_hz: int) -> int:
    """Frames at ``new_hz`` of as many at ``old_hz``: floor(frames * new_hz / old_hz + 1/2)."""
    return (2 * frames * new_hz + old_hz) // (2 * old_hz)


def resample(
    audio: Tensor, lengths: Tensor, old_hz: int, new_hz: int, *, kernel: Filter | None = None
) -> tuple[Tensor, Tensor]:
    """A padded batch at another rate.

    A sample is taken as silent before its beginning and behind its end, and stays in its place in time: frame n is the
    signal at n / new_hz seconds. What lies in the padding has no effect, be it NaN. A NaN or an infinity within a
    sample makes NaN of the blocks that hold it.

    Args:
        audio: float32 [B, T], or int16 [B, T] in units of 1 / 32768.
        lengths: int64 [B], true frames.
        old_hz: The rate of the audio, in Hz.
        new_hz: The rate wanted, in Hz.
        kernel: The filter; by default ``Filter()``.

    Returns:
        float32 [B, resampled_length(T)], zero behind each sample's end, and its true frames: int64 [B].
    """
    blocks = _blocks(old_hz, new_hz, kernel or Filter(), audio.device)
    batch, width = audio.shape
    rows = -(-width // blocks.hop)
    # The silence before a sample is also the one behind the sample before it.
    spacing = rows * blocks.hop + blocks.before
    signal = torch.zeros(batch * spacing + blocks.size, device=audio.device)
    behind = torch.arange(width, device=audio.device) >= lengths[:, None]
    lines = signal[: batch * spacing].view(batch, spacing)
    lines[:, blocks.before : blocks.before + width] = _scaled(audio.masked_fill(behind, 0))
    sample = torch.arange(batch, device=audio.device)[:, None] * spacing
    starts = sample + torch.arange(rows, device=audio.device) * blocks.hop
    made = _filtered(signal, starts.flatten(), blocks).view(batch, rows * blocks.hop_made)
    made = made[:, : resampled_length(width, old_hz, new_hz)].contiguous()
    lengths = torch.div(2 * lengths * new_hz + old_hz, 2 * old_hz, rounding_mode="floor")
    behind = torch.arange(made.shape[1], device=audio.device) >= lengths[:, None]
    return made.masked_fill_(behind, 0), lengths


def resample_flat(
    audio: Tensor, lengths: Tensor, offsets: Tensor, old_hz: int, new_hz: int, *, kernel: Filter | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """A flat batch at another rate; bit for bit what :func:`resample` makes of each sample.

    How long the result is depends on every length, so these are read from the device: on CUDA, that waits for it.

    Args:
        audio: float32 or int16 [sum of T], as of :func:`resample`.
        lengths: int64 [B], frames.
        offsets: int64 [B], where each sample begins.
        old_hz: The rate of the audio, in Hz.
        new_hz: The rate wanted, in Hz.
        kernel: The filter; by default ``Filter()``.

    Returns:
        float32 [sum of frames], lengths int64 [B] and offsets int64 [B].
    """
    blocks = _blocks(old_hz, new_hz, kernel or Filter(), audio.device)
    frames, begins = torch.stack([lengths, offsets]).tolist()
    rows = [-(-length // blocks.hop) for length in frames]
    signal = torch.zeros(sum(rows) * blocks.hop + len(rows) * blocks.before + blocks.size, device=audio.device)
    starts, at = [], 0
    for length, begin, count in zip(frames, begins, rows, strict=True):
        signal[at + blocks.before :][:length] = _scaled(audio[begin : begin + length])
        starts += range(at, at + count * blocks.hop, blocks.hop)
        at += count * blocks.hop + blocks.before
    made = _filtered(signal, torch.tensor(starts, dtype=torch.int64).to(audio.device), blocks)
    lengths_made = [resampled_length(length, old_hz, new_hz) for length in frames]
    parts = [part.flatten()[:length] for part, length in zip(made.split(rows), lengths_made, strict=True)]
    new_lengths = torch.tensor(lengths_made, dtype=torch.int64)
    new_offsets = new_lengths.cumsum(0) - new_lengths
    return torch.cat(parts), new_lengths.to(lengths.device), new_offsets.to(lengths.device)


def resample_chunks(
    chunks: Iterable[Tensor], old_hz: int, new_hz: int, *, kernel: Filter | None = None
) -> Iterator[Tensor]:
    """A signal that comes in pieces, at another rate: the pieces joined are bit for bit those of the whole.

    Holds one block, some times as long as the filter, and the piece that it works on. Nothing is given before a block
    is full, so the pieces made are not those that came.

    Args:
        chunks: float32 [T] or int16 [T] each, of any lengths, all on one device.
        old_hz: The rate of the audio, in Hz.
        new_hz: The rate wanted, in Hz.
        kernel: The filter; by default ``Filter()``.

    Yields:
        float32 [frames] each, together resampled_length(sum of T) frames.
    """
    taken = given = 0
    held = blocks = None
    for chunk in chunks:
        blocks = _blocks(old_hz, new_hz, kernel or Filter(), chunk.device)
        if held is None:
            held = torch.zeros(blocks.before, device=chunk.device)
        held = torch.cat([held, _scaled(chunk).float()])
        taken += len(chunk)
        rows = max(0, (len(held) - blocks.size) // blocks.hop + 1)
        if rows:
            yield _rows(held, rows, blocks)
            held = held[rows * blocks.hop :]
            given += rows * blocks.hop_made
    left = resampled_length(taken, old_hz, new_hz) - given
    if held is not None and blocks is not None and left:
        rows = -(-left // blocks.hop_made)
        silence = torch.zeros((rows - 1) * blocks.hop + blocks.size, device=held.device)
        yield _rows(torch.cat([held, silence]), rows, blocks)[:left]


def _scaled(audio: Tensor) -> Tensor:
    return audio * INT16_SCALE if audio.dtype == torch.int16 else audio


def _rows(signal: Tensor, rows: int, blocks: _Blocks) -> Tensor:
    starts = torch.arange(rows, device=signal.device) * blocks.hop
    return _filtered(signal, starts, blocks).flatten()


def _filtered(signal: Tensor, starts: Tensor, blocks: _Blocks) -> Tensor:
    """What becomes of the blocks of a signal float32 [T] that begin at ``starts`` int64 [rows]: [rows, hop_made]."""
    windows = signal.unfold(0, blocks.size, 1)
    made = torch.empty(len(starts), blocks.hop_made, device=signal.device)
    first = blocks.before * blocks.made // blocks.size
    full = starts.new_zeros(blocks.chunk)
    for at in range(0, len(starts), blocks.chunk):
        part = starts[at : at + blocks.chunk]
        # Always ``chunk`` blocks, full or not: a transform may add in another order for another shape.
        full[: len(part)] = part
        spectrum = torch.fft.rfft(windows.index_select(0, full))[:, : len(blocks.response)] * blocks.response
        whole = torch.fft.irfft(spectrum, n=blocks.made)
        made[at : at + blocks.chunk] = whole[: len(part), first : first + blocks.hop_made]
    return made


@functools.lru_cache(maxsize=32)
def _blocks(old_hz: int, new_hz: int, kernel: Filter, device: torch.device) -> _Blocks:
    divisor = math.gcd(old_hz, new_hz)
    down, up = old_hz // divisor, new_hz // divisor
    lower = min(1.0, up / down)
    reach = kernel.zeros / (kernel.rolloff * lower)
    before = math.ceil(reach / down)
    # Some times as long as the filter: longer blocks waste less at their ends, and cost more to transform.
    units = 1 << max((4 * before - 1).bit_length(), math.ceil(math.log2(12 * reach / down)))
    size, made = units * down, units * up
    # Sampled finely enough that the images of its stop band fall outside the band wanted.
    places = torch.arange(_GRID * size, dtype=torch.float64)
    places = torch.minimum(places, _GRID * size - places) / _GRID
    window = torch.special.i0(kernel.beta * (1 - (places / reach) ** 2).clamp_min(0).sqrt()) * (places < reach)
    response = torch.fft.rfft(torch.sinc(kernel.rolloff * lower * places) * window).real
    # Nothing at the lower Nyquist frequency itself, which has no phase.
    response = response[: min(size, made) // 2] / response[0] * (made / size)
    most = _CHUNK_CPU if device.type == "cpu" else _CHUNK_GPU
    hop = units - 2 * before
    return _Blocks(
        size=size,
        made=made,
        before=before * down,
        hop=hop * down,
        hop_made=hop * up,
        response=response.float().to(device),
        chunk=max(1, most // max(size, made)),
    )

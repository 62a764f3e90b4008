"""Features by one fused Triton kernel: audio in, finished features out, nothing between them in memory.

Launches are sized by shapes alone: no number is read back from the device, and CUDA graphs can capture them. triton is
imported when it is first needed; where there is none, :mod:`ecopipe.signal.spectra` makes the same features.
"""

from __future__ import annotations

import functools
import importlib.util
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ecopipe.signal.spectra import Recipe
from ecopipe.signal.windows import window
from ecopipe.vocabulary.errors import ConfigError

Precision = Literal["tf32x3", "ieee"]

_LEAST = 16
"""The least side of a matrix that ``tl.dot`` takes, and the frames in a tile: 16 are what the registers hold."""
_LARGEST_FRAME = 1024
"""Numbers in a frame, filled up to powers of two: 16 of twice as many do not fit into shared memory."""
_BANDS = 32
"""Bands in a block: each is made of those quarters of the spectrum that its filters reach."""


@dataclass(frozen=True)
class Split:
    """How n_fft is split in two, ``n1 * n2``, and to which powers of two the sides of the matrices are filled up.

    ``middle``: n2 is even, and the column n2 / 2 of the first stage is made apart.
    """

    n1: int
    n2: int
    side_n1: int
    side_n2: int
    side_k2: int
    middle: bool

    @property
    def frame(self) -> int:
        """Numbers in a frame."""
        return self.side_n1 * max(self.side_n2, self.side_k2)

    @property
    def products(self) -> int:
        """Multiplications of the two stages, and the rows of the filters, 64 each: what a frame costs."""
        first = 2 * self.side_n1 * self.side_n2 * self.side_k2
        return first + 4 * self.side_k2 * self.side_n1 * self.side_n1 + 64 * self.side_k2 * self.side_n1


@functools.lru_cache(maxsize=32)
def split(n_fft: int, length: int) -> Split | None:
    """The cheapest split, or None if no divisors of n_fft fit the kernel."""
    found = []
    for n1 in (n for n in range(1, n_fft + 1) if n_fft % n == 0):
        n2 = n_fft // n1
        columns = (n2 + 1) // 2
        found.append(Split(n1, n2, _side(n1), _side(-(-length // n1)), _side(columns), n2 % 2 == 0))
    fitting = [one for one in found if one.frame <= _LARGEST_FRAME]
    return min(fitting, key=lambda one: (one.products, -one.n1), default=None)


def _side(least: int) -> int:
    return max(_LEAST, 1 << (least - 1).bit_length())


@dataclass(frozen=True)
class Tables:
    """What the kernel multiplies with: float32, made in float64; cosines before sines.

    Attributes:
        window: [side_n1, side_n2]; sample n is at [n % n1, n // n1].
        outer: [2, side_n2, side_k2], the first stage.
        turn: [2, side_n1, side_k2], what lies between the stages.
        inner: [2, side_n1, side_n1], the second stage.
        middle: [2, side_n1, side_n1], the second stage of the middle column, and its turn.
        filters: [side_k2 * side_n1, bands], from frequencies in the order in which the second stage gives them.
        middle_filters: [side_n1, bands], from those of the middle column.
        reached: Bit 4 i + q says that there is a filter of block i of bands over quarter q of the spectrum.
    """

    window: Tensor
    outer: Tensor
    turn: Tensor
    inner: Tensor
    middle: Tensor
    filters: Tensor
    middle_filters: Tensor
    reached: int


@functools.lru_cache(maxsize=32)
def tables(recipe: Recipe, device: torch.device) -> Tables:
    """The tables of a recipe that has a :func:`split`, on a device."""
    framing = recipe.framing
    n_fft, shape = framing.n_fft, _split_of(recipe)
    n1, n2, half = shape.n1, shape.n2, (shape.n2 + 1) // 2
    filled = np.zeros(shape.side_n2 * n1)
    filled[: framing.length] = window(framing.window, framing.length)
    by_n1, by_n2, by_k2 = np.arange(n1), np.arange(-(-framing.length // n1)), np.arange(half)
    by_k1 = np.stack([by_n1, n1 - 1 - by_n1], axis=1).ravel()[:n1]
    middle = by_n1 * n2 + n2 // 2
    filters = recipe.bands.filters(n_fft) if recipe.bands else np.eye(n_fft // 2 + 1)
    bands = -(-recipe.width // _BANDS) * _BANDS
    ordered = np.zeros((shape.side_k2 * shape.side_n1 + shape.side_n1, bands))
    column = np.arange(n1)
    quarter = shape.side_n1 // 4
    row = (column // quarter * shape.side_k2 + by_k2[:, None]) * quarter + column % quarter
    rows = np.append(row.ravel(), shape.side_k2 * shape.side_n1 + by_n1 if shape.middle else [])
    bins = np.append((by_k2[:, None] + n2 * by_k1).ravel(), middle if shape.middle else [])
    found, first = np.unique(np.minimum(bins, n_fft - bins), return_index=True)
    ordered[rows[first].astype(np.int64), : recipe.width] = filters[found.astype(np.int64)]

    def put(array: npt.NDArray[np.float64], *sides: int) -> Tensor:
        whole = np.zeros(sides)
        whole[tuple(slice(side) for side in array.shape)] = array
        return torch.from_numpy(whole).float().to(device)

    n1s, n2s, k2s = shape.side_n1, shape.side_n2, shape.side_k2
    return Tables(
        put(filled.reshape(shape.side_n2, n1).T, n1s, n2s),
        put(_circle(np.outer(by_n2, by_k2), n2), 2, n2s, k2s),
        put(_circle(np.outer(by_n1, by_k2), n_fft), 2, n1s, k2s),
        put(_circle(np.outer(by_n1, by_k1), n1), 2, n1s, n1s),
        put(_circle(np.outer(by_n1, middle), n_fft), 2, n1s, n1s),
        put(ordered[: k2s * n1s], k2s * n1s, bands),
        put(ordered[k2s * n1s :], n1s, bands),
        sum(1 << number for number, block in enumerate(_blocks(ordered[: k2s * n1s])) if block.any()),
    )


def _blocks(filters: npt.NDArray[np.float64]) -> Iterator[npt.NDArray[np.float64]]:
    """The filters by blocks of bands, and each by quarters of the spectrum."""
    for bands in np.split(filters, filters.shape[1] // _BANDS, axis=1):
        yield from np.split(bands, 4)


def _circle(steps: npt.NDArray[np.int64], whole: int) -> npt.NDArray[np.float64]:
    """[2, ...]: cosines and sines of ``steps`` of a ``whole`` turn."""
    angle = 2 * math.pi / whole * (steps % whole)
    return np.stack([np.cos(angle), np.sin(angle)])


def _split_of(recipe: Recipe) -> Split:
    framing = recipe.framing
    found = split(framing.n_fft, framing.length)
    if found is None:
        raise ConfigError(
            f"the fused kernel cannot make a transform of n_fft = {framing.n_fft} samples: it must be the product of "
            f"two numbers of a like size, and at most {_LARGEST_FRAME}; take spectra() for it"
        )
    return found


def available(device: torch.device) -> bool:
    """Whether the kernels run on a device: CUDA of compute capability 8.0 on, or any with TRITON_INTERPRET=1."""
    if importlib.util.find_spec("triton") is None:
        return False
    if os.environ.get("TRITON_INTERPRET") == "1":
        return True
    if device.type != "cuda" or torch.version.cuda is None:
        return False
    return torch.cuda.get_device_capability(device) >= (8, 0)


def supports(recipe: Recipe) -> bool:
    """Whether the kernel can make a recipe: n_fft is at most 1024, and the product of two numbers of a like size."""
    return split(recipe.framing.n_fft, recipe.framing.length) is not None


def log_mel(
    audio: Tensor,
    lengths: Tensor,
    recipe: Recipe,
    *,
    offsets: Tensor | None = None,
    frames: int | None = None,
    rows: Tensor | None = None,
    out_dtype: torch.dtype = torch.float32,
    pad_value: float = 0.0,
    affine: tuple[Tensor, Tensor] | None = None,
    spans: tuple[Tensor, Tensor] | None = None,
    fill: Tensor | None = None,
    precision: Precision = "tf32x3",
    total: int | None = None,
) -> Tensor:
    """Features of a batch in one launch: what :func:`ecopipe.signal.spectra.spectra` makes, and what may follow.

    The first call for a recipe makes its tables and compiles the kernel; a CUDA graph can capture any later one.

    Args:
        audio: int16 or float32, contiguous: padded [B, T]; or flat [sum T], with ``offsets``. What lies behind a
            sample's end is never read. int16 is taken as x / 32768.
        lengths: int64 [B], the true samples of each, below 2**31.
        recipe: What to make; :func:`supports` must hold.
        offsets: int64 [B]: where each sample begins in flat audio.
        frames: Frames in the padded result, and the most that any sample can have; by default those of T samples. For
            flat audio, of which no shape says so, the default is read back from the device, which waits for it.
        rows: int64 [B]: the result is flat, and frame 0 of each sample is this row. ``total`` rows are made; those of
            no sample are not written.
        out_dtype: float32, bfloat16 or float16. What is computed with is float32.
        pad_value: What frames behind a sample's end hold.
        affine: mean and factor, float32 [columns] each: (x - mean) * factor.
        spans: (begin, end) of masks, int32 [B, n, 2] in columns, and int32 [B, m, 2] in frames.
        fill: float32 [B]: what masked places get; by default 0.
        precision: Of the matrix products. ``"tf32x3"`` takes each float32 as the sum of two TF32 numbers, and three
            products on tensor cores in place of four: 2**-22 of a product is lost, hardly more than float32 itself
            rounds off. Plain TF32, which it does not offer, would lose 2**-11: quiet bands beside loud ones would be
            wrong. ``"ieee"`` multiplies float32 without tensor cores.
        total: The rows of the flat result.

    Returns:
        [B, frames, columns] or [total, columns]; columns are the recipe's width, behind the energy if it has one.

    Raises:
        ConfigError: The kernel cannot make this n_fft.
        ValueError: Audio of another dtype or shape, or an argument is missing.
    """
    _check(audio, offsets, frames, rows, total)
    framing = recipe.framing
    if frames is None and offsets is None:
        frames = framing.frames(audio.shape[1])
    elif frames is None:
        frames = int(framing.frames_of(lengths).amax()) if len(lengths) else 0
    size = (len(lengths), frames) if rows is None else (total or 0,)
    device, batch = audio.device, len(lengths)
    out = torch.empty(*size, recipe.width + (recipe.energy != "none"), dtype=out_dtype, device=device)
    if batch and frames and out.numel():
        made = tables(recipe, device)
        freq, time = (span.contiguous() for span in spans) if spans else (lengths, lengths)
        mean, factor = affine or (out, out)
        with torch.cuda.device_of(audio):  # type: ignore[no-untyped-call]
            _kernels().log_mel_kernel[(-(-frames // _LEAST), batch)](
                audio, lengths, lengths if offsets is None else offsets, made.window, made.outer, made.turn, made.inner,
                made.middle, made.filters, made.middle_filters, out,
                lengths if rows is None else rows, mean, factor, freq, time, out if fill is None else fill,
                0 if offsets is not None else audio.shape[1], frames, pad_value,
                FLAT=offsets is not None, FLAT_OUT=rows is not None, AFFINE=affine is not None,
                FREQ=freq.shape[1] if spans else 0, TIME=time.shape[1] if spans else 0, FILL=fill is not None,
                PRECISION=precision, **settings(recipe, audio.dtype),
            )  # fmt: skip
    return out


@dataclass(frozen=True)
class Normal:
    """What is done to features by the statistics of their own sample, over its true frames: a range, or CMVN.

    Args:
        max_range: Features below the greatest of the sample less this become that; 0 for none.
        shift: Then added.
        factor: Then multiplied with.
        mean: In place of these three: the mean of each column is taken away,
        deviation: and it is divided by its standard deviation plus ``eps``; a column that does not vary becomes 0.
        ddof: Squared deviations are divided by the number of frames less this.
        eps: See ``deviation``.
    """

    max_range: float = 0.0
    shift: float = 0.0
    factor: float = 1.0
    mean: bool = False
    deviation: bool = False
    ddof: int = 0
    eps: float = 0.0

    def __post_init__(self) -> None:
        ranged = (self.max_range, self.shift, self.factor) != (0.0, 0.0, 1.0)
        if (self.mean and ranged) or (self.deviation and not self.mean):
            raise ValueError(f"{self}: mean excludes max_range, shift and factor, and deviation needs mean")


def finish(
    features: Tensor,
    lengths: Tensor,
    normal: Normal,
    *,
    rows: Tensor | None = None,
    out_dtype: torch.dtype = torch.float32,
    pad_value: float = 0.0,
    spans: tuple[Tensor, Tensor] | None = None,
    fill: Tensor | Literal["mean"] | None = None,
) -> Tensor:
    """What needs whole samples, in a second launch: normalisation, masks, padding and dtype.

    Args:
        features: float [B, frames, columns], or with ``rows`` [total, columns]; contiguous. It is written in place if
            it is of ``out_dtype``.
        lengths: int64 [B], the true frames of each sample.
        normal: What is done first.
        rows: int64 [B]: features are flat, and each sample begins at this row.
        out_dtype: float32, bfloat16 or float16.
        pad_value: What frames behind a sample's end hold.
        spans: See :func:`log_mel`.
        fill: float32 [B]; or ``"mean"``: the mean of the sample's own features, once they are normal; by default 0.

    Returns:
        Features of the same shape.
    """
    out = features if features.dtype == out_dtype else torch.empty_like(features, dtype=out_dtype)
    columns, batch = features.shape[-1], len(lengths)
    if not (batch and features.numel()):
        return out
    whole = normal.max_range > 0 or (isinstance(fill, str) and fill == "mean")
    block = _side(columns) if whole else 2 * _LEAST
    freq, time = (span.contiguous() for span in spans) if spans else (lengths, lengths)
    given = isinstance(fill, Tensor)
    with torch.cuda.device_of(features):  # type: ignore[no-untyped-call]
        _kernels().finish_kernel[(batch, -(-columns // block))](
            features, lengths, lengths if rows is None else rows, out, freq, time, fill if given else out,
            0 if rows is not None else features.shape[1], pad_value,
            COLUMNS=columns, FLAT=rows is not None, PEAK=normal.max_range > 0, RANGE=normal.max_range,
            SHIFT=normal.shift, SLOPE=normal.factor, MEAN=normal.mean, DEVIATION=normal.deviation, DDOF=normal.ddof,
            EPS=normal.eps, FREQ=freq.shape[1] if spans else 0, TIME=time.shape[1] if spans else 0,
            FILL="given" if given else fill or "zero", BLOCK_F=64 if whole else 128, BLOCK_C=block,
            num_warps=8 if whole else 4,
        )  # fmt: skip
    return out


@functools.lru_cache(maxsize=64)
def settings(recipe: Recipe, dtype: torch.dtype) -> dict[str, Any]:
    """The constants that the kernel for a recipe is compiled with, and how many warps run a tile."""
    framing, shape = recipe.framing, _split_of(recipe)
    of_signal = framing.preemphasis_of == "signal"
    columns = recipe.width + (recipe.energy != "none")
    extra = {"centered": 0, "middle": framing.hop // 2, "inside": framing.hop - framing.length}[framing.placing]
    return {
        "LENGTH": framing.length, "HOP": framing.hop, "FIRST": framing.first, "PAD_TO": framing.pad_to,
        "EXTRA": extra, "ONE_MORE": int(framing.placing == "centered" and not framing.drop_last),
        "EDGE": framing.edge, "SCALE": framing.scale * (1 / 32768 if dtype == torch.int16 else 1.0),
        "OF_SIGNAL": framing.preemphasis if of_signal else 0.0,
        "OF_FRAME": 0.0 if of_signal else framing.preemphasis, "REMOVE_DC": framing.remove_dc,
        "POWER": recipe.power, "LOG": recipe.log, "FLOOR": recipe.floor, "CLAMP": recipe.guard == "clamp",
        "ENERGY": recipe.energy, "LEAST": max(recipe.energy_floor, recipe.floor), "WIDTH": recipe.width,
        "COLUMNS": columns, "COLUMNS_P": _side(columns),
        "N1": shape.n1, "N1P": shape.side_n1, "N2P": shape.side_n2, "K2P": shape.side_k2, "MIDDLE": shape.middle,
        "BLOCK_F": _LEAST, "BLOCK_M": _BANDS,
        "TILES_M": -(-recipe.width // _BANDS), "REACHED": tables(recipe, torch.device("cpu")).reached,
        "num_warps": max(shape.frame // 128, 4),
    }  # fmt: skip


def _check(audio: Tensor, offsets: Tensor | None, frames: int | None, rows: Tensor | None, total: int | None) -> None:
    dims = 2 if offsets is None else 1
    if audio.dim() != dims or audio.dtype not in (torch.float32, torch.int16) or not audio.is_contiguous():
        wanted = "[B, T]" if offsets is None else "[sum T], since there are offsets"
        raise ValueError(
            f"audio must be float32 or int16 and contiguous, {wanted}; got {str(audio.dtype).removeprefix('torch.')} "
            f"{list(audio.shape)}"
        )
    if (rows is None) != (total is None):
        raise ValueError("rows and total belong together: where each sample's frames begin, and how many there are")


def _kernels() -> Any:
    from ecopipe.signal import fused

    return fused

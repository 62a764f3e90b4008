"""The stage that makes one batch of several samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch

from ecopipe.stages.stage import CollateStage
from ecopipe.vocabulary.errors import SampleError, nearest
from ecopipe.vocabulary.sample import Batch, Sample

Layout = Literal["pad", "stack", "flat"]
Array = npt.NDArray[Any]

_RESERVED = ("keys", "lengths", "offsets", "targets", "target_lengths")
_NUMBERS = (
    ((bool, np.bool_), torch.bool),
    ((int, np.integer), torch.int64),
    ((int, float, np.integer, np.floating), torch.float64),
)


@dataclass(frozen=True)
class Collate(CollateStage):
    """Samples -> a batch. The dtype of the input is kept: int16 travels as int16.

    ==========  =============================  =================================================================
    layout      ``batch[input]``               beside it
    ==========  =============================  =================================================================
    ``pad``     [B, Tmax, ...], padded behind  ``lengths``: int64 [B], the true T of each
    ``stack``   [B, ...]                       nothing; all shapes must be equal
    ``flat``    [sum of T, ...], no padding    ``lengths``, and ``offsets``: int64 [B], where each begins, as
                                               ``torch.nn.EmbeddingBag`` takes them; an empty one keeps its own
    ==========  =============================  =================================================================

    ``keys`` is the list of B sample keys. ``rate_hz`` is one int in Hz if the input is ``"audio"`` and the samples
    carry it; samples of different rates are refused.

    Args:
        input: The field that becomes the model's input: an array whose first dimension is time, unless stacked.
        target: The field that becomes ``targets``: a number gives int64 [B] (float32 [B] if it is a float); an array
            [U, ...] gives [B, Umax, ...] padded, and ``target_lengths``: int64 [B].
        layout: See above.
        pad_value: Stands behind the end of a shorter input.
        target_pad_value: Stands behind the end of a shorter target.
        keep: Further fields to keep: numbers become a tensor [B] (int64, float64 or bool), anything else a list.
    """

    input: str
    _: KW_ONLY
    target: str | None = None
    layout: Layout = "pad"
    pad_value: float = 0
    target_pad_value: float = 0
    keep: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.layout not in get_args(Layout):
            raise self.refuse(f"unknown layout {self.layout!r}. {nearest(str(self.layout), get_args(Layout))}")
        if isinstance(self.keep, str):
            raise self.refuse(f"keep must be a list of fields, got {self.keep!r}")
        object.__setattr__(self, "keep", tuple(self.keep))
        for field in (self.input, *self.keep):
            if field in _RESERVED:
                raise self.refuse(f"the field {field!r} has a name that the batch needs for its own; rename it before")
        if self.input in self.keep:
            raise self.refuse(f"the field {self.input!r} is the input and need not be kept")
        if self.input == "audio" and "rate_hz" in self.keep:
            raise self.refuse("rate_hz comes with audio and need not be kept")

    def needs(self) -> tuple[str, ...]:
        return (self.input, *([self.target] if self.target else []), *self.keep)

    def gives(self) -> tuple[str, ...]:
        beside = {"pad": ("lengths",), "stack": (), "flat": ("lengths", "offsets")}[self.layout]
        rate = ("rate_hz",) if self.input == "audio" else ()
        return ("keys", self.input, *beside, *rate, *(["targets"] if self.target else []), *self.keep)

    def apply(self, samples: Sequence[Sample]) -> Batch:
        if not samples:
            raise ValueError("a batch of no samples")
        fields: dict[str, Any] = {"keys": [sample.key for sample in samples]}
        inputs = [self._array(sample, self.input) for sample in samples]
        self._check_shapes(samples, self.input, inputs, free=0 if self.layout == "stack" else 1)
        if self.layout == "pad":
            fields[self.input], fields["lengths"] = _pad(inputs, self.pad_value)
        elif self.layout == "stack":
            fields[self.input] = _stack(inputs)
        else:
            fields[self.input], fields["lengths"], fields["offsets"] = _flat(inputs)
        if self.input == "audio":
            self._check_finite(samples, inputs)
            fields.update(self._rate(samples))
        if self.target is not None:
            fields.update(self._targets(samples, self.target))
        for name in self.keep:
            fields[name] = self._kept(samples, name)
        return Batch(fields)

    def _error(self, sample: Sample, reason: str) -> SampleError:
        return SampleError(self.label, sample.key, sample.shard, reason)

    def _get(self, sample: Sample, field: str) -> Any:
        if field not in sample:
            raise self._error(sample, f"no field {field!r}; it has {', '.join(sorted(sample))}")
        if sample[field] is None:
            raise self._error(sample, f"its {field} is null")
        return sample[field]

    def _array(self, sample: Sample, field: str) -> Array:
        value = self._get(sample, field)
        if isinstance(value, (bytes, str)):
            remedy = "the number in it is the field 'label'" if field == "cls" else "decode it before"
            raise self._error(sample, f"its {field} is {type(value).__name__}, not an array; {remedy}")
        array = np.asarray(value)
        if array.dtype.kind not in "biufc":
            raise self._error(sample, f"its {field} is {type(value).__name__}, not an array of numbers")
        return array

    def _check_shapes(self, samples: Sequence[Sample], field: str, arrays: list[Array], *, free: int) -> None:
        """Equal dtypes, equal numbers of dimensions, and equal shapes but for the first ``free`` dimensions."""
        first = arrays[0]
        for sample, array in zip(samples, arrays, strict=True):
            if array.dtype != first.dtype:
                raise self._error(sample, f"its {field} is {array.dtype}, and that of {samples[0].key!r} {first.dtype}")
            if array.ndim < free:
                raise self._error(sample, f"its {field} is one number, and layout {self.layout!r} needs an array")
            if array.ndim != first.ndim or array.shape[free:] != first.shape[free:]:
                shapes = f"{list(array.shape)}, and that of {samples[0].key!r} {list(first.shape)}"
                remedy = "; make them equal, or set layout='pad'" if self.layout == "stack" else ""
                raise self._error(sample, f"its {field} has shape {shapes}{remedy}")

    def _check_finite(self, samples: Sequence[Sample], audios: Sequence[Array]) -> None:
        """Here, and not on the device: there it would be the batch's error, and a wait for the device."""
        for sample, audio in zip(samples, audios, strict=True):
            with np.errstate(all="ignore"):
                sound = audio.dtype.kind != "f" or np.isfinite(audio.sum()) or np.isfinite(audio).all()
            if not sound:
                at = int(np.flatnonzero(~np.isfinite(audio))[0])
                raise self._error(sample, f"its audio holds {audio.flat[at]} at place {at} of {audio.size}")

    def _rate(self, samples: Sequence[Sample]) -> dict[str, int]:
        first = samples[0].get("rate_hz")
        for sample in samples:
            if sample.get("rate_hz") != first:
                raise self._error(
                    sample,
                    f"its audio has {sample.get('rate_hz')} Hz, and that of {samples[0].key!r} {first} Hz; "
                    "put Resample before Collate",
                )
        return {} if first is None else {"rate_hz": int(first)}

    def _targets(self, samples: Sequence[Sample], field: str) -> dict[str, torch.Tensor]:
        arrays = [self._array(sample, field) for sample in samples]
        self._check_shapes(samples, field, arrays, free=1 if arrays[0].ndim else 0)
        if arrays[0].ndim:
            targets, lengths = _pad(arrays, self.target_pad_value)
            return {"targets": targets, "target_lengths": lengths}
        dtype = np.float32 if arrays[0].dtype.kind == "f" else np.int64
        return {"targets": torch.from_numpy(np.array(arrays, dtype=dtype))}

    def _kept(self, samples: Sequence[Sample], field: str) -> Any:
        for sample in samples:
            if field not in sample:
                raise self._error(sample, f"no field {field!r}; it has {', '.join(sorted(sample))}")
        values = [sample[field] for sample in samples]
        for kinds, dtype in _NUMBERS:
            if all(isinstance(value, kinds) for value in values):
                return torch.tensor(values, dtype=dtype)
        return values


def _lengths(arrays: Sequence[Array]) -> npt.NDArray[np.int64]:
    return np.fromiter(map(len, arrays), dtype=np.int64, count=len(arrays))


def _pad(arrays: Sequence[Array], value: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Arrays [T, ...] -> ([B, Tmax, ...] of their dtype, lengths int64 [B])."""
    lengths = _lengths(arrays)
    out = np.empty((len(arrays), int(lengths.max()), *arrays[0].shape[1:]), dtype=arrays[0].dtype.newbyteorder("="))
    for row, array in zip(out, arrays, strict=True):
        row[: len(array)] = array
        row[len(array) :] = value
    return torch.from_numpy(out), torch.from_numpy(lengths)


def _stack(arrays: Sequence[Array]) -> torch.Tensor:
    """Arrays of one shape -> [B, ...] of their dtype."""
    out = np.empty((len(arrays), *arrays[0].shape), dtype=arrays[0].dtype.newbyteorder("="))
    np.stack(arrays, out=out)
    return torch.from_numpy(out)


def _flat(arrays: Sequence[Array]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Arrays [T, ...] -> ([sum of T, ...] of their dtype, lengths int64 [B], offsets int64 [B])."""
    lengths = _lengths(arrays)
    offsets = np.cumsum(lengths) - lengths
    out = np.concatenate(arrays, dtype=arrays[0].dtype.newbyteorder("="))
    return torch.from_numpy(out), torch.from_numpy(lengths), torch.from_numpy(offsets)

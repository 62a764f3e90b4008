"""Stages that make one batch of several samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from ecopipe.stages.memory import BatchMemory, BatchRows
from ecopipe.stages.stage import CollateStage
from ecopipe.vocabulary.errors import SampleError
from ecopipe.vocabulary.sample import Batch, Sample

Layout = Literal["pad", "stack", "flat"]
Integers = Literal["int64", "int32"]
Array = npt.NDArray[Any]

LOUDEST = 1e6
"""Audio beyond this is refused: its energies would leave float32."""

_memory = BatchMemory()

_RESERVED = ("keys", "lengths", "offsets", "targets", "target_lengths")
_NUMBERS = (
    ((bool, np.bool_), torch.bool),
    ((int, np.integer), torch.int64),
    ((int, float, np.integer, np.floating), torch.float64),
)


class FieldCollate(CollateStage, abstract=True):
    """A collate stage that takes arrays and numbers from named fields of the samples; errors name the sample."""

    def check_fields(self, input: str, keep: Sequence[str], reserved: Sequence[str]) -> tuple[str, ...]:
        """``keep`` as a tuple, each once, ``input`` none of them, and no name one of those that the batch needs.

        Raises:
            ConfigError: Names the field.
        """
        if not isinstance(keep, list | tuple):
            raise self.refuse(f"keep must be a list of fields, got {keep!r}")
        for field in (input, *keep):
            if field in reserved:
                raise self.refuse(f"the field {field!r} has a name that the batch needs for its own; rename it before")
        if input in keep:
            raise self.refuse(f"the field {input!r} is the input and need not be kept")
        if twice := [field for at, field in enumerate(keep) if field in keep[:at]]:
            raise self.refuse(f"keep names the field {twice[0]!r} twice; name it once")
        return tuple(keep)

    def error(self, sample: Sample, reason: str) -> SampleError:
        """The error that a sample raises; to be raised by the caller."""
        return SampleError(self.label, sample.key, sample.shard, reason)

    def array(self, sample: Sample, field: str) -> Array:
        """A field that holds numbers."""
        if field not in sample:
            raise self.error(sample, f"no field {field!r}; it has {', '.join(sorted(sample))}")
        value = sample[field]
        if value is None:
            raise self.error(sample, f"its {field} is null")
        if isinstance(value, (bytes, str)):
            remedy = "the number in it is the field 'label'" if field == "cls" else "decode it before"
            raise self.error(sample, f"its {field} is {type(value).__name__}, not an array; {remedy}")
        array = np.asarray(value)
        if array.dtype.kind not in "biufc":
            raise self.error(sample, f"its {field} is {type(value).__name__}, not an array of numbers")
        return array

    def tokens(self, sample: Sample, field: str) -> npt.NDArray[np.int64]:
        """A field that holds token numbers: int64 [T]."""
        array = self.array(sample, field)
        if array.ndim != 1 or array.dtype.kind not in "iu":
            raise self.error(sample, f"its {field} is {array.dtype} {list(array.shape)}, not token numbers [T]")
        return array.astype(np.int64, copy=False)

    def kept(self, samples: Sequence[Sample], field: str) -> Any:
        """A further field of all samples: numbers as a tensor [B], anything else as a list."""
        for sample in samples:
            if field not in sample:
                raise self.error(sample, f"no field {field!r}; it has {', '.join(sorted(sample))}")
        values = [sample[field] for sample in samples]
        for kinds, dtype in _NUMBERS:
            if all(isinstance(value, kinds) for value in values):
                return torch.tensor(values, dtype=dtype)
        return values


@dataclass(frozen=True)
class Collate(FieldCollate):
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

    ``fixed_length``, ``pad_first``, ``truncate_first``, ``init_token``, ``eos_token`` and ``batch_first`` are those of
    torchtext's legacy ``Field`` (``fix_length`` there, and ``batch_first`` False by default), with the same result.
    They concern the input, not the target. Device stages take batches that are padded behind, batch first.

    Args:
        input: The field that becomes the model's input: an array whose first dimension is time, unless stacked.
        target: The field that becomes ``targets``: a number gives int64 [B] (float32 [B] if it is a float); an array
            [U, ...] gives [B, Umax, ...] padded, and ``target_lengths``: int64 [B].
        layout: See above.
        pad_value: Stands behind the end of a shorter input.
        target_pad_value: Stands behind the end of a shorter target.
        keep: Further fields to keep: numbers become a tensor [B] (int64, float64 or bool), anything else a list.
        fixed_length: Pads and truncates every input to exactly so many, ``init_token`` and ``eos_token`` counted. Only
            with layout ``pad``.
        pad_first: Pads before the input instead of behind it. Only with layout ``pad``.
        truncate_first: Truncates at the beginning of the input instead of its end. Only with ``fixed_length``.
        init_token: A number that is put before every input; the input is then integers [T]. Not when stacked.
        eos_token: A number that is put behind every input, and is never truncated. Not when stacked.
        batch_first: False gives the padded input as [Tmax, B, ...]. Only with layout ``pad``.
        length_dtype: Of ``lengths`` and ``target_lengths``: int32 is what RNN-T losses take, and the CTC of cuDNN.
        target_dtype: Of targets that are sequences of integers. None keeps their own.
        label_stride: Steps of the input per output of a model that is trained with CTC: hop length times the model's
            subsampling where the input is audio. A sample whose target needs more outputs than ``T // label_stride``
            (one a label, and one for the blank between two equal neighbours) is refused: its loss would be infinite.
    """

    input: str
    _: KW_ONLY
    target: str | None = None
    layout: Layout = "pad"
    pad_value: float = 0
    target_pad_value: float = 0
    keep: tuple[str, ...] = ()
    fixed_length: int | None = None
    pad_first: bool = False
    truncate_first: bool = False
    init_token: int | None = None
    eos_token: int | None = None
    batch_first: bool = True
    length_dtype: Integers = "int64"
    target_dtype: Integers | None = None
    label_stride: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "keep", self.check_fields(self.input, self.keep, _RESERVED))
        super().__post_init__()
        self.check_choices(layout=Layout, length_dtype=Integers)
        if self.target_dtype is not None:
            self.check_choices(target_dtype=Integers)
        self._check_legacy()
        if self.input == "audio" and "rate_hz" in self.keep:
            raise self.refuse("rate_hz comes with audio and need not be kept")
        if self.label_stride is not None:
            self.check_positive("label_stride")
            if self.target is None or self.layout == "stack":
                raise self.refuse("label_stride compares the input with a target: give target, and do not stack")

    def _check_legacy(self) -> None:
        given = {
            "fixed_length": self.fixed_length is not None,
            "pad_first": self.pad_first,
            "batch_first=False": not self.batch_first,
        }
        for name, asked in given.items():
            if asked and self.layout != "pad":
                raise self.refuse(f"{name} is for layout 'pad', and layout is {self.layout!r}")
        if self.layout == "stack" and self._added:
            raise self.refuse("init_token and eos_token are for layouts 'pad' and 'flat', and layout is 'stack'")
        if self.fixed_length is not None and self.fixed_length < max(self._added, 1):
            raise self.refuse(f"fixed_length must be at least {max(self._added, 1)}, got {self.fixed_length}")
        if self.truncate_first and self.fixed_length is None:
            raise self.refuse("truncate_first needs fixed_length: nothing else is truncated")

    @property
    def _added(self) -> int:
        """Numbers that come to every input."""
        return (self.init_token is not None) + (self.eos_token is not None)

    def needs(self) -> tuple[str, ...]:
        return (self.input, *([self.target] if self.target else []), *self.keep)

    def gives(self) -> tuple[str, ...]:
        beside = {"pad": ("lengths",), "stack": (), "flat": ("lengths", "offsets")}[self.layout]
        rate = ("rate_hz",) if self.input == "audio" else ()
        return ("keys", self.input, *beside, *rate, *(["targets"] if self.target else []), *self.keep)

    def takes_rows(self, field: str) -> bool:
        plain = self.layout == "pad" and self.batch_first and not self.pad_first and not self._added
        return plain and field == self.input and self.fixed_length is None

    def apply(self, samples: Sequence[Sample]) -> Batch:
        return self._made(samples, None)

    def apply_to_rows(self, samples: Sequence[Sample], rows: BatchRows) -> Batch:
        return self._made(samples, rows)

    def _made(self, samples: Sequence[Sample], rows: BatchRows | None) -> Batch:
        if not samples:
            raise ValueError("a batch of no samples")
        fields: dict[str, Any] = {"keys": [sample.key for sample in samples]}
        inputs = [self.array(sample, self.input) for sample in samples]
        self._check_shapes(samples, self.input, inputs, free=0 if self.layout == "stack" else 1)
        if self._added or self.fixed_length is not None:
            inputs = [self._framed(sample, array) for sample, array in zip(samples, inputs, strict=True)]
        in_place = rows is not None and rows.hold(inputs)
        if rows is not None and in_place:
            fields[self.input], fields["lengths"] = _padded(rows, self.pad_value)
        elif self.layout == "pad":
            fields[self.input], fields["lengths"] = _pad(
                inputs, self.pad_value, self.fixed_length, first=self.pad_first, time_first=not self.batch_first
            )
        elif self.layout == "stack":
            fields[self.input] = _stack(inputs)
        else:
            fields[self.input], fields["lengths"], fields["offsets"] = _flat(inputs)
        if self.input == "audio":
            if not in_place:
                self._check_finite(samples, inputs)
            fields.update(self._rate(samples))
        if self.target is not None:
            fields.update(self._targets(samples, self.target, inputs))
        for name in self.keep:
            fields[name] = self.kept(samples, name)
        for name in ("lengths", "target_lengths"):
            if name in fields:
                fields[name] = fields[name].to(getattr(torch, self.length_dtype))
        return Batch(fields)

    def _framed(self, sample: Sample, array: Array) -> Array:
        """The input, truncated, between ``init_token`` and ``eos_token``."""
        if self.fixed_length is not None:
            most = self.fixed_length - self._added
            array = array[max(len(array) - most, 0) :] if self.truncate_first else array[:most]
        if not self._added:
            return array
        self.tokens(sample, self.input)
        around = [[] if token is None else [token] for token in (self.init_token, self.eos_token)]
        return np.concatenate([np.array(around[0], array.dtype), array, np.array(around[1], array.dtype)])

    def _check_shapes(self, samples: Sequence[Sample], field: str, arrays: list[Array], *, free: int) -> None:
        """Equal dtypes, equal numbers of dimensions, and equal shapes but for the first ``free`` dimensions."""
        first = arrays[0]
        for sample, array in zip(samples, arrays, strict=True):
            if array.dtype != first.dtype:
                raise self.error(sample, f"its {field} is {array.dtype}, and that of {samples[0].key!r} {first.dtype}")
            if array.ndim < free:
                raise self.error(sample, f"its {field} is one number, and layout {self.layout!r} needs an array")
            if array.ndim != first.ndim or array.shape[free:] != first.shape[free:]:
                shapes = f"{list(array.shape)}, and that of {samples[0].key!r} {list(first.shape)}"
                remedy = "; make them equal, or set layout='pad'" if self.layout == "stack" else ""
                raise self.error(sample, f"its {field} has shape {shapes}{remedy}")

    def _check_finite(self, samples: Sequence[Sample], audios: Sequence[Array]) -> None:
        """Here, and not on the device: there it would be the batch's error, and a wait for the device."""
        for sample, audio in zip(samples, audios, strict=True):
            if audio.dtype.kind != "f" or not audio.size:
                continue
            if not (audio.max() <= LOUDEST and audio.min() >= -LOUDEST):
                at = int(np.flatnonzero(~(np.abs(audio) <= LOUDEST))[0])
                raise self.error(
                    sample,
                    f"its audio holds {audio.flat[at]:g} at place {at} of {audio.size}; audio lies in [-1, 1], and "
                    f"beyond {LOUDEST:g} it is taken as damaged",
                )

    def _rate(self, samples: Sequence[Sample]) -> dict[str, int]:
        first = samples[0].get("rate_hz")
        for sample in samples:
            if sample.get("rate_hz") != first:
                raise self.error(
                    sample,
                    f"its audio has {sample.get('rate_hz')} Hz, and that of {samples[0].key!r} {first} Hz; "
                    "put Resample before Collate",
                )
        return {} if first is None else {"rate_hz": int(first)}

    def _targets(self, samples: Sequence[Sample], field: str, inputs: Sequence[Array]) -> dict[str, torch.Tensor]:
        arrays = [self.array(sample, field) for sample in samples]
        self._check_shapes(samples, field, arrays, free=1 if arrays[0].ndim else 0)
        if arrays[0].ndim:
            if self.label_stride is not None:
                self._check_labels(samples, field, inputs, self.label_stride)
            targets, lengths = _pad(arrays, self.target_pad_value)
            if self.target_dtype is not None and arrays[0].dtype.kind in "iu":
                targets = targets.to(getattr(torch, self.target_dtype))
            return {"targets": targets, "target_lengths": lengths}
        dtype = np.float32 if arrays[0].dtype.kind == "f" else np.int64
        return {"targets": torch.from_numpy(np.array(arrays, dtype=dtype))}

    def _check_labels(self, samples: Sequence[Sample], field: str, inputs: Sequence[Array], stride: int) -> None:
        """Here, and not beside the loss: there an infinite loss names no sample."""
        for sample, array in zip(samples, inputs, strict=True):
            labels, outputs = self.tokens(sample, field), len(array) // stride
            blanks = int((labels[1:] == labels[:-1]).sum())
            if len(labels) + blanks > outputs:
                raise self.error(
                    sample,
                    f"its {field} needs {len(labels) + blanks} outputs ({len(labels)} labels, and {blanks} blanks "
                    f"between equal ones), and its {self.input} of {len(array)} gives {outputs} at label_stride "
                    f"{stride}; set bad_samples='skip' to leave such samples out, or subsample less",
                )


def _lengths(arrays: Sequence[Array]) -> npt.NDArray[np.int64]:
    return np.fromiter(map(len, arrays), dtype=np.int64, count=len(arrays))


def _padded(rows: BatchRows, value: float) -> tuple[torch.Tensor, torch.Tensor]:
    """What :func:`_pad` makes of arrays that are in their places."""
    lengths = _lengths(rows.rows)
    for row, length in zip(rows.whole, lengths.tolist(), strict=True):
        row[length:] = value
    return torch.from_numpy(rows.whole), torch.from_numpy(lengths)


def _pad(
    arrays: Sequence[Array], value: float, length: int | None = None, *, first: bool = False, time_first: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Arrays [T, ...] -> ([B, Tmax, ...] of their dtype, lengths int64 [B]).

    Tmax is ``length``, or the longest T; ``first`` pads before them; ``time_first`` gives [Tmax, B, ...].
    """
    lengths = _lengths(arrays)
    longest = int(lengths.max()) if length is None else length
    shape = (longest, len(arrays)) if time_first else (len(arrays), longest)
    out = _memory.empty((*shape, *arrays[0].shape[1:]), arrays[0].dtype.newbyteorder("="))
    for row, array in zip(out.swapaxes(0, 1) if time_first else out, arrays, strict=True):
        cut = longest - len(array) if first else len(array)
        row[:cut], row[cut:] = (value, array) if first else (array, value)
    return torch.from_numpy(out), torch.from_numpy(lengths)


def _stack(arrays: Sequence[Array]) -> torch.Tensor:
    """Arrays of one shape -> [B, ...] of their dtype."""
    out = _memory.empty((len(arrays), *arrays[0].shape), arrays[0].dtype.newbyteorder("="))
    np.stack(arrays, out=out)
    return torch.from_numpy(out)


def _flat(arrays: Sequence[Array]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Arrays [T, ...] -> ([sum of T, ...] of their dtype, lengths int64 [B], offsets int64 [B])."""
    lengths = _lengths(arrays)
    offsets = np.cumsum(lengths) - lengths
    out = _memory.empty((int(lengths.sum()), *arrays[0].shape[1:]), arrays[0].dtype.newbyteorder("="))
    np.concatenate(arrays, out=out)
    return torch.from_numpy(out), torch.from_numpy(lengths), torch.from_numpy(offsets)

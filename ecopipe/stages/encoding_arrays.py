"""Stages that make members of arrays, and arrays of such members: tokens, features, whatever is numbers."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ecopipe.formats import arrays
from ecopipe.stages.encoding import array_of, check_field
from ecopipe.stages.stage import SampleStage
from ecopipe.vocabulary.randomness import Chance
from ecopipe.vocabulary.sample import Sample

ArrayDtype = Literal[
    "bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float16", "float32", "float64"
]


@dataclass(frozen=True)
class EncodeArray(SampleStage):
    """An array of numbers -> the member ``FIELD.npy``: bytes. The array is taken away.

    Args:
        field: The array, such as ``"tokens"``.
        dtype: What to store it as: ``"uint16"`` takes a quarter of the room of int64. Whole numbers that it cannot hold
            are an error, and so are floats as whole numbers; floats are rounded to narrower floats.
        into: The field for the bytes. By default ``FIELD.npy``.
        keep: Leave the array for the stages behind.
    """

    field: str
    _: KW_ONLY
    dtype: ArrayDtype | None = None
    into: str | None = None
    keep: bool = False

    def __post_init__(self) -> None:
        if self.dtype is not None:
            self.check_choices(dtype=ArrayDtype)
        super().__post_init__()
        check_field(self, "into", self._into)

    @property
    def _into(self) -> str:
        return self.into or f"{self.field}.npy"

    def needs(self) -> tuple[str, ...]:
        return (self.field,)

    def gives(self) -> tuple[str, ...]:
        return (self._into,)

    def takes_away(self) -> tuple[str, ...]:
        return () if self.keep else (self.field,)

    def apply(self, sample: Sample, chance: Chance) -> Sample:
        array = array_of(sample, self.field)
        try:
            data = arrays.encode(array if self.dtype is None else _converted(array, np.dtype(self.dtype)))
        except ValueError as error:
            raise ValueError(f"its {self.field}: {error}") from error
        return sample.without(*self.takes_away()).with_fields(**{self._into: data})


@dataclass(frozen=True)
class DecodeArray(SampleStage):
    """A member of an array of numbers, ``npy`` -> the array. The bytes are taken away.

    Args:
        field: The member, such as ``"tokens.npy"``.
        into: The field for the array. By default that of the member less its last part: ``tokens``.
        dtype: What to convert it to, by the rules of :class:`EncodeArray`; token numbers are int64 in a batch whatever
            they are here.
    """

    field: str
    _: KW_ONLY
    into: str | None = None
    dtype: ArrayDtype | None = None

    def __post_init__(self) -> None:
        if self.dtype is not None:
            self.check_choices(dtype=ArrayDtype)
        super().__post_init__()
        if not self._into:
            raise self.refuse(f"field {self.field!r} does not name the array; say into, such as 'tokens'")

    @property
    def _into(self) -> str:
        return self.into or self.field.rpartition(".")[0]

    def needs(self) -> tuple[str, ...]:
        return (self.field,)

    def gives(self) -> tuple[str, ...]:
        return (self._into,)

    def takes_away(self) -> tuple[str, ...]:
        return (self.field,)

    def apply(self, sample: Sample, chance: Chance) -> Sample:
        if self.field not in sample:
            raise ValueError(f"no field {self.field!r}; it has {', '.join(sorted(sample))}")
        try:
            array = arrays.decode(sample[self.field])
            array = array if self.dtype is None else _converted(array, np.dtype(self.dtype))
        except ValueError as error:
            raise ValueError(f"its {self.field}: {error}") from error
        return sample.without(self.field).with_fields(**{self._into: array})


def _converted(array: npt.NDArray[Any], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """The array in another dtype.

    Raises:
        ValueError: Its values do not fit.
    """
    if np.can_cast(array.dtype, dtype, "safe") or not array.size:
        return array.astype(dtype)
    if array.dtype.kind == "f" and dtype.kind == "f":
        with np.errstate(over="ignore"):
            made = array.astype(dtype)
        if (lost := np.isinf(made) & ~np.isinf(array)).any():
            raise ValueError(f"it holds {array[lost][0]!r}, which {dtype} cannot hold; choose a wider dtype")
        return made
    if array.dtype.kind not in "iub" or dtype.kind not in "iuf":
        raise ValueError(f"{array.dtype} is not stored as {dtype}; choose dtype={str(array.dtype)!r}")
    made = array.astype(dtype)
    least, most = int(array.min()), int(array.max())
    limits = (-(1 << np.finfo(dtype).nmant), 1 << np.finfo(dtype).nmant) if dtype.kind == "f" else None
    low, high = limits or (np.iinfo(dtype).min, np.iinfo(dtype).max)
    if least < low or most > high:
        raise ValueError(f"its numbers are {least:,} to {most:,}, and {dtype} holds {low:,} to {high:,}")
    return made

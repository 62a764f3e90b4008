"""The samples of a batch by columns: for stages that work on many samples as fast as on one.

A stage that can do so has a method ``apply_columns`` beside ``apply``. It must give what ``apply`` gives for each
sample, bit for bit, or None: then, and whenever it raises, the batch is made sample by sample, and whatever is wrong
with a sample is said there, in one place. So no column is ever the reason of an error.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch

from ecopipe.stages.collate import Collate
from ecopipe.stages.stage import CollateStage
from ecopipe.vocabulary.randomness import Chance
from ecopipe.vocabulary.sample import Batch


class Shared(Protocol):
    """Gives memory that another process shares."""

    def empty(self, size: int) -> npt.NDArray[np.uint8] | None:
        """An array whose content is not set, uint8 [size]; None if there is none to be had."""


class Memory:
    """Memory for the arrays of batches. That of a batch which nobody holds any more is used again: to get pages from
    the system takes several times as long as to fill them.

    An array's memory is free when neither the array, nor a view of it, nor a tensor that shares it is left. Several
    threads may use one.
    """

    def __init__(self) -> None:
        self._free: dict[int, Any] = {}  # each call on it is one step: threads, and what is let go meanwhile, may come

    def empty(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """An array whose content is not set."""
        count, kind = math.prod(shape), np.dtype(dtype)
        size = count * kind.itemsize
        owner = self._taken(size)
        if owner is None:
            owner = np.empty(size, dtype=np.uint8)
        # through a memoryview, so that views of the array keep the array, and not only its memory, alive
        array = np.frombuffer(memoryview(owner), dtype=kind, count=count)
        weakref.finalize(array, self._take_back, owner).atexit = False
        return array.reshape(shape)

    def _taken(self, size: int) -> Any:
        for kept in reversed(list(self._free.values())):
            if size <= len(kept) <= 2 * size and (owner := self._free.pop(id(kept), None)) is not None:
                return owner
        return None

    def _take_back(self, owner: Any) -> None:
        self._free[id(owner)] = owner
        for oldest in list(self._free)[:-_KEPT]:
            self._free.pop(oldest, None)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ()


class BatchMemory(Memory):
    """Memory for what a batch holds when it is made. In a worker it is what the consumer shares, as far as there is
    such: ``shared`` gives uint8 arrays of so many bytes, or None."""

    shared: ClassVar[Shared | None] = None

    def empty(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        kind = np.dtype(dtype)
        found = None if self.shared is None else self.shared.empty(math.prod(shape) * kind.itemsize)
        return super().empty(shape, dtype) if found is None else found.view(kind).reshape(shape)


_KEPT = 6
"""Arrays of earlier batches whose memory is kept."""


@dataclass(frozen=True)
class Columns:
    """The samples of a batch: their keys, and each field of all of them.

    A column has as many entries as there are keys, and can be sliced: an array [B, ...], or a list, or members of the
    shards, whose slices are uint8 [slice, bytes] if all are of one size, else lists of bytes. A field that not every
    sample has is not there.
    """

    keys: list[str]
    fields: Mapping[str, Any]
    memory: Memory = field(default_factory=Memory, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.keys)

    def replaced(self, *taken_away: str, **fields: Any) -> Columns:
        """These columns less some, with others added or replaced."""
        left = {name: column for name, column in self.fields.items() if name not in taken_away}
        return Columns(self.keys, {**left, **fields}, self.memory)


@runtime_checkable
class OfOneSize(Protocol):
    """A column of members of one size, of which those parts can be had that are wanted."""

    def first(self) -> npt.NDArray[np.uint8]:
        """The first member: uint8 [1, bytes]."""

    def behind(self, head: bytes) -> npt.NDArray[np.uint8] | None:
        """The members less their head, in the batch's memory: uint8 [members, bytes]; None if one of them begins with
        something else."""


@runtime_checkable
class ByColumns(Protocol):
    """A sample stage that can work on columns."""

    def needs(self) -> tuple[str, ...]:
        """Fields that must be there."""

    def apply_columns(self, columns: Columns, chance: Chance) -> Columns | None:
        """The columns with fields added or replaced; None if it has to be done sample by sample."""


def collates_columns(collate: CollateStage) -> bool:
    """Whether :func:`collate_columns` may succeed."""
    return type(collate) is Collate and collate.layout == "stack" and collate.input != "audio"


def collate_columns(collate: CollateStage, columns: Columns) -> Batch | None:
    """What ``Collate(layout="stack")`` makes of the samples; None if it has to look at each."""
    if not (isinstance(collate, Collate) and all(name in columns.fields for name in collate.needs())):
        return None
    images = columns.fields[collate.input]
    arrays = isinstance(images, np.ndarray) and images.ndim > 1 and images.flags.writeable
    if not arrays or images.dtype.kind not in "biufc":
        return None
    fields: dict[str, Any] = {"keys": columns.keys, collate.input: torch.from_numpy(images)}
    if collate.target is not None:
        target = columns.fields[collate.target]
        if not _is_numbers(target):
            return None
        fields["targets"] = torch.from_numpy(target.astype(np.float32 if target.dtype.kind == "f" else np.int64))
    for name in collate.keep:
        column = columns.fields[name]
        if _is_numbers(column):
            wide = {"b": np.bool_, "f": np.float64}.get(column.dtype.kind, np.int64)
            fields[name] = torch.from_numpy(column.astype(wide))
        elif isinstance(column, list) and all(isinstance(value, str) for value in column):
            fields[name] = column
        else:
            return None
    return Batch(fields)


def _is_numbers(column: Any) -> bool:
    """Whether a column holds one number for each sample, which int64 or a float can hold."""
    return isinstance(column, np.ndarray) and column.ndim == 1 and column.dtype.kind in "biuf" and column.dtype != "u8"

"""The samples of a batch by columns: for stages that work on many samples as fast as on one.

A stage that can do so has a method ``apply_columns`` beside ``apply``. It must give what ``apply`` gives for each
sample, bit for bit, or None: then, and whenever it raises, the batch is made sample by sample, and whatever is wrong
with a sample is said there, in one place. So no column is ever the reason of an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch

from ecopipe.stages.collate import Collate
from ecopipe.stages.memory import Memory
from ecopipe.stages.stage import CollateStage
from ecopipe.vocabulary.randomness import Chance
from ecopipe.vocabulary.sample import Batch


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

"""Rows that stand for a part of a sample: a segment of a recording, some tokens of a document.

A stage that plans parts gives a table of them for each block: which row of the block each is a part of, where it begins
and ends, and the measures that are the part's own. It is made anew with the block, from the index alone, so neither a
cursor nor a state knows of parts.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ecopipe.formats.index_arrays import of_numbers
from ecopipe.plan.blocks import Rows

START, STOP, WHOLE = "part_start", "part_stop", "part_whole"
"""Columns of a row that stands for units [start, stop) of a sample of so many; int64."""

PART_COLUMNS = (START, STOP, WHOLE)


@dataclass(frozen=True)
class Parts:
    """Parts of the samples of a block, in order.

    Args:
        rows: int64 [N], the row of the block that each is a part of.
        columns: What a part has that its sample has not, or has otherwise: arrays [N] by column.
    """

    rows: Rows
    columns: Mapping[str, npt.NDArray[Any]]

    @classmethod
    def of(cls, rows: Rows, start: Rows, stop: Rows, whole: Rows, **columns: npt.NDArray[Any]) -> Parts:
        """Units [start, stop) of the samples at ``rows``, which have ``whole`` units, int64 [N] each."""
        return cls(rows, {START: start, STOP: stop, WHOLE: whole, **columns})

    def __len__(self) -> int:
        return len(self.rows)

    def put_into(self, table: pa.Table, at: Rows, names: Collection[str] | None = None) -> pa.Table:
        """Rows of samples with what the parts at some places have of their own: all of it, or what is named."""
        for name, values in self.columns.items():
            if names is not None and name not in names:
                continue
            column, known = pa.array(values[at]), table.schema.get_field_index(name)
            table = table.append_column(name, column) if known < 0 else table.set_column(known, name, column)
        return table

    def table(self, block: pa.Table, names: Collection[str]) -> pa.Table:
        """The parts as a block, in the columns of some names."""
        kept = [name for name in block.column_names if name in names]
        return self.put_into(block.select(kept).take(of_numbers(self.rows)), np.arange(len(self)))


@dataclass(frozen=True)
class Cut:
    """A block that has been cut into batches.

    Args:
        batches: Positions into the block, or into the parts.
        planned: What they were planned on: the block, or the parts of its samples as one.
        parts: The parts, if rows stand for parts of samples.
    """

    batches: list[Rows]
    planned: pa.Table
    parts: Parts | None = None

"""Tokens that were counted in the index, and documents that are held to the count."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ecopipe.formats.index_arrays import of_numbers, to_numpy
from ecopipe.stages.stage import CollateStage, Rows, Stage
from ecopipe.vocabulary.errors import SampleError
from ecopipe.vocabulary.sample import Part, Sample

Counts = npt.NDArray[np.int64]


def counted(stage: Stage, measure: str, block: pa.Table, rows: Rows) -> Counts:
    """A measure that counts tokens, of some rows of a block: int64 [N].

    Raises:
        ConfigError: The measure holds no whole numbers.
        SampleError: A row is without it.
    """
    column = block[measure].combine_chunks().take(of_numbers(rows))
    if not pa.types.is_integer(column.type):
        raise stage.refuse(f"{measure} holds {column.type}, which counts no tokens. Name a column of integers.")
    if column.null_count:
        at = int(np.argmax(np.asarray(column.is_null())))
        raise unplannable(stage, block, rows[at], f"has no {measure}. Leave it out with Where, or index again")
    return to_numpy(column).astype(np.int64)


def unplannable(stage: Stage, block: pa.Table, row: np.int64, reason: str) -> SampleError:
    """The error for a row of a block that a stage cannot plan; to be raised by the caller."""
    return SampleError(stage.label, block["key"][int(row)].as_py(), block["shard"][int(row)].as_py(), reason + ".")


def whole_document(stage: CollateStage, sample: Sample, tokens: Counts, part: Part, eos_token: int | None) -> Counts:
    """All tokens of a document of which a part was planned, with the ``eos_token`` behind.

    Raises:
        SampleError: They are not as many as were planned: then the parts would not be those of the document.
    """
    whole = tokens if eos_token is None else np.append(tokens, eos_token)
    if len(whole) != part.whole:
        reason = (
            f"it has {len(whole)} tokens, and {part.whole} were planned; index with the same tokenizer, and count an "
            "eos_token by extra=1 where the measure does not"
        )
        raise SampleError(stage.label, sample.key, sample.shard, reason)
    return whole

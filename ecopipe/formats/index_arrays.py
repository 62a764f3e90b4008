"""Between numpy and Arrow, by their buffers.

pyarrow's own ways (``pa.array``, ``pa.scalar``, ``to_numpy``, ``np.asarray``) import pandas where it is installed, in
each process: 0.2 s of CPU time before the first batch, for nothing that is used here.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa


def of_numbers(values: npt.NDArray[Any]) -> pa.Array:
    """An Arrow array of numbers or bools [N]: it shares the memory of numbers that lie side by side.

    Raises:
        ArrowNotImplementedError: They are neither.
    """
    kind = pa.from_numpy_dtype(values.dtype)
    laid = np.packbits(values, bitorder="little") if values.dtype == np.bool_ else np.ascontiguousarray(values)
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(laid)])


def scalar(value: float | bool) -> pa.Scalar:
    """An Arrow number or bool."""
    return of_numbers(np.array([value]))[0]


def of_texts(values: Iterable[str]) -> pa.StringArray:
    """An Arrow array of texts, less than 2 GiB of them."""
    encoded = [value.encode() for value in values]
    ends = np.fromiter(accumulate(map(len, encoded), initial=0), np.int32, len(encoded) + 1)
    return pa.StringArray.from_buffers(len(encoded), pa.py_buffer(ends), pa.py_buffer(b"".join(encoded)))


def to_numpy(values: pa.Array | pa.ChunkedArray) -> npt.NDArray[Any]:
    """The numbers or bools of an Arrow array, [N]: numbers of one chunk share its memory.

    Raises:
        ValueError: Some are missing, or they are neither numbers nor bools.
    """
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    if values.null_count:
        raise ValueError(f"{values.null_count:,} of {len(values):,} values are missing")
    kind = values.type
    if not pa.types.is_boolean(kind) and not pa.types.is_integer(kind) and not pa.types.is_floating(kind):
        raise ValueError(f"of type {kind}, which is no number and no bool")
    start, stop, buffer = values.offset, values.offset + len(values), values.buffers()[1]
    if not len(values):
        return np.empty(0, dtype=_dtype(kind))
    if pa.types.is_boolean(kind):
        bits = np.frombuffer(buffer, dtype=np.uint8, count=-(-stop // 8))
        return np.unpackbits(bits, bitorder="little")[start:stop].view(np.bool_)
    return np.frombuffer(buffer, dtype=_dtype(kind), count=stop)[start:]


def _dtype(kind: pa.DataType) -> np.dtype[Any]:
    """The numpy dtype of an Arrow type of numbers or bools: ``to_pandas_dtype`` needs pandas in some versions."""
    if pa.types.is_boolean(kind):
        return np.dtype(np.bool_)
    letter = "f" if pa.types.is_floating(kind) else "u" if pa.types.is_unsigned_integer(kind) else "i"
    return np.dtype(f"{letter}{kind.bit_width // 8}")


def to_floats(values: pa.Array | pa.ChunkedArray) -> npt.NDArray[np.float64]:
    """Numbers as float64 [N], with nan where one is missing."""
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    return np.asarray(to_numpy(values.cast(pa.float64()).fill_null(_NAN)), dtype=np.float64)


_NAN = scalar(np.nan)

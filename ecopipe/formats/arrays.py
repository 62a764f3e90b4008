"""Arrays of numbers: ``npy`` <-> numpy, without pickles.

The header of an ``npy`` is Python, and says the shape. It is read as a literal and compared with the bytes that follow,
before anything of that size is made.
"""

from __future__ import annotations

import functools
import io
import math
import sys
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

_KINDS = "biufc"
"""numpy's kinds of dtypes that are numbers or bools."""


class Header(NamedTuple):
    """What the header of an ``npy`` says; ``fortran``: the first dimension is the fastest; ``begin``: its bytes."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]
    begin: int


def encode(array: npt.NDArray[Any]) -> bytes:
    """An array as ``npy``, in C order.

    Raises:
        ValueError: It is none of numbers.
    """
    if array.dtype.kind not in _KINDS:
        raise ValueError(f"an array of {array.dtype} is none of numbers, and cannot be stored as npy")
    buffer = io.BytesIO()
    ordered = array.astype(array.dtype.newbyteorder("<"), order="C", copy=False)
    np.lib.format.write_array(buffer, ordered, version=(1, 0), allow_pickle=False)
    return buffer.getvalue()


def header(data: bytes) -> Header:
    """The header of an ``npy``, of whatever dtype.

    Raises:
        ValueError: It is damaged.
    """
    wide = data[6:8] != b"\x01\x00"
    end = (12 if wide else 10) + int.from_bytes(data[8 : 12 if wide else 10], "little")
    try:
        return _parsed(bytes(data[:end]))
    except ValueError as error:
        text = " ".join(str(error).split())
        raise ValueError(f"damaged npy: {text if len(text) <= 200 else text[:200] + ' ...'}") from error
    except Exception as error:  # a hostile literal takes the parser out of its stack, or fools its tokenizer
        raise ValueError(f"damaged npy: its header cannot be parsed ({type(error).__name__})") from error


def decode(data: bytes) -> npt.NDArray[Any]:
    """The array of an ``npy``, its own memory.

    Raises:
        ValueError: It is damaged or truncated, or of objects.
    """
    found = header(data)
    if found.dtype.kind not in _KINDS:
        raise ValueError(f"an npy of {found.dtype}, where numbers are wanted; pickled objects are not loaded")
    count = math.prod(found.shape)
    if len(data) - found.begin < count * found.dtype.itemsize:
        raise ValueError(
            f"damaged npy: its header says {found.dtype} {list(found.shape)}, {count * found.dtype.itemsize:,} bytes, "
            f"and it holds {len(data) - found.begin:,}; the file is truncated or its header was changed"
        )
    flat = np.frombuffer(data, found.dtype, count, found.begin)
    stored = flat.reshape(found.shape, order="F" if found.fortran else "C")
    return np.array(stored, dtype=found.dtype.newbyteorder("="), order="C")


@functools.lru_cache(maxsize=64)  # those of a corpus are few, and take numpy 100 us each
def _parsed(head: bytes) -> Header:
    stream = io.BytesIO(head)
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(stream)
    if any(not 0 <= size <= sys.maxsize for size in shape):
        raise ValueError(f"its shape is {list(shape)}")
    return Header(tuple(map(int, shape)), fortran, dtype, stream.tell())

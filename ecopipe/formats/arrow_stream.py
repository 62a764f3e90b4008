"""Messages of an Arrow IPC stream, told apart and made from parts.

A message is ``ff ff ff ff``, the size of its metadata (int32), the metadata (a flatbuffer), and the body: the buffers
of the columns. Of the metadata only what the format has fixed is looked at: Message (2: header, 3: size of the body),
RecordBatch (2: place and size of each buffer).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

MOST_METADATA = 1 << 20
_CONTINUED = b"\xff\xff\xff\xff"
_ALIGNED = 8


def message_size(head: bytes | bytearray | memoryview) -> int | None:
    """Bytes of the message that begins so, 0 at the mark of the stream's end; None if too little is there to tell.

    Raises:
        ValueError: No message begins so; says why.
    """
    if head[:4] != _CONTINUED[: len(head)]:
        raise ValueError("no message begins there")
    if len(head) < 8:
        return None
    (size,) = struct.unpack_from("<i", head, 4)
    if size == 0:
        return 0
    if not 8 <= size < MOST_METADATA:
        raise ValueError(f"a message's metadata cannot have {size} bytes")
    if len(head) < 8 + size:
        return None
    try:
        at = _field(head, _followed(head, 8), 3)
        (body,) = struct.unpack_from("<q", head, at) if at else (0,)
    except struct.error as error:
        raise ValueError("a message's metadata is none") from error
    if body < 0:
        raise ValueError(f"a message cannot have {body} bytes")
    return int(8 + size + body)


def _followed(data: bytes | bytearray | memoryview, at: int) -> int:
    """Where an offset of a flatbuffer leads to."""
    (by,) = struct.unpack_from("<I", data, at)
    return int(at + by)


def _field(data: bytes | bytearray | memoryview, table: int, number: int) -> int:
    """Where a field of a table of a flatbuffer lies; 0 if it is not there."""
    (back,) = struct.unpack_from("<i", data, table)
    (known,) = struct.unpack_from("<H", data, table - back)
    place = 4 + 2 * number
    (by,) = struct.unpack_from("<H", data, table - back + place) if place < known else (0,)
    return int(table + by) if by else 0


class Template:
    """The message of a record batch of which the numbers and the texts change, and all else stays.

    pyarrow makes a message of a few thousand bytes in 60 us of well-cached code, and in three times that between two
    batches of a stream; this takes a third of it.

    Args:
        example: A record batch of numbers, booleans and strings: with the rows and the nulls of all that are to come.
            A column of texts that change holds empty strings.
    """

    def __init__(self, example: pa.RecordBatch) -> None:
        message = bytearray(example.serialize())
        (size,) = struct.unpack_from("<i", message, 4)
        self._head, self._body = message[: 8 + size], message[8 + size :]
        root = _followed(self._head, 8)
        places = _followed(self._head, _field(self._head, _followed(self._head, _field(self._head, root, 2)), 2))
        (count,) = struct.unpack_from("<I", self._head, places)
        self._places = np.frombuffer(self._head, "<i8", 2 * count, places + 4).reshape(count, 2)
        self._size = np.frombuffer(self._head, "<i8", 1, _field(self._head, root, 3))
        self._rows = example.num_rows
        self._first: dict[str, int] = {}  # of each column's buffers
        at = 0
        for field in example.schema:
            self._first[field.name] = at
            at += 3 if pa.types.is_string(field.type) else 2
        self._kinds = {field.name: field.type for field in example.schema}

    def numbers(self, name: str) -> npt.NDArray[Any]:
        """The values of a column of numbers, to be written to."""
        at = int(self._places[self._first[name] + 1, 0])
        return np.frombuffer(self._body, self._kinds[name].to_pandas_dtype(), self._rows, at)

    def offsets(self, name: str) -> npt.NDArray[np.int32]:
        """Where the texts of a column begin and end, int32 [rows + 1], to be written to."""
        return np.frombuffer(self._body, np.int32, self._rows + 1, int(self._places[self._first[name] + 1, 0]))

    def message(self, texts: Sequence[tuple[str, Any]]) -> list[Any]:
        """The message in parts, good until the next one; the texts of a column are given joined, in UTF-8."""
        parts: list[Any] = [self._head, self._body]
        at = len(self._body)
        for name, text in texts:
            size = len(text)
            self._places[self._first[name] + 2] = at, size
            filling = -size % _ALIGNED
            parts += [text, bytes(filling)]
            at += size + filling
        self._size[0] = at
        return parts

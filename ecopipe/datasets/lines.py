"""Text files by the bytes where their rows begin: eight bytes of memory a row, and any row can be read alone."""

from __future__ import annotations

from array import array
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ecopipe.datasets.original import Original

_PIECE = 1 << 20


class RowBytes:
    """The rows of one text file.

    Args:
        file: The file.
    """

    def __init__(self, file: Original) -> None:
        self.file = file
        self._begins = array("q")
        self._counted = (0, 1)  # a place whose line number is known, and it

    def add(self, begin: int) -> None:
        """Notes that the next row begins at this byte; the row before ends there."""
        self._begins.append(begin)

    def sizes(self) -> npt.NDArray[np.int64]:
        """int64 [rows]: the bytes of each."""
        bounds = np.append(np.frombuffer(self._begins, np.int64), np.int64(self.file.size))
        return bounds[1:] - bounds[:-1]

    def read(self, place: int) -> bytes:
        """A row by its place, counted from 0, and what is between it and the next one."""
        begin = self._begins[place]
        end = self._begins[place + 1] if place + 1 < len(self._begins) else self.file.size
        return self.file.read(begin, end - begin)

    def where(self, place: int) -> Where:
        """How messages name a row."""
        return Where(self, self._begins[place])

    def line(self, offset: int) -> int:
        """The number of the line at a byte, counted from 1; what was counted before is not counted again."""
        at, line = self._counted if self._counted[0] <= offset else (0, 1)
        broken = False  # a \r at the end of the last piece, which a \n may follow
        while at < offset:
            piece = self.file.read(at, min(_PIECE, offset - at))
            if not piece:
                break
            line += piece.count(b"\n") + piece.count(b"\r") - piece.count(b"\r\n")
            line -= broken and piece.startswith(b"\n")
            broken = piece.endswith(b"\r")
            at += len(piece)
        self._counted = (offset, line)
        return line


@dataclass(frozen=True)
class Where:
    """The place of a row, which is counted only when a message shows it."""

    rows: RowBytes
    begin: int

    def __str__(self) -> str:
        return f"{self.rows.file.name}, line {self.rows.line(self.begin)}"

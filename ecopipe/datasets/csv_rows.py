"""CSV by the bytes of its rows: one pass finds where each begins, and then each is read alone."""

from __future__ import annotations

import codecs
import csv
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

_LONGEST = 1 << 30  # characters of a field
_BY_BYTES = ("ascii", "utf-8", "utf-8-sig", "iso8859", "cp125", "cp437", "cp850", "koi8", "mac-")


@dataclass(frozen=True)
class Dialect:
    """How a file of CSV is written; ``encoding`` is one whose line breaks are single bytes (:func:`by_bytes`)."""

    delimiter: str = ","
    quote: str = '"'
    escape: str = ""
    encoding: str = "utf-8-sig"

    @property
    def codec(self) -> str:
        """Of a row; a byte order mark is only before the first."""
        return "utf-8" if codecs.lookup(self.encoding).name == "utf-8-sig" else self.encoding

    def replaced(self, row: Iterable[str]) -> bool:
        """Whether a row of :func:`scan` holds what is no text."""
        return any("\udc80" <= letter <= "\udcff" for cell in row if not cell.isascii() for letter in cell)

    def reader(self, lines: Iterable[str]) -> Any:
        """The csv module's reader."""
        csv.field_size_limit(_LONGEST)  # a setting of the whole process: a review may be longer than its 128 KiB
        return csv.reader(
            lines,
            delimiter=self.delimiter,
            quotechar=self.quote or None,
            quoting=csv.QUOTE_MINIMAL if self.quote else csv.QUOTE_NONE,
            escapechar=self.escape or None,
            strict=True,
        )


def by_bytes(encoding: str) -> bool:
    """Whether bytes can be split into lines, and a line be read alone, in this encoding."""
    return codecs.lookup(encoding).name.startswith(_BY_BYTES)


def scan(stream: Iterable[bytes], dialect: Dialect) -> Iterator[tuple[int, list[str] | csv.Error]]:
    """Where each row that is not empty begins, and its fields or what is wrong with it.

    Bytes that are no text become surrogates.

    Args:
        stream: The file's lines, split after ``\\n``.
        dialect: How it is written.

    Raises:
        csv.Error: The file ends inside of a quoted field, so that it cannot be told where rows begin.
    """
    lines = _Lines(stream, dialect)
    rows = dialect.reader(lines)
    while True:
        begin = lines.at
        try:
            row = next(rows, None)
        except csv.Error as error:
            if lines.ended:
                raise
            yield max(begin, lines.mark), error
            continue
        if row is None:
            return
        if row:
            yield max(begin, lines.mark), row


def parse(data: bytes, dialect: Dialect) -> list[str]:
    """The first row of some bytes.

    Raises:
        UnicodeDecodeError, csv.Error: It is no text in the encoding, or no CSV.
    """
    lines = (line.decode(dialect.codec) for line in data.splitlines(keepends=True))
    row: list[str] = next(dialect.reader(lines), [])
    return row


class _Lines:
    """Decoded lines, and the place after the last one that was taken."""

    def __init__(self, stream: Iterable[bytes], dialect: Dialect) -> None:
        self._pieces = _pieces(stream)
        self._codec = dialect.codec
        self._marked = codecs.lookup(dialect.encoding).name == "utf-8-sig"
        self.at = self.count = self.mark = 0
        self.ended = False

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = next(self._pieces, None)
        if line is None:
            self.ended = True
            raise StopIteration
        if self._marked and not self.count and line.startswith(codecs.BOM_UTF8):
            self.at = self.mark = len(codecs.BOM_UTF8)
            line = line[self.at :]
        self.at += len(line)
        self.count += 1
        return line.decode(self._codec, "surrogateescape")


def _pieces(stream: Iterable[bytes]) -> Iterator[bytes]:
    for line in stream:
        if b"\r" in line and not (line.endswith(b"\r\n") and line.index(b"\r") == len(line) - 2):
            yield from line.splitlines(keepends=True)
        else:
            yield line

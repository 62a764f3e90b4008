"""CSV and TSV: tables of text, plain or with gzip."""

from __future__ import annotations

import csv
import gzip
import io
import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

from ecopipe.datasets.rows import OPTIONS, Row, Rows, repeated
from ecopipe.vocabulary.errors import ConfigError, CorpusError

_LONGEST = 1 << 30  # characters of a field


class CsvFiles(Rows):
    """One sample per row of CSV; see :class:`Rows` for what becomes of its columns.

    Quoted fields may hold delimiters, line breaks and doubled quotes. ``encoding`` is that of the file, such as
    ``latin-1``; members are UTF-8. Without a header columns are named by ``names``, or ``0``, ``1`` and so on.
    """

    name = "csv"
    title = "CSV or TSV, a sample a row"
    expects = "x.csv or x.tsv (.gz too), or a folder of them, a split each"
    options: ClassVar = {
        **OPTIONS,
        "delimiter": "between fields; tab stands for a tab; by the file's ending unless given",
        "encoding": "of the file, such as latin-1",
        "header": "whether the first row names the columns",
        "names": "the columns' names, if there is no header",
        "quote": "around fields that hold delimiters; empty for none",
        "escape": "before quotes that are not doubled, such as a backslash",
    }
    endings = (".csv", ".tsv", ".csv.gz", ".tsv.gz")

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        text: str = "",
        label: str = "",
        classes: Sequence[str] = (),
        file: str = "",
        root: str = "",
        members: Sequence[str] = (),
        columns: Sequence[str] = (),
        rows: Sequence[str] = (),
        delimiter: str = "",
        encoding: str = "utf-8-sig",
        header: bool = True,
        names: Sequence[str] = (),
        quote: str = '"',
        escape: str = "",
    ) -> None:
        self._delimiter = {"tab": "\t", "\\t": "\t"}.get(delimiter, delimiter)
        for setting, value in (("delimiter", self._delimiter), ("quote", quote), ("escape", escape)):
            if len(value) > 1:
                raise ConfigError(f"{setting}={value!r} is more than one character.")
        try:
            "".encode(encoding)
        except LookupError:
            raise ConfigError(f"encoding={encoding!r} is not known. Write utf-8, latin-1 or cp1252, say.") from None
        if header and names:
            raise ConfigError("names are for a file without a header. Set header=false, or leave them out.")
        if (twice := repeated(names)) is not None:
            raise ConfigError(f"names: {twice!r} is there twice. Give each column a name of its own.")
        self._encoding, self._header, self._names = encoding, header, tuple(names)
        self._quote, self._escape = quote, escape
        super().__init__(
            path,
            text=text,
            label=label,
            classes=classes,
            file=file,
            root=root,
            members=members,
            columns=columns,
            rows=rows,
        )

    def names(self, file: Path) -> Sequence[str]:
        for line, row in self._fields(file):
            if self._header:
                if (twice := repeated(row)) is not None:
                    raise CorpusError(
                        f"{file}, line {line}: two columns are named {twice!r}. Rename one of them; or set "
                        f"header=false and names, if that line is a row."
                    )
                return row
            return self._names or [str(number) for number in range(len(row))]
        raise CorpusError(f"{file} holds no rows. Give a table.")

    def read(self, file: Path, columns: Sequence[str] = ()) -> Iterator[tuple[int, Row]]:
        names = self.names(file)
        rows = self._fields(file)
        if self._header:
            next(rows)
        for line, row in rows:
            if len(row) != len(names):
                raise CorpusError(
                    f"{file}, line {line}: has {len(row)} fields, where {len(names)} are wanted ({', '.join(names)}). "
                    f"Mend the row, or set delimiter, quote or escape."
                )
            yield line, dict(zip(names, row, strict=True))

    def _fields(self, file: Path) -> Iterator[tuple[int, list[str]]]:
        """Each row that is not empty, with the number of its last line."""
        csv.field_size_limit(_LONGEST)  # a setting of the whole process: a review may be longer than its 128 KiB
        delimiter = self._delimiter or ("\t" if ".tsv" in file.name.lower() else ",")
        line = 0
        try:
            with open(file, "rb") as raw:
                zipped = raw.read(2) == b"\x1f\x8b"
                raw.seek(0)
                data = gzip.open(raw, "rb") if zipped else raw  # noqa: SIM115 - closes with raw
                with io.TextIOWrapper(data, encoding=self._encoding, newline="") as lines:
                    rows = csv.reader(
                        lines,
                        delimiter=delimiter,
                        quotechar=self._quote or None,
                        quoting=csv.QUOTE_MINIMAL if self._quote else csv.QUOTE_NONE,
                        escapechar=self._escape or None,
                        strict=True,
                    )
                    for row in rows:
                        line = rows.line_num
                        if row:
                            yield line, row
        except UnicodeDecodeError as error:
            raise CorpusError(
                f"{file}, line {line + 1} or later: is not text in {self._encoding} ({error.reason}). Set encoding, "
                f"such as encoding=latin-1."
            ) from error
        except csv.Error as error:
            raise CorpusError(
                f"{file}, line {line + 1}: is no CSV ({error}). Mend it, or set quote or escape."
            ) from error
        except (OSError, EOFError, zlib.error) as error:
            raise CorpusError(f"{file} cannot be read: {error}. Fetch it again.") from error

"""CSV and TSV: tables of text, plain or with gzip."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from ecopipe.datasets.csv_rows import Dialect, by_bytes, parse, scan
from ecopipe.datasets.lines import Where
from ecopipe.datasets.parts import shown
from ecopipe.datasets.row_settings import OPTIONS, repeated
from ecopipe.datasets.rows import Found, Row, Rows
from ecopipe.storage import files
from ecopipe.vocabulary.errors import ConfigError, CorpusError


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
            if value in ("\n", "\r", "\0"):
                raise ConfigError(f"{setting}={value!r} ends a row of CSV, or a text. Choose another character.")
        marks = [mark for mark in (self._delimiter, quote, escape) if mark]
        if (twice := repeated(marks)) is not None:
            raise ConfigError(f"delimiter, quote and escape: two of them are {twice!r}. Choose different characters.")
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
        self._columns: dict[str, Sequence[str]] = {}
        self._transcoded = "" if by_bytes(encoding) else encoding
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

    def names(self, file: str) -> Sequence[str]:
        if file not in self._columns:
            self._columns[file] = self._read_names(file)
        return self._columns[file]

    def scan(self, file: str, columns: Sequence[str]) -> Iterator[Found]:
        names, table, dialect = self.names(file), self._table(file), self._dialect(file)
        for number, (begin, row) in enumerate(self._fields(file)):
            if number == 0 and self._header:
                continue
            table.add(begin)
            where = Where(table, begin)
            cells: Row | CorpusError
            if isinstance(row, csv.Error):
                cells = self._no_csv(where, row)
            elif len(row) != len(names):
                cells = self._wrong_count(where, row, names)
            elif dialect.replaced(row):
                cells = self._no_text(where)
            else:
                cells = dict(zip(names, row, strict=True))
            yield Found(where, cells)

    def row_sizes(self, file: str, columns: Sequence[str]) -> npt.NDArray[np.int64]:
        return self._table(file).sizes()

    def row(self, file: str, place: int, columns: Sequence[str]) -> tuple[object, Row]:
        names, table = self.names(file), self._table(file)
        where = table.where(place)
        try:
            row = parse(table.read(place), self._dialect(file))
        except csv.Error as error:
            raise self._no_csv(where, error) from error
        except UnicodeDecodeError as error:
            raise self._no_text(where) from error
        if len(row) != len(names):
            raise self._wrong_count(where, row, names)
        return where, dict(zip(names, row, strict=True))

    def _dialect(self, file: str) -> Dialect:
        delimiter = self._delimiter or ("\t" if ".tsv" in files.base_name(file).lower() else ",")
        encoding = "utf-8" if self._transcoded else self._encoding
        return Dialect(delimiter, self._quote, self._escape, encoding)

    def _fields(self, file: str) -> Iterator[tuple[int, list[str] | csv.Error]]:
        """Where each row begins that is not empty, the header too, and its fields."""
        table = self._table(file)
        begin = 0
        try:
            with table.file.stream() as stream:
                for begin, row in scan(stream, self._dialect(file)):
                    yield begin, row
        except csv.Error as error:
            raise CorpusError(
                f"{Where(table, begin)} or later: is no CSV ({error}). Mend it, or set quote or escape."
            ) from error

    def _read_names(self, file: str) -> Sequence[str]:
        for begin, row in self._fields(file):
            where = Where(self._table(file), begin)
            if isinstance(row, csv.Error):
                raise self._no_csv(where, row)
            if not self._header:
                return self._names or [str(number) for number in range(len(row))]
            if self._dialect(file).replaced(row):
                raise self._no_text(where)
            if (twice := repeated(row)) is not None:
                raise CorpusError(
                    f"{where}: two columns are named {twice!r}. Rename one of them; or set header=false and names, if "
                    f"that line is a row."
                )
            return row
        raise CorpusError(f"{shown(file)} holds no rows. Give a table.")

    def _no_csv(self, where: object, error: csv.Error) -> CorpusError:
        return CorpusError(f"{where}: is no CSV ({error}). Mend it, or set quote or escape.")

    def _no_text(self, where: object) -> CorpusError:
        return CorpusError(
            f"{where}: is not text in {self._encoding}. Mend the row, or set encoding, such as encoding=latin-1."
        )

    def _wrong_count(self, where: object, row: Sequence[str], names: Sequence[str]) -> CorpusError:
        return CorpusError(
            f"{where}: has {len(row)} fields, where {len(names)} are wanted ({', '.join(names)}). Mend the row, or set "
            f"delimiter, quote or escape."
        )

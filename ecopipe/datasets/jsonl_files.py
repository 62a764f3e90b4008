"""JSON lines: an object a line, plain or with gzip."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from ecopipe.datasets.lines import Where
from ecopipe.datasets.parts import shown
from ecopipe.datasets.row_settings import OPTIONS, repeated
from ecopipe.datasets.rows import Found, Row, Rows
from ecopipe.vocabulary.errors import CorpusError

_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


class JsonlFiles(Rows):
    """One sample per line, an object in UTF-8; see :class:`Rows` for what becomes of its keys."""

    name = "jsonl"
    title = "JSON lines, a sample a line"
    expects = "x.jsonl or x.ndjson (.gz too), or a folder of them, a split each"
    options: ClassVar = OPTIONS
    endings = (".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz")

    def names(self, file: str) -> Sequence[str]:
        with self._table(file).file.stream() as stream:
            at = 0
            for line in stream:
                if line.strip():
                    return list(_object(Where(self._table(file), at), line))
                at += len(line)
        raise CorpusError(f"{shown(file)} holds no rows. Give a table.")

    def scan(self, file: str, columns: Sequence[str]) -> Iterator[Found]:
        table, at = self._table(file), 0
        with table.file.stream() as stream:
            for line in stream:
                if line.strip():
                    table.add(at)
                    where = Where(table, at)
                    row: Row | CorpusError
                    try:
                        row = _object(where, line)
                    except CorpusError as error:
                        row = error
                    yield Found(where, row)
                at += len(line)

    def row_sizes(self, file: str, columns: Sequence[str]) -> npt.NDArray[np.int64]:
        return self._table(file).sizes()

    def row(self, file: str, place: int, columns: Sequence[str]) -> tuple[object, Row]:
        table = self._table(file)
        where = table.where(place)
        return where, _object(where, table.read(place).partition(b"\n")[0])


def _object(where: object, line: bytes) -> Row:
    try:
        found = _DECODER.decode(line.decode("utf-8-sig"))
        if _SURROGATE.search(line):
            json.dumps(found, ensure_ascii=False).encode()
    except _Repeated as error:
        raise CorpusError(f"{where}: has the key {str(error)!r} twice. Mend or remove the line.") from None
    except RecursionError:
        raise CorpusError(f"{where}: is nested too deeply. Mend or remove the line.") from None
    except UnicodeEncodeError as error:
        raise CorpusError(
            f"{where}: holds half a character ({error.object[error.start]!a}), which UTF-8 cannot. Mend "
            f"or remove the line."
        ) from error
    except ValueError as error:
        raise CorpusError(f"{where}: is no JSON in UTF-8 ({error}). Mend or remove the line.") from error
    if not isinstance(found, dict):
        raise CorpusError(f"{where}: is a {type(found).__name__}, not an object. Mend or remove the line.")
    return found


class _Repeated(Exception):
    """A key that is twice in an object."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _Repeated(repeated(key for key, _ in pairs))
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=_once)

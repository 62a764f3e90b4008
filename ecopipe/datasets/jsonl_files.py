"""JSON lines: an object a line, plain or with gzip."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

from ecopipe.datasets.rows import OPTIONS, Row, Rows
from ecopipe.vocabulary.errors import CorpusError

_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


class JsonlFiles(Rows):
    """One sample per line, an object in UTF-8; see :class:`Rows` for what becomes of its keys."""

    name = "jsonl"
    title = "JSON lines, a sample a line"
    expects = "x.jsonl or x.ndjson (.gz too), or a folder of them, a split each"
    options: ClassVar = OPTIONS
    endings = (".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz")

    def names(self, file: Path) -> Sequence[str]:
        for _, row in self.read(file):
            return list(row)
        raise CorpusError(f"{file} holds no rows. Give a table.")

    def read(self, file: Path, columns: Sequence[str] = ()) -> Iterator[tuple[int, Row]]:
        number = 0
        try:
            with open(file, "rb") as raw:
                zipped = raw.read(2) == b"\x1f\x8b"
                raw.seek(0)
                data = gzip.open(raw, "rb") if zipped else raw  # noqa: SIM115 - closes with raw
                for number, line in enumerate(data, start=1):
                    if line.strip():
                        yield number, _object(file, number, line)
        except (OSError, EOFError, zlib.error) as error:
            raise CorpusError(f"{file} cannot be read after line {number:,}: {error}. Fetch it again.") from error


def _object(file: Path, number: int, line: bytes) -> Row:
    try:
        found = json.loads(line.decode("utf-8-sig"))
        if _SURROGATE.search(line):
            json.dumps(found, ensure_ascii=False).encode()
    except RecursionError:
        raise CorpusError(f"{file}, line {number}: is nested too deeply. Mend or remove the line.") from None
    except UnicodeEncodeError as error:
        raise CorpusError(
            f"{file}, line {number}: holds half a character ({error.object[error.start]!a}), which UTF-8 cannot. Mend "
            f"or remove the line."
        ) from error
    except ValueError as error:
        raise CorpusError(f"{file}, line {number}: is no JSON in UTF-8 ({error}). Mend or remove the line.") from error
    if not isinstance(found, dict):
        raise CorpusError(
            f"{file}, line {number}: is a {type(found).__name__}, not an object. Mend or remove the line."
        )
    return found

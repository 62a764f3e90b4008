"""Parquet: typed tables, such as those of the datasets library."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq

from ecopipe.datasets.rows import OPTIONS, Row, Rows, repeated
from ecopipe.vocabulary.errors import CorpusError

_ROWS = 256  # rows that are in memory at once: a row may hold an image


class ParquetFiles(Rows):
    """One sample per row; see :class:`Rows` for what becomes of its columns.

    A binary column is bytes as they are; a struct with ``bytes`` in it, as the datasets library stores images and
    audio, is those bytes.
    """

    name = "parquet"
    title = "Parquet, a sample a row"
    expects = "x.parquet or train-00000-of-00002.parquet, or a folder of them (or its data/), a split each"
    options: ClassVar = OPTIONS
    endings = (".parquet",)
    unit = "row"

    def names(self, file: Path) -> Sequence[str]:
        with _opened(file) as table:
            return list(table.schema_arrow.names)

    def size(self, file: Path) -> int | None:
        with _opened(file) as table:
            return int(table.metadata.num_rows)

    def read(self, file: Path, columns: Sequence[str] = ()) -> Iterator[tuple[int, Row]]:
        number = 0
        with _opened(file) as table:
            try:
                for batch in table.iter_batches(batch_size=_ROWS, columns=list(columns) or None):
                    for row in batch.to_pylist():
                        number += 1
                        yield number, row
            except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
                raise CorpusError(f"{file} is damaged after row {number:,}: {error}. Fetch it again.") from error


def _opened(file: Path) -> Any:
    try:
        table = pq.ParquetFile(file)
    except (pa.ArrowException, OSError) as error:
        raise CorpusError(f"{file} is no whole Parquet file: {error}. Fetch it again.") from error
    if (twice := repeated(table.schema_arrow.names)) is not None:
        table.close()
        raise CorpusError(f"{file} has two columns named {twice!r}. Rename one of them.")
    return table

"""The ledger: one row for each sample that was delivered, and to whom."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ecopipe.storage.publish import publish_file
from ecopipe.vocabulary.sample import Batch

SCHEMA = pa.schema(
    [
        ("epoch", pa.int32()),
        ("batch", pa.int64()),
        ("rank", pa.int32()),
        ("position", pa.int32()),
        ("key", pa.string()),
        ("shard", pa.string()),
        ("repeat", pa.bool_()),
    ]
)
ROW_GROUP = 65536


class Ledger:
    """Writes a ledger as Parquet; the file appears when the ``with`` block ends, however it ends.

    Columns: ``epoch``; ``batch`` (number in the epoch's global sequence); ``rank``; ``position`` (in the batch);
    ``key``; ``shard``; ``repeat`` (delivered again only so that every rank makes the same number of steps).
    """

    def __init__(self, path: str | Path) -> None:
        self._publish = publish_file(Path(path))
        self._rows: dict[str, list[Any]] = {name: [] for name in SCHEMA.names}

    def __enter__(self) -> Ledger:
        self._writer = pq.ParquetWriter(self._publish.__enter__(), SCHEMA, compression="zstd")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._flush()
        self._writer.close()
        self._publish.__exit__(None, None, None)  # what was delivered before an error was delivered

    def add(self, batch: Batch) -> None:
        """Enters the samples of a batch."""
        keys, place = batch.sample_keys, batch.place
        if place is None:
            raise ValueError("ledger: the batch has no place; only batches of an ecopipe loader can be entered")
        count = len(keys)
        for name, values in (
            ("epoch", [place.epoch] * count),
            ("batch", [place.number] * count),
            ("rank", [place.rank] * count),
            ("position", list(range(count))),
            ("key", keys),
            ("shard", place.shards),
            ("repeat", [place.repeat] * count),
        ):
            self._rows[name].extend(values)
        if len(self._rows["key"]) >= ROW_GROUP:
            self._flush()

    def _flush(self) -> None:
        if self._rows["key"]:
            self._writer.write_table(pa.table(self._rows, schema=SCHEMA))
            self._rows = {name: [] for name in SCHEMA.names}

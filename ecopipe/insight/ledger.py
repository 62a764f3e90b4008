"""The ledger: one row for each sample that was delivered, and to whom."""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ecopipe.storage.publish import explained, publish_file
from ecopipe.vocabulary.errors import OutputError
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
MARK = "ecopipe.complete"


class Ledger:
    """Writes a ledger as Parquet; the file appears when the ``with`` block ends, however it ends.

    What was delivered before an error was delivered: the footer's ``ecopipe.complete`` says ``true`` or ``false``.

    Columns: ``epoch``; ``batch`` (number in the epoch's global sequence); ``rank``; ``position`` (in the batch);
    ``key``; ``shard``; ``repeat`` (delivered again only so that every rank makes the same number of steps).

    Raises:
        OutputError: There is a file that is no ledger, or the place cannot be written.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        _check_replaceable(self._path)
        self._rows: dict[str, list[Any]] = {name: [] for name in SCHEMA.names}

    def __enter__(self) -> Ledger:
        with contextlib.ExitStack() as stack:
            temporary = stack.enter_context(publish_file(self._path))
            self._writer = pq.ParquetWriter(temporary, SCHEMA, compression="zstd")
            self._publish = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._publish:
            try:
                self._write_rows()
                self._writer.add_key_value_metadata({MARK: "true" if kind is None else "false"})
            finally:
                self._writer.close()

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
            with explained(self._path):
                self._write_rows()

    def _write_rows(self) -> None:
        if self._rows["key"]:
            self._writer.write_table(pa.table(self._rows, schema=SCHEMA))
            self._rows = {name: [] for name in SCHEMA.names}


def _check_replaceable(path: Path) -> None:
    """Refuses to replace anything but an earlier ledger, and to write to a folder that is not there."""
    if not path.parent.is_dir():
        raise OutputError(f"{path}: there is no folder {path.parent}. Make it, or mend the path.")
    if not path.exists():
        return
    try:
        found = pq.read_metadata(path).metadata or {}
    except (pa.ArrowException, OSError):
        found = {}
    if MARK.encode() not in found:
        raise OutputError(f"{path}: is there and is no ledger, and is not replaced. Choose another name.")

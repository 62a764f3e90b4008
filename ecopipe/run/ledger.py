"""The ledger: what the trainer was handed, a row per sample or part of one, so that a crash loses nothing of it.

Each loader writes a file of its own in the ledger's folder: an Arrow IPC stream, one record batch per delivered batch,
each written by one call before the batch is handed out. A process that is killed leaves a whole file, or one whose last
record batch is torn: that batch was never handed out. (What the operating system had not put on disk when the machine
itself failed is lost; then the file ends earlier.) Any Arrow reader reads a file: ``pyarrow.ipc.open_stream``.

The schema's metadata holds ``ecopipe.ledger``: JSON with ``version``, ``pipeline`` (its identity), ``index`` (its
fingerprint), ``seed``, ``rank``, ``world_size``, ``tail`` and ``started`` (UTC, ISO 8601).
"""

from __future__ import annotations

import json
import os
import secrets
import struct
import time
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ecopipe.formats.checks import checks_of
from ecopipe.plan.parts import START, STOP
from ecopipe.storage.publish import explained
from ecopipe.vocabulary.errors import DataError, OutputError
from ecopipe.vocabulary.json_text import parse_json_object
from ecopipe.vocabulary.sample import Place

VERSION = 2
METADATA = b"ecopipe.ledger"
PATTERN = "rank*-of-*.arrows"
HEADER = ("pipeline", "index", "seed", "rank", "world_size", "tail")

SAMPLE, BEGIN, END = 0, 1, 2
"""Values of ``event``: a sample; an iteration begins at this epoch, batch and step; an epoch ended there."""

SCHEMA = pa.schema(
    [
        ("event", pa.int8()),
        ("epoch", pa.int32()),
        ("step", pa.int64()),  # steps of the epoch before this one, over all restarts
        ("batch", pa.int64()),  # number in the epoch's one sequence
        ("rank", pa.int32()),
        ("position", pa.int32()),  # in the batch, as planned
        ("key", pa.string()),
        ("shard", pa.string()),
        ("source", pa.string()),  # null unless the source is a mixture
        (START, pa.int64()),  # first frame or token of the part, and the one after its last; null for a whole sample
        (STOP, pa.int64()),
        ("crc", pa.uint32()),  # XOR of the CRC-32s of the sample's members
        ("repeat", pa.bool_()),  # delivered again only to fill the last step
        ("skipped", pa.bool_()),  # a bad sample that was left out
        ("substitute", pa.string()),  # key of the sample that came in the place of a bad one
        ("time_ns", pa.int64()),  # when it was handed out: nanoseconds since 1970, UTC
    ]
)

_STRING = pa.string()
_READ_BYTES = 1 << 18
_MOST_METADATA = 1 << 20
_CONTINUED = b"\xff\xff\xff\xff"


class Ledger:
    """One loader's file in a ledger's folder. Nothing else in the folder is touched; a file is only ever appended to.

    Args:
        folder: The ledger: a folder, made if it is not there.
        header: ``pipeline``, ``index``, ``seed``, ``rank``, ``world_size`` and ``tail`` of the loader.

    Raises:
        OutputError: The folder cannot be made or written to, or the disk is full: here, and in every other method. What
            was entered before stays readable, and the ledger may be used on.
    """

    def __init__(self, folder: str | Path, header: Mapping[str, Any]) -> None:
        self._rank = int(header["rank"])
        name = f"rank{self._rank:05}-of-{int(header['world_size']):05}-{secrets.token_hex(8)}.arrows"
        self.path = Path(folder) / name
        started = datetime.now(timezone.utc).isoformat(timespec="microseconds")
        described = {"version": VERSION, **header, "started": started}
        with explained(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o666)
        self._close = weakref.finalize(self, os.close, self._file)
        self._size = 0
        self._page = lru_cache(maxsize=64)(_Page)
        self._mixed: bool | None = None
        self._parted = False
        try:
            self._write(SCHEMA.with_metadata({METADATA: json.dumps(described)}).serialize())
        except OutputError:
            self.close()
            self.path.unlink()
            raise

    def begin(self, epoch: int, batch: int, step: int) -> None:
        """An iteration begins: at the beginning of an epoch, or where a state was taken."""
        self._mark(BEGIN, epoch, batch, step)

    def end(self, epoch: int, batch: int, step: int) -> None:
        """The epoch has ended, after so many batches and steps."""
        self._mark(END, epoch, batch, step)

    def add(self, place: Place, rows: pa.Table, checks: npt.NDArray[np.uint32] | None = None) -> None:
        """Enters a batch that is about to be handed out.

        Args:
            place: The batch's place; its ``faults`` are entered as skipped or substituted samples.
            rows: The index rows of its planned samples, in order: ``key``, ``shard``, ``members``, ``source`` if there
                are several, ``part_start`` and ``part_stop`` if they stand for parts of samples.
            checks: :func:`ecopipe.formats.checks.checks_of` of the rows, where it is known: it is most of the work.
        """
        count = rows.num_rows
        known = checks_of(_joined(rows["members"])) if checks is None else checks
        epoch, step, batch, rank, time_ns, crc = self._page(count).filled(place, time.time_ns(), known)
        constant = _constant(count)
        skipped, substitute = constant.no, constant.none
        if place.faults:
            left_out = {fault.position for fault in place.faults if fault.substitute is None}
            in_place = {fault.position: fault.substitute for fault in place.faults}
            skipped = pa.array([position in left_out for position in range(count)])
            substitute = pa.array([in_place.get(position) for position in range(count)], pa.string())
        repeat = pa.array([True] * count) if place.repeat else constant.no
        if self._mixed is None:
            self._mixed = "source" in rows.column_names  # of one batch as of all
            self._parted = START in rows.column_names
        source = _joined(rows["source"]) if self._mixed else constant.none
        parts = [_joined(rows[name]) if self._parted else constant.no_part for name in (START, STOP)]
        key, shard = _joined(rows["key"]), _joined(rows["shard"])
        columns = [constant.events, epoch, step, batch, rank, constant.positions, key, shard, source, *parts]
        columns += [crc, repeat, skipped, substitute, time_ns]
        self._write(pa.RecordBatch.from_arrays(columns, schema=SCHEMA).serialize())

    def close(self) -> None:
        """Closes the file."""
        self._close()
        self._file = -1

    def _mark(self, event: int, epoch: int, batch: int, step: int) -> None:
        row = dict.fromkeys(SCHEMA.names) | {"event": event, "epoch": epoch, "step": step, "batch": batch}
        row |= {"rank": self._rank, "time_ns": time.time_ns()}
        self._write(pa.RecordBatch.from_pylist([row], schema=SCHEMA).serialize())

    def _write(self, message: pa.Buffer) -> None:
        try:
            written = os.write(self._file, message)
            while written < message.size:  # a disk that is nearly full takes a part
                written += os.write(self._file, memoryview(message)[written:])
        except OSError:
            with explained(self.path):
                if self._file != -1:
                    os.ftruncate(self._file, self._size)  # a torn message has its place at the end only
                raise
        self._size += message.size


@dataclass(frozen=True)
class _Constant:
    """Columns that are alike in most batches of so many samples."""

    positions: pa.Array
    events: pa.Array
    no: pa.Array
    none: pa.Array
    no_part: pa.Array


@lru_cache(maxsize=256)
def _constant(count: int) -> _Constant:
    return _Constant(
        pa.array(np.arange(count, dtype=np.int32)),
        pa.array(np.full(count, SAMPLE, np.int8)),
        pa.array(np.zeros(count, np.bool_)),
        pa.nulls(count, pa.string()),
        pa.nulls(count, pa.int64()),
    )


class _Page:
    """The columns of numbers for batches of so many samples, written anew for each batch.

    That takes a fifth of the time of making new ones. It is one ledger's own: ranks may be threads of one process.
    """

    def __init__(self, count: int) -> None:
        kinds = (np.int32, np.int64, np.int64, np.int32, np.int64, np.uint32)
        self._values = tuple(np.zeros(count, kind) for kind in kinds)
        self._columns = tuple(pa.array(array) for array in self._values)  # they share the arrays' memory

    def filled(self, place: Place, time_ns: int, checks: npt.NDArray[np.uint32]) -> tuple[pa.Array, ...]:
        """The columns epoch, step, batch, rank, time_ns and crc; good until the next call."""
        numbers: tuple[Any, ...] = (place.epoch, place.step, place.number, place.rank, time_ns, checks)
        for array, value in zip(self._values, numbers, strict=True):
            array[:] = value
        return self._columns


def content(rows: pa.Table) -> dict[str, pa.Array]:
    """What the ledger holds of the samples of a batch, whoever receives it: the columns that the index decides."""
    names = {name: _strings(rows, name) for name in ("key", "shard", "source")}
    constant = _constant(rows.num_rows)
    parted = START in rows.column_names
    return {
        "position": constant.positions,
        **names,
        **{name: _joined(rows[name]) if parted else constant.no_part for name in (START, STOP)},
        "crc": pa.array(checks_of(_joined(rows["members"]))),
    }


def _joined(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()  # the former is four times as fast


def _strings(rows: pa.Table, name: str) -> pa.Array:
    """A column of strings; nulls where there is none."""
    at = rows.schema.get_field_index(name)
    if at < 0:
        return _constant(rows.num_rows).none
    joined = _joined(rows.column(at))
    return joined if joined.type == _STRING else joined.cast(_STRING)


class LedgerFile:
    """A ledger's file being read, message by message; it may still be written to.

    Args:
        path: The file.

    Attributes: ``header`` is the JSON of the schema's metadata; None if not even that was written before the process
    ended. ``torn`` says, once the messages have been read, that the file ends within one.

    Raises:
        DataError: The file cannot be read, is no ledger, is damaged, or is of another version.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.header: dict[str, Any] | None = None
        self.torn = False
        self._first = 0
        for at, message in self._messages(0):
            try:
                schema = pa.ipc.read_schema(message)
                self.header = parse_json_object((schema.metadata or {})[METADATA])
                version = self.header["version"]
            except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
                raise DataError(f"{self.path}: is no ledger of ecopipe. Name the ledger's folder or files.") from error
            if version != VERSION:
                raise DataError(
                    f"{self.path}: has version {version}, this ecopipe reads {VERSION}. "
                    "Read it with the ecopipe that wrote it."
                )
            lacking = [name for name in HEADER if name not in self.header]
            if lacking or schema.remove_metadata() != SCHEMA:
                raise self._damaged(at, f"its header lacks {lacking[0]}" if lacking else "its columns are others")
            self._first = at + message.size
            break

    def batches(self, start: int = 0) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Record batches with their offsets in the file, in order: from ``start`` on, an offset given before.

        A record batch is one delivered batch (its rows agree in all but what is the samples' own), or one row that
        marks a begin or an end. The file is not held open, and no more of it is held than a record batch and 256 KiB.

        Raises:
            DataError: The file is damaged, other than by ending within a record batch.
        """
        if self.header is None:
            return
        for at, message in self._messages(start or self._first):
            try:
                batch = pa.ipc.read_record_batch(message, SCHEMA)
                batch.validate(full=True)
            except (pa.ArrowException, OSError) as error:
                raise self._damaged(at, str(error).splitlines()[0]) from error
            yield at, batch

    def _messages(self, at: int) -> Iterator[tuple[int, pa.Buffer]]:
        """Whole messages of the stream and their offsets; sets ``torn`` if the file ends within one."""
        want, ended = _READ_BYTES, False
        while not ended:
            try:
                with open(self.path, "rb") as file:
                    file.seek(at)
                    held = memoryview(file.read(want))
            except OSError as error:
                reason = error.strerror or error
                raise DataError(f"{self.path}: cannot be read: {reason}. Name the ledger's folder or files.") from error
            ended, used = len(held) < want, 0
            while True:
                length = self._length(held[used:], at + used)
                if length == 0:  # the mark that a writer of the whole stream sets
                    return
                if length is None or used + length > len(held):
                    break
                yield at + used, pa.py_buffer(held).slice(used, length)
                used += length
            want = _READ_BYTES if used else max(2 * want, length or 0)
            at += used
            self.torn = ended and used < len(held)

    def _length(self, head: memoryview, at: int) -> int | None:
        """Bytes of the message that begins so, 0 at the end of the stream; None if too little of it is there to tell.

        A message is ``ff ff ff ff``, the size of its metadata (int32), the metadata (a flatbuffer, whose fourth field
        is the size of the body, int64), and the body.
        """
        if head[:4] != _CONTINUED[: len(head)]:
            raise self._damaged(at, "no message begins there")
        if len(head) < 8:
            return None
        (size,) = struct.unpack_from("<i", head, 4)
        if size == 0:
            return 0
        if not 8 <= size < _MOST_METADATA:
            raise self._damaged(at, f"a message's metadata cannot have {size} bytes")
        if len(head) < 8 + size:
            return None
        try:
            (root,) = struct.unpack_from("<I", head, 8)
            table = 8 + root
            (back,) = struct.unpack_from("<i", head, table)
            (known,) = struct.unpack_from("<H", head, table - back)
            (field,) = struct.unpack_from("<H", head, table - back + 10) if known > 10 else (0,)
            (body,) = struct.unpack_from("<q", head, table + field) if field else (0,)  # absent where there is none
        except struct.error as error:
            raise self._damaged(at, "a message's metadata is none") from error
        if body < 0:
            raise self._damaged(at, f"a message cannot have {body} bytes")
        return int(8 + size + body)

    def _damaged(self, at: int, reason: str) -> DataError:
        return DataError(
            f"{self.path}: is damaged at byte {at:,}: {reason}. Restore it, or move it out of the ledger's folder: "
            "what it holds then counts as not delivered."
        )


def ledger_files(path: str | Path) -> list[Path]:
    """The ledger files that a path names, by name: itself, or those in the folder.

    Raises:
        DataError: There is no such path, or a folder without a ledger.
    """
    place = Path(path)
    if place.is_dir():
        if found := sorted(place.glob(PATTERN)):
            return found
        raise DataError(f"{place}: the folder holds no ledger ({PATTERN}). Name one that a loader wrote to.")
    if not place.exists():
        raise DataError(f"{place}: there is no such file or folder. Name the ledger's folder or files.")
    return [place]


def read_ledger(path: str | Path) -> pa.Table:
    """The rows of a ledger's file, or of all files of its folder, as one table in the columns of ``SCHEMA``.

    A file that ends within a record batch is read up to there. The metadata of one file's table is its header's.

    Raises:
        DataError: There is no ledger; a file is damaged, other than at its end, or of another version.
    """
    files = [LedgerFile(file) for file in ledger_files(path)]
    table = pa.Table.from_batches([batch for file in files for _, batch in file.batches()], SCHEMA).combine_chunks()
    if len(files) == 1 and files[0].header is not None:
        table = table.replace_schema_metadata({METADATA: json.dumps(files[0].header)})
    return table

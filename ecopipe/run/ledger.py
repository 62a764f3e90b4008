"""The ledger: what the trainer was handed, one row per sample, written so that a crash loses nothing of it.

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
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ecopipe.formats.arrow_stream import Template, message_size
from ecopipe.formats.checks import checks_of
from ecopipe.storage.publish import explained
from ecopipe.vocabulary.errors import DataError
from ecopipe.vocabulary.sample import Place

VERSION = 1
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
        ("crc", pa.uint32()),  # XOR of the CRC-32s of the sample's members
        ("repeat", pa.bool_()),  # delivered again only to fill the last step
        ("skipped", pa.bool_()),  # a bad sample that was left out
        ("substitute", pa.string()),  # key of the sample that came in the place of a bad one
        ("time_ns", pa.int64()),  # when it was handed out: nanoseconds since 1970, UTC
    ]
)

_TEXTS = ("key", "shard", "source")
_NUMBERS = ("epoch", "step", "batch", "rank", "time_ns", "crc")
_READ_BYTES = 1 << 18


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
        self._write([SCHEMA.with_metadata({METADATA: json.dumps(described)}).serialize()])

    def begin(self, epoch: int, batch: int, step: int) -> None:
        """An iteration begins: at the beginning of an epoch, or where a state was taken."""
        self._mark(BEGIN, epoch, batch, step)

    def end(self, epoch: int, batch: int, step: int) -> None:
        """The epoch has ended, after so many batches and steps."""
        self._mark(END, epoch, batch, step)

    def add(self, place: Place, samples: pa.Table | Samples) -> None:
        """Enters a batch that is about to be handed out.

        Args:
            place: The batch's place; its ``faults`` are entered as skipped or substituted samples.
            samples: Its planned samples, in order, or their index rows.
        """
        entered = samples if isinstance(samples, Samples) else Samples.of(samples)
        page = self._page(len(entered), entered.names)
        parts = page.message(place, time.time_ns(), entered)
        self._write(parts if not place.repeat and not place.faults else [_marked(b"".join(parts), place)])

    def close(self) -> None:
        """Closes the file."""
        self._close()
        self._file = -1

    def _mark(self, event: int, epoch: int, batch: int, step: int) -> None:
        row = dict.fromkeys(SCHEMA.names) | {"event": event, "epoch": epoch, "step": step, "batch": batch}
        row |= {"rank": self._rank, "time_ns": time.time_ns()}
        self._write([pa.RecordBatch.from_pylist([row], schema=SCHEMA).serialize()])

    def _write(self, parts: Sequence[Any]) -> None:
        """Writes a message by one call."""
        size = sum(map(len, parts))
        try:
            written = os.writev(self._file, parts)
            while written < size:  # a disk that is nearly full takes a part
                written += os.write(self._file, b"".join(parts)[written:])
        except OSError:
            with explained(self.path):
                if self._file != -1:
                    os.ftruncate(self._file, self._size)  # a torn message has its place at the end only
                raise
        self._size += size


@dataclass(frozen=True)
class Samples:
    """What the ledger says of the samples of a batch, whoever receives it.

    ``texts`` holds string arrays by name: key, shard, and source if there are several; ``checks`` is uint32 [samples].
    """

    texts: dict[str, pa.Array]
    checks: npt.NDArray[np.uint32]

    @classmethod
    def of(cls, rows: pa.Table, checks: npt.NDArray[np.uint32] | None = None) -> Samples:
        """What index rows say: their columns ``key``, ``shard``, ``members``, and ``source`` if it is there.

        Args:
            rows: The rows of a batch, in order.
            checks: :func:`ecopipe.formats.checks.checks_of` of them where that is known: it is most of the work.
        """
        found = {name: _joined(rows[name]) for name in _TEXTS if name in rows.column_names}
        texts = {
            name: text if pa.types.is_string(text.type) else text.cast(pa.string()) for name, text in found.items()
        }
        return cls(texts, checks_of(_joined(rows["members"])) if checks is None else checks)

    def __len__(self) -> int:
        return len(self.checks)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the texts."""
        return tuple(self.texts)

    def columns(self) -> dict[str, pa.Array]:
        """Its columns in the ledger."""
        nothing = dict.fromkeys(_TEXTS, pa.nulls(len(self), pa.string()))
        positions = np.arange(len(self), dtype=np.int32)
        return {"position": pa.array(positions), **nothing, **self.texts, "crc": pa.array(self.checks)}


class _Page:
    """The message of a batch of so many samples: what differs from one batch to the next is written into it.

    It is one ledger's own: ranks may be threads of one process.
    """

    def __init__(self, count: int, names: tuple[str, ...]) -> None:
        empty = pa.array([""] * count)
        columns: dict[str, pa.Array] = dict.fromkeys(names, empty)
        for name, kind in zip(SCHEMA.names, SCHEMA.types, strict=True):
            if name not in columns:
                nothing = pa.nulls(count, kind) if pa.types.is_string(kind) else pa.array([0] * count).cast(kind)
                columns[name] = nothing
        self._template = Template(pa.RecordBatch.from_pydict(columns, SCHEMA))
        self._template.numbers("position")[:] = np.arange(count)
        self._numbers = [self._template.numbers(name) for name in _NUMBERS]
        self._offsets = {name: self._template.offsets(name) for name in names}

    def message(self, place: Place, time_ns: int, samples: Samples) -> list[Any]:
        """The message of a batch, in parts, good until the next call."""
        numbers = (place.epoch, place.step, place.number, place.rank, time_ns, samples.checks)
        for array, value in zip(self._numbers, numbers, strict=True):
            array[:] = value
        texts = []
        for name, array in samples.texts.items():
            _, offsets, text = array.buffers()
            bounds = np.frombuffer(offsets, np.int32, len(array) + 1, 4 * array.offset)
            np.subtract(bounds, bounds[0], out=self._offsets[name])
            texts.append((name, text[bounds[0] : bounds[-1]] if text is not None else b""))
        return self._template.message(texts)


def _marked(message: bytes, place: Place) -> pa.Buffer:
    """A message with the marks of a batch that is a repeat, or holds bad samples."""
    batch = pa.ipc.read_record_batch(pa.py_buffer(message), SCHEMA)
    left_out = {fault.position for fault in place.faults if fault.substitute is None}
    in_place = {fault.position: fault.substitute for fault in place.faults}
    columns = dict(zip(SCHEMA.names, batch.columns, strict=True))
    columns["repeat"] = pa.array([place.repeat] * batch.num_rows)
    columns["skipped"] = pa.array([position in left_out for position in range(batch.num_rows)])
    columns["substitute"] = pa.array([in_place.get(position) for position in range(batch.num_rows)], pa.string())
    return pa.RecordBatch.from_arrays(list(columns.values()), schema=SCHEMA).serialize()


def _joined(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()  # the former is four times as fast


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
                self.header = json.loads((schema.metadata or {})[METADATA])
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
                try:
                    length = message_size(held[used:])
                except ValueError as error:
                    raise self._damaged(at + used, str(error)) from error
                if length == 0:  # the mark that a writer of the whole stream sets
                    return
                if length is None or used + length > len(held):
                    break
                yield at + used, pa.py_buffer(held).slice(used, length)
                used += length
            want = _READ_BYTES if used else max(2 * want, length or 0)
            at += used
            self.torn = ended and used < len(held)

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

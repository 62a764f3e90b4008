"""Tables as corpora: what the readers of CSV, JSON lines and Parquet share.

A row becomes a sample by what the settings say of its columns; each is bytes as they are, text in UTF-8, or else JSON.
"""

from __future__ import annotations

import abc
import bisect
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from ecopipe.datasets.cells import are_numbers, as_bytes, as_json, in_order, label_text, too_long, typed
from ecopipe.datasets.corpus import Corpus, RawSample
from ecopipe.datasets.folders import is_folder
from ecopipe.datasets.lines import RowBytes
from ecopipe.datasets.original import Original
from ecopipe.datasets.parts import find_files, shown, split_of
from ecopipe.datasets.row_settings import as_list, extra, member, once, repeated, row_range
from ecopipe.storage import files
from ecopipe.storage.retries import without_credentials
from ecopipe.vocabulary.errors import ConfigError, CorpusError, EcopipeError, nearest

Row = Mapping[str, Any]
_MOST_CLASSES = 100_000


@dataclass
class _Scan:
    """What one pass over the tables found; rows are counted over all files."""

    rows: list[int] = field(default_factory=list)  # of each file
    sizes: list[npt.NDArray[np.int64]] = field(default_factory=list)  # bytes of each row, by file
    bad: list[int] = field(default_factory=list)  # that cannot become samples
    first: Exception | None = None  # what is wrong with the first of them
    names: set[str] = field(default_factory=set)  # of the label
    unlabelled: int = 0
    long: list[tuple[int, str]] = field(default_factory=list)  # rows with a number that may be beyond 64 bits

    def refuse(self, row: int, error: Exception) -> None:
        self.bad.append(row)
        self.first = self.first or error


@dataclass(frozen=True)
class Found:
    """A row in a pass: how messages name its place, and its cells, or what is wrong with it."""

    where: object
    row: Row | CorpusError


class Rows(Corpus):
    """One sample per row. A file is a split of its name; ``x-00000-of-00002`` and so on are the split x together.

    Two files that would be the same part, and a missing part, are refused.
    Keys are like ``train-000000042``: the split and the row in it, counted from 0. Without ``text``, ``file`` or
    ``members`` the member ``json`` holds the row. A row without a label has no ``cls``. The column ``class_name`` is
    the label's text. ``path`` is a file, or a folder of files with the reader's endings.
    """

    members: ClassVar = {
        "txt": "the column text",
        "cls": "the column label",
        "EXT": "what file and members name",
        "json": "the row, without text, file and members",
    }
    columns: Mapping[str, str] = {"class_name": "string"}  # with a label; and those that the option columns names
    endings: ClassVar[tuple[str, ...]]
    _transcoded = ""  # the encoding of files of text that are brought into UTF-8 first

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
    ) -> None:
        self.path: str = os.fspath(path)
        self._tables: dict[str, RowBytes] = {}  # of the files that are text
        self._files = find_files(self.path, self.endings)
        self._text, self._label, self._file = text, label, file
        self._given = as_list("classes", classes)
        if (twice := repeated(self._given)) is not None:
            raise ConfigError(f"classes: {twice!r} is there twice. Name each class once.")
        self._root = root or (self.path if is_folder(self.path) else files.parent(self.path))
        if not files.is_url(self._root):
            self._root = os.path.abspath(self._root)
        self._members = once("members", map(member, as_list("members", members)))
        for extension, setting, value in (("txt", "text", text), ("cls", "label", label)):
            if value and extension in self._members:
                raise ConfigError(
                    f"members: {extension!r} is what {setting}={value!r} makes. Leave out one of the two."
                )
        self._extras = once("columns", map(extra, as_list("columns", columns)))
        kinds = {name: kind for name, (_, kind) in self._extras.items()}
        self.columns = {**kinds, "class_name": "string"} if label else kinds
        self._ranges = once("rows", map(row_range, as_list("rows", rows)))
        wanted = [text, label, file, *self._members.values(), *(column for column, _ in self._extras.values())]
        wanted = list(dict.fromkeys(filter(None, wanted)))
        self._wanted = wanted if text or file or members else []
        known = self.names(self._files[0])
        for column in wanted:
            if column not in known:
                raise ConfigError(f"{shown(self._files[0])} has no column {column!r}. {nearest(column, known)}")
        self._scanned = self._scan()
        self._starts = [0, *itertools.accumulate(self._scanned.rows)]
        self._splits = self._plan()
        self._numbers = {name: number for number, name in enumerate(self.classes)}

    @abc.abstractmethod
    def names(self, file: str) -> Sequence[str]:
        """The names of the columns, by the head of a file."""

    @abc.abstractmethod
    def scan(self, file: str, columns: Sequence[str]) -> Iterator[Found]:
        """All rows of a file in their order; it is called once for each file.

        Args:
            file: The file.
            columns: What is wanted of a row; more may come. Without any, the cells are not looked at.

        Raises:
            CorpusError: The file is damaged, so that its rows cannot be told.
        """

    @abc.abstractmethod
    def row_sizes(self, file: str, columns: Sequence[str]) -> npt.NDArray[np.int64]:
        """int64 [rows]: about how many bytes each row has, after the scan of the file."""

    @abc.abstractmethod
    def row(self, file: str, place: int, columns: Sequence[str]) -> tuple[object, Row]:
        """One row by its place in the file, and how messages name it.

        Args:
            file: The file, which has been scanned.
            place: Counted from 0.
            columns: What is wanted of the row, if not all; more may come.

        Raises:
            CorpusError: The row is damaged; others can be read.
        """

    def size(self, file: str) -> int | None:
        """How many rows a file has, if it says so itself; it is not scanned then, unless a label is wanted."""
        return None

    def _table(self, file: str) -> RowBytes:
        """The rows of a file of text."""
        if file not in self._tables:
            self._tables[file] = RowBytes(Original(file, encoding=self._transcoded))
        return self._tables[file]

    def close(self) -> None:
        for table in self._tables.values():
            table.file.close()

    @property
    def classes(self) -> tuple[str, ...]:  # type: ignore[override]  # known after a pass
        """The texts of the label; empty if it is a number, or there is none."""
        if not self._label or self._given:
            return self._given
        names = self._scanned.names
        return () if are_numbers(names) else in_order(names)

    def splits(self) -> tuple[str, ...]:
        return tuple(sorted(self._splits))

    def count(self, split: str) -> int:
        self._require_split(split)
        first, last = self._splits[split]
        return last - first

    def key(self, split: str, place: int) -> str:
        self._require_place(split, place)
        return f"{split}-{place:09d}"

    def sizes(self, split: str) -> npt.NDArray[np.int64]:
        self._require_split(split)
        return np.concatenate(self._scanned.sizes)[slice(*self._splits[split])]

    def sample(self, split: str, place: int) -> RawSample:
        key = self.key(split, place)
        row = self._splits[split][0] + place
        number = bisect.bisect_right(self._starts, row) - 1
        where, cells = self.row(self._files[number], row - self._starts[number], self._wanted)
        return self._sample(key, where, cells)

    def check(self, split: str) -> None:
        self._require_split(split)
        first, last = self._splits[split]
        bad = self._scanned.bad
        at = bisect.bisect_left(bad, first)
        if at < len(bad) and bad[at] < last:
            self.sample(split, bad[at] - first)

    def report(self) -> list[str]:
        lines = []
        if self._label and (missing := self._scanned.unlabelled):
            lines.append(f"{missing:,} rows have no label.")
        total = sum(self._scanned.rows)
        covered = sum(last - first for first, last in self._splits.values())
        if covered < total:
            lines.append(f"{total - covered:,} of the {total:,} rows are in no split.")
        return lines

    def _plan(self) -> dict[str, tuple[int, int]]:
        """Split -> its first row, and the one after its last, counted over all files."""
        sizes = self._scanned.rows
        total = sum(sizes)
        splits: dict[str, tuple[int, int]] = {}
        for name, (first, last) in self._ranges.items():
            if first >= total or (last is not None and last > total):
                raise ConfigError(f"rows: {name} is {first}:{last or ''}, and {shown(self.path)} has {total:,} rows.")
            splits[name] = (first, total if last is None else last)
        ordered = sorted(splits.items(), key=lambda item: item[1])
        for (one, (_, end)), (other, (begin, _)) in itertools.pairwise(ordered):
            if begin < end:
                raise ConfigError(f"rows: {one} and {other} overlap. Each row may be in one split.")
        if splits:
            return splits
        start = 0
        for file, size in zip(self._files, sizes, strict=True):
            name = split_of(file)  # the parts of a split follow each other
            splits[name] = (splits.get(name, (start, 0))[0], start + size)
            start += size
        return {name: place for name, place in splits.items() if place[1] > place[0]}

    def _scan(self) -> _Scan:
        scan = _Scan()
        for file in self._files:
            known = None if self._label or self._file else self.size(file)
            before = sum(scan.rows)
            rows, attached = self._scan_file(file, scan, before) if known is None else (known, [])
            sizes = self.row_sizes(file, self._wanted)
            scan.rows.append(rows)
            scan.sizes.append(sizes + np.array(attached, np.int64) if attached else sizes)
        if not sum(scan.rows):
            raise CorpusError(f"{shown(self.path)} holds no rows. Give the file or the folder that holds the table.")
        if len(scan.bad) == sum(scan.rows) and scan.first is not None:
            raise scan.first
        if are_numbers(scan.names) and not self._given:
            scan.bad = sorted({*scan.bad, *(row for row, _ in scan.long)})
        else:
            scan.names.update(label for _, label in scan.long)
        return scan

    def _scan_file(self, file: str, scan: _Scan, before: int) -> tuple[int, list[int]]:
        """How many rows the file has, and the bytes of the file that each names."""
        rows, attached = before, []
        for rows, found in enumerate(self.scan(file, list(filter(None, (self._label, self._file)))), start=before + 1):
            size = 0
            try:
                if isinstance(found.row, CorpusError):
                    raise found.row
                if self._label:
                    self._note_label(scan, rows - 1, found.where, found.row)
                if self._file:
                    size = self._attached_size(found.where, found.row)
            except CorpusError as error:
                scan.refuse(rows - 1, error)
            if self._file:
                attached.append(size)
        return rows - before, attached

    def _note_label(self, scan: _Scan, row: int, where: object, cells: Row) -> None:
        value = label_text(where, self._label, self._cell(where, cells, self._label))
        if value is None:
            scan.unlabelled += 1
        elif self._given and value not in self._given:
            scan.bad.append(row)
        elif too_long(value):
            scan.long.append((row, value))
        else:
            scan.names.add(value)
        if len(scan.names) > _MOST_CLASSES:
            raise ConfigError(
                f"label={self._label!r}: {where} and those before have more than {_MOST_CLASSES:,} different values in "
                f"it. Choose the column of the class."
            )

    def _sample(self, key: str, where: object, row: Row) -> RawSample:
        members: dict[str, bytes] = {}
        for extension, column in self._members.items():
            if (value := self._cell(where, row, column)) is not None:
                members[extension] = as_bytes(value)
        if self._text:
            members["txt"] = as_bytes(self._cell(where, row, self._text) or "")
        if self._file:
            extension, data = self._attached(where, row)
            if extension in members or (extension == "cls" and self._label):
                raise CorpusError(
                    f"{where}: the file and another setting both make the member {extension!r}. Rename the file, or "
                    f"leave out text, label or that of members."
                )
            members[extension] = data
        if not (self._text or self._file or self._members):
            members["json"] = as_json(where, row)
        extras: dict[str, int | float | str | None] = {
            name: typed(where, column, self._cell(where, row, column), kind)
            for name, (column, kind) in self._extras.items()
        }
        if self._label:
            extras["class_name"] = None
            value = label_text(where, self._label, self._cell(where, row, self._label))
            if value is not None and not self._numbers and not self._given:
                if too_long(value):
                    raise CorpusError(
                        f"{where}: the label {value} has more than 18 digits, and may not fit into 64 bits. Mend it, "
                        f"or set classes to take the labels as texts."
                    )
                members["cls"] = value.encode()
            elif value is not None and value in self._numbers:
                members["cls"] = b"%d" % self._numbers[value]
                extras["class_name"] = value
            elif value is not None:
                raise CorpusError(
                    f"{where}: the label {value!r} is none of the classes. {nearest(value, self._numbers)}"
                )
        return RawSample(key, members, extras)

    def _cell(self, where: object, row: Row, column: str) -> Any:
        try:
            return row[column]
        except KeyError:
            raise CorpusError(f"{where}: has no {column!r}. {nearest(column, row)} Mend the row.") from None

    def _place(self, where: object, row: Row) -> str:
        """Where the file is that a row names; links in the folder are followed, as those of other corpora are."""
        named = self._cell(where, row, self._file)
        if not isinstance(named, str) or not named:
            raise CorpusError(
                f"{where}: {self._file!r} is {named!r:.60}, and no path of a file. Mend or remove the row."
            )
        if files.is_url(self._root):
            outside = named.startswith("/") or ".." in named.split("/") or files.is_url(named)
            place = files.join(self._root, named)
        else:
            place = os.path.abspath(os.path.join(self._root, named))
            outside = os.path.commonpath([place, self._root]) != self._root
        if outside:
            raise CorpusError(
                f"{where}: {named!r} lies outside of {shown(self._root)}. Set root to the folder that the paths are in."
            )
        return place

    def _attached_size(self, where: object, row: Row) -> int:
        place = self._place(where, row)
        if files.is_url(place):
            return 0  # to ask for the size of each would be slow
        try:
            return os.stat(place).st_size
        except (OSError, ValueError) as error:
            raise _unreadable(where, place, error) from error

    def _attached(self, where: object, row: Row) -> tuple[str, bytes]:
        """The extension and the bytes of the file that a row names."""
        place = self._place(where, row)
        try:
            with files.open_binary(place) as file:
                return os.path.splitext(place)[1][1:].lower() or "bin", file.read()
        except EcopipeError:
            raise
        except Exception as error:  # each protocol has errors of its own
            if not isinstance(error, (OSError, ValueError)) and not files.is_url(place):
                raise
            raise _unreadable(where, place, error) from error


def _unreadable(where: object, place: str, error: Exception) -> CorpusError:
    reason = error.strerror if isinstance(error, OSError) else None
    return CorpusError(
        f"{where}: {shown(place)} cannot be read: {reason or without_credentials(str(error))}. Restore it, or set root "
        f"to the folder that the paths are in."
    )

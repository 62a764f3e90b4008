"""Tables as corpora: what the readers of CSV, JSON lines and Parquet share.

A row becomes a sample by what the settings say of its columns; each is bytes as they are, text in UTF-8, or else JSON.
"""

from __future__ import annotations

import abc
import itertools
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from ecopipe.datasets.cells import are_numbers, as_bytes, as_json, in_order, label_text, too_long, typed
from ecopipe.datasets.corpus import Corpus, RawSample
from ecopipe.datasets.parts import find_files, split_of
from ecopipe.formats.measures import MEASURES
from ecopipe.vocabulary.errors import ConfigError, CorpusError, nearest

OPTIONS: Mapping[str, str] = {
    "text": "the column that becomes txt",
    "label": "the column that becomes cls: whole numbers as they are, else by their place among the classes",
    "classes": "the texts of the label in their order; all that occur, sorted (numbers by value), unless given",
    "file": "the column of paths to files; each becomes a member under its extension",
    "root": "the folder that such paths are relative to; that of the table unless given",
    "members": "EXT=COLUMN: further columns that become members",
    "columns": "COLUMN, NEW=COLUMN or COLUMN:TYPE (string, int64, float64): columns to keep in the index",
    "rows": "SPLIT=FROM:TO: splits by rows, such as train=0:25000,test=25000:; by files unless given",
}
"""What the settings of every reader of tables mean."""

Row = Mapping[str, Any]
T = TypeVar("T")

_TYPES = ("string", "int64", "float64")
_RESERVED = {"key", "shard", "members", "class_name", *MEASURES}
_MOST_CLASSES = 100_000


@dataclass
class _Scan:
    """What one pass over the tables found."""

    rows: list[int] = field(default_factory=list)  # of each file
    names: set[str] = field(default_factory=set)  # of the label
    unlabelled: int = 0
    long: str = ""  # a label that may be beyond 64 bits, and its place


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
    unit: ClassVar[str] = "line"  # what read() counts

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
        self.path = Path(path)
        self._files = find_files(self.path, self.endings)
        self._text, self._label, self._file = text, label, file
        self._given = _list("classes", classes)
        if (twice := repeated(self._given)) is not None:
            raise ConfigError(f"classes: {twice!r} is there twice. Name each class once.")
        self._root = Path(root) if root else (self.path if self.path.is_dir() else self.path.parent)
        self._members = _once("members", map(_member, _list("members", members)))
        for extension, setting, value in (("txt", "text", text), ("cls", "label", label)):
            if value and extension in self._members:
                raise ConfigError(
                    f"members: {extension!r} is what {setting}={value!r} makes. Leave out one of the two."
                )
        self._extras = _once("columns", map(_extra, _list("columns", columns)))
        kinds = {name: kind for name, (_, kind) in self._extras.items()}
        self.columns = {**kinds, "class_name": "string"} if label else kinds
        self._ranges = _once("rows", map(_range, _list("rows", rows)))
        wanted = [text, label, file, *self._members.values(), *(column for column, _ in self._extras.values())]
        wanted = list(dict.fromkeys(filter(None, wanted)))
        self._wanted = wanted if text or file or members else []
        known = self.names(self._files[0])
        for column in wanted:
            if column not in known:
                raise ConfigError(f"{self._files[0]} has no column {column!r}. {nearest(column, known)}")
        self._scanned: _Scan | None = None
        self._splits = self._plan()

    @abc.abstractmethod
    def names(self, file: Path) -> Sequence[str]:
        """The names of the columns, by the head of a file."""

    @abc.abstractmethod
    def read(self, file: Path, columns: Sequence[str] = ()) -> Iterator[tuple[int, Row]]:
        """Each row with the number of its line or row, counted from 1, for messages.

        Args:
            file: The file.
            columns: What is wanted of a row, if not all; more may come.
        """

    def size(self, file: Path) -> int | None:
        """How many rows a file has, if it says so itself."""
        return None

    @property
    def classes(self) -> tuple[str, ...]:  # type: ignore[override]  # known after a pass
        """The texts of the label; empty if it is a number, or there is none."""
        if not self._label or self._given:
            return self._given
        names = self._scan().names
        return () if are_numbers(names) else in_order(names)

    def splits(self) -> tuple[str, ...]:
        return tuple(sorted(self._splits))

    def count(self, split: str) -> int:
        self._require_split(split)
        first, last = self._splits[split]
        return last - first

    def samples(self, split: str) -> Iterator[RawSample]:
        self._require_split(split)
        first, last = self._splits[split]
        numbers = {name: number for number, name in enumerate(self.classes)}
        start = 0
        for file, size in zip(self._files, self._scan().rows, strict=True):
            if start < last and start + size > first:
                for place, (line, row) in enumerate(self.read(file, self._wanted), start=start):
                    if place >= last:
                        return
                    if place >= first:
                        yield self._sample(f"{split}-{place - first:09d}", f"{file}, {self.unit} {line}", row, numbers)
            start += size

    def report(self) -> list[str]:
        lines = []
        if self._label and (missing := self._scan().unlabelled):
            lines.append(f"{missing:,} rows have no label.")
        total = sum(self._scan().rows)
        covered = sum(last - first for first, last in self._splits.values())
        if covered < total:
            lines.append(f"{total - covered:,} of the {total:,} rows are in no split.")
        return lines

    def _plan(self) -> dict[str, tuple[int, int]]:
        """Split -> its first row, and the one after its last, counted over all files."""
        sizes = self._scan().rows
        total = sum(sizes)
        splits: dict[str, tuple[int, int]] = {}
        for name, (first, last) in self._ranges.items():
            if first >= total or (last is not None and last > total):
                raise ConfigError(f"rows: {name} is {first}:{last or ''}, and {self.path} has {total:,} rows.")
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
        if self._scanned is None:
            scan = _Scan()
            for file in self._files:
                known = None if self._label else self.size(file)
                scan.rows.append(self._scan_file(file, scan) if known is None else known)
            if not sum(scan.rows):
                raise CorpusError(f"{self.path} holds no rows. Give the file or the folder that holds the table.")
            if scan.long and not self._given and are_numbers(scan.names):
                raise CorpusError(
                    f"{scan.long} has more than 18 digits, and may not fit into 64 bits. Mend it, or set classes to "
                    f"take the labels as texts."
                )
            self._scanned = scan
        return self._scanned

    def _scan_file(self, file: Path, scan: _Scan) -> int:
        rows = 0
        for line, row in self.read(file, [self._label] if self._label else []):
            rows += 1
            if self._label:
                where = f"{file}, {self.unit} {line}"
                value = label_text(where, self._label, self._cell(where, row, self._label))
                if value is None:
                    scan.unlabelled += 1
                else:
                    scan.names.add(value)
                    if not scan.long and too_long(value):
                        scan.long = f"{where}: the label {value}"
                if len(scan.names) > _MOST_CLASSES:
                    raise ConfigError(
                        f"label={self._label!r}: {file} has more than {_MOST_CLASSES:,} different values in it. Choose "
                        f"the column of the class."
                    )
        return rows

    def _sample(self, key: str, where: str, row: Row, numbers: Mapping[str, int]) -> RawSample:
        members: dict[str, bytes] = {}
        for extension, column in self._members.items():
            if (value := self._cell(where, row, column)) is not None:
                members[extension] = as_bytes(value)
        if self._text:
            members["txt"] = as_bytes(self._cell(where, row, self._text) or "")
        if self._file:
            extension, data = self._attached(where, str(self._cell(where, row, self._file)))
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
            if value is not None and not numbers and not self._given:
                members["cls"] = value.encode()
            elif value is not None and value in numbers:
                members["cls"] = b"%d" % numbers[value]
                extras["class_name"] = value
            elif value is not None:
                raise CorpusError(f"{where}: the label {value!r} is none of the classes. {nearest(value, numbers)}")
        return RawSample(key, members, extras)

    def _cell(self, where: str, row: Row, column: str) -> Any:
        try:
            return row[column]
        except KeyError:
            raise CorpusError(f"{where}: has no {column!r}. {nearest(column, row)} Mend the row.") from None

    def _attached(self, where: str, named: str) -> tuple[str, bytes]:
        """The extension and the bytes of a file; links in the folder are followed, as those of other corpora are."""
        root = Path(os.path.abspath(self._root))
        place = Path(os.path.abspath(root / named))
        if not place.is_relative_to(root):
            raise CorpusError(
                f"{where}: {named!r} lies outside of {root}. Set root to the folder that the paths are in."
            )
        try:
            return place.suffix[1:].lower() or "bin", place.read_bytes()
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else None
            raise CorpusError(
                f"{where}: {place} cannot be read: {reason or error}. Restore it, or set root to the folder that the "
                f"paths are in."
            ) from error


def repeated(names: Iterable[str]) -> str | None:
    """The first name that is there twice, if any is."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def _list(setting: str, value: Sequence[str]) -> tuple[str, ...]:
    if isinstance(value, str):
        raise ConfigError(f'{setting} is a list, and {value!r} is text. Write {setting}=("{value}",).')
    return tuple(value)


def _once(setting: str, pairs: Iterable[tuple[str, T]]) -> dict[str, T]:
    pairs = list(pairs)
    if (twice := repeated(name for name, _ in pairs)) is not None:
        raise ConfigError(f"{setting}: {twice!r} is given twice. Each name may be there once.")
    return dict(pairs)


def _member(item: str) -> tuple[str, str]:
    extension, equals, column = item.partition("=")
    if not (extension and equals and column):
        raise ConfigError(f"members: {item!r} is not of the form EXT=COLUMN.")
    if "/" in extension:
        raise ConfigError(
            f"members: {extension!r} has a slash in it, and is to be an extension, such as b.txt. Rename it."
        )
    return extension, column


def _extra(item: str) -> tuple[str, tuple[str, str]]:
    """``NEW=COLUMN:TYPE`` -> NEW, (COLUMN, TYPE)."""
    column, colon, kind = item.rpartition(":")
    if not colon or kind not in _TYPES:
        column, kind = item, "string"
    new, equals, old = column.partition("=")
    if new in _RESERVED:
        raise ConfigError(f"columns: {new!r} has a meaning of its own in the index. Rename it: columns=my_{new}={new}.")
    return new, (old if equals else new, kind)


def _range(item: str) -> tuple[str, tuple[int, int | None]]:
    match = re.fullmatch(r"([\w-]+)=(\d*):(\d*)", item)
    if not match or (match[3] and int(match[3]) <= int(match[2] or 0)):
        raise ConfigError(f"rows: {item!r} is not of the form SPLIT=FROM:TO, such as train=0:25000 or test=25000:.")
    return match[1], (int(match[2] or 0), int(match[3]) if match[3] else None)

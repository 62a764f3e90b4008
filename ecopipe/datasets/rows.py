"""Tables as corpora: what the readers of CSV, JSON lines and Parquet share.

A row becomes a sample by what the settings say of its columns; each is bytes as they are, text in UTF-8, or else JSON.
"""

from __future__ import annotations

import abc
import itertools
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from ecopipe.datasets.corpus import Corpus, RawSample
from ecopipe.formats.measures import MEASURES
from ecopipe.vocabulary.errors import ConfigError, CorpusError, nearest

OPTIONS: Mapping[str, str] = {
    "text": "the column that becomes txt",
    "label": "the column that becomes cls: numbers as they are, texts by their place among the classes",
    "classes": "the texts of the label in their order; all that occur, sorted, unless given",
    "file": "the column of paths to files; each becomes a member under its extension",
    "root": "the folder that such paths are relative to; that of the table unless given",
    "members": "EXT=COLUMN: further columns that become members",
    "columns": "COLUMN, NEW=COLUMN or COLUMN:TYPE (string, int64, float64): columns to keep in the index",
    "rows": "SPLIT=FROM:TO: splits by rows, such as train=0:25000,test=25000:; by files unless given",
}
"""What the settings of every reader of tables mean."""

Row = Mapping[str, Any]

_TYPES = ("string", "int64", "float64")
_RESERVED = {"key", "shard", "members", "class_name", *MEASURES}
_PART = re.compile(r"(?P<split>.+?)-\d+-of-\d+")
_NUMBER = re.compile(r"-?\d{1,18}")
_MOST_CLASSES = 100_000


@dataclass
class _Scan:
    """What one pass over the tables found."""

    rows: list[int] = field(default_factory=list)  # of each file
    names: set[str] = field(default_factory=set)  # of the label
    unlabelled: int = 0


class Rows(Corpus):
    """One sample per row. A file is a split of its name; ``x-00000-of-00002`` and so on are the split x together.

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
        self._files = _find(self.path, self.endings)
        self._text, self._label, self._file = text, label, file
        self._given = _list("classes", classes)
        self._root = Path(root) if root else (self.path if self.path.is_dir() else self.path.parent)
        self._members = dict(_pair("members", item) for item in _list("members", members))
        self._extras = dict(_extra(item) for item in _list("columns", columns))
        kinds = {name: kind for name, (_, kind) in self._extras.items()}
        self.columns = {**kinds, "class_name": "string"} if label else kinds
        self._ranges = [_range(item) for item in _list("rows", rows)]
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
        return () if all(map(_NUMBER.fullmatch, names)) else tuple(sorted(names))

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
        for name, first, last in self._ranges:
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
            name = _split_name(file)
            if name in splits and splits[name][1] != start:
                raise CorpusError(f"{file} would be the split {name!r}, as another file is. Rename one of them.")
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
            self._scanned = scan
        return self._scanned

    def _scan_file(self, file: Path, scan: _Scan) -> int:
        rows = 0
        for line, row in self.read(file, [self._label] if self._label else []):
            rows += 1
            if self._label:
                value = _label_text(self._cell(f"{file}, {self.unit} {line}", row, self._label))
                if value is None:
                    scan.unlabelled += 1
                else:
                    scan.names.add(value)
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
                members[extension] = _bytes(value)
        if self._text:
            members["txt"] = _bytes(self._cell(where, row, self._text) or "")
        if self._file:
            members |= self._attached(where, str(self._cell(where, row, self._file)))
        if not (self._text or self._file or self._members):
            members["json"] = _json(where, row)
        extras: dict[str, int | float | str | None] = {
            name: _typed(where, column, self._cell(where, row, column), kind)
            for name, (column, kind) in self._extras.items()
        }
        if self._label:
            extras["class_name"] = None
            value = _label_text(self._cell(where, row, self._label))
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

    def _attached(self, where: str, named: str) -> dict[str, bytes]:
        place = Path(os.path.normpath(self._root / named))
        if not place.is_relative_to(os.path.normpath(self._root)):
            raise CorpusError(
                f"{where}: {named!r} lies outside of {self._root}. Set root to the folder that the paths are in."
            )
        try:
            return {place.suffix[1:].lower() or "bin": place.read_bytes()}
        except OSError as error:
            raise CorpusError(
                f"{where}: {place} cannot be read: {error.strerror or error}. Restore it, or set root to the folder "
                f"that the paths are in."
            ) from error


def _find(path: Path, endings: tuple[str, ...]) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.exists():
        raise CorpusError(f"{path} does not exist. Check the path.")
    places = sorted(path.iterdir()) + sorted((path / "data").iterdir() if (path / "data").is_dir() else [])
    files = [place for place in places if place.is_file() and place.name.lower().endswith(endings)]
    if not files:
        shown = ", ".join(place.name for place in places[:8]) or "nothing"
        raise CorpusError(f"{path} holds no file that ends in {' or '.join(endings)}. It holds: {shown}.")
    return sorted(files, key=lambda file: (_split_name(file), str(file)))


def _split_name(file: Path) -> str:
    stem = re.sub(r"(\.(csv|tsv|jsonl|ndjson|json|parquet|txt|gz))+$", "", file.name, flags=re.IGNORECASE)
    match = _PART.fullmatch(stem)
    return re.sub(r"[^\w-]+", "-", match["split"] if match else stem).strip("-") or "all"


def _list(setting: str, value: Sequence[str]) -> tuple[str, ...]:
    if isinstance(value, str):
        raise ConfigError(f'{setting} is a list, and {value!r} is text. Write {setting}=("{value}",).')
    return tuple(value)


def _pair(setting: str, item: str) -> tuple[str, str]:
    left, equals, right = item.partition("=")
    if not (left and equals and right):
        raise ConfigError(f"{setting}: {item!r} is not of the form EXT=COLUMN.")
    return left, right


def _extra(item: str) -> tuple[str, tuple[str, str]]:
    """``NEW=COLUMN:TYPE`` -> NEW, (COLUMN, TYPE)."""
    column, colon, kind = item.rpartition(":")
    if not colon or kind not in _TYPES:
        column, kind = item, "string"
    new, equals, old = column.partition("=")
    if new in _RESERVED:
        raise ConfigError(f"columns: {new!r} has a meaning of its own in the index. Rename it: columns=my_{new}={new}.")
    return new, (old if equals else new, kind)


def _range(item: str) -> tuple[str, int, int | None]:
    match = re.fullmatch(r"([\w-]+)=(\d*):(\d*)", item)
    if not match or (match[3] and int(match[3]) <= int(match[2] or 0)):
        raise ConfigError(f"rows: {item!r} is not of the form SPLIT=FROM:TO, such as train=0:25000 or test=25000:.")
    return match[1], int(match[2] or 0), int(match[3]) if match[3] else None


def _label_text(value: Any) -> str | None:
    if value is None or value == "":
        return None
    return str(int(value)) if isinstance(value, bool) else str(value)


def _bytes(value: Any) -> bytes:
    if isinstance(value, Mapping) and isinstance(value.get("bytes"), bytes):
        return bytes(value["bytes"])  # an image or audio as the datasets library stores it
    if isinstance(value, bytes):
        return value
    return value.encode() if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str).encode()


def _json(where: str, row: Row) -> bytes:
    for column, value in row.items():
        if isinstance(value, bytes) or (isinstance(value, Mapping) and isinstance(value.get("bytes"), bytes)):
            raise ConfigError(f"{where}: {column!r} holds bytes, which JSON cannot. Name it: members=EXT={column}.")
    return json.dumps(dict(row), ensure_ascii=False, separators=(",", ":"), default=str).encode()


def _typed(where: str, column: str, value: Any, kind: str) -> int | float | str | None:
    if value is None or (value == "" and kind != "string"):
        return None
    try:
        return str(value) if kind == "string" else int(value) if kind == "int64" else float(value)
    except (TypeError, ValueError) as error:
        raise CorpusError(
            f"{where}: {column!r} is {value!r:.60}, no {kind}. Mend it, or keep it as a string."
        ) from error

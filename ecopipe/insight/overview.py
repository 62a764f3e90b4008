"""What shards hold, by their index: counts, lengths, labels, columns, where they came from, and a few samples.

Rows are looked at in Arrow, some ten thousand at a time, and of numbers only three digits are counted: time grows with
the rows, memory does not. Payloads are read of the few samples alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ecopipe.datasets import shards
from ecopipe.formats.index import IndexFile
from ecopipe.formats.text import TEXT_EXTENSIONS
from ecopipe.storage import files
from ecopipe.vocabulary.errors import IndexFileError, ShardError

MOST_VALUES = 10_000
"""Different labels, image sizes or extensions that are told apart."""

TEXT_BYTES = 1000
"""Bytes of a text that are read of a sample."""

_ROWS_AT_ONCE = 1 << 14
_LENGTHS = ("duration_s", "tokens", "chars")


@dataclass
class Numbers:
    """A column of numbers: how many, from where to where, and how they lie, to three digits."""

    count: int = 0
    least: float = float("inf")
    most: float = float("-inf")
    total: float = 0.0
    near: Counter[float] = field(default_factory=Counter)

    def add(self, column: pa.ChunkedArray) -> None:
        values = column.drop_null().cast(pa.float64()).to_numpy()
        values = values[np.isfinite(values)]
        if not values.size:
            return
        self.count += values.size
        self.least = min(self.least, float(values.min()))
        self.most = max(self.most, float(values.max()))
        self.total += float(values.sum())
        kept, counts = np.unique(_three_digits(values), return_counts=True)
        self.near.update(dict(zip(kept.tolist(), counts.tolist(), strict=True)))

    def quantile(self, share: float) -> float:
        """The least value that at least such a share of all does not pass, to three digits."""
        passed, wanted = 0, share * self.count
        for value in sorted(self.near):
            passed += self.near[value]
            if passed >= wanted:
                return min(max(value, self.least), self.most)
        return self.most

    def bars(self, most: int = 16) -> list[tuple[float, float | None, int]]:
        """A histogram of at most so many bars: (from, up to, count); the last one has no end where a few are far out.

        They begin at a multiple of a round step, 1, 2 or 5 times a power of ten.
        """
        far = self.quantile(0.99)
        if self.most - self.least <= 1.5 * (far - self.least):
            far = self.most
        step = _round_step((far - self.least) / (most - 2))
        first = float(np.floor(self.least / step))
        counts: Counter[int] = Counter()
        for value, count in self.near.items():
            counts[int(np.floor(min(max(value, self.least), far) / step - first + 1e-9))] += count
        last = max(counts)
        bars = [((first + at) * step, (first + at + 1) * step, counts[at]) for at in range(last + 1)]
        low, high, count = bars[-1]
        return [*bars[:-1], (low, None if self.most >= high else high, count)]

    def figures(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "count": self.count, "min": self.least, "max": self.most, "mean": self.total / self.count,
            "p5": self.quantile(0.05), "median": self.quantile(0.5), "p95": self.quantile(0.95),
            "histogram": [{"from": low, "to": high, "count": count} for low, high, count in self.bars()],
        }  # fmt: skip


@dataclass
class Members:
    """The members of one extension."""

    count: int = 0
    bytes: int = 0


@dataclass
class Split:
    """What one folder of shards holds."""

    name: str
    folder: str
    samples: int = 0
    shards: int = 0
    bytes: int = 0
    columns: dict[str, str] = field(default_factory=dict)
    filled: Counter[str] = field(default_factory=Counter)
    numbers: dict[str, Numbers] = field(default_factory=dict)
    labels: Counter[int] = field(default_factory=Counter)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    members: dict[str, Members] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def total(self, column: str) -> float | None:
        """The sum of a column; None where no row has it."""
        return self.numbers[column].total if column in self.numbers else None


@dataclass
class Shown:
    """One sample: its members' sizes, its numbers by the index, and the beginnings of its texts."""

    split: str
    key: str
    shard: str
    members: dict[str, int]
    columns: dict[str, Any]
    texts: dict[str, str]


@dataclass
class Overview:
    """What some shards hold. ``description`` is their dataset.json, as it is."""

    splits: list[Split]
    description: dict[str, Any]
    samples: list[Shown]

    @property
    def classes(self) -> list[str]:
        """The names of the labels from 0 on, where the dataset says them."""
        found = self.description.get("classes")
        return [str(name) for name in found] if isinstance(found, list) else []

    def length(self) -> str | None:
        """The column that says how long a sample is: seconds of audio, else tokens, else characters."""
        return next((name for name in _LENGTHS if any(name in split.numbers for split in self.splits)), None)

    def numbers(self, column: str) -> Numbers:
        """A column over all splits."""
        whole = Numbers()
        for split in self.splits:
            if (one := split.numbers.get(column)) is not None:
                whole.count, whole.total = whole.count + one.count, whole.total + one.total
                whole.least, whole.most = min(whole.least, one.least), max(whole.most, one.most)
                whole.near.update(one.near)
        return whole

    def figures(self) -> dict[str, Any]:
        """As JSON."""

        def columns(split: Split) -> list[tuple[str, str]]:
            return [(name, kind) for name, kind in split.columns.items() if name not in ("key", "shard", "members")]

        return {
            "description": self.description,
            "splits": [
                {
                    "name": split.name,
                    "folder": split.folder,
                    "samples": split.samples,
                    "shards": split.shards,
                    "bytes": split.bytes,
                    "columns": {name: {"type": kind, "filled": split.filled[name]} for name, kind in columns(split)},
                    "numbers": {name: numbers.figures() for name, numbers in split.numbers.items()},
                    "labels": {str(label): count for label, count in sorted(split.labels.items())},
                    "image_sizes": {f"{h}x{w}": count for (h, w), count in split.sizes.most_common()},
                    "members": {name: asdict(members) for name, members in sorted(split.members.items())},
                    "notes": split.notes,
                }
                for split in self.splits
            ],
            "samples": [asdict(shown) for shown in self.samples],
        }


def overview(path: str, *, samples: int = 3) -> Overview:
    """Looks at a folder of shards, or of splits.

    Args:
        path: The folder, or its URL.
        samples: How many samples of each split to show: evenly spaced, the first among them.

    Raises:
        ShardError: There are no shards.
        IndexFileError: Shards have no index, or it is damaged.
    """
    splits, shown = [], []
    folders = shards.indexed_folders(path)
    for folder in folders:
        target = shards.index_path(folder)
        if not files.exists(target):
            raise IndexFileError(f"{folder}: holds tars and no index. Run 'ecopipe index {folder}/*.tar' first.")
        with shards.opened(target) as index:
            split = _look(index, folder)
            splits.append(split)
            shown += _samples(index, split, samples)
    return Overview(splits, _description(path, folders[0]), shown)


def _look(index: IndexFile, folder: str) -> Split:
    split = Split(files.base_name(folder.rstrip("/")), folder)
    listed = index.shards.table
    split.shards, split.samples = len(index.shards), int(pc.sum(listed["rows"]).as_py() or 0)
    split.bytes = int(pc.sum(listed["size"]).as_py() or 0)
    split.columns = {name: str(index.schema.field(name).type) for name in index.schema.names if name in index.filled}
    numeric = [name for name in split.columns if _is_number(index.schema.field(name).type)]
    columns = tuple(name for name in split.columns if name not in ("key", "shard"))
    for number, rows in enumerate(listed["rows"].to_pylist()):
        for start in range(0, rows, _ROWS_AT_ONCE):
            _count(split, index.read(number, start, min(start + _ROWS_AT_ONCE, rows), columns), numeric)
    split.numbers = {name: numbers for name, numbers in split.numbers.items() if numbers.count}
    there = {files.base_name(tar) for tar in shards.tars_in(folder)}
    known = set(listed["name"].to_pylist())
    if lost := len(known - there):
        split.notes.append(f"{lost:,} of its shards {'are' if lost > 1 else 'is'} missing")
    if new := len(there - known):
        split.notes.append(f"{new:,} tars are not in its index; run 'ecopipe index' on them")
    return split


def _count(split: Split, rows: pa.Table, numeric: Sequence[str]) -> None:
    split.filled.update({name: len(rows) - rows[name].null_count for name in rows.column_names})
    for name in numeric:
        split.numbers.setdefault(name, Numbers()).add(rows[name])
    if "label" in numeric:
        _tally(split.labels, rows["label"])
    if "height" in numeric and "width" in numeric:
        height, width = (rows[name].cast(pa.int64()) for name in ("height", "width"))
        packed: Counter[int] = Counter()
        _tally(packed, pc.add(pc.multiply(height, 1 << 31), width))
        for pair, count in packed.items():
            if (size := divmod(pair, 1 << 31)) in split.sizes or len(split.sizes) < MOST_VALUES:
                split.sizes[size] += count
    members = pa.chunked_array([chunk.flatten() for chunk in rows["members"].chunks], rows["members"].type.value_type)
    if not len(members):
        return
    told = pa.Table.from_arrays(
        [pc.struct_field(members, name) for name in ("extension", "size")], names=["extension", "size"]
    )
    found = told.group_by("extension", use_threads=False).aggregate([("size", "sum"), ("size", "count")])
    for row in found.to_pylist():
        if row["extension"] in split.members or len(split.members) < MOST_VALUES:
            one = split.members.setdefault(row["extension"], Members())
            one.count, one.bytes = one.count + row["size_count"], one.bytes + row["size_sum"]


def _tally(counts: Counter[int], column: pa.ChunkedArray) -> None:
    for found in pc.value_counts(column.drop_null()).to_pylist():
        if found["values"] in counts or len(counts) < MOST_VALUES:
            counts[found["values"]] += found["counts"]


def _samples(index: IndexFile, split: Split, wanted: int) -> list[Shown]:
    first_rows = np.cumsum([0, *index.shards.table["rows"].to_pylist()])
    count = min(wanted, split.samples)
    shown = []
    for at in (split.samples * number // count for number in range(count)):
        shard = int(np.searchsorted(first_rows, at, "right")) - 1
        start = at - int(first_rows[shard])
        (row,) = index.read(shard, start, start + 1).to_pylist()
        path = files.join(split.folder, row["shard"])
        columns = {name: row[name] for name in split.columns if name not in ("key", "shard", "members")}
        columns = {name: value for name, value in columns.items() if value is not None}
        sizes = {member["extension"]: member["size"] for member in row["members"]}
        shown.append(Shown(split.name, row["key"], row["shard"], sizes, columns, _texts(path, row["members"])))
    return shown


def _texts(path: str, members: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The beginnings of the members that are text; none where the shard is missing."""
    wanted = [member for member in members if member["extension"].rpartition(".")[2] in TEXT_EXTENSIONS]
    if not wanted or not files.exists(path):
        return {}
    texts = {}
    try:
        with files.open_binary(path) as file:
            for member in wanted:
                file.seek(member["offset"])
                data = file.read(min(member["size"], TEXT_BYTES))
                texts[member["extension"]] = data.decode("utf-8", "replace").strip()
    except OSError as error:
        raise ShardError(f"{path}: cannot be read: {error.strerror or error}. Check the file.") from error
    return texts


def _description(path: str, folder: str) -> dict[str, Any]:
    """The dataset.json of a folder of splits, or of the one that a split lies in; empty if there is none to read."""
    for place in dict.fromkeys((path, folder, files.parent(folder.rstrip("/")))):
        if files.exists(files.join(place, shards.DESCRIPTION)):
            return shards.described(place)
    return {}


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _three_digits(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    sizes = np.abs(values)
    exponents = np.floor(np.log10(np.where(sizes > 0, sizes, 1.0))) - 2
    units = 10.0 ** np.clip(exponents, -300, 300)
    return np.asarray(np.round(values / units) * units, dtype=np.float64)


def _round_step(least: float) -> float:
    """The least of 1, 2 and 5 times the powers of ten that is no less; 1 for nothing."""
    if not least > 1e-300:
        return 1.0
    power = 10.0 ** np.floor(np.log10(least))
    return float(next(unit * power for unit in (1, 2, 5, 10) if unit * power >= least * (1 - 1e-9)))

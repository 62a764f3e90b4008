"""AG_NEWS (Zhang, Zhao, LeCun, NIPS 2015): titles and descriptions of news in four classes.

``train.csv`` and ``test.csv`` without a header: class (1 to 4), title, description, in quotes that are doubled inside.
``classes.txt`` has a name a line. A backslash stands for a line break; it is kept, as other loaders of the corpus do.
"""

from __future__ import annotations

import csv
import io
import os
from array import array
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from ecopipe.datasets.corpus import RawSample, shortfall
from ecopipe.datasets.csv_rows import Dialect, parse, scan
from ecopipe.datasets.listed import TreeCorpus
from ecopipe.datasets.tree import Tree
from ecopipe.vocabulary.errors import CorpusError

_FULL = {"test": 7_600, "train": 120_000}
_CLASSES = ("World", "Sports", "Business", "Sci/Tech")
_MOST_ROWS = 1_000_000  # a key has six digits for the row
_DIALECT = Dialect()


class AgNews(TreeCorpus):
    """One sample per article; the splits are train and test.

    Members: ``txt`` (title, a space, description: what torchtext gives), ``title.txt``, ``cls`` (the class counted from
    0: 0 is World). Columns: ``upstream_label`` (the class as upstream counts it, 1 to 4) and ``class_name``. Keys are
    like ``test-000042``, the row counted from 0. ``path`` is the folder of the CSV files, its parent or an archive.
    """

    name = "ag_news"
    title = "AG's news topics: titles and descriptions in four classes"
    expects = "train.csv, test.csv (class 1 to 4, title, description) and classes.txt, in ag_news_csv/ or AG_NEWS/"
    members: ClassVar = {
        "txt": "title and description",
        "title.txt": "the title",
        "cls": "the class from 0: World, Sports, Business, Sci/Tech",
    }
    columns: Mapping[str, str] = {"upstream_label": "int32", "class_name": "string"}
    licence = "non-commercial research; cite Zhang, Zhao, LeCun, NIPS 2015"

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.tree = Tree(path, inner=("ag_news_csv", "AG_NEWS", "datasets/AG_NEWS"), depth=1)
        if not self.splits():
            raise CorpusError(
                f"{self.tree.where()} holds neither train.csv nor test.csv. It holds: {self.tree.outline()}. "
                f"Give the folder ag_news_csv, its parent, or the archive."
            )
        self.classes = self._read_classes()
        self._labels = frozenset(map(str, range(1, len(self.classes) + 1)))
        self._texts: dict[str, bytes] = {}
        self._begins: dict[str, npt.NDArray[np.int64]] = {}
        self._bad: dict[str, int] = {}  # the first bad row of a split, if there is one

    def splits(self) -> tuple[str, ...]:
        return tuple(split for split in _FULL if f"{split}.csv" in self.tree)

    def count(self, split: str) -> int:
        return len(self._table(split)) - 1

    def key(self, split: str, place: int) -> str:
        self._require_place(split, place)
        return f"{split}-{place:06d}"

    def sizes(self, split: str) -> npt.NDArray[np.int64]:
        return np.diff(self._table(split))

    def sample(self, split: str, place: int) -> RawSample:
        key = self.key(split, place)
        data, begins = self._data(split), self._table(split)
        where = f"{self.tree.where(f'{split}.csv')}, row {place + 1}"
        try:
            row = parse(data[begins[place] : begins[place + 1]], _DIALECT)
        except (csv.Error, UnicodeDecodeError) as error:
            what = "is no CSV" if isinstance(error, csv.Error) else "is not text in UTF-8"
            raise CorpusError(f"{where}: {what} ({error}). Fetch the file again.") from error
        if not self._is_good(row):
            raise CorpusError(
                f"{where}: {row!r:.80} is not a class from 1 to {len(self.classes)}, a title and a description. Fetch "
                f"the file again."
            )
        number, title, description = row
        label = int(number) - 1
        members = {"txt": f"{title} {description}".encode(), "title.txt": title.encode(), "cls": b"%d" % label}
        return RawSample(key, members, {"upstream_label": label + 1, "class_name": self.classes[label]})

    def check(self, split: str) -> None:
        self._table(split)
        if split in self._bad:
            self.sample(split, self._bad[split])

    def report(self) -> list[str]:
        lines: list[str] = []
        for split, full in _FULL.items():
            if split not in self.splits():
                lines.append(f"{split}: this split of the full corpus is missing.")
            else:
                lines += shortfall(split, self.count(split), full, "articles")
        return lines

    def _read_classes(self) -> tuple[str, ...]:
        if "classes.txt" not in self.tree:
            return _CLASSES
        names = tuple(self.tree.read("classes.txt").decode("utf-8", "replace").split("\n"))
        return tuple(name.strip() for name in names if name.strip()) or _CLASSES

    def _is_good(self, row: Sequence[str]) -> bool:
        return len(row) == 3 and row[0] in self._labels

    def _data(self, split: str) -> bytes:
        if split not in self._texts:
            self._texts[split] = self.tree.read(f"{split}.csv")
        return self._texts[split]

    def _table(self, split: str) -> npt.NDArray[np.int64]:
        """int64 [rows + 1]: the byte where each row begins, and that after the last."""
        if split not in self._begins:
            self._require_split(split)
            where, data = self.tree.where(f"{split}.csv"), self._data(split)
            begins = array("q")
            try:
                for begin, row in scan(io.BytesIO(data), _DIALECT):
                    begins.append(begin)
                    if isinstance(row, csv.Error) or _DIALECT.replaced(row) or not self._is_good(row):
                        self._bad.setdefault(split, len(begins) - 1)
            except csv.Error as error:
                raise CorpusError(
                    f"{where}, row {len(begins) + 1} or later: is no CSV ({error}). Fetch the file again."
                ) from error
            if len(begins) > _MOST_ROWS:
                raise CorpusError(f"{where} has {len(begins):,} rows, more than {_MOST_ROWS:,}. Fetch the file again.")
            self._begins[split] = np.array([*begins, len(data)], np.int64)
        return self._begins[split]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_texts": {}}

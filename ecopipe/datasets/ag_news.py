"""AG_NEWS (Zhang, Zhao, LeCun, NIPS 2015): titles and descriptions of news in four classes.

``train.csv`` and ``test.csv`` without a header: class (1 to 4), title, description, in quotes that are doubled inside.
``classes.txt`` has a name a line. A backslash stands for a line break; it is kept, as other loaders of the corpus do.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator, Mapping
from typing import ClassVar

from ecopipe.datasets.corpus import Corpus, RawSample, shortfall
from ecopipe.datasets.tree import Tree
from ecopipe.vocabulary.errors import CorpusError

_FULL = {"test": 7_600, "train": 120_000}
_CLASSES = ("World", "Sports", "Business", "Sci/Tech")
_MOST_ROWS = 1_000_000  # a key has six digits for the row


class AgNews(Corpus):
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
        self._counts: dict[str, int] = {}

    def close(self) -> None:
        self.tree.close()

    def splits(self) -> tuple[str, ...]:
        return tuple(split for split in _FULL if f"{split}.csv" in self.tree)

    def count(self, split: str) -> int:
        self._require_split(split)
        if split not in self._counts:
            self._counts[split] = sum(1 for _ in self._rows(split))
        return self._counts[split]

    def samples(self, split: str) -> Iterator[RawSample]:
        self._require_split(split)
        for row, (label, title, description) in enumerate(self._rows(split)):
            members = {
                "txt": f"{title} {description}".encode(),
                "title.txt": title.encode(),
                "cls": b"%d" % (label - 1),
            }
            name = self.classes[label - 1]
            yield RawSample(f"{split}-{row:06d}", members, {"upstream_label": label, "class_name": name})

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

    def _rows(self, split: str) -> Iterator[tuple[int, str, str]]:
        """(class from 1, title, description) of each row."""
        file = f"{split}.csv"
        try:
            text = self.tree.read(file).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise CorpusError(f"{self.tree.where(file)} is not text in UTF-8 ({error}). Fetch it again.") from error
        numbers = frozenset(map(str, range(1, len(self.classes) + 1)))
        rows = csv.reader(io.StringIO(text, newline=""), strict=True)
        try:
            for number, row in enumerate(rows):
                if len(row) != 3 or row[0] not in numbers or number >= _MOST_ROWS:
                    raise CorpusError(
                        f"{self.tree.where(file)}, line {rows.line_num}: {row!r:.80} is not a class from 1 to "
                        f"{len(self.classes)}, a title and a description. Fetch the file again."
                    )
                yield int(row[0]), row[1], row[2]
        except csv.Error as error:
            raise CorpusError(
                f"{self.tree.where(file)}, line {rows.line_num}: is no CSV ({error}). Fetch the file again."
            ) from error

"""IMDB, the Large Movie Review Dataset of Maas et al. (ACL 2011): film reviews labelled by sentiment.

Layout: ``aclImdb/{train,test}/{pos,neg}/ID_RATING.txt``, and ``aclImdb/train/unsup`` with reviews without a label.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import ClassVar

from ecopipe.datasets.corpus import RawSample, shortfall
from ecopipe.datasets.listed import Listed, Row
from ecopipe.datasets.tree import Tree
from ecopipe.vocabulary.errors import CorpusError

_FULL = {"train": 25_000, "test": 25_000, "unsup": 50_000}
_REVIEW = re.compile(r"(\d+)_(\d+)\.txt")
_RATINGS = {"neg": range(1, 5), "pos": range(7, 11), "unsup": range(11)}


class Imdb(Listed):
    """One sample per review; the splits are train, test and, where it is there, unsup.

    Members: ``txt`` (the bytes of the file as they are), ``cls`` (``0`` for negative, ``1`` for positive; not in
    unsup), ``json`` (id, rating). Columns: ``rating`` and ``class_name`` (``pos`` or ``neg``; null in unsup). Keys are
    like ``train-pos-0_9``. Upstream lays reviews out sorted by label, and so the samples of a split come: all negative
    ones, then all positive ones. ``path`` is the corpus folder, its parent or the archive.
    """

    name = "imdb"
    title = "Large Movie Review Dataset: film reviews labelled by sentiment"
    expects = "aclImdb_v1.tar.gz, or its folder aclImdb: {train,test}/{pos,neg}/ID_RATING.txt"
    members: ClassVar = {"txt": "the review", "cls": "1 positive, 0 negative", "json": "id, rating"}
    columns: Mapping[str, str] = {"rating": "int32", "class_name": "string"}
    licence = "none stated; cite Maas et al., ACL 2011"
    classes = ("neg", "pos")

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__()
        self.tree = Tree(path, inner="aclImdb", depth=3)
        for split in ("train", "test"):
            if self.tree.under(f"{split}/neg/") or self.tree.under(f"{split}/pos/"):
                self._rows[split] = self._reviews(split, f"{split}/neg") + self._reviews(split, f"{split}/pos")
        if not self._rows:
            raise CorpusError(
                f"{self.tree.where()} holds no reviews (train/pos/ID_RATING.txt and so on). It holds: "
                f"{self.tree.outline()}. Give the aclImdb folder, its parent, or aclImdb_v1.tar.gz."
            )
        if self.tree.under("train/unsup/"):
            self._rows["unsup"] = self._reviews("unsup", "train/unsup")
        for split, rows in self._rows.items():
            self._rows[split] = sorted(rows)
        self.version = self._read_version()

    def _files_of(self, row: Row) -> Iterable[str]:
        return (row[1],)

    def _make(self, split: str, row: Row) -> RawSample:
        key, file, sentiment, number, stars = row
        members = {"txt": self.tree.read(file)}
        if sentiment == "unsup":
            members["json"] = b'{"id":%d,"rating":null}' % number
            return RawSample(key, members, {"rating": None, "class_name": None})
        members["json"] = b'{"id":%d,"rating":%d}' % (number, stars)
        members["cls"] = b"1" if sentiment == "pos" else b"0"
        return RawSample(key, members, {"rating": stars, "class_name": sentiment})

    def report(self) -> list[str]:
        lines: list[str] = []
        for split in ("test", "train"):
            if split not in self._rows:
                lines.append(f"{split}: this split of the full corpus is missing.")
        for split in self.splits():
            rows = self._rows[split]
            lines += shortfall(split, len(rows), _FULL[split], "reviews")
            for sentiment, ratings in _RATINGS.items():
                odd = [row for row in rows if row[2] == sentiment and row[4] not in ratings and row[3] >= 0]
                if odd:
                    lines.append(
                        f"{split}: {len(odd):,} of the {sentiment} reviews have a rating outside of {ratings[0]} to "
                        f"{ratings[-1]}, such as {odd[0][1]}; the label is that of the folder."
                    )
        return lines

    def _reviews(self, split: str, folder: str) -> list[Row]:
        """(key, file, sentiment, id, rating) of each review of a folder."""
        sentiment = folder.rpartition("/")[2]
        files = self.tree.under(f"{folder}/")
        if not files:
            raise CorpusError(
                f"{self.tree.where(folder)} is missing or empty, so {split} would have reviews of one class only. "
                f"Fetch the corpus again, or leave the whole folder {split} out."
            )
        rows: list[Row] = []
        for file in files:
            match = _REVIEW.fullmatch(file[len(folder) + 1 :])
            stem = file[len(folder) + 1 :].removesuffix(".txt").replace(".", "_")
            key = f"{split}-{stem}" if split == "unsup" else f"{split}-{sentiment}-{stem}"
            if not match:
                self._fault(
                    split,
                    key,
                    f"{self.tree.where(file)} is not named ID_RATING.txt, as reviews are. Move it out of the corpus.",
                )
            rows.append((key, file, sentiment, int(match[1]) if match else -1, int(match[2]) if match else -1))
        return rows

    def _read_version(self) -> str:
        if "README" not in self.tree:
            return ""
        first = self.tree.read("README").decode("utf-8", "replace").partition("\n")[0]
        match = re.search(r"Large Movie Review Dataset v([\d.]+)", first)
        return match[1] if match else ""

"""What the readers of corpora in a tree share: a list of rows a split, each of which says how to make a sample."""

from __future__ import annotations

import abc
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ecopipe.datasets.corpus import Corpus, RawSample
from ecopipe.datasets.tree import Tree
from ecopipe.vocabulary.errors import CorpusError

Row = tuple[Any, ...]
"""What is known of a sample by listing; its key comes first."""


class TreeCorpus(Corpus):
    """A corpus in a folder or an archive, ``tree``."""

    tree: Tree

    @property
    def path(self) -> str:  # type: ignore[override]  # the tree knows it
        """Where the corpus is, as it was given."""
        return self.tree.path

    def close(self) -> None:
        self.tree.close()


class Listed(TreeCorpus):
    """A corpus whose samples are known when its tree has been listed.

    A reader sets ``tree``, and fills ``_rows`` (split -> rows, sorted by their keys, which are unique) and ``_faults``
    (split -> key of a bad sample -> what is wrong with it and what to do).
    """

    def __init__(self) -> None:
        self._rows: dict[str, list[Row]] = {}
        self._faults: dict[str, dict[str, str]] = {}

    @abc.abstractmethod
    def _files_of(self, row: Row) -> Iterable[str]:
        """The files in the tree that a good sample is read from."""

    @abc.abstractmethod
    def _make(self, split: str, row: Row) -> RawSample:
        """The sample of a row without a fault."""

    def splits(self) -> tuple[str, ...]:
        return tuple(sorted(self._rows))

    def count(self, split: str) -> int:
        return len(self._table(split))

    def key(self, split: str, place: int) -> str:
        key: str = self._row(split, place)[0]
        return key

    def sizes(self, split: str) -> npt.NDArray[np.int64]:
        bad, size = self._faults.get(split, {}), self.tree.size
        rows = self._table(split)
        sizes = (0 if row[0] in bad else sum(map(size, self._files_of(row))) for row in rows)
        return np.fromiter(sizes, np.int64, len(rows))

    def sample(self, split: str, place: int) -> RawSample:
        row = self._row(split, place)
        if (faults := self._faults.get(split)) and row[0] in faults:
            raise CorpusError(faults[row[0]])
        return self._make(split, row)

    def check(self, split: str) -> None:
        self._table(split)
        if faults := self._faults.get(split):
            raise CorpusError(faults[min(faults)])

    def _table(self, split: str) -> Sequence[Row]:
        """The rows of a split."""
        try:
            return self._rows[split]
        except KeyError:
            self._require_split(split)
            raise

    def _row(self, split: str, place: int) -> Row:
        rows = self._table(split)
        if not 0 <= place < len(rows):
            self._require_place(split, place)
        return rows[place]

    def _fault(self, split: str, key: str, message: str) -> None:
        """Notes that a sample is bad; of several reasons the first counts."""
        self._faults.setdefault(split, {}).setdefault(key, message)

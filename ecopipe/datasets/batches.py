"""What the readers of CIFAR share: batches of images in one file each, in the python version or the binary one."""

from __future__ import annotations

import abc
import bisect
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from ecopipe.datasets.corpus import RawSample
from ecopipe.datasets.listed import TreeCorpus
from ecopipe.datasets.pickles import damaged, kind_of
from ecopipe.datasets.pixels import Encode, Storage, encoder
from ecopipe.datasets.tree import Tree

_MOST_ROWS = 100_000  # a key has five digits for the row

PLANES = 3 * 32 * 32
"""Bytes of an image."""


@dataclass(frozen=True)
class Batch:
    """The images of one file: uint8 [N, 32, 32, 3], RGB; N labels of each kind, and N names."""

    images: npt.NDArray[np.uint8]
    labels: dict[str, Sequence[Any]]
    names: Sequence[str | None]


class Batches(TreeCorpus):
    """A corpus of few files with many images each; a file is read whole when the first of its images is wanted."""

    in_order: ClassVar[bool] = True
    storage: Storage
    _again: str  # the remedy for a damaged file

    def _start(self, what: str) -> None:
        self._what = what
        self.extension = "png" if self.storage == "png" else "npy"
        self._loaded: dict[str, Batch] = {}
        self._counts: dict[str, int] = {}
        self._encode: Encode | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_loaded": {}, "_encode": None}

    @abc.abstractmethod
    def _files_of(self, split: str) -> list[str]:
        """The files of a split, in their order."""

    @abc.abstractmethod
    def _prefix(self, split: str, file: str) -> str:
        """Of the keys of a file's images."""

    @abc.abstractmethod
    def _read(self, file: str) -> Batch:
        """One file, its form checked, and its labels not."""

    @abc.abstractmethod
    def _labels_of(self) -> dict[str, int]:
        """How many classes each kind of label has."""

    @abc.abstractmethod
    def _make(self, batch: Batch, row: int, key: str, payload: bytes) -> RawSample:
        """One sample, its labels checked."""

    def count(self, split: str) -> int:
        self._require_split(split)
        return sum(map(self._count, self._files_of(split)))

    def key(self, split: str, place: int) -> str:
        file, row = self._find(split, place)
        return f"{self._prefix(split, file)}-{row:05d}"

    def sizes(self, split: str) -> npt.NDArray[np.int64]:
        return np.full(self.count(split), PLANES, np.int64)

    def sample(self, split: str, place: int) -> RawSample:
        file, row = self._find(split, place)
        batch = self._load(file)
        self._check_row(file, batch, row)
        if self._encode is None:
            self._encode = encoder(self.storage, self._what)[1]
        key = f"{self._prefix(split, file)}-{row:05d}"
        return self._make(batch, row, key, self._encode(batch.images[row]))

    def check(self, split: str) -> None:
        self._require_split(split)
        for file in self._files_of(split):
            batch = self._load(file)
            for row in range(len(batch.images)):
                self._check_row(file, batch, row)

    def _check_row(self, file: str, batch: Batch, row: int) -> None:
        for what, classes in self._labels_of().items():
            label = batch.labels[what][row]
            if type(label) is not int or not 0 <= label < classes:
                found = f"the {what} of row {row} is {label!r}, not one of 0 to {classes - 1}"
                raise damaged(self.tree, file, found, self._again)

    def _find(self, split: str, place: int) -> tuple[str, int]:
        """The file of an image, and its row in it."""
        self._require_place(split, place)
        files = self._files_of(split)
        ends = list(itertools.accumulate(map(self._count, files)))
        number = bisect.bisect_right(ends, place)
        return files[number], place - (ends[number - 1] if number else 0)

    def _count(self, file: str) -> int:
        if file not in self._counts:
            self._counts[file] = len(self._load(file).images)
        return self._counts[file]

    def _load(self, file: str) -> Batch:
        if file not in self._loaded:
            batch = self._read(file)
            if len(batch.images) > _MOST_ROWS:
                found = f"it has {len(batch.images):,} rows, more than {_MOST_ROWS:,}"
                raise damaged(self.tree, file, found, self._again)
            self._loaded[file] = batch
        return self._loaded[file]


def as_images(planes: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """uint8 [N, 3072] of planes -> uint8 [N, 32, 32, 3], RGB."""
    return np.ascontiguousarray(planes.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))


def binary_rows(tree: Tree, file: str, labels: int, again: str) -> npt.NDArray[np.uint8]:
    """uint8 [N, labels + 3072]: the rows of a batch of a binary version."""
    payload = tree.read(file)
    size = labels + PLANES
    if len(payload) % size or not payload:
        found = f"its {len(payload):,} bytes are no whole number of rows of {size:,}"
        raise damaged(tree, file, found, again)
    return np.frombuffer(payload, np.uint8).reshape(-1, size)


def class_names(tree: Tree, file: str, again: str) -> tuple[str, ...]:
    """The names in a text file of one a line."""
    names = tuple(tree.read(file).decode("utf-8", "replace").split())
    if not names:
        raise damaged(tree, file, "it names no class", again)
    return names


def pickled_planes(
    tree: Tree, file: str, fields: dict[str, Any], lists: tuple[str, ...], again: str
) -> npt.NDArray[np.uint8]:
    """uint8 [N, 3072]: the ``data`` of a pickled batch, whose ``lists`` have N entries each."""
    data: Any = fields.get("data")
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != PLANES:
        raise damaged(tree, file, f"its data are {kind_of(data)}, not uint8 [N, {PLANES}]", again)
    for what in lists:
        values = fields.get(what)
        if not isinstance(values, list) or len(values) != len(data):
            raise damaged(tree, file, f"its {what} are {kind_of(values)}, not a list of {len(data):,}", again)
    return data

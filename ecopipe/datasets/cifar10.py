"""CIFAR-10 (Krizhevsky 2009): 32 x 32 colour images of ten classes, in the "python version" or the "binary version".

A batch of the python version is a pickled dict: ``data`` uint8 [N, 3072] (a row is 1,024 red, then green, then blue
values, row by row), ``labels`` (N ints), ``filenames`` (N names). One of the binary version is rows of 3,073 bytes: the
label, then such values; it has no names.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from ecopipe.datasets.corpus import Corpus, RawSample, shortfall
from ecopipe.datasets.pickles import as_text, damaged, kind_of, read_dict
from ecopipe.datasets.pixels import STORAGE, Storage, check_storage, encoder
from ecopipe.datasets.tree import Tree
from ecopipe.vocabulary.errors import CorpusError

_FULL = {"train": 50_000, "test": 10_000}
_BATCHES = {"train": [f"data_batch_{number}" for number in range(1, 6)], "test": ["test_batch"]}
_MOST_ROWS = 100_000  # a key has five digits for the row

PLANES = 3 * 32 * 32
"""Bytes of an image."""


class Cifar10(Corpus):
    """One sample per image; the splits are train (data_batch_1 to 5, in this order) and test.

    Members: ``cls`` (the label in digits), and ``png``, or with ``storage="raw"`` ``npy`` (uint8 [3, 32, 32], RGB in
    0..255). Keys are like ``train-1-00042`` (batch and row) and ``test-00042``. The column ``name`` is null in the
    binary version. ``path`` is the corpus folder, its parent or the archive; where both versions lie side by side, the
    python version is read.
    """

    name = "cifar10"
    title = "CIFAR-10: 32 x 32 colour images of ten classes"
    expects = "cifar-10-python.tar.gz or cifar-10-binary.tar.gz, or their folder cifar-10-batches-py or -bin"
    members: ClassVar = {"png": "the image (npy if storage is raw)", "cls": "the label, 0 to 9"}
    columns: Mapping[str, str] = {"name": "string"}
    options: ClassVar = {"storage": STORAGE}
    licence = "none stated; cite Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009"

    def __init__(self, path: str | os.PathLike[str], *, storage: Storage = "png") -> None:
        check_storage(storage)
        self.storage: Storage = storage
        self.tree = Tree(path, inner=("cifar-10-batches-py", "cifar-10-batches-bin"), depth=1)
        self.binary = "batches.meta" not in self.tree and "batches.meta.txt" in self.tree
        self._again = f"Fetch cifar-10-{'binary' if self.binary else 'python'}.tar.gz again."
        ending = ".bin" if self.binary else ""
        self._files = {
            split: [name + ending for name in names if name + ending in self.tree] for split, names in _BATCHES.items()
        }
        if not any(self._files.values()) or not (self.binary or "batches.meta" in self.tree):
            missing = "batches.meta" if any(self._files.values()) else "data_batch_1 and so on"
            raise CorpusError(
                f"{self.tree.where()} is neither the python version of CIFAR-10 nor the binary one: {missing} is "
                f"missing. It holds: {self.tree.outline()}. Give the folder cifar-10-batches-py or -bin, its parent, "
                f"or cifar-10-python.tar.gz or cifar-10-binary.tar.gz."
            )
        self.classes = self._read_classes()
        self._counts: dict[str, int] = {}

    def close(self) -> None:
        self.tree.close()

    def splits(self) -> tuple[str, ...]:
        return tuple(sorted(split for split, files in self._files.items() if files))

    def count(self, split: str) -> int:
        self._require_split(split)
        for file in self._files[split]:
            if file not in self._counts:
                self._counts[file] = len(self._load(file).labels)
        return sum(self._counts[file] for file in self._files[split])

    def samples(self, split: str) -> Iterator[RawSample]:
        self._require_split(split)
        extension, encode = encoder(self.storage, "CIFAR-10")
        for file in self._files[split]:
            batch = self._load(file)
            stem = file.removesuffix(".bin")
            prefix = split if split == "test" else f"{split}-{stem.rpartition('_')[2]}"
            for row, (image, label, name) in enumerate(zip(batch.images, batch.labels, batch.names, strict=True)):
                yield RawSample(f"{prefix}-{row:05d}", {extension: encode(image), "cls": b"%d" % label}, {"name": name})

    def report(self) -> list[str]:
        lines: list[str] = []
        for split in sorted(_BATCHES):
            ending = ".bin" if self.binary else ""
            missing = [name + ending for name in _BATCHES[split] if name + ending not in self._files[split]]
            if missing:
                lines.append(f"{split}: {', '.join(missing)} missing.")
            if self._files[split]:
                lines += shortfall(split, self.count(split), _FULL[split], "images")
        return lines

    def _read_classes(self) -> tuple[str, ...]:
        if self.binary:
            return class_names(self.tree, "batches.meta.txt", self._again)
        names = read_dict(self.tree, "batches.meta", self._again).get("label_names")
        if not isinstance(names, list) or not names:
            found = f"its label_names are {kind_of(names)}, not a list of class names"
            raise damaged(self.tree, "batches.meta", found, self._again)
        return tuple(as_text(name) for name in names)

    def _load(self, file: str) -> _Batch:
        """One checked batch."""
        if self.binary:
            rows = binary_rows(self.tree, file, 1, self._again)
            planes, labels = rows[:, 1:], rows[:, 0].tolist()
            names: list[str | None] = [None] * len(labels)
        else:
            fields = read_dict(self.tree, file, self._again)
            planes = pickled_planes(self.tree, file, fields, ("labels", "filenames"), self._again)
            labels, names = fields["labels"], [as_text(name) for name in fields["filenames"]]
        if len(planes) > _MOST_ROWS:
            found = f"it has {len(planes):,} rows, more than {_MOST_ROWS:,}"
            raise damaged(self.tree, file, found, self._again)
        check_labels(self.tree, file, "label", labels, len(self.classes), self._again)
        return _Batch(as_images(planes), labels, names)


class _Batch(NamedTuple):
    images: npt.NDArray[np.uint8]  # [N, 32, 32, 3], RGB
    labels: list[int]
    names: list[str | None]


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


def check_labels(tree: Tree, file: str, what: str, labels: list[Any], classes: int, again: str) -> None:
    """Refuses a label that is no class number."""
    for row, label in enumerate(labels):
        if type(label) is not int or not 0 <= label < classes:
            found = f"the {what} of row {row} is {label!r}, not one of 0 to {classes - 1}"
            raise damaged(tree, file, found, again)

"""CIFAR-10 (Krizhevsky 2009): 32 x 32 colour images of ten classes, in the "python version" or the "binary version".

A batch of the python version is a pickled dict: ``data`` uint8 [N, 3072] (a row is 1,024 red, then green, then blue
values, row by row), ``labels`` (N ints), ``filenames`` (N names). One of the binary version is rows of 3,073 bytes: the
label, then such values; it has no names.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import ClassVar

from ecopipe.datasets.batches import Batch, Batches, as_images, binary_rows, class_names, pickled_planes
from ecopipe.datasets.corpus import RawSample, shortfall
from ecopipe.datasets.pickles import as_text, damaged, kind_of, read_dict
from ecopipe.datasets.pixels import STORAGE, Storage, check_storage
from ecopipe.datasets.tree import Tree
from ecopipe.vocabulary.errors import CorpusError

_FULL = {"train": 50_000, "test": 10_000}
_BATCHES = {"train": [f"data_batch_{number}" for number in range(1, 6)], "test": ["test_batch"]}


class Cifar10(Batches):
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
        self._start("CIFAR-10")

    def splits(self) -> tuple[str, ...]:
        return tuple(sorted(split for split, files in self._files.items() if files))

    def _files_of(self, split: str) -> list[str]:
        return self._files[split]

    def _prefix(self, split: str, file: str) -> str:
        return split if split == "test" else f"{split}-{file.removesuffix('.bin').rpartition('_')[2]}"

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

    def _read(self, file: str) -> Batch:
        if self.binary:
            rows = binary_rows(self.tree, file, 1, self._again)
            planes, labels = rows[:, 1:], rows[:, 0].tolist()
            names: list[str | None] = [None] * len(labels)
        else:
            fields = read_dict(self.tree, file, self._again)
            planes = pickled_planes(self.tree, file, fields, ("labels", "filenames"), self._again)
            labels, names = fields["labels"], [as_text(name) for name in fields["filenames"]]
        return Batch(as_images(planes), {"label": labels}, names)

    def _labels_of(self) -> dict[str, int]:
        return {"label": len(self.classes)}

    def _make(self, batch: Batch, row: int, key: str, payload: bytes) -> RawSample:
        members = {self.extension: payload, "cls": b"%d" % batch.labels["label"][row]}
        return RawSample(key, members, {"name": batch.names[row]})

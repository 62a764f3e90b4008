"""CIFAR-100 (Krizhevsky 2009): 32 x 32 colour images of 100 classes in 20 groups, in the python or the binary version.

The python version has the pickled dicts ``train``, ``test`` (``data`` as in CIFAR-10, ``fine_labels``,
``coarse_labels``, ``filenames``) and ``meta`` (``fine_label_names``, ``coarse_label_names``). The binary version has
``train.bin`` and ``test.bin`` of rows of 3,074 bytes (coarse label, fine label, planes), and the names in
``fine_label_names.txt`` and ``coarse_label_names.txt``.
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
_META = {False: ("meta",), True: ("fine_label_names.txt", "coarse_label_names.txt")}


class Cifar100(Batches):
    """One sample per image; the splits are train and test.

    Members: ``cls`` (the fine label in digits), and ``png``, or with ``storage="raw"`` ``npy`` (uint8 [3, 32, 32], RGB
    in 0..255). Columns: ``name`` (null in the binary version), ``coarse_label`` (0 to 19) and ``coarse_name``; the fine
    label is the measure ``label``. Keys are like ``train-00042``. ``path`` is the corpus folder, its parent or the
    archive; where both versions lie side by side, the python version is read.
    """

    name = "cifar100"
    title = "CIFAR-100: 32 x 32 colour images of 100 classes in 20 groups"
    expects = "cifar-100-python.tar.gz or cifar-100-binary.tar.gz, or their folder cifar-100-python or -binary"
    members: ClassVar = {"png": "the image (npy if storage is raw)", "cls": "the fine label, 0 to 99"}
    columns: Mapping[str, str] = {"name": "string", "coarse_label": "int32", "coarse_name": "string"}
    options: ClassVar = {"storage": STORAGE}
    licence = "none stated; cite Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009"

    def __init__(self, path: str | os.PathLike[str], *, storage: Storage = "png") -> None:
        check_storage(storage)
        self.storage: Storage = storage
        self.tree = Tree(path, inner=("cifar-100-python", "cifar-100-binary"), depth=1)
        self.binary = "meta" not in self.tree and any(f"{split}.bin" in self.tree for split in _FULL)
        self._again = f"Fetch cifar-100-{'binary' if self.binary else 'python'}.tar.gz again."
        ending = ".bin" if self.binary else ""
        self._files = {split: split + ending for split in sorted(_FULL) if split + ending in self.tree}
        missing = [name for name in _META[self.binary] if name not in self.tree]
        if not self._files or missing:
            raise CorpusError(
                f"{self.tree.where()} is neither the python version of CIFAR-100 nor the binary one: "
                f"{', '.join(missing) if self._files else 'train and test'} missing. It holds: {self.tree.outline()}. "
                f"Give the folder cifar-100-python or cifar-100-binary, its parent, or the archive."
            )
        self.classes, self.groups = self._read_names("fine"), self._read_names("coarse")
        self._start("CIFAR-100")

    def splits(self) -> tuple[str, ...]:
        return tuple(self._files)

    def _files_of(self, split: str) -> list[str]:
        return [self._files[split]]

    def _prefix(self, split: str, file: str) -> str:
        return split

    def report(self) -> list[str]:
        lines: list[str] = []
        for split, full in sorted(_FULL.items()):
            if split not in self._files:
                lines.append(f"{split}: this split of the full corpus is missing.")
            else:
                lines += shortfall(split, self.count(split), full, "images")
        return lines

    def _read_names(self, kind: str) -> tuple[str, ...]:
        if self.binary:
            return class_names(self.tree, f"{kind}_label_names.txt", self._again)
        names = read_dict(self.tree, "meta", self._again).get(f"{kind}_label_names")
        if not isinstance(names, list) or not names:
            found = f"its {kind}_label_names are {kind_of(names)}, not a list of class names"
            raise damaged(self.tree, "meta", found, self._again)
        return tuple(as_text(name) for name in names)

    def _read(self, file: str) -> Batch:
        if self.binary:
            rows = binary_rows(self.tree, file, 2, self._again)
            planes, coarse, fine = rows[:, 2:], rows[:, 0].tolist(), rows[:, 1].tolist()
            names: list[str | None] = [None] * len(fine)
        else:
            fields = read_dict(self.tree, file, self._again)
            lists = ("fine_labels", "coarse_labels", "filenames")
            planes = pickled_planes(self.tree, file, fields, lists, self._again)
            fine, coarse = fields["fine_labels"], fields["coarse_labels"]
            names = [as_text(name) for name in fields["filenames"]]
        return Batch(as_images(planes), {"fine label": fine, "coarse label": coarse}, names)

    def _labels_of(self) -> dict[str, int]:
        return {"fine label": len(self.classes), "coarse label": len(self.groups)}

    def _make(self, batch: Batch, row: int, key: str, payload: bytes) -> RawSample:
        fine, coarse = batch.labels["fine label"][row], batch.labels["coarse label"][row]
        extras = {"name": batch.names[row], "coarse_label": coarse, "coarse_name": self.groups[coarse]}
        return RawSample(key, {self.extension: payload, "cls": b"%d" % fine}, extras)

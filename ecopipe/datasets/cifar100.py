"""CIFAR-100 (Krizhevsky 2009): 32 x 32 colour images of 100 classes in 20 groups, in the python or the binary version.

The python version has the pickled dicts ``train``, ``test`` (``data`` as in CIFAR-10, ``fine_labels``,
``coarse_labels``, ``filenames``) and ``meta`` (``fine_label_names``, ``coarse_label_names``). The binary version has
``train.bin`` and ``test.bin`` of rows of 3,074 bytes (coarse label, fine label, planes), and the names in
``fine_label_names.txt`` and ``coarse_label_names.txt``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from ecopipe.datasets.cifar10 import as_images, binary_rows, check_labels, class_names, pickled_planes
from ecopipe.datasets.corpus import Corpus, RawSample, shortfall
from ecopipe.datasets.pickles import as_text, damaged, kind_of, read_dict
from ecopipe.datasets.pixels import STORAGE, Storage, check_storage, encoder
from ecopipe.datasets.tree import Tree
from ecopipe.vocabulary.errors import CorpusError

_FULL = {"train": 50_000, "test": 10_000}
_MOST_ROWS = 100_000  # a key has five digits for the row
_META = {False: ("meta",), True: ("fine_label_names.txt", "coarse_label_names.txt")}


class Cifar100(Corpus):
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
        self._counts: dict[str, int] = {}

    def close(self) -> None:
        self.tree.close()

    def splits(self) -> tuple[str, ...]:
        return tuple(self._files)

    def count(self, split: str) -> int:
        self._require_split(split)
        if split not in self._counts:
            self._counts[split] = len(self._load(self._files[split]).fine)
        return self._counts[split]

    def samples(self, split: str) -> Iterator[RawSample]:
        self._require_split(split)
        extension, encode = encoder(self.storage, "CIFAR-100")
        batch = self._load(self._files[split])
        for row, (image, fine, coarse, name) in enumerate(
            zip(batch.images, batch.fine, batch.coarse, batch.names, strict=True)
        ):
            yield RawSample(
                f"{split}-{row:05d}",
                {extension: encode(image), "cls": b"%d" % fine},
                {"name": name, "coarse_label": coarse, "coarse_name": self.groups[coarse]},
            )

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

    def _load(self, file: str) -> _Batch:
        """One checked split."""
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
        if len(planes) > _MOST_ROWS:
            found = f"it has {len(planes):,} rows, more than {_MOST_ROWS:,}"
            raise damaged(self.tree, file, found, self._again)
        check_labels(self.tree, file, "fine label", fine, len(self.classes), self._again)
        check_labels(self.tree, file, "coarse label", coarse, len(self.groups), self._again)
        return _Batch(as_images(planes), fine, coarse, names)


class _Batch(NamedTuple):
    images: npt.NDArray[np.uint8]  # [N, 32, 32, 3], RGB
    fine: list[int]
    coarse: list[int]
    names: list[str | None]

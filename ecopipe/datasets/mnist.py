"""MNIST (LeCun, Cortes, Burges) and the corpora of its layout: 28 x 28 grey images of ten classes, in idx files.

``train-images-idx3-ubyte``, ``train-labels-idx1-ubyte``, ``t10k-images-idx3-ubyte``, ``t10k-labels-idx1-ubyte``, each
as it is or with gzip (``.gz``). An idx file is two zero bytes, the type (8: unsigned bytes), the number of dimensions,
each of them as 4 bytes with the greatest first, then the values.
"""

from __future__ import annotations

import gzip
import os
import struct
import zlib
from collections.abc import Iterator
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from ecopipe.datasets.corpus import Corpus, RawSample, shortfall
from ecopipe.datasets.pickles import damaged
from ecopipe.datasets.pixels import STORAGE, Storage, check_storage, encoder
from ecopipe.datasets.tree import Tree
from ecopipe.vocabulary.errors import CorpusError

_FULL = {"test": 10_000, "train": 60_000}
_PREFIX = {"test": "t10k", "train": "train"}
_KINDS = {"images": 3, "labels": 1}  # dimensions
_MOST_ROWS = 100_000  # a key has five digits for the row


class Mnist(Corpus):
    """One sample per image; the splits are train and test.

    Members: ``cls`` (the label in digits), and ``png``, or with ``storage="raw"`` ``npy`` (uint8 [1, 28, 28] in 0..255,
    0 is the background). Keys are like ``test-00042``. ``path`` is the folder of the idx files, ``MNIST/raw`` or what
    that lies in. A split of which images or labels are missing is reported and left out.
    """

    name = "mnist"
    title = "MNIST: 28 x 28 grey images of handwritten digits"
    expects = "{train,t10k}-{images-idx3,labels-idx1}-ubyte, .gz or not, in MNIST/raw/ or flat"
    members: ClassVar = {"png": "the image (npy if storage is raw)", "cls": "the label, 0 to 9"}
    options: ClassVar = {"storage": STORAGE}
    licence = "none stated; cite LeCun, Bottou, Bengio, Haffner, Proceedings of the IEEE, 1998"
    classes = tuple("0123456789")
    folder: ClassVar[str] = "MNIST"

    def __init__(self, path: str | os.PathLike[str], *, storage: Storage = "png") -> None:
        check_storage(storage)
        self.storage: Storage = storage
        self.tree = Tree(path, inner=(f"{self.folder}/raw", self.folder, "raw"), depth=1)
        self._files: dict[str, dict[str, str]] = {}  # split -> kind -> file
        for split, prefix in _PREFIX.items():
            for kind, dimensions in _KINDS.items():
                plain = f"{prefix}-{kind}-idx{dimensions}-ubyte"
                found = next((name for name in (plain, f"{plain}.gz") if name in self.tree), None)
                if found:
                    self._files.setdefault(split, {})[kind] = found
        if not any(len(kinds) == len(_KINDS) for kinds in self._files.values()):
            raise CorpusError(
                f"{self.tree.where()} holds no split of {self.folder} with both images and labels "
                f"(t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte, and so on, .gz or not). It holds: "
                f"{self.tree.outline()}. Give the folder {self.folder}/raw, or the one that holds the idx files."
            )
        self._counts: dict[str, int] = {}

    def close(self) -> None:
        self.tree.close()

    def splits(self) -> tuple[str, ...]:
        return tuple(split for split in _FULL if len(self._files.get(split, {})) == len(_KINDS))

    def count(self, split: str) -> int:
        self._require_split(split)
        if split not in self._counts:
            self._counts[split] = len(self._labels(split))
        return self._counts[split]

    def samples(self, split: str) -> Iterator[RawSample]:
        self._require_split(split)
        extension, encode = encoder(self.storage, self.folder)
        labels = self._labels(split)
        images = self._read(split, "images")
        if len(images) != len(labels):
            raise self._damaged(split, "images", f"it has {len(images):,} images, and there are {len(labels):,} labels")
        for row, (image, label) in enumerate(zip(images[..., None], labels.tolist(), strict=True)):
            yield RawSample(f"{split}-{row:05d}", {extension: encode(image), "cls": b"%d" % label})

    def report(self) -> list[str]:
        lines: list[str] = []
        for split, full in _FULL.items():
            kinds = self._files.get(split, {})
            missing = [kind for kind in _KINDS if kind not in kinds]
            if not kinds:
                lines.append(f"{split}: this split of the full corpus is missing.")
            elif missing:
                plain = f"{_PREFIX[split]}-{missing[0]}-idx{_KINDS[missing[0]]}-ubyte"
                lines.append(f"{split}: {plain} is missing, so the split is left out.")
            else:
                lines += shortfall(split, self.count(split), full, "images")
        return lines

    def _labels(self, split: str) -> npt.NDArray[np.uint8]:
        labels = self._read(split, "labels")
        if len(labels) > _MOST_ROWS:
            raise self._damaged(split, "labels", f"it has {len(labels):,} labels, more than {_MOST_ROWS:,}")
        wrong = np.flatnonzero(labels >= len(self.classes))
        if wrong.size:
            found = f"the label of row {wrong[0]} is {labels[wrong[0]]}, not one of 0 to {len(self.classes) - 1}"
            raise self._damaged(split, "labels", found)
        return labels

    def _read(self, split: str, kind: str) -> npt.NDArray[np.uint8]:
        """uint8 [N] or [N, 28, 28]."""
        payload = self.tree.read(self._files[split][kind])
        if payload[:2] == b"\x1f\x8b":
            try:
                payload = gzip.decompress(payload)
            except (OSError, EOFError, zlib.error) as error:
                raise self._damaged(split, kind, f"its gzip cannot be decompressed ({error})") from error
        dimensions = _KINDS[kind]
        magic = bytes([0, 0, 8, dimensions])
        if payload[:4] != magic or len(payload) < 4 + 4 * dimensions:
            found = f"it begins with {payload[:4]!r}, where an idx file of {kind} begins with {magic!r}"
            raise self._damaged(split, kind, found)
        shape = struct.unpack_from(f">{dimensions}I", payload, 4)
        if shape[1:] != (28, 28)[: dimensions - 1]:
            raise self._damaged(split, kind, f"its images are {shape[1]} x {shape[2]}, not 28 x 28")
        values = np.frombuffer(payload, np.uint8, offset=4 + 4 * dimensions)
        wanted = shape[0] * (784 if dimensions == 3 else 1)
        if len(values) != wanted:
            found = f"it has {len(values):,} values, where its header says {wanted:,}"
            raise self._damaged(split, kind, found)
        return values.reshape(shape)

    def _damaged(self, split: str, kind: str, found: str) -> CorpusError:
        return damaged(self.tree, self._files[split][kind], found, "Fetch this file again.")


class FashionMnist(Mnist):
    """Fashion-MNIST (Xiao, Rasul, Vollgraf 2017): clothes, in the layout of :class:`Mnist`."""

    name = "fashion-mnist"
    title = "Fashion-MNIST: 28 x 28 grey images of clothes"
    expects = "{train,t10k}-{images-idx3,labels-idx1}-ubyte, .gz or not, in FashionMNIST/raw/ or flat"
    licence = "MIT; cite Xiao, Rasul, Vollgraf, arXiv:1708.07747, 2017"
    classes = (
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    )
    folder = "FashionMNIST"


class KMnist(Mnist):
    """Kuzushiji-MNIST (Clanuwat et al. 2018): cursive Japanese characters, in the layout of :class:`Mnist`."""

    name = "kmnist"
    title = "Kuzushiji-MNIST: 28 x 28 grey images of cursive hiragana"
    expects = "{train,t10k}-{images-idx3,labels-idx1}-ubyte, .gz or not, in KMNIST/raw/ or flat"
    licence = "CC BY-SA 4.0; cite Clanuwat et al., arXiv:1812.01718, 2018"
    classes = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")
    folder = "KMNIST"

"""MNIST (LeCun, Cortes, Burges) and the corpora of its layout: 28 x 28 grey images of ten classes, in idx files.

``train-images-idx3-ubyte``, ``train-labels-idx1-ubyte``, ``t10k-images-idx3-ubyte``, ``t10k-labels-idx1-ubyte``, each
as it is or with gzip (``.gz``). An idx file is two zero bytes, the type (8: unsigned bytes), the number of dimensions,
each of them as 4 bytes with the greatest first, then the values.
"""

from __future__ import annotations

import os
import struct
import zlib
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from ecopipe.datasets.corpus import RawSample, shortfall
from ecopipe.datasets.listed import TreeCorpus
from ecopipe.datasets.pickles import damaged
from ecopipe.datasets.pixels import STORAGE, Encode, Storage, check_storage, encoder
from ecopipe.datasets.tree import Tree
from ecopipe.vocabulary.errors import CorpusError

_FULL = {"test": 10_000, "train": 60_000}
_PREFIX = {"test": "t10k", "train": "train"}
_KINDS = {"images": 3, "labels": 1}  # dimensions
_MOST_ROWS = 100_000  # a key has five digits for the row
_MOST_BYTES = _MOST_ROWS * 28 * 28 + 17
_GZIP = zlib.MAX_WBITS | 16


class Mnist(TreeCorpus):
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
        self._arrays: dict[tuple[str, str], npt.NDArray[np.uint8]] = {}
        self._encode: tuple[str, Encode] | None = None

    def splits(self) -> tuple[str, ...]:
        return tuple(split for split in _FULL if len(self._files.get(split, {})) == len(_KINDS))

    def count(self, split: str) -> int:
        return len(self._labels(split))

    def key(self, split: str, place: int) -> str:
        self._require_place(split, place)
        return f"{split}-{place:05d}"

    def sizes(self, split: str) -> npt.NDArray[np.int64]:
        return np.full(self.count(split), 28 * 28, np.int64)

    def sample(self, split: str, place: int) -> RawSample:
        key, images = self.key(split, place), self._images(split)
        label = int(self._labels(split)[place])
        if label >= len(self.classes):
            raise self._no_class(split, place, label)
        if self._encode is None:
            self._encode = encoder(self.storage, self.folder)
        extension, encode = self._encode
        return RawSample(key, {extension: encode(images[place, :, :, None]), "cls": b"%d" % label})

    def check(self, split: str) -> None:
        labels = self._labels(split)
        wrong = np.flatnonzero(labels >= len(self.classes))
        if wrong.size:
            raise self._no_class(split, int(wrong[0]), int(labels[wrong[0]]))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_arrays": {}, "_encode": None}

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
        """uint8 [N]."""
        if (split, "labels") not in self._arrays:
            self._require_split(split)
            labels = self._read(split, "labels")
            if len(labels) > _MOST_ROWS:
                raise self._damaged(split, "labels", f"it has {len(labels):,} labels, more than {_MOST_ROWS:,}")
            self._arrays[split, "labels"] = labels
        return self._arrays[split, "labels"]

    def _images(self, split: str) -> npt.NDArray[np.uint8]:
        """uint8 [N, 28, 28]."""
        if (split, "images") not in self._arrays:
            images, labels = self._read(split, "images"), self._labels(split)
            if len(images) != len(labels):
                found = f"it has {len(images):,} images, and there are {len(labels):,} labels"
                raise self._damaged(split, "images", found)
            self._arrays[split, "images"] = images
        return self._arrays[split, "images"]

    def _no_class(self, split: str, row: int, label: int) -> CorpusError:
        return self._damaged(
            split, "labels", f"the label of row {row} is {label}, not one of 0 to {len(self.classes) - 1}"
        )

    def _read(self, split: str, kind: str) -> npt.NDArray[np.uint8]:
        """uint8 [N] or [N, 28, 28]."""
        payload = self.tree.read(self._files[split][kind])
        if payload[:2] == b"\x1f\x8b":
            try:
                unpacker = zlib.decompressobj(_GZIP)
                payload = unpacker.decompress(payload, _MOST_BYTES)
                if not unpacker.eof:
                    raise zlib.error(f"it is cut off, or holds more than {_MOST_BYTES:,} bytes")
            except zlib.error as error:
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

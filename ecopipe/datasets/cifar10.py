"""CIFAR-10 (Krizhevsky 2009): 32 x 32 colour images of ten classes, in the pickles of the "python version".

Each batch is a dict: ``data`` uint8 [N, 3072] (a row is 1,024 red, then green, then blue values, row by row),
``labels`` (N ints), ``filenames`` (N names). A pickle can hold code; here it can only make numbers, texts, lists, dicts
and numpy arrays.
"""

from __future__ import annotations

import importlib
import io
import os
import pickle
from collections.abc import Iterator
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from ecopipe.datasets.corpus import Corpus, RawSample, shortfall
from ecopipe.datasets.tree import Tree
from ecopipe.vocabulary.errors import ConfigError, CorpusError, MissingDependency, nearest

Storage = Literal["png", "raw"]

_FULL = {"train": 50_000, "test": 10_000}
_BATCHES = {"train": [f"data_batch_{number}" for number in range(1, 6)], "test": ["test_batch"]}
_ROW = 3 * 32 * 32
_MOST_ROWS = 100_000  # a key has five digits for the row
_FETCH_AGAIN = "Fetch cifar-10-python.tar.gz again."


class Cifar10(Corpus):
    """One sample per image; the splits are train (data_batch_1 to 5, in this order) and test.

    Members: ``cls`` (the label in digits), and ``png``, or with ``storage="raw"`` ``npy`` (uint8 [32, 32, 3], RGB in
    0..255). Keys are like ``train-1-00042`` (batch and row) and ``test-00042``. ``path`` is the corpus folder, its
    parent or the archive.
    """

    name = "cifar10"
    columns: ClassVar = {"name": "string"}

    def __init__(self, path: str | os.PathLike[str], *, storage: Storage = "png") -> None:
        if storage not in get_args(Storage):
            raise ConfigError(f"storage={storage!r} is no way to store images. {nearest(storage, get_args(Storage))}")
        self.storage: Storage = storage
        self.tree = Tree(path, inner="cifar-10-batches-py", depth=1)
        self._files = {split: [name for name in names if name in self.tree] for split, names in _BATCHES.items()}
        if not any(self._files.values()) or "batches.meta" not in self.tree:
            missing = "batches.meta" if any(self._files.values()) else "data_batch_1 and so on"
            raise CorpusError(
                f"{self.tree.where()} is not the python version of CIFAR-10: {missing} is missing. It holds: "
                f"{self.tree.outline()}. Give the folder cifar-10-batches-py, its parent, or cifar-10-python.tar.gz."
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
        encode = _png_encoder() if self.storage == "png" else _npy
        extension = "png" if self.storage == "png" else "npy"
        for file in self._files[split]:
            batch = self._load(file)
            prefix = split if split == "test" else f"{split}-{file.rpartition('_')[2]}"
            for row, (image, label, name) in enumerate(zip(batch.images, batch.labels, batch.names, strict=True)):
                yield RawSample(f"{prefix}-{row:05d}", {extension: encode(image), "cls": b"%d" % label}, {"name": name})

    def report(self) -> list[str]:
        lines: list[str] = []
        for split in sorted(_BATCHES):
            missing = [name for name in _BATCHES[split] if name not in self._files[split]]
            if missing:
                lines.append(f"{split}: {', '.join(missing)} missing.")
            if self._files[split]:
                lines += shortfall(split, self.count(split), _FULL[split], "images")
        return lines

    def _read_classes(self) -> tuple[str, ...]:
        names = _unpickle(self.tree, "batches.meta").get("label_names")
        if not isinstance(names, list) or not names:
            raise _damaged(self.tree, "batches.meta", f"its label_names are {_kind(names)}, not a list of class names")
        return tuple(_text(name) for name in names)

    def _load(self, file: str) -> _Batch:
        """One checked batch."""
        fields = _unpickle(self.tree, file)
        data: Any = fields.get("data")
        labels: Any = fields.get("labels")
        names: Any = fields.get("filenames")
        if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != _ROW:
            raise _damaged(self.tree, file, f"its data are {_kind(data)}, not uint8 [N, {_ROW}]")
        for what, values in (("labels", labels), ("filenames", names)):
            if not isinstance(values, list) or len(values) != len(data):
                raise _damaged(self.tree, file, f"its {what} are {_kind(values)}, not a list of {len(data):,}")
        if len(data) > _MOST_ROWS:
            raise _damaged(self.tree, file, f"it has {len(data):,} rows, more than {_MOST_ROWS:,}")
        for row, label in enumerate(labels):
            if type(label) is not int or not 0 <= label < len(self.classes):
                raise _damaged(
                    self.tree, file, f"the label of row {row} is {label!r}, not one of 0 to {len(self.classes) - 1}"
                )
        images = np.ascontiguousarray(data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
        return _Batch(images, labels, [_text(name) for name in names])


class _Batch(NamedTuple):
    images: npt.NDArray[np.uint8]  # [N, 32, 32, 3], RGB
    labels: list[int]
    names: list[str]


def _npy(image: npt.NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, image, allow_pickle=False)
    return buffer.getvalue()


def _png_encoder() -> Any:
    try:
        pillow = importlib.import_module("PIL.Image")
    except ImportError as error:
        raise MissingDependency(
            'CIFAR-10 is stored as PNG through Pillow, which is not installed. Run "pip install pillow", or choose '
            'storage="raw".'
        ) from error

    def encode(image: npt.NDArray[np.uint8]) -> bytes:
        buffer = io.BytesIO()
        pillow.fromarray(image).save(buffer, "PNG", compress_level=1)
        return buffer.getvalue()

    return encode


def _text(name: Any) -> str:
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)


def _kind(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {list(value.shape)}"
    if isinstance(value, list):
        return f"a list of {len(value):,}"
    return "missing" if value is None else f"of type {type(value).__name__}"


def _damaged(tree: Tree, file: str, found: str) -> CorpusError:
    return CorpusError(f"{tree.where(file)} is damaged: {found}. {_FETCH_AGAIN}")


def _dtype(spec: Any, *_: Any) -> np.dtype[Any]:
    # The further arguments in a pickle, align and copy, say nothing about plain numbers.
    dtype: np.dtype[Any] = np.dtype(spec)
    if dtype.hasobject:
        raise pickle.UnpicklingError("an array of Python objects is not allowed")
    return dtype


# How numpy makes an array from a pickle, asked of numpy because the names differ between its versions.
_RECONSTRUCT: Any = np.empty(0).__reduce__()[0]
_FROM_BUFFER: Any = np.empty(1).__reduce_ex__(5)[0]
_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): _dtype,
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy.core.numeric", "_frombuffer"): _FROM_BUFFER,
    ("numpy._core.numeric", "_frombuffer"): _FROM_BUFFER,
}


class _Forbidden(pickle.UnpicklingError):
    pass


class _ArraysOnly(pickle.Unpickler):
    """Makes numpy arrays and the built-in values that need no import, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise _Forbidden(f"{module}.{name}") from None


def _unpickle(tree: Tree, file: str) -> dict[str, Any]:
    """The dict in one pickle, with its keys as text."""
    payload = tree.read(file)
    try:
        fields = _ArraysOnly(io.BytesIO(payload), encoding="bytes").load()
    except _Forbidden as error:
        raise CorpusError(
            f"{tree.where(file)} is refused: loading it would call {error}, and only numpy arrays belong there. "
            f"It may be hostile: do not open it by other means. {_FETCH_AGAIN}"
        ) from error
    except Exception as error:  # a damaged pickle can raise anything
        reason = str(error) or type(error).__name__
        raise _damaged(tree, file, f"its {len(payload):,} bytes are no whole pickle ({reason})") from error
    if not isinstance(fields, dict):
        raise _damaged(tree, file, f"it holds a {type(fields).__name__}, not a dict")
    return {_text(name): value for name, value in fields.items()}

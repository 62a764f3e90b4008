"""Pickles that may hold numbers, texts, lists, dicts and numpy arrays, and nothing that runs."""

from __future__ import annotations

import io
import pickle
import pickletools
from typing import Any

import numpy as np

from ecopipe.datasets.tree import Tree
from ecopipe.vocabulary.errors import CorpusError


def read_dict(tree: Tree, file: str, again: str) -> dict[str, Any]:
    """The dict in one pickle, with its keys as text; byte strings of Python 2 stay bytes.

    Args:
        tree: Where the file lies.
        file: Its name there.
        again: The remedy for a damaged file, a sentence.

    Raises:
        CorpusError: It is no whole pickle of a dict, or wants to call something.
    """
    payload = tree.read(file)
    try:
        _check_memo(payload)
        fields = _ArraysOnly(io.BytesIO(payload), encoding="bytes").load()
    except _Forbidden as error:
        raise CorpusError(
            f"{tree.where(file)} is refused: loading it would call {error}, and only numpy arrays belong there. "
            f"It may be hostile: do not open it by other means. {again}"
        ) from error
    except Exception as error:  # a damaged pickle can raise anything
        reason = str(error) or type(error).__name__
        raise damaged(tree, file, f"its {len(payload):,} bytes are no whole pickle ({reason})", again) from error
    if not isinstance(fields, dict):
        raise damaged(tree, file, f"it holds a {type(fields).__name__}, not a dict", again)
    if not all(isinstance(name, (bytes, str)) for name in fields):
        raise damaged(tree, file, "a key of its dict is no text", again)
    return {as_text(name): value for name, value in fields.items()}


def as_text(name: Any) -> str:
    """A text of a pickle, which is bytes if Python 2 wrote it."""
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)


def damaged(tree: Tree, file: str, found: str, again: str) -> CorpusError:
    """The error that a file is damaged, and how."""
    return CorpusError(f"{tree.where(file)} is damaged: {found}. {again}")


def kind_of(value: Any) -> str:
    """What a value of a pickle is, for an error message."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {list(value.shape)}"
    if isinstance(value, list):
        return f"a list of {len(value):,}"
    return "missing" if value is None else f"of type {type(value).__name__}"


def _dtype(spec: Any, *_: Any) -> np.dtype[Any]:
    # The further arguments in a pickle, align and copy, say nothing about plain numbers.
    dtype: np.dtype[Any] = np.dtype(spec)
    if dtype.hasobject:
        raise pickle.UnpicklingError("an array of Python objects is not allowed")
    return dtype


def _check_memo(payload: bytes) -> None:
    """Refuses a pickle that gives an object an absurd number: the unpickler makes a table of that length."""
    for opcode, number, _ in pickletools.genops(payload):
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and number is not None and number > len(payload):
            raise pickle.UnpicklingError(f"an object of it has the number {number:,}")


class _ArrayType:
    """Stands for ``numpy.ndarray`` in a pickle, where it may be named, and not be called."""

    def __init__(self, *_: object) -> None:
        raise pickle.UnpicklingError("an array without its values is not allowed")


def _reconstruct(kind: Any, shape: Any, code: Any) -> Any:
    """An empty array, which its state fills; one of another shape would take memory that no bytes stand for."""
    if kind is not _ArrayType or shape != (0,):
        raise pickle.UnpicklingError("an array without its values is not allowed")
    return np.empty(0, np.uint8)


# How numpy makes an array from a pickle, asked of numpy because the names differ between its versions.
_FROM_BUFFER: Any = np.empty(1).__reduce_ex__(5)[0]
_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _ArrayType,
    ("numpy", "dtype"): _dtype,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
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

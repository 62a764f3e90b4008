"""Pickles that may hold numbers, texts, lists, dicts and numpy arrays, and nothing that runs."""

from __future__ import annotations

import io
import pickle
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

"""How readers store arrays of pixels: as PNG, or raw as npy."""

from __future__ import annotations

import importlib
import io
from collections.abc import Callable
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from ecopipe.vocabulary.errors import ConfigError, MissingDependency, nearest

Storage = Literal["png", "raw"]
STORAGE = "png, or raw for the array itself (npy), which streams fastest"
"""What the option ``storage`` of a reader means."""

Encode = Callable[[npt.NDArray[np.uint8]], bytes]


def check_storage(storage: str) -> None:
    """Refuses an unknown way of storing.

    Raises:
        ConfigError: Names the known ones.
    """
    if storage not in get_args(Storage):
        raise ConfigError(f"storage={storage!r} is no way to store images. {nearest(storage, get_args(Storage))}")


def encoder(storage: Storage, what: str) -> tuple[str, Encode]:
    """The extension of the member, and what makes its bytes of uint8 [H, W, C], C = 1 or 3.

    Args:
        storage: How to store.
        what: The corpus, for the error message.

    Raises:
        MissingDependency: PNG is wanted, and Pillow is not installed.
    """
    return ("png", _png_encoder(what)) if storage == "png" else ("npy", _npy)


def _npy(image: npt.NDArray[np.uint8]) -> bytes:
    """uint8 [C, H, W], as models take it: a batch is then gathered as it lies."""
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(image.transpose(2, 0, 1)), allow_pickle=False)
    return buffer.getvalue()


def _png_encoder(what: str) -> Encode:
    try:
        pillow: Any = importlib.import_module("PIL.Image")
    except ImportError as error:
        raise MissingDependency(
            f'{what} is stored as PNG through Pillow, which is not installed. Run "pip install pillow", or choose '
            'storage="raw".'
        ) from error

    def encode(image: npt.NDArray[np.uint8]) -> bytes:
        buffer = io.BytesIO()
        pillow.fromarray(image[:, :, 0] if image.shape[2] == 1 else image).save(buffer, "PNG", compress_level=1)
        return buffer.getvalue()

    return encode

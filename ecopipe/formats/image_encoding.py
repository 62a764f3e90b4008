"""Arrays of pixels -> encoded bytes that are a function of them.

PNG and JPEG by Pillow, the same build of which gives the same bytes; PNG and ``raw`` are exact.
"""

from __future__ import annotations

import importlib
import io
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ecopipe.formats import arrays
from ecopipe.vocabulary.errors import MissingDependency

ImageFormat = Literal["png", "jpeg", "raw"]

EXTENSION_OF: dict[str, str] = {"png": "png", "jpeg": "jpg", "raw": "npy"}
"""The extension of a member of each format, without the dot."""

Subsampling = Literal["4:4:4", "4:2:2", "4:2:0"]


def encode(
    image: npt.NDArray[Any],
    kind: ImageFormat,
    *,
    quality: int = 90,
    subsampling: Subsampling = "4:2:0",
    compression: int = 6,
) -> bytes:
    """The file that holds an image.

    Args:
        image: uint8 [C, H, W] in 0..255, C = 1 or 3.
        kind: ``"raw"`` is the array itself, as npy, which streams fastest.
        quality: Of JPEG, 1 to 95.
        subsampling: Of JPEG: whether two or four neighbours share their colours.
        compression: Of PNG: zlib's, 0 (none, fast) to 9 (small).

    Raises:
        ValueError: It is another array.
        MissingDependency: Pillow is not installed.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[0] not in (1, 3) or not image.size:
        raise ValueError(
            f"its image is {image.dtype} {list(image.shape)}; uint8 [1, H, W] or [3, H, W] wanted, as DecodeImage "
            "gives it"
        )
    if kind == "raw":
        return arrays.encode(image)
    try:
        pillow: Any = importlib.import_module("PIL.Image")
    except ImportError as error:
        raise MissingDependency("PNG and JPEG need Pillow. Install it: pip install pillow") from error
    picture = pillow.fromarray(np.ascontiguousarray(image[0] if image.shape[0] == 1 else np.moveaxis(image, 0, -1)))
    buffer = io.BytesIO()
    try:
        if kind == "png":
            picture.save(buffer, "PNG", compress_level=compression)
        else:
            picture.save(buffer, "JPEG", quality=quality, subsampling=subsampling)
    except (OSError, ValueError) as error:
        raise ValueError(f"its image {list(image.shape)} cannot be written as {kind}: {error}") from error
    return buffer.getvalue()

"""Images: encoded bytes <-> arrays of pixels.

PNG and JPEG are read by Pillow, ``npy`` by numpy. Pixels come as they are stored: an orientation tag is not applied.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt

from ecopipe.vocabulary.errors import MissingDependency

IMAGE_EXTENSIONS = ("png", "jpg", "jpeg", "npy")
"""Extensions of members that :func:`decode` reads, without the dot."""

_DIRECT = {"L", "RGB"}
_CONVERTED = {"1": "L", "LA": "L", "P": "RGB", "PA": "RGB", "RGBA": "RGB", "RGBX": "RGB", "CMYK": "RGB", "YCbCr": "RGB"}


def probe(data: bytes, kind: str) -> tuple[int, int]:
    """``(height, width)`` in pixels by the header.

    Raises:
        ValueError: The header is damaged, or not one of an image.
    """
    if kind == "npy":
        shape = npy_shape(data)
        if len(shape) not in (2, 3):
            raise ValueError(f"not an image: an npy of shape {list(shape)}; [H, W] or [H, W, C] wanted")
        return shape[0], shape[1]
    if data[:8] == b"\x89PNG\r\n\x1a\n" and data[12:16] == b"IHDR" and len(data) >= 24:
        width, height = (int.from_bytes(data[at : at + 4], "big") for at in (16, 20))
    else:
        width, height = _open(data, kind).size
    if width < 1 or height < 1:
        raise ValueError(f"damaged {kind}: the header says {width} x {height} pixels")
    return height, width


def decode(data: bytes, kind: str) -> npt.NDArray[np.uint8]:
    """The pixels: uint8 [H, W, C] in 0..255, its own memory.

    C is 1 for grey images, and 3 (red, green, blue) for coloured ones; a palette is looked up, transparency dropped.
    An ``npy`` must be uint8 [H, W] or [H, W, C] already.

    Raises:
        ValueError: The file is damaged, truncated, or has more than 8 bits per channel.
    """
    if kind == "npy":
        return _decode_npy(data)
    image = _open(data, kind)
    try:
        image.load()
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"damaged {kind}: {error}") from error
    if image.mode in _CONVERTED:
        image = image.convert(_CONVERTED[image.mode])
    elif image.mode not in _DIRECT:
        raise ValueError(f"{kind} of mode {image.mode!r} has more than 8 bits per channel; convert it to 8 bits first")
    pixels = np.array(image, dtype=np.uint8)
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


def npy_shape(data: bytes) -> tuple[int, ...]:
    """The shape of an ``npy`` array by its header.

    Raises:
        ValueError: The header is damaged.
    """
    return _npy_header(data)[0]


def _open(data: bytes, kind: str) -> Any:
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise MissingDependency("PNG and JPEG need Pillow. Install it: pip install pillow") from error
    formats = ["PNG"] if kind == "png" else ["JPEG"] if kind in ("jpg", "jpeg") else None
    try:
        return Image.open(io.BytesIO(data), formats=formats)
    except UnidentifiedImageError as error:
        begins = f"begins with {data[:4]!r}" if data else "is empty"
        raise ValueError(f"not readable as {kind}: it {begins}") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"damaged {kind}: {error}") from error


def _npy_header(data: bytes) -> tuple[tuple[int, ...], np.dtype[Any]]:
    stream = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(stream)
    except ValueError as error:
        raise ValueError(f"damaged npy: {error}") from error
    return shape, dtype


def _decode_npy(data: bytes) -> npt.NDArray[np.uint8]:
    shape, dtype = _npy_header(data)
    if len(shape) not in (2, 3) or dtype != np.uint8:
        raise ValueError(f"not an image: an npy of {dtype} {list(shape)}; uint8 [H, W] or [H, W, C] wanted")
    try:
        pixels: npt.NDArray[np.uint8] = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"damaged npy: {error}") from error
    return pixels[:, :, None] if pixels.ndim == 2 else pixels

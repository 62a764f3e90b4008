"""Images: encoded bytes <-> arrays of pixels.

JPEG is read by Pillow, ``npy`` by numpy; PNG by pyspng where that is installed and the image is plain (grey or RGB of 8
bits, whole), else by Pillow: the pixels and the errors are the same. They come as they are stored: an orientation tag
is not applied.
"""

from __future__ import annotations

import functools
import importlib
import io
import math
import struct
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ecopipe.formats import arrays
from ecopipe.vocabulary.errors import MissingDependency

IMAGE_EXTENSIONS = ("png", "jpg", "jpeg", "npy")
"""Extensions of members that :func:`decode` reads, without the dot."""

MAX_PIXELS = 178_956_970
"""Pixels of a PNG or JPEG at most: what Pillow decodes. A file of a few bytes may say that it has any number."""

_DIRECT = {"L", "RGB"}
_SHAPES = "[H, W], [H, W, C] or [C, H, W]"
_CONVERTED = {"1": "L", "LA": "L", "P": "RGB", "PA": "RGB", "RGBA": "RGB", "RGBX": "RGB", "CMYK": "RGB", "YCbCr": "RGB"}


def probe(data: bytes, kind: str) -> tuple[int, int]:
    """``(height, width)`` in pixels by the header.

    Raises:
        ValueError: The header is damaged, or not one of an image.
    """
    if kind == "npy":
        shape = npy_shape(data)
        if len(shape) not in (2, 3):
            raise ValueError(f"not an image: an npy of shape {list(shape)}; {_SHAPES} wanted")
        if max(shape) >= 1 << 31:
            raise ValueError(f"not an image: an npy of shape {list(shape)}; sizes below 2,147,483,648 wanted")
        return (shape[1], shape[2]) if _is_planar(shape) else (shape[0], shape[1])
    if data[:8] == b"\x89PNG\r\n\x1a\n" and data[12:16] == b"IHDR" and len(data) >= 24:
        width, height = struct.unpack_from(">II", data, 16)
    else:
        width, height = _open(data, kind).size
    if width < 1 or height < 1:
        raise ValueError(f"damaged {kind}: the header says {width} x {height} pixels")
    _check_size(width, height, kind)
    return height, width


def decode(data: bytes, kind: str) -> npt.NDArray[np.uint8]:
    """The pixels: uint8 [H, W, C] in 0..255, its own memory.

    C is 1 for grey images, and 3 (red, green, blue) for coloured ones; a palette is looked up, transparency dropped.
    An ``npy`` must be uint8 [H, W], [H, W, C] or [C, H, W] already; it is [C, H, W] if the first dimension can be
    channels (1 or 3) and the last cannot. Then the result is a view whose planes are contiguous.

    Raises:
        ValueError: The file is damaged, truncated, or has more than 8 bits per channel.
    """
    if kind == "npy":
        return _decode_npy(data)
    if kind == "png" and (plain := _decode_plain_png(data)) is not None:
        return plain
    image = _open(data, kind)
    try:
        image.load()
    except Exception as error:  # of damaged bytes Pillow raises whatever its decoder stumbles over
        raise ValueError(f"damaged {kind}: {error}") from error
    if image.mode in _CONVERTED:
        image = image.convert(_CONVERTED[image.mode])
    elif image.mode not in _DIRECT:
        raise ValueError(f"{kind} of mode {image.mode!r} has more than 8 bits per channel; convert it to 8 bits first")
    pixels = np.array(image, dtype=np.uint8)
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


def decode_rows(rows: Sequence[bytes] | npt.NDArray[np.uint8], kind: str) -> npt.NDArray[np.uint8] | None:
    """The pixels of several images, uint8 [N, H, W, C], each as :func:`decode` gives them; None if they differ in
    shape.

    Args:
        rows: Their bytes; uint8 [N, bytes] if all are of one size.
        kind: As of :func:`decode`.

    Raises:
        ValueError: One of them cannot be decoded.
    """
    if isinstance(rows, np.ndarray):
        if kind == "npy":
            return _decode_npy_rows(rows)
        rows = [row.tobytes() for row in rows]
    images = [decode(data, kind) for data in rows]
    if any(image.shape != images[0].shape for image in images):
        return None
    return np.stack(images)


def npy_shape(data: bytes) -> tuple[int, ...]:
    """The shape of an ``npy`` array by its header.

    Raises:
        ValueError: The header is damaged.
    """
    return arrays.header(data).shape


def _open(data: bytes, kind: str) -> Any:
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise MissingDependency("PNG and JPEG need Pillow. Install it: pip install pillow") from error
    if data[:8] == _PNG_BEGINS[:8] and len(data) >= 24:  # before Pillow, which warns of half as many
        _check_size(int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big"), kind)
    formats = ["PNG"] if kind == "png" else ["JPEG"] if kind in ("jpg", "jpeg") else None
    try:
        image = Image.open(io.BytesIO(data), formats=formats)
    except UnidentifiedImageError as error:
        begins = f"begins with {data[:4]!r}" if data else "is empty"
        raise ValueError(f"not readable as {kind}: it {begins}") from error
    except Exception as error:  # of damaged bytes Pillow raises whatever its parser stumbles over
        raise ValueError(f"damaged {kind}: {error}") from error
    _check_size(*image.size, kind)
    return image


def _check_size(width: int, height: int, kind: str) -> None:
    if width * height > MAX_PIXELS:
        raise ValueError(
            f"refused {kind}: its header says {width:,} x {height:,} pixels, and at most {MAX_PIXELS:,} are decoded; "
            "make it smaller, or cut it into tiles"
        )


def _pixel_header(data: bytes) -> tuple[tuple[int, ...], bool, int]:
    """Shape, whether the first dimension is the fastest, and the bytes of the header."""
    shape, fortran, dtype, begin = arrays.header(data)
    if len(shape) not in (2, 3) or dtype != np.uint8:
        raise ValueError(f"not an image: an npy of {dtype} {list(shape)}; uint8 {_SHAPES} wanted")
    return shape, fortran, begin


def _decode_npy(data: bytes) -> npt.NDArray[np.uint8]:
    shape, fortran, begin = _pixel_header(data)
    count = math.prod(shape)
    if len(data) - begin < count:
        raise ValueError(f"damaged npy: {count:,} bytes of pixels by its header, and it holds {len(data) - begin:,}")
    stored = np.frombuffer(data, np.uint8, count, begin).reshape(shape, order="F" if fortran else "C")
    return _channels_last(stored.copy(), shape)


def _decode_npy_rows(rows: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8] | None:
    """uint8 [N, H, W, C] in the memory of the rows; None if their headers differ, or are not of all of their bytes."""
    shape, fortran, begin = _pixel_header(rows[0].tobytes())
    if fortran or begin + math.prod(shape) != rows.shape[1] or (rows[:, :begin] != rows[0, :begin]).any():
        return None
    return _channels_last(rows[:, begin:].reshape(len(rows), *shape), shape)


def _is_planar(shape: tuple[int, ...]) -> bool:
    return len(shape) == 3 and shape[0] in (1, 3) and shape[2] not in (1, 3)


def _channels_last(pixels: npt.NDArray[np.uint8], shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """[..., *shape] -> [..., H, W, C], a view."""
    if len(shape) == 2:
        return pixels[..., None]
    return np.moveaxis(pixels, -3, -1) if _is_planar(shape) else pixels


_PNG_BEGINS = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
_PNG_ENDS = b"\0\0\0\0IEND\xaeB`\x82"
_PLAIN = {b"\x08\x00\x00\x00\x00": 1, b"\x08\x02\x00\x00\x00": 3}
"""Bits, colour type, and the methods that follow -> channels, of the PNGs that need no conversion."""


def _decode_plain_png(data: bytes) -> npt.NDArray[np.uint8] | None:
    """The pixels of a plain PNG; None if Pillow has to look at it, or if there is no faster decoder."""
    channels = _PLAIN.get(data[24:29])
    load = _fast_png() if channels is not None else None
    pixels_said = int.from_bytes(data[16:20], "big") * int.from_bytes(data[20:24], "big")
    if channels is None or load is None or pixels_said > MAX_PIXELS or not _is_whole_png(data):
        return None
    try:
        pixels: npt.NDArray[np.uint8] = load(data)
    except Exception:  # Pillow says what is wrong with it, if anything is
        return None
    return pixels.reshape(*pixels.shape[:2], channels)


def _is_whole_png(data: bytes) -> bool:
    """Whether it consists of chunks that are whole by their CRCs; the decoder does not look behind the last pixel."""
    if not (data.startswith(_PNG_BEGINS) and data.endswith(_PNG_ENDS)):
        return False
    at, view = 8, memoryview(data)
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(view[at : at + 4], "big")
        if zlib.crc32(view[at + 4 : end - 4]) != int.from_bytes(view[end - 4 : end], "big"):
            return False
        at = end
    return at == len(data)


@functools.lru_cache(maxsize=1)
def _fast_png() -> Callable[[bytes], Any] | None:
    try:
        load: Callable[[bytes], Any] = importlib.import_module("pyspng").load
    except ImportError:
        return None
    return load

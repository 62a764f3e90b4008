"""Waveforms, features and images as pictures that stand in a page by themselves: SVG paths, and images as data URIs."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Array = npt.NDArray[Any]

WAVE_COLUMNS = 480
"""Columns of a waveform: each shows the least and the greatest value of its stretch."""

MOST_FRAMES = 900
"""Frames of features that are drawn; more are averaged."""

SMALL = 48
"""Images of sides up to so many pixels are kept as they are, as PNG; larger ones become thumbnails, as JPEG."""

THUMBNAIL = 128

_HEAT = ((13, 8, 45), (71, 18, 101), (137, 34, 106), (196, 60, 78), (240, 112, 46), (251, 182, 62), (252, 246, 178))
"""Colours from the least to the greatest feature: dark to light, so that they order in black and white too."""


def wave_path(audio: Array, *, height: float = 72.0) -> str:
    """The outline of a waveform as the ``d`` of an SVG path, :data:`WAVE_COLUMNS` wide.

    Args:
        audio: float [T] in [-1, 1], or int16 [T]. What has several channels is drawn by its first.
        height: Of the picture; the greatest value of the audio reaches its edge.
    """
    values = _first_channel(audio)
    if not values.size:
        return ""
    parts = np.array_split(values, min(WAVE_COLUMNS, len(values)))
    step = WAVE_COLUMNS / len(parts)
    loudest = float(np.abs(values).max()) or 1.0
    high = [height / 2 * (1 - float(part.max()) / loudest) - 0.4 for part in parts]
    low = [height / 2 * (1 - float(part.min()) / loudest) + 0.4 for part in parts]
    there = [f"{at * step:.4g},{y:.4g}" for at, y in enumerate(high)]
    back = [f"{at * step:.4g},{y:.4g}" for at, y in enumerate(low)]
    return "M" + "L".join(there + back[::-1]) + "Z"


def peak(audio: Array) -> float:
    """The greatest value of some audio, in [0, 1] of full scale."""
    values = _first_channel(audio)
    return float(np.abs(values).max()) if values.size else 0.0


def _first_channel(audio: Array) -> npt.NDArray[np.float32]:
    values = audio if audio.ndim == 1 else audio[:, 0]
    scale = 1 / 32768 if values.dtype == np.int16 else 1.0
    return np.asarray(np.nan_to_num(values.astype(np.float32) * np.float32(scale)), dtype=np.float32)


def heat_uri(features: Array, least: float, most: float) -> str:
    """Features [frames, bins] as a PNG, time from left to right and the lowest bin below, on a scale from ``least`` to
    ``most``."""
    values = features.astype(np.float32)
    if len(values) > MOST_FRAMES:
        values = np.stack([part.mean(axis=0) for part in np.array_split(values, MOST_FRAMES)])
    level = np.clip(np.nan_to_num((values - least) / max(most - least, 1e-9)), 0, 1)
    palette = np.stack([np.interp(np.linspace(0, 6, 64), range(7), channel) for channel in zip(*_HEAT, strict=True)], 1)
    picture = Image.fromarray(np.ascontiguousarray((level.T[::-1] * 63).round().astype(np.uint8)), mode=None)
    picture.putpalette(palette.round().astype(np.uint8).tobytes())
    return _uri(picture, "PNG")


def image_uri(image: Array, least: float = 0.0, most: float = 255.0) -> str:
    """An image [C, H, W] of 1 or 3 channels as a data URI, drawn from black at ``least`` to white at ``most``."""
    scaled = (np.nan_to_num(image.astype(np.float32)) - least) * (255 / max(most - least, 1e-9))
    pixels = np.clip(np.rint(scaled), 0, 255).astype(np.uint8).transpose(1, 2, 0)
    picture = Image.fromarray(np.ascontiguousarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels))
    if max(picture.size) <= SMALL:
        return _uri(picture, "PNG")
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    return _uri(picture, "JPEG")


def _uri(picture: Image.Image, form: str) -> str:
    data = io.BytesIO()
    picture.save(data, form, optimize=True)
    return f"data:image/{form.lower()};base64,{base64.b64encode(data.getvalue()).decode('ascii')}"

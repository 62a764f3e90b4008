"""Image bytes: headers, pixels, damage."""

from __future__ import annotations

import io
import re
import sys

import numpy as np
import pytest
from PIL import Image

from ecopipe.formats.image import decode, npy_shape, probe
from ecopipe.vocabulary.errors import MissingDependency

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


def picture(mode="RGB", kind="PNG"):
    stream = io.BytesIO()
    Image.fromarray(PIXELS).convert(mode).save(stream, format=kind)
    return stream.getvalue()


def npy(array):
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["png", "jpg", "jpeg", "npy"])
def test_height_and_width_by_the_header(kind):
    data = npy(PIXELS) if kind == "npy" else picture(kind="PNG" if kind == "png" else "JPEG")
    assert probe(data, kind) == (5, 7)
    assert decode(data, kind).shape == (5, 7, 3)


def test_png_and_npy_are_exact():
    np.testing.assert_array_equal(decode(picture(), "png"), PIXELS)
    np.testing.assert_array_equal(decode(npy(PIXELS), "npy"), PIXELS)
    np.testing.assert_array_equal(decode(npy(PIXELS[:, :, 0]), "npy"), PIXELS[:, :, :1])


@pytest.mark.parametrize(
    ("mode", "channels"), [("L", 1), ("1", 1), ("LA", 1), ("P", 3), ("RGB", 3), ("RGBA", 3), ("I;16", 0)]
)
def test_modes(mode, channels):
    if channels == 0:
        stream = io.BytesIO()
        Image.fromarray(PIXELS[:, :, 0].astype(np.uint16) * 256).save(stream, format="PNG")
        with pytest.raises(ValueError, match="png of mode 'I;16' has more than 8 bits per channel; convert it"):
            decode(stream.getvalue(), "png")
        return
    pixels = decode(picture(mode), "png")
    assert pixels.shape == (5, 7, channels)
    assert pixels.dtype == np.uint8
    assert pixels.flags.writeable
    if mode == "RGBA":
        np.testing.assert_array_equal(pixels, PIXELS)


def test_jpeg_in_cmyk():
    assert decode(picture("CMYK", "JPEG"), "jpg").shape == (5, 7, 3)


@pytest.mark.parametrize(
    ("data", "kind", "message"),
    [
        (b"", "png", "not readable as png: it is empty"),
        (b"nonsense", "jpg", "not readable as jpg: it begins with b'nons'"),
        (b"nonsense", "npy", "damaged npy: "),
        (npy(np.zeros(3)), "npy", "not an image: an npy of "),
        (picture()[:16] + bytes(8) + picture()[24:], "png", "damaged png: the header says 0 x 0 pixels"),
    ],
)
def test_what_is_no_image_is_refused_with_the_reason(data, kind, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        probe(data, kind)


@pytest.mark.parametrize("kind", ["png", "jpg", "npy"])
def test_cut_short_is_refused(kind):
    data = npy(PIXELS) if kind == "npy" else picture(kind="PNG" if kind == "png" else "JPEG")
    for end in (len(data) // 2, len(data) * 3 // 4, 20):
        with pytest.raises(ValueError, match=f"damaged {kind}|not readable as {kind}"):
            decode(data[:end], kind)


def test_npy_of_objects_or_floats_is_refused():
    with pytest.raises(ValueError, match=r"not an image: an npy of float64 \[2, 2\]; uint8 \[H, W\]"):
        decode(npy(np.zeros((2, 2))), "npy")
    stream = io.BytesIO()
    np.save(stream, np.array([[{}]], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="an npy of object"):
        decode(stream.getvalue(), "npy")
    assert npy_shape(npy(np.zeros((4, 3, 2, 1)))) == (4, 3, 2, 1)


def test_missing_pillow_is_said_in_one_sentence(monkeypatch):
    data = picture()
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingDependency, match=r"^PNG and JPEG need Pillow. Install it: pip install pillow$"):
        decode(data, "png")

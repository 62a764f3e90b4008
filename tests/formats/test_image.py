"""Image bytes: headers, pixels, damage."""

from __future__ import annotations

import io
import re
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from ecopipe.formats import image as codec
from ecopipe.formats.image import decode, decode_rows, npy_shape, probe
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


def test_npy_by_planes():
    planes = npy(PIXELS.transpose(2, 0, 1).copy())
    assert probe(planes, "npy") == (5, 7)
    np.testing.assert_array_equal(decode(planes, "npy"), PIXELS)
    for shape in ((3, 7, 3), (1, 7, 3), (3, 7, 1)):  # channels last where that can be
        assert probe(npy(np.zeros(shape, np.uint8)), "npy") == shape[:2]
        assert decode(npy(np.zeros(shape, np.uint8)), "npy").shape == shape


def test_several_at_once():
    many = [PIXELS, PIXELS[::-1].copy(), 255 - PIXELS]
    for stored in (many, [image.transpose(2, 0, 1).copy() for image in many], [np.asfortranarray(i) for i in many]):
        data = [npy(image) for image in stored]
        np.testing.assert_array_equal(decode_rows(data, "npy"), np.stack(many))
        made = decode_rows(np.stack([np.frombuffer(row, np.uint8) for row in data]), "npy")
        if np.isfortran(stored[0]):
            assert made is None  # not where they lie
        else:
            np.testing.assert_array_equal(made, np.stack(many))
    rows = np.stack([np.frombuffer(npy(image), np.uint8) for image in (PIXELS, PIXELS.reshape(7, 5, 3))])
    assert decode_rows(rows, "npy") is None  # as long as each other, and of another shape
    assert decode_rows([row.tobytes() for row in rows], "npy") is None
    assert decode_rows(rows[:, :-1].copy(), "npy") is None  # cut
    np.testing.assert_array_equal(decode_rows([picture(), picture()], "png"), np.stack([PIXELS, PIXELS]))
    same = np.stack([np.frombuffer(picture(), np.uint8)] * 2)
    np.testing.assert_array_equal(decode_rows(same, "png"), np.stack([PIXELS, PIXELS]))


def pngs():
    """PNGs of every kind that Pillow writes, by name."""
    grey = PIXELS[:, :, 0]
    made = {mode: picture(mode) for mode in ("L", "1", "LA", "P", "RGB", "RGBA")}
    for name, image, settings in (
        ("16 bits", Image.fromarray(grey.astype(np.uint16) * 256), {}),
        ("a colour is transparent", Image.fromarray(PIXELS), {"transparency": tuple(PIXELS[0, 0].tolist())}),
        ("a grey is transparent", Image.fromarray(grey), {"transparency": int(grey[0, 0])}),
        ("2 bits", Image.fromarray(grey).quantize(4), {"bits": 2}),
        ("with text and gamma", Image.fromarray(PIXELS), {"dpi": (300, 300)}),
    ):
        stream = io.BytesIO()
        image.save(stream, format="PNG", **settings)
        made[name] = stream.getvalue()
    gamma = b"\0\0\0\4gAMA" + (45455 * 2).to_bytes(4, "big")
    chunk = gamma + zlib.crc32(gamma[4:]).to_bytes(4, "big")
    made["with text and gamma"] = made["with text and gamma"][:33] + chunk + made["with text and gamma"][33:]
    return made


def outcome(data):
    try:
        return decode(data, "png").tobytes()
    except ValueError as error:
        return str(error)


@pytest.fixture
def by_pillow(monkeypatch):
    """Decodes with Pillow alone."""

    def run(data):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, "pyspng", None)
            codec._fast_png.cache_clear()
            made = outcome(data)
        codec._fast_png.cache_clear()
        return made

    yield run
    codec._fast_png.cache_clear()


def test_the_fast_decoder_gives_what_pillow_gives(by_pillow):
    pytest.importorskip("pyspng", reason="pyspng is not installed")
    fast = set()
    for name, data in pngs().items():
        assert outcome(data) == by_pillow(data), name
        fast |= {name} if codec._decode_plain_png(data) is not None else set()
    assert fast == {"L", "RGB", "a colour is transparent", "a grey is transparent", "with text and gamma"}


def test_the_fast_decoder_refuses_what_pillow_refuses(by_pillow):
    pytest.importorskip("pyspng", reason="pyspng is not installed")
    whole = picture()
    rng = np.random.default_rng(0)
    for end in range(len(whole)):
        assert outcome(whole[:end]) == by_pillow(whole[:end]), end
        assert outcome(whole[:end] + whole[-12:]) == by_pillow(whole[:end] + whole[-12:]), end
    differ = 0
    for at in range(len(whole)):
        damaged = whole[:at] + bytes([whole[at] ^ int(rng.integers(1, 256))]) + whole[at + 1 :]
        assert outcome(damaged) == by_pillow(damaged), at
        differ += outcome(damaged) != outcome(whole)
    assert differ > len(whole) / 2


def test_missing_pillow_is_said_in_one_sentence(monkeypatch):
    data = picture("P")  # what no other decoder takes
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingDependency, match=r"^PNG and JPEG need Pillow. Install it: pip install pillow$"):
        decode(data, "png")

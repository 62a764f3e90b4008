"""Hostile members: sizes that a header only says are refused before anything of that size is made."""

from __future__ import annotations

import base64
import contextlib
import io
import pickle
import random
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
import soundfile
from PIL import Image

from ecopipe.formats import arrays, audio, flac, image
from ecopipe.formats.audio_encoding import encode
from ecopipe.formats.measures import measure
from ecopipe.formats.ogg import checksum

RUN = """
import base64, resource, sys
from ecopipe.formats import audio, image
from ecopipe.formats.measures import measure
import PIL.Image, PIL.PngImagePlugin, PIL.JpegImagePlugin, soundfile, miniaudio
audio.decode(base64.b64decode(sys.argv[1]), "wav")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
kind, data = sys.argv[2], sys.stdin.buffer.read()
codec = image if kind in image.IMAGE_EXTENSIONS else audio
for use in (lambda: measure({kind: data}), lambda: codec.decode(data, kind)):
    try:
        use()
        print("fine")
    except ValueError as error:
        print("ValueError", " ".join(str(error).split()))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
WAV = base64.b64encode(encode(np.zeros(100, np.int16), 16000, "wav")).decode()


def outcomes(data, kind):
    """What indexing and decoding say of a file in a process of its own; it may take 300 MB."""
    done = subprocess.run([sys.executable, "-c", RUN, WAV, kind], input=data, capture_output=True, timeout=100)
    assert done.returncode == 0, done.stderr.decode()
    *told, megabytes = done.stdout.decode().splitlines()
    assert int(megabytes) < 300
    return told


def png(width, height, pixels=b"", colour=2, extra=b""):
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + extra + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("width", "height"), [(100_000, 100_000), (2**31 - 1, 2**31 - 1), (2**32 - 1, 1), (1, 2**31)])
@pytest.mark.parametrize("colour", [0, 2, 6])
def test_a_png_that_says_it_is_huge(width, height, colour):
    data = png(width, height, zlib.compress(bytes(100_000)), colour)
    for use in (image.probe, image.decode):
        with pytest.raises(ValueError, match=r"refused png: its header says .* pixels, and at most 178,956,970 are"):
            use(data, "png")
    with pytest.raises(ValueError, match="png: refused png"):
        measure({"png": data})


def test_a_png_of_zeros_that_unpacks_to_more_than_its_pixels():
    bomb = zlib.compress(bytes(200_000_000), 9)
    assert len(bomb) < 400_000
    outcomes(png(10, 10, bomb), "png")
    outcomes(png(10, 10, zlib.compress(bytes(310)), extra=_text_bomb()), "png")


def _text_bomb():
    data = b"comment\0\0" + zlib.compress(bytes(200_000_000), 9)
    return struct.pack(">I", len(data)) + b"zTXt" + data + struct.pack(">I", zlib.crc32(b"zTXt" + data))


def test_a_jpeg_that_says_it_is_huge():
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64)).save(buffer, "JPEG")
    data = bytearray(buffer.getvalue())
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", 65_000, 65_000)
    for told in outcomes(bytes(data), "jpg"):
        assert "65000" in told.replace(",", "") or "4225000000" in told or "limit" in told, told
        assert told.startswith("ValueError") and "178" in told


def npy(header, version=b"\x01\x00"):
    head = header.encode() + b"\n"
    return b"\x93NUMPY" + version + len(head).to_bytes(2 if version[0] == 1 else 4, "little") + head + bytes(30)


@pytest.mark.parametrize(
    "header",
    [
        "{'descr':'|u1','fortran_order':False,'shape':(100000,100000,3)}",
        "{'descr':'|u1','fortran_order':False,'shape':(-12,4)}",
        "{'descr':'|u1','fortran_order':False,'shape':(99999999999999999999,4)}",
        "{'descr':'|u1','fortran_order':False,'shape':(0,99999999999999999999)}",
        "{'descr':'|u1','fortran_order':False,'shape':(1e9,4)}",
        "{'descr':'|O','fortran_order':False,'shape':(3,3)}",
        "{'descr':'|V999999999999','fortran_order':False,'shape':(1,1)}",
        "{'descr':[('a','<f4',(100000,100000))],'fortran_order':False,'shape':(1,1)}",
        "__import__('os').system('touch owned')",
        "-" * 9000 + "1",
        "(" * 9000,
        "[" * 150 + "]" * 150,
        "1+" * 4000 + "1",
        "'" * 3,
    ],
)
@pytest.mark.parametrize("version", [b"\x01\x00", b"\x02\x00", b"\x09\x00"])
def test_arrays_of_hostile_headers(header, version):
    for decode in (arrays.decode, lambda data: image.decode(data, "npy")):
        with pytest.raises(ValueError, match="npy"):
            decode(npy(header, version))


def test_pickles_are_not_loaded(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    class Evil:
        def __reduce__(self):
            return open, (str(tmp_path / "owned"), "w")

    buffer = io.BytesIO()
    np.save(buffer, np.array([Evil()], dtype=object), allow_pickle=True)
    for data in (buffer.getvalue(), pickle.dumps(Evil())):
        for decode in (arrays.decode, lambda data: image.decode(data, "npy")):
            with pytest.raises(ValueError, match="npy of object|damaged npy|not an image"):
                decode(data)
    assert not (tmp_path / "owned").exists()


def test_an_npy_header_of_four_gigabytes_is_not_read():
    with pytest.raises(ValueError, match="damaged npy"):
        arrays.header(b"\x93NUMPY\x02\x00" + b"\xff\xff\xff\xff" + b" " * 1000)


def flac_of(frames, channels=1):
    """A FLAC whose header says ``frames``, and whose last block, with a checksum that fits, ends there."""
    data = bytearray(encode(np.zeros((4096 * 4, channels), np.int16), 16000, "flac"))
    packed = int.from_bytes(data[18:26], "big") >> 36 << 36 | frames
    data[18:26] = packed.to_bytes(8, "big")
    number = frames - 4096  # variable block size: the number is that of its first frame, coded as in UTF-8
    coded = bytes([0xFE]) + bytes(0x80 | number >> shift & 0x3F for shift in range(30, -1, -6))
    head = bytes([0xFF, 0xF9, 0xC5, (channels - 1) << 4 | 8]) + coded
    return bytes(data) + head + bytes([flac._crc8(head)]) + bytes(50)


@pytest.mark.parametrize("frames", [2**36 - 1, 2**32])
def test_a_flac_that_says_it_is_huge(frames):
    data = flac_of(frames)
    assert audio.check(data, "flac").frames == frames  # to be told apart by decoding alone
    measured, decoded = outcomes(data, "flac")
    assert measured == "fine"
    assert f"refused flac: by its header {frames:,} frames of 1 channels" in decoded
    assert "at most 2,147,483,648 values are at once" in decoded


def test_an_ogg_whose_last_page_says_it_is_huge():
    data = bytearray(encode(np.zeros(16000, np.int16), 16000, "ogg"))
    at = data.rindex(b"OggS")
    data[at + 6 : at + 14] = (1 << 60).to_bytes(8, "little")
    data[at + 22 : at + 26] = bytes(4)
    data[at + 22 : at + 26] = checksum(bytes(data[at:])).to_bytes(4, "little")
    assert len(outcomes(bytes(data), "ogg")) == 2


def test_comments_and_padding_that_say_they_are_huge():
    good = encode(np.zeros(16000, np.int16), 16000, "flac")
    for block in (
        b"\x01\xff\xff\xff",
        b"\x06\xff\xff\xff",
        b"\x04\xff\xff\xff",
        b"\x03\xff\xff\xff",
        b"\x04\0\0\x08\xff\xff\xff\xff\xff\xff\xff\xff",
    ):
        assert len(outcomes(good[:42] + block + good[42:], "flac")) == 2
    many = good[:42] + b"\x01\0\0\0" * 200_000 + good[42:]
    assert len(outcomes(many, "flac")) == 2
    for kind in ("ogg", "opus"):
        data = bytearray(encode(np.zeros(16000, np.int16), 16000, kind))
        at = data.index(b"\x03vorbis" if kind == "ogg" else b"OpusTags")
        at += 7 if kind == "ogg" else 8
        data[at : at + 4] = b"\xff\xff\xff\x7f"
        page = data.rindex(b"OggS", 0, at)
        body = page + 27 + data[page + 26]
        end = body + sum(data[page + 27 : body])
        data[page + 22 : page + 26] = bytes(4)
        data[page + 22 : page + 26] = checksum(bytes(data[page:end])).to_bytes(4, "little")
        assert all(told.startswith("ValueError") or told == "fine" for told in outcomes(bytes(data), kind))


@pytest.mark.parametrize("field", [4, 16, 20, 22, 24, 28, 32, 34, 40])
@pytest.mark.parametrize("value", [0, 1, 0x7FFFFFFF, 0xFFFFFFFF])
def test_a_wav_of_absurd_numbers(field, value):
    data = bytearray(encode(np.zeros(1000, np.int16), 16000, "wav"))
    data[field : field + 4] = struct.pack("<I", value)
    for use in (audio.check, audio.decode):
        with contextlib.suppress(ValueError):
            use(bytes(data), "wav")


@pytest.mark.parametrize("kind", ["flac", "wav", "ogg", "mp3", "png", "jpg", "npy", "aiff", "au", "caf"])
def test_changed_bytes_are_a_value_error_or_nothing(kind):
    """Nothing but ValueError comes out of any decoder, whatever byte is changed."""
    draws = random.Random(kind)
    for _ in range(150):
        data = bytearray(_good(kind))
        for _ in range(draws.choice([1, 4, 30])):
            data[draws.randrange(min(len(data), draws.choice([60, 400, 10**6])))] = draws.choice(
                [0, 255, draws.randrange(256)]
            )
        data = bytes(data if draws.random() < 0.8 else data[: draws.randrange(len(data))])
        codec = image if kind in image.IMAGE_EXTENSIONS else audio
        for use, given in ((measure, ({kind: data},)), (codec.decode, (data, kind))):
            with contextlib.suppress(ValueError):
                use(*given)


def _good(kind, cache={}):  # noqa: B006 - made once
    if kind not in cache:
        if kind in ("png", "jpg"):
            buffer = io.BytesIO()
            pixels = np.random.default_rng(0).integers(0, 255, (24, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(buffer, "PNG" if kind == "png" else "JPEG")
            cache[kind] = buffer.getvalue()
        elif kind == "npy":
            cache[kind] = arrays.encode(np.zeros((8, 8, 3), np.uint8))
        elif kind in ("aiff", "au", "caf"):
            buffer = io.BytesIO()
            soundfile.write(buffer, np.zeros(2000, np.int16), 16000, format=kind.upper(), subtype="PCM_16")
            cache[kind] = buffer.getvalue()
        else:
            wave = (np.random.default_rng(0).standard_normal(4000) * 2000).astype(np.int16)
            cache[kind] = encode(wave, 16000, kind)
    return cache[kind]

"""Measures of samples."""

from __future__ import annotations

import io
import re

import numpy as np
import pyarrow as pa
import pytest
import soundfile
from PIL import Image

from ecopipe.formats.measures import MEASURES, measure

from ..conftest import real


def flac(frames=800, rate_hz=8000, channels=2):
    stream = io.BytesIO()
    soundfile.write(stream, np.zeros((frames, channels)), rate_hz, format="FLAC", subtype="PCM_16")
    return stream.getvalue()


def png():
    stream = io.BytesIO()
    Image.new("RGB", (7, 5)).save(stream, format="PNG")
    return stream.getvalue()


def npy(shape):
    stream = io.BytesIO()
    np.save(stream, np.zeros(shape))
    return stream.getvalue()


def found(members):
    return {name: value for name, value in measure(members).items() if value is not None}


AUDIO = {"frames": 800, "rate_hz": 8000, "channels": 2, "duration_s": 0.1}


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ({}, {}),
        ({"json": b"{}", "xyz": b"", "__key__": b""}, {}),
        ({"flac": flac()}, AUDIO),
        ({"FLAC": flac()}, AUDIO),
        ({"mix.flac": flac()}, AUDIO),
        ({"mix.flac": flac(5), "flac": flac()}, AUDIO),
        ({"txt": "It's naïve.".encode()}, {"chars": 11, "tokens": 5}),
        ({"txt": b""}, {"chars": 0, "tokens": 0}),
        ({"png": png(), "cls": b" 7\n"}, {"height": 5, "width": 7, "label": 7}),
        ({"cls": b"-1"}, {"label": -1}),
        ({"npy": npy((5, 7))}, {"height": 5, "width": 7}),
        ({"npy": npy(5)}, {}),
        ({"txt": b"caf\xe9 noir"}, {"chars": 9, "tokens": 2}),  # not UTF-8: whether it passes the pipeline says
        ({"flac": flac(), "txt": b"A B", "cls": b"0"}, {**AUDIO, "chars": 3, "tokens": 2, "label": 0}),
    ],
)
def test_measures(members, expected):
    assert list(measure(members)) == list(MEASURES)
    assert found(members) == expected


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"flac": b"fLaC"}, "flac: damaged flac: 4 bytes, and the header alone has 42"),
        ({"mix.wav": b"RIFF"}, "mix.wav: damaged wav: RIFF without WAVE"),
        ({"jpg": b"1234"}, "jpg: not readable as jpg: it begins with b'1234'"),
        ({"cls": b"cat"}, "cls: a class number in ASCII digits wanted, got 'cat'"),
        ({"cls": b""}, "cls: a class number in ASCII digits wanted, got ''"),
    ],
)
def test_a_damaged_member_is_named(members, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        measure(members)


def test_types_are_those_of_arrow():
    for alias in MEASURES.values():
        assert pa.type_for_alias(alias)


def test_real_utterance():
    path = min(real("LibriSpeech").rglob("*.flac"))
    info = soundfile.info(path)
    assert found({"flac": path.read_bytes()}) == {
        "frames": info.frames,
        "rate_hz": 16000,
        "channels": 1,
        "duration_s": info.frames / 16000,
    }

"""A piece of a file of audio is that slice of the whole, bit for bit."""

from __future__ import annotations

import io
import random

import numpy as np
import pytest

from ecopipe.formats import dr_flac
from ecopipe.formats.audio import decode

from ..conftest import real
from .test_audio import REAL, encoded, flipped

CODINGS = [
    *(("wav", subtype) for subtype in ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW")),
    *(("wav", subtype) for subtype in ("IMA_ADPCM", "MS_ADPCM", "GSM610")),
    *(("flac", subtype) for subtype in ("PCM_S8", "PCM_16", "PCM_24")),
    *(("ogg", "VORBIS"), ("ogg", "OPUS"), ("mp3", "MPEG_LAYER_III"), ("nist", "PCM_16"), ("nist", "ULAW")),
    *(("aiff", "PCM_16"), ("au", "PCM_16"), ("caf", "PCM_24"), ("caf", "ALAC_16"), ("w64", "PCM_16")),
]


def check_pieces(data, kind, *, draws=12, seed=0):
    whole, rate_hz = decode(data, kind)
    drawn, last = random.Random(seed), len(whole) - 1
    starts = [0, 1, last // 2, last, *(drawn.randrange(len(whole)) for _ in range(draws))]
    for start in starts:
        left = len(whole) - start
        for frames in (None, 1, left, drawn.randint(1, left)):
            piece, piece_rate_hz = decode(data, kind, start=start, frames=frames)
            assert (piece.dtype, piece_rate_hz) == (whole.dtype, rate_hz)
            assert piece.flags.owndata or piece.base.nbytes <= whole.itemsize * whole.shape[1] * (frames or left)
            np.testing.assert_array_equal(piece, whole[start : start + (frames or left)])


@pytest.mark.parametrize("name", REAL)
def test_pieces_of_real_files(name):
    check_pieces(real("audio_misc", name).read_bytes(), name.rpartition(".")[2])


def test_pieces_of_real_librispeech():
    paths = sorted(real("LibriSpeech").rglob("*.flac"))
    assert paths
    for seed, path in enumerate(paths[::8]):
        check_pieces(path.read_bytes(), "flac", draws=4, seed=seed)


@pytest.mark.parametrize(("kind", "subtype"), CODINGS)
def test_pieces_of_every_coding(kind, subtype):
    channels = 1 if subtype == "GSM610" else 2
    check_pieces(encoded(kind, subtype, frames=30000, channels=channels), kind)


def test_a_piece_of_flac_without_a_length_in_its_header():
    for subtype in ("PCM_16", "PCM_24"):
        data = encoded("flac", subtype, frames=30000)
        packed = int.from_bytes(data[18:26], "big") >> 36 << 36
        unsized = data[:18] + packed.to_bytes(8, "big") + data[26:]
        whole, _ = decode(data, "flac")
        np.testing.assert_array_equal(decode(unsized, "flac")[0], whole)
        np.testing.assert_array_equal(decode(unsized, "flac", start=9000, frames=500)[0], whole[9000:9500])


def test_a_piece_of_flac_needs_no_miniaudio(monkeypatch):
    data = encoded("flac", "PCM_16")
    whole, _ = decode(data, "flac")
    monkeypatch.setattr(dr_flac, "_READS", {})
    np.testing.assert_array_equal(decode(data, "flac", start=100, frames=50)[0], whole[100:150])


def test_a_piece_of_flac_or_wav_is_read_there_only(monkeypatch):
    """Bytes before it are not decoded: how much libsndfile read says so."""
    read = []

    class Counting(io.BytesIO):
        def readinto(self, buffer):
            read.append(got := super().readinto(buffer))
            return got

    for kind, subtype in (("flac", "PCM_16"), ("flac", "PCM_24"), ("wav", "PCM_24")):
        data = encoded(kind, subtype, frames=400_000)
        monkeypatch.setattr("ecopipe.formats.libsndfile.io.BytesIO", Counting)
        read.clear()
        decode(data, kind, start=300_000, frames=100)
        assert 0 < sum(read) < len(data) / 3
        monkeypatch.undo()


# -- pieces that are not there ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "subtype"), [("wav", "PCM_16"), ("wav", "FLOAT"), ("flac", "PCM_16"), ("mp3", "MPEG_LAYER_III")]
)
@pytest.mark.parametrize(
    ("piece", "message"),
    [
        (
            {"start": 16000},
            r"a piece from frame 16000 \(2 s\) begins past the end: the audio has 16000 frames \(2 s\); correct where",
        ),
        (
            {"start": 8000, "frames": 8001},
            r"a piece from frame 8000 \(1 s\) to frame 16001 \(2.00013 s\) reaches past the end: the audio has 16000 "
            r"frames \(2 s\); correct the piece, or give it no length to read to the end",
        ),
        ({"start": -1}, r"a piece from frame -1 .* is none; give a start of 0 or more, and a frame or more"),
        ({"frames": 0}, r"a piece from frame 0 \(0 s\) of 0 frames is none"),
        ({"start": 5, "md5": True}, "the MD5 of a FLAC is that of all its samples; leave md5 out to read a piece"),
    ],
)
def test_a_piece_that_is_not_within_the_audio_is_refused(kind, subtype, piece, message):
    with pytest.raises(ValueError, match=message):
        decode(encoded(kind, subtype, frames=16000, rate_hz=8000), kind, **piece)


@pytest.mark.parametrize(("kind", "subtype"), CODINGS)
def test_a_truncated_file_gives_no_piece_either(kind, subtype):
    data = encoded(kind, subtype, frames=30000)
    with pytest.raises(ValueError, match="damaged|not readable"):
        decode(data[: len(data) * 3 // 4], kind, start=10, frames=10)


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24"])
def test_a_piece_of_damaged_flac_is_refused_or_unchanged(subtype):
    data = encoded("flac", subtype, frames=60000)
    whole, _ = decode(data, "flac")
    drawn, first = random.Random(4), data.index(b"\xff\xf8")
    refused = 0
    for _ in range(200):
        damaged, start = flipped(data, drawn.randrange(first, len(data)), drawn.randrange(8)), drawn.randrange(40000)
        try:
            piece, _ = decode(damaged, "flac", start=start, frames=20000)
        except ValueError as error:
            assert "flac" in str(error)  # noqa: PT017
            refused += 1
        else:
            np.testing.assert_array_equal(piece, whole[start : start + 20000])
    assert refused > 40  # a third of the bytes lies within the piece

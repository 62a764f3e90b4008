"""WAV: its layouts, sizes of 64 bits (RF64), sizes that stand for none, and a header that was never written anew."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
import soundfile

from ecopipe.formats.audio import AudioInfo, check, decode, probe

from .test_audio import RNG, encoded, wav
from .test_audio_pieces import check_pieces

SUBTYPES = ("PCM_U8", "PCM_16", "PCM_24", "FLOAT", "ULAW", "IMA_ADPCM")


def with_size(data, size):
    at = data.index(b"data") + 4
    return data[:at] + struct.pack("<I", size) + data[at + 4 :]


def test_wav_chunks_of_odd_size_are_padded():
    odd = b"LIST" + struct.pack("<I", 3) + b"abc\x00"
    audio, rate_hz = decode(wav(before=odd), "wav")
    assert (audio[:, 0].tolist(), rate_hz) == ([1, 2], 8000)


def test_wav_extensible():
    guid = struct.pack("<H", 1) + bytes.fromhex("000000001000800000aa00389b71")
    extra = struct.pack("<HHI", 22, 16, 4) + guid
    data = wav(form=(0xFFFE, 1, 8000, 16000, 2, 16), extra=extra)
    assert probe(data, "wav") == AudioInfo(8000, 2, 1, 16)
    assert decode(data, "wav")[0][:, 0].tolist() == [1, 2]


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
def test_wav_extensible_of_libsndfile(subtype):
    stream = io.BytesIO()
    soundfile.write(stream, RNG.uniform(-1, 1, (500, 3)), 16000, format="WAVEX", subtype=subtype)
    audio, _ = decode(stream.getvalue(), "wav")
    expected, _ = soundfile.read(io.BytesIO(stream.getvalue()), dtype=str(audio.dtype), always_2d=True)
    np.testing.assert_array_equal(audio, expected)


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW"])
def test_wav_with_chunks_behind_its_samples(subtype):
    data = encoded("wav", subtype, frames=1000)
    longer = data + b"LIST" + struct.pack("<I", 4) + b"INFO"
    assert len(decode(longer, "wav")[0]) == 1000
    np.testing.assert_array_equal(decode(longer, "wav")[0], decode(data, "wav")[0])


def test_wav_written_to_a_pipe_goes_on_to_the_end():
    assert decode(wav(size=0xFFFFFFFF), "wav")[0][:, 0].tolist() == [1, 2]


def test_wav_stops_at_the_size_of_its_data_chunk():
    assert decode(wav(b"\x01\x00\x02\x00LIST", size=4), "wav")[0][:, 0].tolist() == [1, 2]


# -- RF64 and RIFX ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "endian", "subtype"),
    [
        *(("RF64", "FILE", subtype) for subtype in ("PCM_U8", "PCM_16", "PCM_24", "FLOAT", "ULAW")),
        *(("WAV", "BIG", subtype) for subtype in SUBTYPES),
    ],
)
@pytest.mark.parametrize("channels", [1, 2])
def test_rf64_and_rifx_are_read_as_wav_is(kind, endian, subtype, channels):
    audio = RNG.uniform(-1, 1, (20000, channels))
    made = {}
    for name, settings in {"other": {"format": kind, "endian": endian}, "wav": {"format": "WAV"}}.items():
        stream = io.BytesIO()
        soundfile.write(stream, audio, 16000, subtype=subtype, **settings)
        made[name] = stream.getvalue()
    assert made["other"][:4] == (b"RF64" if kind == "RF64" else b"RIFX")
    (found, rate_hz), (expected, _) = decode(made["other"], "wav"), decode(made["wav"], "wav")
    assert (found.dtype, rate_hz) == (expected.dtype, 16000)
    np.testing.assert_array_equal(found, expected)
    assert check(made["other"], "wav") == probe(made["other"], "wav") == check(made["wav"], "wav")
    check_pieces(made["other"], "wav", draws=3)
    for lost in (3, 8, 8000, len(made["other"]) // 2):
        for read in (check, decode):
            with pytest.raises(ValueError, match="^damaged wav: the header says .* the file is truncated"):
                read(made["other"][:-lost], "wav")


def test_rf64_without_its_sizes_is_refused():
    data = b"RF64" + wav(size=0xFFFFFFFF)[4:]
    for read in (probe, check, decode):
        with pytest.raises(ValueError, match="^damaged wav: RF64 without a ds64 chunk before its samples, which has"):
            read(data, "wav")
    assert decode(b"RF64" + wav()[4:], "wav")[0][:, 0].tolist() == [1, 2]  # a size of 32 bits is one


def test_rf64_takes_the_size_of_its_samples():
    sizes = b"ds64" + struct.pack("<IQQQI", 28, 99, 4, 2, 0)
    data = b"RF64" + wav(b"\x01\x00\x02\x00LIST\x02\x00\x00\x00ab", before=sizes, size=0xFFFFFFFF)[4:]
    assert decode(data, "wav")[0][:, 0].tolist() == [1, 2]


# -- sizes that stand for none ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFF000, 0x7FFFFF00, 0x80000000, 0x7FFF0000, 0x7FFFFFFF])
@pytest.mark.parametrize("subtype", SUBTYPES)
def test_wav_with_the_size_that_a_pipe_gives_goes_on_to_the_end(subtype, size):
    data = encoded("wav", subtype, frames=3000, channels=2)
    piped = with_size(data, size)
    assert check(piped, "wav") == probe(piped, "wav") == check(data, "wav")
    np.testing.assert_array_equal(decode(piped, "wav")[0], decode(data, "wav")[0])
    check_pieces(piped, "wav", draws=1)


def test_sox_rounds_its_size_down_to_whole_frames():
    data = encoded("wav", "PCM_24", frames=3000)
    assert check(with_size(data, 0x7FFFF000 // 3 * 3), "wav").frames == 3000


@pytest.mark.parametrize("size", [0x7FFFF000 - 2, 0x7FFFE000, 0x40000000, 6004])
def test_any_other_size_beyond_the_end_is_refused(size):
    data = with_size(encoded("wav", "PCM_16", frames=3000), size)
    for read in (check, decode):
        with pytest.raises(
            ValueError, match=f"the header says {size // 2} frames, 3000 could be decoded; the file is "
        ):
            read(data, "wav")


# -- a header that was never written anew -------------------------------------------------------------------------


@pytest.mark.parametrize("subtype", SUBTYPES)
@pytest.mark.parametrize("scale", [0.0, 0.5])
def test_wav_that_was_not_closed_is_refused(subtype, scale):
    data = encoded("wav", subtype, frames=3000, scale=scale)
    follow = len(data) - data.index(b"data") - 8
    message = (
        rf"^damaged wav: the header says no samples, {follow} bytes follow; it was not closed by what recorded it: "
        r"have its header written anew, such as with sox --ignore-length IN.wav OUT.wav, or leave the sample out$"
    )
    for read in (check, decode):
        with pytest.raises(ValueError, match=message):
            read(with_size(data, 0), "wav")


@pytest.mark.parametrize("behind", [b"", b"LIST\x04\x00\x00\x00INFO", b"id3 \x02\x00\x00\x00abfact\x00\x00\x00\x00"])
def test_an_empty_wav_may_have_other_chunks_behind(behind):
    for size in (0, *([0xFFFFFFFF] if not behind else [])):
        assert decode(wav(behind, size=size), "wav")[0].shape == (0, 1)

"""FLAC against the MD5 of its header, and behind ID3v2 tags."""

from __future__ import annotations

import hashlib
import io

import numpy as np
import pytest
import soundfile

from ecopipe.formats.audio import check, decode, probe

from ..conftest import real
from .test_audio import encoded, flipped

MESSAGE = (
    r"^damaged flac: the MD5 of its samples is [0-9a-f]{32}, and its header says [0-9a-f]{32}; it was changed after it "
    r"was encoded: fetch it again, or leave the sample out$"
)
SUBTYPES = ("PCM_S8", "PCM_16", "PCM_24")


@pytest.mark.parametrize("subtype", SUBTYPES)
@pytest.mark.parametrize("channels", [1, 2, 8])
def test_md5_of_what_was_encoded(subtype, channels):
    data = encoded("flac", subtype, channels=channels, frames=10000, scale=0.99)
    audio, rate_hz = decode(data, "flac", md5=True)
    expected, expected_rate_hz = decode(data, "flac")
    assert (audio.dtype, rate_hz) == (expected.dtype, expected_rate_hz)
    np.testing.assert_array_equal(audio, expected)


def test_md5_is_that_of_the_samples_in_their_width():
    """By hand: little-endian, interleaved, as many bytes as the bits need."""
    for bits, subtype in ((8, "PCM_S8"), (24, "PCM_24")):
        data = encoded("flac", subtype, channels=2, frames=500)
        samples, _ = soundfile.read(io.BytesIO(data), dtype="int32", always_2d=True)
        packed = b"".join((int(n) >> 32 - bits).to_bytes(bits // 8, "little", signed=True) for n in samples.ravel())
        assert hashlib.md5(packed).digest() == data[26:42]
        decode(data[:26] + hashlib.md5(packed).digest() + data[42:], "flac", md5=True)


@pytest.mark.parametrize("full_scale", [-1.0, 1.0])
@pytest.mark.parametrize("subtype", SUBTYPES)
def test_md5_at_full_scale(subtype, full_scale):
    stream = io.BytesIO()
    soundfile.write(stream, np.full(3000, full_scale), 16000, format="FLAC", subtype=subtype)
    audio, _ = decode(stream.getvalue(), "flac", md5=True)
    np.testing.assert_array_equal(audio, decode(stream.getvalue(), "flac")[0])


@pytest.mark.parametrize("subtype", SUBTYPES)
@pytest.mark.parametrize("byte", range(26, 42))
def test_another_md5_in_the_header_is_refused(subtype, byte):
    changed = flipped(encoded("flac", subtype, frames=9000), byte, byte % 8)
    assert len(decode(changed, "flac")[0]) == 9000
    with pytest.raises(ValueError, match=MESSAGE):
        decode(changed, "flac", md5=True)


@pytest.mark.parametrize("subtype", SUBTYPES)
def test_other_audio_behind_the_header_is_refused(subtype):
    """Every CRC is right and the length too: the blocks are those of another file."""
    one, other = (encoded("flac", subtype, frames=9000) for _ in range(2))
    mixed = one[: one.index(b"\xff\xf8")] + other[other.index(b"\xff\xf8") :]
    np.testing.assert_array_equal(decode(mixed, "flac")[0], decode(other, "flac")[0])
    with pytest.raises(ValueError, match=MESSAGE):
        decode(mixed, "flac", md5=True)


@pytest.mark.parametrize("subtype", SUBTYPES)
def test_zeros_mean_that_the_header_has_none(subtype):
    data = encoded("flac", subtype, frames=9000)
    without = data[:26] + bytes(16) + data[42:]
    np.testing.assert_array_equal(decode(without, "flac", md5=True)[0], decode(data, "flac")[0])


def test_md5_without_a_length_in_the_header():
    data = encoded("flac", "PCM_24", frames=9000)
    unsized = data[:18] + (int.from_bytes(data[18:26], "big") >> 36 << 36).to_bytes(8, "big") + data[26:]
    assert len(decode(unsized, "flac", md5=True)[0]) == 9000
    with pytest.raises(ValueError, match=MESSAGE):
        decode(flipped(unsized, 30, 0), "flac", md5=True)


def test_other_formats_have_none_and_pass():
    assert len(decode(encoded("wav", "PCM_16"), "wav", md5=True)[0]) == 20000


def test_every_real_flac_has_its_md5():
    paths = sorted(real("LibriSpeech").rglob("*.flac"))
    assert paths
    for path in paths:
        data = path.read_bytes()
        assert data[26:42] != bytes(16)
        decode(data, "flac", md5=True)
    with pytest.raises(ValueError, match=MESSAGE):
        decode(flipped(data, 26, 0), "flac", md5=True)


# -- behind ID3v2 tags --------------------------------------------------------------------------------------------


def id3(size, *, footer=False):
    """A tag of ``size`` bytes behind its header, with a size of seven bits to a byte."""
    sized = bytes([4, 0, 0x10 if footer else 0, *(size >> shift & 0x7F for shift in (21, 14, 7, 0))])
    return b"ID3" + sized + b"\xff" * size + (b"3DI" + sized if footer else b"")


TAGS = [id3(0), id3(10), id3(300), id3(300, footer=True), id3(20000) + id3(5) + id3(0, footer=True)]


@pytest.mark.parametrize("tags", TAGS)
@pytest.mark.parametrize("subtype", SUBTYPES)
def test_a_tag_in_front_changes_nothing(tags, subtype):
    data = encoded("flac", subtype, frames=9000)
    assert check(tags + data, "flac") == probe(tags + data, "flac") == check(data, "flac")
    for settings in ({}, {"md5": True}, {"start": 5000, "frames": 100}):
        expected, _ = decode(data, "flac", **settings)
        audio, _ = decode(tags + data, "flac", **settings)
        assert audio.dtype == expected.dtype
        np.testing.assert_array_equal(audio, expected)
    with pytest.raises(ValueError, match=MESSAGE):
        decode(tags + flipped(data, 30, 0), "flac", md5=True)
    for lost in (1, 100, len(data) // 2):
        with pytest.raises(ValueError, match="^damaged flac: "):
            decode(tags + data[:-lost], "flac")


def test_a_file_that_ends_within_its_tag_is_refused():
    for read in (probe, check, decode):
        for end in (11, 200, 310):
            with pytest.raises(ValueError, match=f"^damaged flac: its ID3 tag ends at byte 310, {end} are there; the"):
                read(id3(300)[:end], "flac")

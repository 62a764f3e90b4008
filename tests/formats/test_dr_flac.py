"""dr_flac into given memory, against libsndfile and against what the decoder gives without it."""

from __future__ import annotations

import io

import numpy as np
import pytest
import soundfile

from ecopipe.formats import audio, dr_flac

RATE_HZ = 16000


def encoded(channels: int = 1, subtype: str = "PCM_16", kind: str = "FLAC", frames: int = 30_000) -> bytes:
    noise = np.random.default_rng(7).integers(-(2**15), 2**15, (frames, channels), dtype=np.int16)
    noise[100:20_000] //= 50
    noise[0], noise[1] = -(2**15), 2**15 - 1
    file = io.BytesIO()
    soundfile.write(file, noise, RATE_HZ, subtype, format=kind)
    return file.getvalue()


@pytest.mark.parametrize("channels", [1, 2, 6])
def test_samples_are_those_of_libsndfile(channels):
    data = encoded(channels)
    expected, _ = soundfile.read(io.BytesIO(data), dtype="int16", always_2d=True)
    whole, exact = np.empty((30_000, channels), np.int16), np.empty((30_000, channels), np.float32)
    assert dr_flac.read_into(data, whole) == dr_flac.read_into(data, exact) == 30_000
    np.testing.assert_array_equal(whole, expected)
    np.testing.assert_array_equal(exact, expected * np.float32(1 / 32768))
    np.testing.assert_array_equal(dr_flac.read16(data, 30_000, channels), expected)


def test_it_ends_where_the_memory_or_the_audio_does():
    data = encoded()
    memory = np.full(40_000, 7, np.int16)
    assert dr_flac.read_into(data, memory[:1000]) == 1000
    assert (memory[1000:] == 7).all()
    assert dr_flac.read_into(data, memory) == 30_000
    assert (memory[30_000:] == 7).all()


def test_a_damaged_block_shows_in_the_length():
    data = bytearray(encoded())
    data[len(data) // 2] ^= 0xFF
    assert 0 < dr_flac.read_into(bytes(data), np.empty(30_000, np.int16)) < 30_000


@pytest.mark.parametrize("data", [b"", b"fLaC", b"RIFF" + bytes(100), bytes(1000)])
def test_what_is_no_flac_is_refused(data):
    with pytest.raises(ValueError, match="damaged flac: it cannot be opened"):
        dr_flac.read_into(data, np.empty(10, np.int16))


def test_memory_that_cannot_be_written_to_is_refused():
    memory = np.empty(30_000, np.int16)
    memory.flags.writeable = False
    with pytest.raises((ValueError, BufferError)):
        dr_flac.read_into(encoded(), memory)


# -- whole files into a row of a batch ------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["int16", "float32"])
@pytest.mark.parametrize("kind", ["FLAC", "WAV"])
def test_a_row_gets_what_decode_gives(kind, dtype):
    data = encoded(kind=kind)
    expected, rate_hz = audio.decode(data, kind.lower())
    row = np.empty(30_000, dtype)
    info = audio.decode_into(data, kind.lower(), row)
    assert info is not None
    assert (info.rate_hz, info.frames) == (rate_hz, 30_000)
    np.testing.assert_array_equal(row, expected[:, 0] * (np.float32(1 / 32768) if dtype == "float32" else 1))


def test_a_big_endian_wav_and_tags_in_front_are_read():
    big = io.BytesIO()
    soundfile.write(big, np.arange(5, dtype=np.int16), RATE_HZ, "PCM_16", "BIG", "WAV")
    assert big.getvalue()[:4] == b"RIFX"
    row = np.empty(5, np.int16)
    assert audio.decode_into(big.getvalue(), "wav", row) is not None
    np.testing.assert_array_equal(row, np.arange(5))
    tagged = b"ID3\x04\x00\x00\x00\x00\x00\x0a" + bytes(10) + encoded()
    assert audio.decode_into(tagged, "flac", np.empty(30_000, np.int16)) is not None


@pytest.mark.parametrize(
    "data",
    [
        encoded(2),
        encoded(2, kind="WAV"),
        encoded(subtype="PCM_24"),
        encoded(subtype="PCM_24", kind="WAV"),
        encoded(kind="OGG", subtype="VORBIS"),
        encoded(frames=29_999),
        encoded(frames=30_001, kind="WAV"),
        encoded()[:-100],
        encoded(kind="WAV")[:-100],
        encoded()[:30],
        b"",
        b"ID3\x04\x00\x00\x00\x00\x7f\x7f",
    ],
    ids=[
        "stereo",
        "stereo wav",
        "24 bits",
        "24 bits wav",
        "vorbis",
        "shorter",
        "longer",
        "cut",
        "cut wav",
        "header",
        "empty",
        "tag",
    ],
)
def test_what_does_not_fit_a_row_is_left_to_decode(data):
    assert audio.decode_into(data, "flac", np.empty(30_000, np.float32)) is None


def test_damage_is_left_to_decode():
    data = bytearray(encoded())
    data[len(data) // 2] ^= 0xFF
    assert audio.decode_into(bytes(data), "flac", np.empty(30_000, np.float32)) is None
    with pytest.raises(ValueError, match="30000 frames, .* could be decoded"):
        audio.decode(bytes(data), "flac")


def test_without_dr_flac_all_is_left_to_decode(monkeypatch):
    monkeypatch.setattr(dr_flac, "_READS", {})
    assert audio.decode_into(encoded(), "flac", np.empty(30_000, np.float32)) is None
    assert len(audio.decode(encoded(), "flac")[0]) == 30_000


@pytest.mark.parametrize("at", range(8, 12))
def test_a_header_whose_block_sizes_were_changed_is_refused_in_memory_as_it_is_without(at):
    data = bytearray(encoded())
    data[at] = 0xFF
    row = np.empty(30_000, np.int16)
    try:
        audio.decode(bytes(data), "flac")
        accepted = True
    except ValueError:
        accepted = False
    assert (audio.decode_into(bytes(data), "flac", row) is not None) == accepted
    assert accepted == (at < 10)  # the least block size bounds nothing; the largest is the last block's place

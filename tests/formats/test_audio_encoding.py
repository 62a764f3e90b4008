"""Encoded audio: what comes back, and that the same audio is the same bytes."""

from __future__ import annotations

import io
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile

from ecopipe.formats import audio as codec
from ecopipe.formats import ogg
from ecopipe.formats.audio_encoding import encode

RATE_HZ = 16000
LOSSY = ("opus", "ogg", "mp3")


def speechlike(frames=20000, channels=None, dtype="int16", seed=0):
    rng = np.random.default_rng(seed)
    wave = np.cumsum(rng.standard_normal((frames, channels or 1)), axis=0)
    wave = wave / np.abs(wave).max() * 0.9
    wave = wave[:, 0] if channels is None else wave
    return (wave * 32767).astype(np.int16) if dtype == "int16" else wave.astype(np.float32)


@pytest.mark.parametrize("kind", ["flac", "wav"])
@pytest.mark.parametrize("channels", [None, 1, 2, 5])
def test_int16_comes_back_bit_for_bit(kind, channels):
    audio = speechlike(channels=channels)
    found, rate_hz = codec.decode(encode(audio, RATE_HZ, kind), kind)
    assert rate_hz == RATE_HZ
    assert found.dtype == np.int16
    np.testing.assert_array_equal(found, audio.reshape(len(audio), -1))


@pytest.mark.parametrize("kind", ["flac", "wav"])
@pytest.mark.parametrize("bits", [16, 24])
def test_floats_that_came_of_16_bits_are_exact(kind, bits):
    audio = speechlike()
    floats = audio * np.float32(1 / 32768)
    found, _ = codec.decode(encode(floats, RATE_HZ, kind, bits=bits), kind)
    np.testing.assert_array_equal(found[:, 0] * (np.float32(1 / 32768) if bits == 16 else 1), floats)
    assert encode(audio, RATE_HZ, kind, bits=bits) == encode(floats, RATE_HZ, kind, bits=bits)


@pytest.mark.parametrize("kind", ["flac", "wav"])
def test_24_bits_are_as_close_as_24_bits_are(kind):
    audio = speechlike(dtype="float32")
    found, _ = codec.decode(encode(audio, RATE_HZ, kind, bits=24), kind)
    assert np.abs(found[:, 0] - audio).max() <= 2**-24
    assert codec.probe(encode(audio, RATE_HZ, kind, bits=24), kind).bits == 24


def test_float_wav_is_exact_and_may_pass_full_scale():
    audio = speechlike(dtype="float32", channels=2) * 3
    found, _ = codec.decode(encode(audio, RATE_HZ, "wav", bits=32), "wav")
    np.testing.assert_array_equal(found, audio)
    read, _ = soundfile.read(io.BytesIO(encode(audio, RATE_HZ, "wav", bits=32)), dtype="float32")
    np.testing.assert_array_equal(read, audio)


@pytest.mark.parametrize("kind", LOSSY)
@pytest.mark.parametrize("frames", [1, 100, 16000, 33333])
def test_lossy_audio_has_its_rate_channels_and_frames(kind, frames):
    audio = speechlike(frames, channels=2)
    info = codec.check(encode(audio, RATE_HZ, kind), kind)
    assert (info.rate_hz, info.frames, info.channels) == (RATE_HZ, frames, 2)


@pytest.mark.parametrize("kind", LOSSY)
def test_lossy_audio_sounds_alike(kind):
    times = np.arange(48000) / RATE_HZ  # Opus takes away what lies below what is heard
    audio = sum(np.sin(2 * np.pi * hz * times + hz) for hz in (220, 440, 550, 1100, 1870)).astype(np.float32) / 5
    found, _ = codec.decode(encode(audio, RATE_HZ, kind, quality=0.9), kind)
    error = found[:, 0] - audio
    assert (error**2).mean() < 1e-2 * (audio**2).mean()


@pytest.mark.parametrize("kind", ["flac", "wav", *LOSSY])
def test_the_same_audio_is_the_same_bytes_at_another_time_and_in_another_process(kind, tmp_path):
    audio = speechlike(50000, dtype="float32")
    bits = 32 if kind == "wav" else 16
    here = encode(audio, RATE_HZ, kind, bits=bits)
    np.save(tmp_path / "a.npy", audio)
    time.sleep(1.1)  # a clock in whole seconds must show
    code = (
        "import sys, numpy; from ecopipe.formats.audio_encoding import encode;"
        f"sys.stdout.buffer.write(encode(numpy.load(sys.argv[1]), {RATE_HZ}, {kind!r}, bits={bits}))"
    )
    there = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.npy")], capture_output=True, check=True)
    assert there.stdout == here == encode(audio, RATE_HZ, kind, bits=bits)


@pytest.mark.parametrize("kind", ["opus", "ogg"])
def test_other_audio_has_another_serial_number(kind):
    serials = {encode(speechlike(5000, seed=seed), RATE_HZ, kind)[14:18] for seed in range(5)}
    assert len(serials) == 5


def test_pages_of_ogg_have_the_checksum_of_what_wrote_them():
    buffer = io.BytesIO()
    soundfile.write(buffer, speechlike(100_000), RATE_HZ, format="OGG", subtype="VORBIS")
    data, at, pages = buffer.getvalue(), 0, 0
    while at < len(data):
        body = at + 27 + data[at + 26]
        end = body + sum(data[at + 27 : body])
        page = data[at : at + 22] + bytes(4) + data[at + 26 : end]
        assert ogg.checksum(page) == int.from_bytes(data[at + 22 : at + 26], "little")
        at, pages = end, pages + 1
    assert pages > 3
    np.testing.assert_array_equal(
        soundfile.read(io.BytesIO(data))[0], soundfile.read(io.BytesIO(ogg.with_own_serial(data)))[0]
    )
    with pytest.raises(ValueError, match="no whole page of Ogg at byte 58 of 200"):
        ogg.with_own_serial(data[: len(data) // 3][:200])


def test_more_compression_is_smaller_and_better_quality_larger():
    audio = speechlike(50000)
    assert len(encode(audio, RATE_HZ, "flac", compression=8)) < len(encode(audio, RATE_HZ, "flac", compression=0))
    for kind in LOSSY:
        assert len(encode(audio, RATE_HZ, kind, quality=0.1)) < len(encode(audio, RATE_HZ, kind, quality=1.0))


def test_what_passes_full_scale_is_clipped_or_an_error():
    audio = np.array([0.5, 1.0, 1.5, -1.25], np.float32)
    found, _ = codec.decode(encode(audio, RATE_HZ, "flac"), "flac")
    assert found[:, 0].tolist() == [16384, 32767, 32767, -32768]
    with pytest.raises(ValueError, match=r"2 of its 4 values lie outside \[-1, 1\], up to 1.5; lower it before"):
        encode(audio, RATE_HZ, "flac", clipping="error")
    assert encode(audio[:2], RATE_HZ, "flac", clipping="error")


@pytest.mark.parametrize(
    ("audio", "kind", "rate_hz", "message"),
    [
        (speechlike().astype(np.float32), "flac", 16000, r"reaches 2.95e\+04; floats in \[-1, 1\] wanted"),
        (np.full(9, np.nan, np.float32), "wav", 16000, "reaches nan"),
        (np.zeros(0, np.int16), "flac", 16000, r"its audio is int16 \[0\]; float32 or int16 .* of a frame or more"),
        (np.zeros(9, np.float64), "flac", 16000, r"its audio is float64 \[9\]"),
        (speechlike(), "opus", 44100, r"opus at 44100 Hz in 1 channels: .*Opus.*; put Resample\(48000\) before"),
        (speechlike(channels=9), "flac", 16000, "cannot be written as flac at 16000 Hz in 9 channels"),
        (speechlike(), "wav", 2**32, "do not fit into a WAV"),
    ],
)
def test_what_cannot_be_encoded_is_refused(audio, kind, rate_hz, message):
    with pytest.raises(ValueError, match=message):
        encode(audio, rate_hz, kind)


def test_a_long_stretch_of_vorbis():
    audio = np.tile(speechlike(100_000), 60)
    assert codec.check(encode(audio, RATE_HZ, "ogg", quality=0.1), "ogg").frames == 6_000_000

"""Audio bytes: headers, exact samples, and damage that never passes."""

from __future__ import annotations

import io
import random
import re
import struct
import sys

import numpy as np
import pytest
import soundfile

from ecopipe.formats import dr_flac
from ecopipe.formats.audio import AudioInfo, check, decode, probe

from ..conftest import real

RNG = np.random.default_rng(0)


def encoded(kind, subtype, *, frames=20000, channels=1, rate_hz=16000, scale=0.1, **settings):
    audio = np.cumsum(RNG.standard_normal((frames, channels)), axis=0)
    audio = scale * audio / max(1, np.abs(audio).max(initial=0))
    stream = io.BytesIO()
    soundfile.write(stream, audio, rate_hz, format=kind.upper(), subtype=subtype, **settings)
    return stream.getvalue()


def wav(samples=b"\x01\x00\x02\x00", *, form=(1, 1, 8000, 16000, 2, 16), before=b"", size=None, extra=b""):
    fmt = struct.pack("<HHIIHH", *form) + extra
    body = b"WAVE" + before + b"fmt " + struct.pack("<I", len(fmt)) + fmt
    body += b"data" + struct.pack("<I", len(samples) if size is None else size) + samples
    return b"RIFF" + struct.pack("<I", len(body)) + body


@pytest.mark.parametrize(("channels", "rate_hz"), [(1, 16000), (2, 44100), (8, 48000), (1, 12345), (1, 8000)])
@pytest.mark.parametrize(
    ("kind", "subtype", "bits"),
    [
        ("flac", "PCM_16", 16),
        ("flac", "PCM_24", 24),
        ("flac", "PCM_S8", 8),
        ("wav", "PCM_U8", 8),
        ("wav", "PCM_16", 16),
        ("wav", "PCM_24", 24),
        ("wav", "PCM_32", 32),
        ("wav", "FLOAT", 32),
        ("wav", "DOUBLE", 64),
        ("wav", "ULAW", 8),
        ("wav", "ALAW", 8),
    ],
)
def test_header_and_samples_are_those_of_libsndfile(kind, subtype, bits, channels, rate_hz):
    data = encoded(kind, subtype, channels=channels, rate_hz=rate_hz)
    assert probe(data, kind) == AudioInfo(rate_hz, 20000, channels, bits)
    audio, found_rate_hz = decode(data, kind)
    dtype = "int16" if bits == 16 else "float32"
    expected, _ = soundfile.read(io.BytesIO(data), dtype=dtype, always_2d=True)
    assert found_rate_hz == rate_hz
    assert audio.dtype == dtype
    np.testing.assert_array_equal(audio, expected)
    assert audio.flags.writeable


@pytest.mark.parametrize("frames", [1, 2, 100, 4095, 4096, 4097, 70000])
def test_flac_of_any_length(frames):
    assert len(decode(encoded("flac", "PCM_16", frames=frames), "flac")[0]) == frames


def test_a_wav_of_no_samples():
    data = encoded("wav", "PCM_16", frames=0)
    assert probe(data, "wav").frames == 0
    assert decode(data, "wav")[0].shape == (0, 1)


def test_header_needs_the_first_bytes_only():
    assert probe(encoded("flac", "PCM_16")[:42], "flac").frames == 20000
    assert probe(encoded("wav", "PCM_16")[:44], "wav").frames == 20000


def test_real_librispeech_is_decoded_bit_for_bit():
    paths = sorted(real("LibriSpeech").rglob("*.flac"))
    assert paths
    for path in paths:
        data = path.read_bytes()
        audio, rate_hz = decode(data, "flac")
        expected, _ = soundfile.read(path, dtype="int16", always_2d=True)
        assert rate_hz == 16000
        np.testing.assert_array_equal(audio, expected)


REAL = {
    "198-209-0000.hq.ogg": (16000, 222561, 1),
    "198-209-0000.ogg": (22050, 306717, 1),
    "ES2011a.Headset-0-40s-46s.wav": (16000, 96000, 1),
    "LJ002-0020.wav": (22050, 33949, 1),
    "common_voice_en_651325.mp3": (48000, 114048, 1),
    "mono_c0.opus": (8000, 4043, 1),
    "nasa_13013.mp4.audio_44100.mp3": (44100, 575770, 2),
    "real_8ch.wav": (16000, 1600, 8),
    "sim_1ch.wav": (16000, 32000, 1),
    "sine_mono_s32_44100.wav": (44100, 176400, 1),
    "sine_mono_s32_8000.wav": (8000, 32000, 1),
    "sorohanro_-_solo-trumpet-06.hq.ogg": (44100, 235201, 2),
    "stereo.mp3": (8000, 8000, 2),
    "stereo.opus": (8000, 8043, 2),
    "stereo.sph": (8000, 8000, 2),
    "stereo.wav": (8000, 8000, 2),
}
"""Rate in Hz, frames and channels of every real file of audio."""


def test_every_real_file_is_known():
    assert {path.name for path in real("audio_misc").iterdir()} == {*REAL, "198-209-0000.txt"}


@pytest.mark.parametrize("name", REAL)
def test_a_real_file_is_what_its_header_says_and_what_libsndfile_reads(name):
    data, kind = real("audio_misc", name).read_bytes(), name.rpartition(".")[2]
    info, (audio, rate_hz) = check(data, kind), decode(data, kind)
    assert probe(data, kind) == info
    assert (info.rate_hz, info.frames, info.channels) == REAL[name]
    assert (rate_hz, *audio.shape) == REAL[name]
    assert audio.dtype == ("int16" if kind == "wav" and "s32" not in name else "float32")
    expected, _ = soundfile.read(io.BytesIO(data), dtype=str(audio.dtype), always_2d=True)
    np.testing.assert_array_equal(audio, expected)
    assert np.abs(audio.astype(float)).max() > 0


@pytest.mark.parametrize("name", [name for name in REAL if name.endswith((".wav", ".sph"))])
def test_real_pcm_is_what_its_last_bytes_hold(name):
    data, kind = real("audio_misc", name).read_bytes(), name.rpartition(".")[2]
    _, frames, channels = REAL[name]
    audio, bits = decode(data, kind)[0], 32 if "s32" in name else 16
    at = 1024 if kind == "sph" else data.index(b"data") + 8
    samples = np.frombuffer(data, f"<i{bits // 8}", frames * channels, at).reshape(frames, channels)
    if audio.dtype == np.float32:
        samples = (samples / 2 ** (bits - 1)).astype(np.float32)
    np.testing.assert_array_equal(audio, samples)


def test_what_is_no_audio_at_all_is_refused():
    data = real("audio_misc", "198-209-0000.txt").read_bytes()
    with pytest.raises(ValueError, match="not readable as txt: it begins with b'"):
        decode(data, "txt")


@pytest.mark.parametrize(
    ("kind", "subtype"), [("flac", "PCM_16"), ("wav", "PCM_16"), ("ogg", "VORBIS"), ("mp3", "MPEG_LAYER_III")]
)
def test_a_wrong_extension_changes_nothing(kind, subtype):
    data = encoded(kind, subtype)
    for name in ("wav", "flac", "mp3", "sph"):
        np.testing.assert_array_equal(decode(data, name)[0], decode(data, kind)[0])
        assert check(data, name) == check(data, kind)


# -- damage -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def flac():
    return encoded("flac", "PCM_16", frames=30000)


def flipped(data, position, bit):
    changed = bytearray(data)
    changed[position] ^= 1 << bit
    return bytes(changed)


def decoded_or_refused(data, whole):
    """Whether damage was refused; if not, the audio is whole and unchanged."""
    try:
        audio, _ = decode(data, "flac")
    except ValueError as error:
        assert str(error)  # noqa: PT017
        return True
    np.testing.assert_array_equal(audio, whole)
    return False


def test_flac_cut_anywhere_is_refused(flac):
    drawn = random.Random(1)
    for end in [0, 1, 4, 41, 42, 43, len(flac) - 1, len(flac) - 2, *(drawn.randrange(len(flac)) for _ in range(300))]:
        with pytest.raises(ValueError, match="flac"):
            decode(flac[:end], "flac")


def test_flac_with_a_flipped_bit_in_its_audio_is_refused_or_unchanged(flac):
    whole, _ = decode(flac, "flac")
    start = flac.index(b"\xff\xf8")
    drawn = random.Random(2)
    places = [(drawn.randrange(start, len(flac)), drawn.randrange(8)) for _ in range(600)]
    refused = sum(decoded_or_refused(flipped(flac, *place), whole) for place in places)
    assert refused >= 597  # what is not: a bit that fills the last byte of a frame


@pytest.mark.parametrize("byte", range(18, 26))
@pytest.mark.parametrize("bit", range(8))
def test_flac_with_a_flipped_bit_in_rate_channels_or_length_is_refused(flac, byte, bit):
    with pytest.raises(ValueError, match="flac"):
        decode(flipped(flac, byte, bit), "flac")


def test_real_flac_with_flipped_bits():
    data = min(real("LibriSpeech").rglob("*.flac"), key=lambda path: path.stat().st_size).read_bytes()
    whole, _ = decode(data, "flac")
    drawn = random.Random(3)
    for _ in range(150):
        decoded_or_refused(flipped(data, drawn.randrange(len(data)), drawn.randrange(8)), whole)


def test_flac_without_a_length_in_its_header(flac):
    """A stream written to a pipe has 0 there: its last block says where it ends."""
    packed = int.from_bytes(flac[18:26], "big") >> 36 << 36
    data = flac[:18] + packed.to_bytes(8, "big") + flac[26:]
    assert probe(data, "flac").frames == 30000
    np.testing.assert_array_equal(decode(data, "flac")[0], decode(flac, "flac")[0])


def test_flac_of_a_header_alone_is_refused(flac):
    with pytest.raises(ValueError, match="damaged flac: no length in its header and no block of audio behind it"):
        decode(flac[:21] + bytes([flac[21] & 0xF0]) + bytes(20), "flac")


def test_flac_followed_by_a_tag(flac):
    assert len(decode(flac + b"TAG" + bytes(125), "flac")[0]) == 30000


def test_flac_is_the_same_without_miniaudio(flac, monkeypatch):
    expected, _ = decode(flac, "flac")
    monkeypatch.setattr(dr_flac, "_READS", {})
    audio, _ = decode(flac, "flac")
    assert audio.dtype == np.int16
    np.testing.assert_array_equal(audio, expected)


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
@pytest.mark.parametrize("lost", [1, 7, 1000, 19000])
def test_wav_cut_short_is_refused(subtype, lost):
    with pytest.raises(ValueError, match=r"damaged wav: the header says 20000 frames, \d+ could be decoded; the file"):
        decode(encoded("wav", subtype)[:-lost], "wav")


def test_flac_of_24_bits_cut_short_is_refused():
    data = encoded("flac", "PCM_24")
    for end in (len(data) // 2, len(data) - 3):
        with pytest.raises(ValueError, match="damaged flac: "):
            decode(data[:end], "flac")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not readable as wav: it is empty; libsndfile: "),
        (b"nonsense" * 9, "not readable as wav: it begins with b'nons'; libsndfile: Format not recognised"),
        (b"fLaC\x00\x00\x00\x22", "damaged flac: 8 bytes, and the header alone has 42"),
        (b"fLaC\x04\x00\x00\x22" + bytes(40), "damaged flac: it does not begin with a STREAMINFO block"),
        (b"fLaC\x00\x00\x00\x22" + bytes(40), "damaged flac: the header says 0 Hz"),
        (b"RIFF\x00\x00\x00\x00JUNK", "damaged wav: RIFF without WAVE"),
        (b"RIFF\x00\x00\x00\x00WAVE", "damaged wav: no data chunk"),
        (b"RIFF\x00\x00\x00\x00WAVEdata\x00\x00\x00\x00", "damaged wav: samples before their format"),
        (
            b"RIFF\x00\x00\x00\x00WAVEfmt \x04\x00\x00\x00abcd",
            "damaged wav: its fmt chunk has 4 bytes, 16 or more wanted",
        ),
        (wav(form=(0xFFFE, 1, 8000, 16000, 2, 16)), "damaged wav: its extensible fmt chunk has 16 bytes, 40 wanted"),
        (wav(form=(1, 0, 8000, 16000, 2, 16)), "damaged wav: 0 channels of 16 bits at 8000 Hz in 2 bytes"),
        (wav(form=(1, 2, 8000, 16000, 2, 16)), "damaged wav: 2 channels of 16 bits at 8000 Hz in 2 bytes"),
    ],
)
def test_what_is_no_audio_is_refused_with_the_reason(data, message):
    for read in (probe, decode):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
            read(data, "wav")


def test_no_message_holds_an_address():
    with pytest.raises(ValueError, match=r"^not readable as mp3: (?!.*0x)"):
        probe(b"nonsense", "mp3")


# -- numbers that are none ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("subtype", ["FLOAT", "DOUBLE"])
@pytest.mark.parametrize(("value", "shown"), [(np.nan, "NaN"), (np.inf, "Inf"), (-np.inf, "-Inf")])
def test_a_number_that_is_not_finite_is_refused_by_its_place(subtype, value, shown):
    audio = RNG.uniform(-1, 1, (300, 2))
    audio[200:, 0] = audio[123, 1] = value
    stream = io.BytesIO()
    soundfile.write(stream, audio, 8000, format="WAV", subtype=subtype)
    message = rf"^wav holds {shown} at frame 123 of channel 1; encode it again from its source, or leave the sample "
    for piece in ({}, {"start": 100}, {"start": 123, "frames": 1}):
        with pytest.raises(ValueError, match=message):
            decode(stream.getvalue(), "wav", **piece)
    np.testing.assert_array_equal(decode(stream.getvalue(), "wav", frames=123)[0], audio[:123].astype("float32"))


def test_a_double_beyond_float32_is_refused():
    stream = io.BytesIO()
    soundfile.write(stream, np.array([0.0, 1e300]), 8000, format="WAV", subtype="DOUBLE")
    with pytest.raises(ValueError, match="wav holds Inf at frame 1 of channel 0; "):
        decode(stream.getvalue(), "wav")


def test_float_beyond_full_scale_is_not_clipped():
    stream = io.BytesIO()
    soundfile.write(stream, np.array([2.5, -3.0]), 8000, format="WAV", subtype="FLOAT")
    assert decode(stream.getvalue(), "wav")[0][:, 0].tolist() == [2.5, -3.0]


def test_missing_soundfile_is_said_in_one_sentence(monkeypatch):
    from ecopipe.vocabulary.errors import MissingDependency

    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(
        MissingDependency, match=r"^This audio format needs soundfile. Install it: pip install soundfile$"
    ):
        probe(b"OggS", "ogg")

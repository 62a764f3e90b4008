"""Decode and resample."""

from __future__ import annotations

import io
import pickle
import sys

import numpy as np
import pytest
import soundfile

from ecopipe.formats.audio import AUDIO_EXTENSIONS
from ecopipe.pipeline.toml import dumps, loads
from ecopipe.stages.audio import DecodeAudio, Resample
from ecopipe.vocabulary.errors import ConfigError, MissingDependency
from ecopipe.vocabulary.randomness import Chance
from ecopipe.vocabulary.sample import Sample

from ..conftest import real

CHANCE = Chance(0, 0, "test")
RNG = np.random.default_rng(0)


def wav(audio, rate_hz=8000, subtype="PCM_16"):
    stream = io.BytesIO()
    soundfile.write(stream, audio, rate_hz, format="WAV", subtype=subtype)
    return stream.getvalue()


def decode(stage, audio, **settings):
    return stage.apply(Sample("a", {"wav": wav(audio, **settings), "txt": b"A"}, shard="s.tar"), CHANCE)


STEREO = np.array([[0, 1], [100, 201], [-32768, -32768], [32767, 32767], [-1, 0], [1, 2]], dtype=np.int16)


def test_decode_gives_audio_and_rate_and_takes_the_bytes_away():
    sample = decode(DecodeAudio(), STEREO[:, 0])
    assert set(sample) == {"audio", "rate_hz", "txt"}
    assert (sample.key, sample.shard, sample["rate_hz"]) == ("a", "s.tar", 8000)
    assert type(sample["rate_hz"]) is int
    assert sample["audio"].dtype == np.float32
    np.testing.assert_array_equal(sample["audio"], STEREO[:, 0] / np.float32(32768))


@pytest.mark.parametrize("dtype", ["float32", "int16"])
def test_channels(dtype):
    scale = 32768 if dtype == "float32" else 1
    first = decode(DecodeAudio(dtype=dtype, channels="first"), STEREO)["audio"] * scale
    np.testing.assert_array_equal(first, STEREO[:, 0])
    every = decode(DecodeAudio(dtype=dtype, channels="all"), STEREO)["audio"] * scale
    np.testing.assert_array_equal(every, STEREO)
    mono = decode(DecodeAudio(dtype=dtype), STEREO)["audio"]
    assert mono.dtype == dtype
    exact = [0.5, 150.5, -32768, 32767, -0.5, 1.5]
    np.testing.assert_array_equal(mono * scale, [0, 150, -32768, 32767, 0, 2] if dtype == "int16" else exact)
    assert mono.flags.c_contiguous
    assert mono.flags.writeable


def test_float_audio_as_int16_is_rounded_and_clipped():
    audio = decode(DecodeAudio(dtype="int16"), np.array([0.0, 0.5, -1.0, 1.5, -1.5, 1e-6]), subtype="FLOAT")["audio"]
    assert audio.dtype == np.int16
    assert audio.tolist() == [0, 16384, -32768, 32767, -32768, 0]


def test_mono_of_eight_real_channels():
    data = real("audio_misc", "real_8ch.wav").read_bytes()
    audio = DecodeAudio().apply(Sample("a", {"wav": data}), CHANCE)["audio"]
    expected, _ = soundfile.read(io.BytesIO(data), dtype="float64")
    np.testing.assert_allclose(audio, expected.mean(axis=1), atol=1e-7)


@pytest.mark.parametrize("dtype", ["float32", "int16"])
def test_one_channel_by_its_number(dtype):
    data = real("audio_misc", "real_8ch.wav").read_bytes()
    every = DecodeAudio(channels="all", dtype=dtype).apply(Sample("a", {"wav": data}), CHANCE)["audio"]
    assert every.shape == (1600, 8)
    for channel in range(8):
        audio = DecodeAudio(channels=channel, dtype=dtype).apply(Sample("a", {"wav": data}), CHANCE)["audio"]
        assert audio.flags.c_contiguous
        np.testing.assert_array_equal(audio, every[:, channel])
    with pytest.raises(ValueError, match=r"^channels=8 wanted, counted from 0, and it has 8; choose a lower one, or "):
        DecodeAudio(channels=8, dtype=dtype).apply(Sample("a", {"wav": data}), CHANCE)


def test_another_rate_or_channel_count_than_expected_is_refused():
    sample = Sample("a", {"wav": wav(STEREO)})
    assert DecodeAudio(rate_hz=8000, expect_channels=2).apply(sample, CHANCE)["rate_hz"] == 8000
    message = (
        r"^8000 Hz found, rate_hz=16000 expected; leave rate_hz out of DecodeAudio and put Resample\(16000\) behind it "
        r"to convert$"
    )
    with pytest.raises(ValueError, match=message):
        DecodeAudio(rate_hz=16000).apply(sample, CHANCE)
    message = (
        r"^2 channels found, expect_channels=1 expected; leave expect_channels out of DecodeAudio and choose with "
        r"channels='mono', 'first', 'all' or a number$"
    )
    for channels in ("mono", "first", "all", 0):
        with pytest.raises(ValueError, match=message):
            DecodeAudio(expect_channels=1, channels=channels).apply(sample, CHANCE)


LONG = RNG.integers(-9999, 9999, (8000, 2)).astype(np.int16)


@pytest.mark.parametrize("subtype", ["PCM_16", "FLOAT"])
@pytest.mark.parametrize("channels", ["mono", "first", "all", 1])
@pytest.mark.parametrize(
    ("offset_s", "duration_s", "start", "end"),
    [
        (0.0, 0.25, 0, 2000),
        (0.5, None, 4000, 8000),
        (0.5, 0.5, 4000, 8000),
        (0.10007, 0.30004, 801, 3201),
        (0, 1, 0, 8000),
        ("start_s", "length_s", 1000, 3000),
        ("start_s", None, 1000, 8000),
        (0.125, "length_s", 1000, 3000),
    ],
)
def test_a_piece_is_that_slice_of_the_whole(subtype, channels, offset_s, duration_s, start, end):
    fields = {"wav": wav(LONG / 32768, subtype=subtype), "start_s": 0.125, "length_s": np.float32(0.25)}
    whole = DecodeAudio(channels=channels).apply(Sample("a", fields), CHANCE)["audio"]
    stage = DecodeAudio(channels=channels, offset_s=offset_s, duration_s=duration_s)
    sample = stage.apply(Sample("a", fields), CHANCE)
    np.testing.assert_array_equal(sample["audio"], whole[start:end])
    assert set(sample) == {"audio", "rate_hz", "start_s", "length_s"}


def test_a_piece_needs_the_fields_that_say_where():
    named = DecodeAudio(field="wav", offset_s="start_s", duration_s="length_s")
    assert named.needs() == ("wav", "start_s", "length_s")
    assert named.takes_away() == ("wav",)
    assert DecodeAudio(field="wav", offset_s=1.0, duration_s=2.0).needs() == ("wav",)


@pytest.mark.parametrize(
    ("settings", "fields", "message"),
    [
        ({"offset_s": "start_s"}, {}, "^no field 'start_s' for offset_s; it has wav$"),
        (
            {"offset_s": "start_s"},
            {"start_s": None},
            "^offset_s is the field 'start_s', which holds None; seconds wanted, ",
        ),
        (
            {"duration_s": "x"},
            {"x": -1.0},
            "^duration_s is the field 'x', which holds -1.0; seconds wanted, 0 or more$",
        ),
        ({"duration_s": "x"}, {"x": float("nan")}, "^duration_s is the field 'x', which holds nan; seconds wanted"),
        ({"duration_s": "x"}, {"x": 0.0}, r"^a piece from frame 0 \(0 s\) of 0 frames is none"),
        ({"duration_s": 0.00001}, {}, r"^a piece from frame 0 \(0 s\) of 0 frames is none"),
        (
            {"offset_s": 1.0},
            {},
            r"^a piece from frame 8000 \(1 s\) begins past the end: the audio has 8000 frames \(1 s\)",
        ),
        (
            {"offset_s": 0.5, "duration_s": 0.75},
            {},
            r"^a piece from frame 4000 \(0.5 s\) to frame 10000 \(1.25 s\) reaches past the end: the audio has 8000 ",
        ),
    ],
)
def test_a_piece_that_is_not_there_is_refused(settings, fields, message):
    with pytest.raises(ValueError, match=message):
        DecodeAudio(**settings).apply(Sample("a", {"wav": wav(LONG), **fields}), CHANCE)


def test_flac_is_checked_against_its_md5_only_where_asked():
    stream = io.BytesIO()
    soundfile.write(stream, LONG, 8000, format="FLAC", subtype="PCM_16")
    data = bytearray(stream.getvalue())
    whole = DecodeAudio(md5=True).apply(Sample("a", {"flac": bytes(data)}), CHANCE)["audio"]
    data[30] ^= 1
    sample = Sample("a", {"flac": bytes(data)})
    np.testing.assert_array_equal(DecodeAudio().apply(sample, CHANCE)["audio"], whole)
    with pytest.raises(ValueError, match="^damaged flac: the MD5 of its samples is "):
        DecodeAudio(md5=True).apply(sample, CHANCE)


def test_numbers_that_are_none_never_travel_on():
    for dtype in ("float32", "int16"):
        with pytest.raises(ValueError, match="^wav holds NaN at frame 1 of channel 0; "):
            decode(DecodeAudio(dtype=dtype), np.array([0.0, np.nan]), subtype="FLOAT")


def test_a_wav_of_no_samples_gives_none():
    for channels in ("mono", "first", 1):
        audio = decode(DecodeAudio(channels=channels), np.zeros((0, 2), np.int16))["audio"]
        assert (audio.shape, audio.dtype) == ((0,), "float32")


TOML = """
[source]
path = "x"
[[stages]]
stage = "Batch"
size = 2
[[stages]]
stage = "DecodeAudio"
[[stages]]
stage = "Collate"
input = "audio"
"""


@pytest.mark.parametrize(
    "settings",
    [
        {"channels": 1, "rate_hz": 16000, "expect_channels": 2, "offset_s": "start_s", "duration_s": 2},
        {"channels": "first", "offset_s": 0.5, "duration_s": "length_s"},
        {"channels": 0, "md5": True},
    ],
)
def test_through_toml(settings):
    pipeline = loads(TOML, {f"DecodeAudio.{name}": value for name, value in settings.items()})
    assert pipeline.stages[1] == DecodeAudio(**settings)
    assert loads(dumps(pipeline)).stages == pipeline.stages


@pytest.mark.parametrize(
    ("name", "value"),
    [("channels", 1.5), ("channels", True), ("offset_s", True), ("rate_hz", "16000"), ("duration_s", [1]), ("md5", 1)],
)
def test_a_wrong_type_in_toml_is_refused(name, value):
    with pytest.raises(ConfigError, match=rf"stage 2, DecodeAudio: {name} = .* has the wrong type. It takes "):
        loads(TOML, {f"DecodeAudio.{name}": value})


def test_field_by_name():
    sample = Sample("a", {"mix.wav": wav(STEREO), "wav": b"another"})
    stage = DecodeAudio(field="mix.wav")
    assert set(stage.apply(sample, CHANCE)) == {"wav", "audio", "rate_hz"}
    assert (stage.needs(), stage.gives(), stage.takes_away()) == (("mix.wav",), ("audio", "rate_hz"), ("mix.wav",))


def test_needs_any_audio():
    stage = DecodeAudio()
    assert stage.needs() == ("|".join(AUDIO_EXTENSIONS),)
    assert stage.takes_away() == AUDIO_EXTENSIONS


@pytest.mark.parametrize(
    ("stage", "fields", "message"),
    [
        (DecodeAudio(), {"txt": b""}, r"no field of audio \(flac, wav, .*\); it has txt"),
        (DecodeAudio(), {"flac": b"", "wav": b""}, r"several fields of audio \(flac, wav\); name the one to decode"),
        (DecodeAudio(field="wav"), {"txt": b""}, "no field 'wav'; it has txt"),
        (DecodeAudio(), {"flac": b"fLaC"}, "damaged flac: 4 bytes, and the header alone has 42"),
        (Resample(16000), {"audio": np.zeros(1)}, "no field 'rate_hz'; it has audio"),
    ],
)
def test_a_sample_that_cannot_be_processed(stage, fields, message):
    with pytest.raises(ValueError, match=message):
        stage.apply(Sample("a", fields), CHANCE)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: DecodeAudio(dtype="int8"),
            "DecodeAudio: unknown dtype 'int8'. Did you mean 'int16'? Known: float32, ",
        ),
        (
            lambda: DecodeAudio(channels="left"),
            "DecodeAudio: unknown channels 'left'. Known: all, first, mono. Or an int, the channel wanted.",
        ),
        (lambda: DecodeAudio(channels=-1), "DecodeAudio: channels must be mono, first, all or an int >= 0, got -1"),
        (lambda: DecodeAudio(channels=True), "DecodeAudio: channels must be mono, first, all or an int >= 0, got True"),
        (
            lambda: DecodeAudio(channels=2, expect_channels=2),
            "DecodeAudio: channels=2 counts from 0, and expect_channels",
        ),
        (lambda: DecodeAudio(rate_hz=0), "DecodeAudio: rate_hz must be a positive int, got 0"),
        (lambda: DecodeAudio(expect_channels=1.0), "DecodeAudio: expect_channels must be a positive int, got 1.0"),
        (
            lambda: DecodeAudio(offset_s=-0.1),
            "DecodeAudio: offset_s must be seconds, 0 or more, or the name of a field",
        ),
        (lambda: DecodeAudio(offset_s=float("nan")), "DecodeAudio: offset_s must be seconds, 0 or more, or the name "),
        (lambda: DecodeAudio(duration_s=0), "DecodeAudio: duration_s must be seconds, above 0, or the name of a field"),
        (
            lambda: DecodeAudio(duration_s=float("inf")),
            "DecodeAudio: duration_s must be seconds, above 0, or the name ",
        ),
        (
            lambda: DecodeAudio(md5=True, offset_s="start_s"),
            "DecodeAudio: md5 is that of the whole file. Leave out md5, or offset_s and duration_s.",
        ),
        (lambda: Resample(-1), "Resample: rate_hz must be a positive int, got -1"),
        (lambda: Resample(16000.0), "Resample: rate_hz must be a positive int, got 16000.0"),
        (lambda: Resample(16000, quality="HIGH", name="r"), "r: unknown quality 'HIGH'. "),
    ],
)
def test_wrong_settings(make, message):
    with pytest.raises(ConfigError) as caught:
        make()
    assert str(caught.value).startswith(message)


# -- resample -----------------------------------------------------------------------------------------------------


def sine(rate_hz, seconds=1.0, hz=440.0):
    return (0.5 * np.sin(2 * np.pi * hz * np.arange(round(rate_hz * seconds)) / rate_hz)).astype(np.float32)


def resample(audio, from_hz, to_hz, **settings):
    return Resample(to_hz, **settings).apply(Sample("a", {"audio": audio, "rate_hz": from_hz}), CHANCE)


@pytest.mark.parametrize(("from_hz", "to_hz"), [(8000, 16000), (44100, 16000), (48000, 16000), (22050, 24000)])
@pytest.mark.parametrize("quality", ["QQ", "LQ", "MQ", "HQ", "VHQ"])
def test_a_tone_stays_the_tone(from_hz, to_hz, quality):
    sample = resample(sine(from_hz), from_hz, to_hz, quality=quality)
    assert sample["rate_hz"] == to_hz
    middle = slice(to_hz // 10, -to_hz // 10)
    # soxr's "quick" interpolates cubically
    np.testing.assert_allclose(sample["audio"][middle], sine(to_hz)[middle], atol=1e-2 if quality == "QQ" else 1e-3)


@pytest.mark.parametrize(("from_hz", "to_hz"), [(16000, 8000), (8000, 16000), (44100, 16000), (11025, 16000), (3, 7)])
def test_length(from_hz, to_hz):
    for frames in (0, 1, 2, 3, 5, 7, 101, 999, 1001, 16001):
        for shape in ((frames,), (frames, 2)):
            audio = resample(np.zeros(shape, np.float32), from_hz, to_hz)["audio"]
            assert audio.shape == (int(np.floor(frames * to_hz / from_hz + 0.5)), *shape[1:])


def test_int16_is_rounded_and_not_dithered():
    audio = (RNG.standard_normal(5000) * 9000).clip(-32768, 32767).astype(np.int16)
    made = resample(audio, 16000, 8000)["audio"]
    assert made.dtype == np.int16
    exact = resample(audio.astype(np.float32), 16000, 8000)["audio"]
    np.testing.assert_array_equal(made, np.rint(exact))


def test_int16_clips_what_overshoots():
    square = np.where(np.arange(4000) // 50 % 2, 32767, -32768).astype(np.int16)
    made = resample(square, 8000, 16000)["audio"].astype(int)
    assert (made.max(), made.min()) == (32767, -32768)
    assert np.abs(np.diff(made)).max() < 65535  # nothing wrapped around


def test_the_same_rate_is_left_alone():
    sample = Sample("a", {"audio": sine(8000), "rate_hz": 8000})
    assert Resample(8000).apply(sample, CHANCE) is sample


def test_the_input_is_not_changed():
    audio = (sine(8000) * 32768).astype(np.int16)
    before = audio.copy()
    resample(audio, 8000, 16000)
    np.testing.assert_array_equal(audio, before)


def test_pickled_and_equal():
    for stage in (DecodeAudio(dtype="int16"), Resample(16000, quality="VHQ")):
        assert pickle.loads(pickle.dumps(stage)) == stage
        assert hash(stage) == hash(pickle.loads(pickle.dumps(stage)))


def test_missing_soxr_is_said_in_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "soxr", None)
    with pytest.raises(MissingDependency, match=r"^Another rate needs soxr. Install it: pip install soxr$"):
        resample(sine(8000), 8000, 16000)

"""Gain, speed and crop: exact results, by draws of the key."""

from __future__ import annotations

import io
from math import floor

import numpy as np
import pytest
import soundfile

from ecopipe.stages.waveform import Gain, NormalizeAudio, RandomCrop, Speed
from ecopipe.vocabulary.errors import ConfigError
from ecopipe.vocabulary.randomness import Chance
from ecopipe.vocabulary.sample import Sample

from ..conftest import real

CHANCE = Chance(7, 1, "test")
RNG = np.random.default_rng(0)
STAGES = [Gain(-20, -3), Speed(), RandomCrop(0.05)]
IDS = [type(stage).__name__ for stage in STAGES]


def sample(audio, key="a", rate_hz=8000):
    return Sample(key, {"audio": audio, "rate_hz": rate_hz, "text": "A"}, shard="s.tar")


def apply(stage, audio, key="a", chance=CHANCE, **settings):
    return stage.apply(sample(audio, key, **settings), chance)["audio"]


def noise(frames=1000, dtype="float32", channels=None):
    audio = RNG.uniform(-0.5, 0.5, (frames,) if channels is None else (frames, channels))
    return (audio * 32768).astype(np.int16) if dtype == "int16" else audio.astype(np.float32)


def db(made, audio):
    return 20 * np.log10(np.abs(made).max() / np.abs(audio).max())


@pytest.mark.parametrize("stage", STAGES, ids=IDS)
@pytest.mark.parametrize("dtype", ["float32", "int16"])
@pytest.mark.parametrize("channels", [None, 2])
def test_dtype_channels_fields_and_input_stay(stage, dtype, channels):
    audio = noise(dtype=dtype, channels=channels)
    before, given = audio.copy(), sample(audio)
    made = stage.apply(given, CHANCE)
    assert set(made) == {"audio", "rate_hz", "text"}
    assert (made.key, made.shard, made["rate_hz"], made["audio"].dtype) == ("a", "s.tar", 8000, dtype)
    assert made["audio"].shape[1:] == audio.shape[1:]
    np.testing.assert_array_equal(audio, before)


@pytest.mark.parametrize("stage", [Gain(-20, 0), Speed(), RandomCrop(0.05)], ids=IDS)
def test_draws_depend_on_key_epoch_seed_and_stage(stage):
    audio = noise()
    for other in (Chance(8, 1, "test"), Chance(7, 2, "test"), Chance(7, 1, "other")):
        pairs = [(apply(stage, audio, f"k{n}"), apply(stage, audio, f"k{n}", other)) for n in range(20)]
        assert any(one.tobytes() != another.tobytes() for one, another in pairs)
    many = [apply(stage, audio, f"k{n}").tobytes() for n in range(20)]
    assert len(set(many)) > 1
    assert [apply(stage, audio, f"k{n}").tobytes() for n in reversed(range(20))] == many[::-1]


@pytest.mark.parametrize(("kind", "settings"), [(Gain, (-9, -3)), (Speed, ((0.9, 1.1),))])
def test_p_decides_whether_and_never_how(kind, settings):
    audio, changed = noise(), 0
    for n in range(400):
        always, perhaps, never = (apply(kind(*settings, p=p), audio, f"k{n}") for p in (1, 0.3, 0))
        np.testing.assert_array_equal(never, audio)
        if perhaps.tobytes() != audio.tobytes():
            changed += 1
            np.testing.assert_array_equal(perhaps, always)
    assert abs(changed - 120) < 4 * np.sqrt(400 * 0.3 * 0.7)


def test_gain_is_uniform_in_db():
    audio = noise()
    found = np.array([db(apply(Gain(-10, 5), audio, f"k{n}"), audio) for n in range(1000)])
    assert -10 <= found.min() < -9.8 and 4.8 < found.max() <= 5
    assert np.abs(np.histogram(found, 5, (-10, 5))[0] - 200).max() < 60


@pytest.mark.parametrize("dtype", ["float32", "int16"])
def test_gain_is_exact(dtype):
    audio = noise(dtype=dtype)
    made = apply(Gain(-6, -6), audio)
    expected = audio.astype(np.float64) * 10 ** (-6 / 20)
    np.testing.assert_array_equal(made, np.rint(expected) if dtype == "int16" else expected.astype(np.float32))


FULL = {"float32": (-1.0, 1.0), "int16": (-32768, 32767)}


@pytest.mark.parametrize("dtype", ["float32", "int16"])
def test_what_passes_full_scale(dtype):
    audio, (least, most) = noise(dtype=dtype), FULL[dtype]
    expected = audio * 10.0
    assert np.abs(expected).max() > most
    kept, clipped, limited = (apply(Gain(20, 20, clipping=how), audio) for how in ("keep", "clip", "limit"))
    if dtype == "float32":
        np.testing.assert_array_equal(kept, (audio.astype(np.float64) * 10).astype(np.float32))
    else:
        np.testing.assert_array_equal(kept, np.clip(expected, least, most))
    np.testing.assert_allclose(clipped, np.clip(expected, least, most), rtol=1e-6)
    assert np.abs(limited.astype(np.float64)).max() == most
    np.testing.assert_allclose(limited, audio * (most / np.abs(audio).max()), atol=1e-6 if dtype == "float32" else 0.51)
    quiet = apply(Gain(-6, -6, clipping="limit"), audio)
    np.testing.assert_array_equal(quiet, apply(Gain(-6, -6), audio))


@pytest.mark.parametrize("stage", STAGES, ids=IDS)
@pytest.mark.parametrize("dtype", [np.float32, np.int16])
def test_silence_and_nothing(stage, dtype):
    assert not apply(stage, np.zeros(1000, dtype)).any()
    empty = apply(stage, np.zeros(0, dtype))
    assert empty.dtype == dtype
    assert len(empty) == (400 if isinstance(stage, RandomCrop) else 0)
    assert not apply(Gain(6, 6, clipping="limit"), np.zeros(5, dtype)).any()


@pytest.mark.parametrize("dtype", ["float32", "int16"])
@pytest.mark.parametrize("frames", [1, 2, 5, 999, 16001])
def test_speed_gives_the_length_that_it_says(dtype, frames):
    audio, factors = noise(frames, dtype), set()
    for factor in (0.5, 0.9, 0.95, 1.05, 1.1, 1.25):
        assert len(apply(Speed((factor,)), audio)) == floor(frames / factor + 0.5)
    for n in range(60):
        made = apply(Speed(), audio, f"k{n}")
        factors |= {factor for factor in (0.9, 1.0, 1.1) if len(made) == floor(frames / factor + 0.5)}
    assert factors == {0.9, 1.0, 1.1}


@pytest.mark.parametrize("factor", [0.9, 1.1])
@pytest.mark.parametrize("dtype", ["float32", "int16"])
def test_speed_moves_the_pitch(factor, dtype):
    frames, tone_hz = 8000, 500.0
    tone = 0.5 * np.sin(2 * np.pi * tone_hz * np.arange(frames) / 8000)
    audio = (tone * 32768).astype(np.int16) if dtype == "int16" else tone.astype(np.float32)
    made = apply(Speed((factor,)), audio)
    expected = 0.5 * np.sin(2 * np.pi * tone_hz * factor * np.arange(len(made)) / 8000)
    middle = slice(500, -500)
    np.testing.assert_allclose(made[middle] / (32768 if dtype == "int16" else 1), expected[middle], atol=1e-4)


def test_speed_one_changes_nothing():
    given = sample(noise())
    assert Speed((1.0,)).apply(given, CHANCE) is given


def test_factors_are_drawn_alike_often():
    audio = noise(900)
    lengths = [len(apply(Speed(), audio, f"k{n}")) for n in range(900)]
    counts = [lengths.count(length) for length in (1000, 900, 818)]
    assert sum(counts) == 900
    assert max(abs(count - 300) for count in counts) < 60


@pytest.mark.parametrize("channels", [None, 2])
def test_crop_lies_anywhere(channels):
    audio = noise(12, channels=channels)
    starts = set()
    for n in range(200):
        made = apply(RandomCrop(0.01), audio, f"k{n}", rate_hz=1000)
        (start,) = [start for start in range(3) if np.array_equal(made, audio[start : start + 10])]
        starts.add(start)
    assert starts == {0, 1, 2}


@pytest.mark.parametrize("dtype", ["float32", "int16"])
@pytest.mark.parametrize("channels", [None, 2])
def test_crop_of_a_short_sample(dtype, channels):
    audio = noise(4, dtype, channels)
    zero, repeat, none = (apply(RandomCrop(0.01, pad=pad), audio, rate_hz=1000) for pad in ("zero", "repeat", "none"))
    np.testing.assert_array_equal(zero[:4], audio)
    assert len(zero) == 10 and not zero[4:].any()
    np.testing.assert_array_equal(repeat, np.concatenate([audio, audio, audio[:2]]))
    np.testing.assert_array_equal(none, audio)
    assert {zero.dtype, repeat.dtype} == {np.dtype(dtype)}


@pytest.mark.parametrize("pad", ["zero", "repeat", "none"])
def test_crop_of_a_sample_that_fits(pad):
    given = sample(noise(10), rate_hz=1000)
    assert RandomCrop(0.01, pad=pad).apply(given, CHANCE) is given


def test_real_speech_slower_and_faster_again():
    data = min(real("LibriSpeech", "test-clean").glob("*/*/*.flac")).read_bytes()
    audio, rate_hz = soundfile.read(io.BytesIO(data), dtype="float32")
    back = apply(Speed((1 / 0.9,)), apply(Speed((0.9,)), audio, rate_hz=rate_hz), rate_hz=rate_hz)
    assert abs(len(back) - len(audio)) <= 1
    middle = slice(1000, len(audio) - 1000)
    lost, whole = (np.square(np.abs(np.fft.rfft(wave[middle]))) for wave in (back[: len(audio)] - audio, audio))
    below = slice(0, int(0.85 * len(whole)))  # the upper edge of the band is filtered out
    assert 10 * np.log10(lost[below].sum() / whole[below].sum()) < -60


BAD = [
    ({"text": "A"}, r"no field 'audio'; it has text"),
    ({"audio": [1.0], "rate_hz": 8000}, "its audio is list; float32 or int16 [T] or [T, channels] wanted"),
    ({"audio": np.zeros(3), "rate_hz": 8000}, "its audio is float64 [3]; float32 or int16 [T]"),
    ({"audio": np.zeros((1, 2, 3), np.float32), "rate_hz": 8000}, "its audio is float32 [1, 2, 3]; float32 or int16"),
    (
        {"audio": np.array([0, 0, np.nan, np.nan], np.float32), "rate_hz": 8000},
        "its audio holds NaN or infinity, first at frame 2 of 4; leave the sample out",
    ),
    (
        {"audio": np.array([[0, 0], [0, -np.inf]], np.float32), "rate_hz": 8000},
        "its audio holds NaN or infinity, first at frame 1 of 2",
    ),
]


@pytest.mark.parametrize("stage", STAGES, ids=IDS)
@pytest.mark.parametrize(("fields", "message"), BAD)
def test_a_sample_that_cannot_be_processed(stage, fields, message):
    with pytest.raises(ValueError) as caught:
        stage.apply(Sample("a", fields), CHANCE)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("stage", "fields", "message"),
    [
        (RandomCrop(1), {"audio": np.zeros(3, np.int16)}, "no field 'rate_hz'; it has audio"),
        (RandomCrop(1), {"audio": np.zeros(3, np.int16), "rate_hz": 0}, "its rate_hz is 0; a positive int wanted"),
        (RandomCrop(1e-9), {"audio": np.zeros(3, np.int16), "rate_hz": 8000}, "1e-09 s at 8000 Hz are 0 frames"),
        (
            RandomCrop(1, pad="repeat"),
            {"audio": np.zeros(0, np.int16), "rate_hz": 8000},
            "its audio is empty, and there is nothing to repeat; set pad='zero'",
        ),
        (Gain(120, 120), {"audio": np.full(2, 1e35, np.float32)}, "its audio reaches 1e+41, which passes the range"),
    ],
)
def test_a_sample_that_does_not_suit_the_settings(stage, fields, message):
    with pytest.raises(ValueError) as caught:
        stage.apply(Sample("a", fields), CHANCE)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Gain(3, -3), "Gain: min_db and max_db must have the lesser number first, got (3, -3)"),
        (lambda: Gain(0, float("nan")), "Gain: min_db and max_db must be two numbers in [-120, 120] dB, got (0, nan)"),
        (lambda: Gain("0", 1), "Gain: min_db and max_db must be two numbers in [-120, 120] dB, got ('0', 1)"),
        (lambda: Gain(0, 1, p=1.5), "Gain: p must be a number in [0, 1], got 1.5"),
        (lambda: Gain(0, 1, p=True), "Gain: p must be a number in [0, 1], got True"),
        (
            lambda: Gain(0, 1, clipping="clap"),
            "Gain: unknown clipping 'clap'. Did you mean 'clip'? Known: clip, keep, ",
        ),
        (lambda: Speed(()), "Speed: factors must be one or more numbers in [0.1, 10], got ()"),
        (lambda: Speed(1.1), "Speed: factors must be one or more numbers in [0.1, 10], got 1.1"),
        (lambda: Speed((0.9, 0)), "Speed: factors must be one or more numbers in [0.1, 10], got (0.9, 0)"),
        (lambda: Speed(p=-1), "Speed: p must be a number in [0, 1], got -1"),
        (lambda: RandomCrop(0), "RandomCrop: duration_s must be a number above 0, in seconds, got 0"),
        (lambda: RandomCrop(float("nan")), "RandomCrop: duration_s must be a number above 0, in seconds, got nan"),
        (lambda: RandomCrop(1, pad="zeros"), "RandomCrop: unknown pad 'zeros'. Did you mean 'zero'? Known: none, "),
    ],
)
def test_wrong_settings(make, message):
    with pytest.raises(ConfigError) as caught:
        make()
    assert str(caught.value).startswith(message)


def test_lists_are_as_good_as_tuples():
    assert Speed([0.9, 1.1]) == Speed((0.9, 1.1))
    assert hash(Speed([0.9])) == hash(Speed((0.9,)))


def test_normal_audio_is_that_of_wav2vec():
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    theirs = transformers.Wav2Vec2FeatureExtractor(do_normalize=True)
    rng = np.random.default_rng(0)
    for audio in (rng.standard_normal(16000).astype(np.float32) * 0.1 + 0.3, np.zeros(100, np.float32)):
        expected = theirs(audio, sampling_rate=16000, return_tensors="np")["input_values"][0]
        found = NormalizeAudio().apply(Sample("a", {"audio": audio}), CHANCE)["audio"]
        np.testing.assert_allclose(found, expected, atol=1e-5)
        assert found.dtype == np.float32
    whole = NormalizeAudio().apply(Sample("a", {"audio": np.array([-16384, 16384], np.int16)}), CHANCE)["audio"]
    np.testing.assert_allclose(whole, [-1, 1], atol=1e-6)
    assert NormalizeAudio().apply(Sample("a", {"audio": np.zeros(0, np.float32)}), CHANCE)["audio"].size == 0
    with pytest.raises(ConfigError, match="NormalizeAudio: eps must be above 0, got 0"):
        NormalizeAudio(eps=0.0)

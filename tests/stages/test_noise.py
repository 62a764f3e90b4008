"""Noise and rooms from shards of their own: exact results, ratios on real speech, the laws, and what is refused."""

from __future__ import annotations

import copy
import io
import json
import pickle
import shutil
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

import ecopipe
from ecopipe.datasets.shards import index_tars
from ecopipe.run.loader import Loader
from ecopipe.stages.audio import DecodeAudio
from ecopipe.stages.collate import Collate
from ecopipe.stages.noise import AddNoise, Reverb
from ecopipe.stages.plan import Batch, Bucket, Shuffle
from ecopipe.stages.source import TarShards
from ecopipe.stages.waveform import Gain, RandomCrop, Speed
from ecopipe.vocabulary.errors import ConfigError, IndexFileError, ShardError, StateError
from ecopipe.vocabulary.randomness import Chance
from ecopipe.vocabulary.sample import Sample

from .. import laws
from ..conftest import real

CHANCE = Chance(7, 1, "test")
RNG = np.random.default_rng(0)


def wav(audio, rate_hz=16000, subtype="FLOAT"):
    stream = io.BytesIO()
    soundfile.write(stream, audio, rate_hz, format="WAV", subtype=subtype)
    return stream.getvalue()


def write_tar(path: Path, members: dict[str, bytes]) -> str:
    """A plain tar; its folder's name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return str(path.parent)


def hiss(frames, channels=None):
    return RNG.standard_normal((frames,) if channels is None else (frames, channels)).astype(np.float32) * 0.1


def room(rate_hz=16000, delay=40, length=2000):
    """An impulse response: a little before the direct sound, and a tail behind it."""
    response = RNG.standard_normal(length) * np.exp(-np.arange(length) / 300) * 0.2
    response[delay] = 2.0
    return response.astype(np.float32)


NOISES = {"a": hiss(20_000), "b": hiss(30_000), "c": hiss(9_000)}


@pytest.fixture(scope="module")
def noises(tmp_path_factory):
    """Two tars of three noises at 16 kHz, not indexed."""
    root = tmp_path_factory.mktemp("noises")
    write_tar(root / "n-0.tar", {f"{name}.wav": wav(NOISES[name]) for name in "ab"})
    return write_tar(root / "n-1.tar", {"c.wav": wav(NOISES["c"]), "c.txt": b"a hiss"})


@pytest.fixture(scope="module")
def rirs(tmp_path_factory):
    root = tmp_path_factory.mktemp("rirs")
    return write_tar(root / "r.tar", {f"{n}.wav": wav(room(rate), rate) for n, rate in enumerate((16000, 48000))})


def sample(audio, key="a", rate_hz=16000):
    return Sample(key, {"audio": audio, "rate_hz": rate_hz, "text": "A"}, shard="s.tar")


def apply(stage, audio, key="a", chance=CHANCE, rate_hz=16000):
    return stage.apply(sample(audio, key, rate_hz), chance)["audio"]


def ratio_db(audio, made):
    """The ratio of signal to noise, in dB."""
    audio, made = audio.astype(np.float64), made.astype(np.float64)
    return 10 * np.log10(np.square(audio).mean() / np.square(made - audio).mean())


def found_in(part, whole):
    """Where in a recording, gone round, a stretch of it lies; None if nowhere."""
    part, whole = part.astype(np.float64), whole.astype(np.float64)
    around = np.resize(whole, len(whole) + len(part))
    windows = np.lib.stride_tricks.sliding_window_view(around, 50)
    products = windows @ part[:50] / np.linalg.norm(windows, axis=1) / np.linalg.norm(part[:50])
    start = int(products.argmax())
    stretch = around[start : start + len(part)]
    alike = stretch @ part / np.linalg.norm(stretch) / np.linalg.norm(part)
    return start if alike > 1 - 1e-6 else None


# -- AddNoise -----------------------------------------------------------------------------------------------------


def test_noise_is_a_stretch_of_one_of_the_recordings(noises):
    stage, audio, drawn, starts = AddNoise(noises, snr_db=(-10, -10)), hiss(12_000), Counter(), set()
    for n in range(30):
        made = apply(stage, audio, f"k{n}")
        assert ratio_db(audio, made) == pytest.approx(-10, abs=1e-4)
        places = {name: found_in(made - audio, noise) for name, noise in NOISES.items()}
        (name,) = [name for name, start in places.items() if start is not None]
        drawn[name] += 1
        starts.add((name, places[name]))
    assert set(drawn) == set("abc")
    assert min(drawn.values()) > 3
    assert len(starts) > 25
    assert max(start for name, start in starts if name == "b") <= 18_000
    assert max(start for name, start in starts if name == "a") <= 8_000
    assert max(start for name, start in starts if name == "c") > 4_000  # it is shorter than the sample, and goes round


@pytest.mark.parametrize("dtype", ["float32", "int16"])
@pytest.mark.parametrize("channels", [None, 2])
@pytest.mark.parametrize("source", ["shards", "white"])
def test_dtype_channels_fields_and_input_stay(noises, dtype, channels, source):
    audio = hiss(5000, channels)
    audio = (audio * 32768).astype(np.int16) if dtype == "int16" else audio
    before, given = audio.copy(), sample(audio)
    made = AddNoise(noises if source == "shards" else None, snr_db=(6, 6)).apply(given, CHANCE)
    assert set(made) == {"audio", "rate_hz", "text"}
    assert (made.key, made["rate_hz"], made["audio"].dtype, made["audio"].shape) == ("a", 16000, dtype, audio.shape)
    np.testing.assert_array_equal(audio, before)
    assert ratio_db(audio, made["audio"]) == pytest.approx(6, abs=1e-3)
    if channels:
        added = made["audio"].astype(np.float64) - audio
        np.testing.assert_allclose(added[:, 0], added[:, 1], atol=1.01 if dtype == "int16" else 1e-6)


def test_ratios_are_uniform_in_db(noises):
    audio = hiss(1000)
    found = np.array([ratio_db(audio, apply(AddNoise(noises, snr_db=(0, 15)), audio, f"k{n}")) for n in range(400)])
    assert 0 <= found.min() < 0.3 and 14.7 < found.max() <= 15.001
    assert np.abs(np.histogram(found, 5, (0, 15.01))[0] - 80).max() < 36


def test_white_noise_is_white_and_its_own_for_each_sample():
    audio = hiss(16_000)
    added = [apply(AddNoise(snr_db=(0, 0)), audio, key).astype(np.float64) - audio for key in "ab"]
    for noise in added:
        spectrum = np.square(np.abs(np.fft.rfft(noise)))[:8000].reshape(8, 1000).mean(axis=1)
        np.testing.assert_allclose(spectrum / spectrum.mean(), 1, atol=0.2)
    assert abs(np.corrcoef(*added)[0, 1]) < 0.04


@pytest.mark.parametrize(("noise_hz", "rate_hz"), [(8000, 16000), (48000, 16000), (44100, 16000), (16000, 22050)])
@pytest.mark.parametrize("seconds", [0.2, 3.0])
def test_noise_of_another_rate_is_resampled(tmp_path, noise_hz, rate_hz, seconds):
    tone = 0.1 * np.sin(2 * np.pi * 1000 * np.arange(round(seconds * noise_hz)) / noise_hz)
    folder = write_tar(tmp_path / "n.tar", {"tone.wav": wav(tone, noise_hz, "PCM_16")})
    audio = hiss(7919)
    made = apply(AddNoise(folder, snr_db=(-20, -20)), audio, rate_hz=rate_hz)
    assert ratio_db(audio, made) == pytest.approx(-20, abs=1e-4)
    spectrum = np.square(np.abs(np.fft.rfft((made - audio) * np.hanning(len(audio)))))
    frequency_hz = np.fft.rfftfreq(len(audio), 1 / rate_hz)
    near = np.abs(frequency_hz - 1000) < 20
    assert spectrum[near].sum() > 0.98 * spectrum.sum()


def test_channels_of_a_noise_are_averaged(tmp_path):
    stereo = hiss(3000, 2)
    folder = write_tar(tmp_path / "n.tar", {"n.wav": wav(stereo)})
    audio = hiss(3000)
    assert found_in(apply(AddNoise(folder, snr_db=(-20, -20)), audio) - audio, stereo.mean(axis=1)) is not None


def test_silence(noises, tmp_path):
    for dtype in (np.float32, np.int16):
        for stage in (AddNoise(noises, snr_db=(0, 0)), AddNoise(snr_db=(0, 0))):
            assert not apply(stage, np.zeros(500, dtype)).any()
            assert len(apply(stage, np.zeros(0, dtype))) == 0
    folder = write_tar(tmp_path / "n.tar", {"n.wav": wav(np.zeros(100))})
    audio = hiss(500)
    np.testing.assert_array_equal(apply(AddNoise(folder, snr_db=(0, 0)), audio), audio)


def test_p_decides_whether_and_never_how(noises, rirs):
    audio = hiss(500)
    for make in (
        lambda p: AddNoise(noises, snr_db=(0, 20), p=p),
        lambda p: AddNoise(snr_db=(0, 20), p=p),
        lambda p: Reverb(rirs, p=p),
    ):
        stages, changed = [make(p) for p in (1, 0.3, 0)], 0
        for n in range(200):
            always, perhaps, never = (apply(stage, audio, f"k{n}") for stage in stages)
            np.testing.assert_array_equal(never, audio)
            if perhaps.tobytes() != audio.tobytes():
                changed += 1
                np.testing.assert_array_equal(perhaps, always)
        assert abs(changed - 60) < 4 * np.sqrt(200 * 0.3 * 0.7)


def test_draws_depend_on_key_epoch_seed_and_stage(noises):
    audio, stage = hiss(500), AddNoise(noises, snr_db=(0, 20))
    made = {
        (chance, key): apply(stage, audio, key, chance).tobytes()
        for chance in (CHANCE, Chance(8, 1, "test"), Chance(7, 2, "test"), Chance(7, 1, "other"))
        for key in ("a", "b")
    }
    assert len(set(made.values())) == 8
    assert apply(pickle.loads(pickle.dumps(stage)), audio).tobytes() == made[CHANCE, "a"]
    assert apply(copy.deepcopy(stage), audio).tobytes() == made[CHANCE, "a"]


# -- Reverb -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "int16"])
@pytest.mark.parametrize("channels", [None, 2])
@pytest.mark.parametrize("frames", [100, 5000])
def test_reverb_is_a_convolution_and_keeps_the_timing(tmp_path, dtype, channels, frames):
    response, audio = room(), hiss(frames, channels)
    audio = (audio * 32768).astype(np.int16) if dtype == "int16" else audio
    folder = write_tar(tmp_path / "r.tar", {"r.wav": wav(np.stack([response, -response], axis=1))})
    made, before = apply(Reverb(folder), audio), audio.copy()
    unit = response.astype(np.float64) / np.linalg.norm(response.astype(np.float64))  # of the first channel
    expected = [np.convolve(one, unit)[40:][:frames] for one in np.atleast_2d(audio.T.astype(np.float64))]
    assert (made.dtype, made.shape) == (audio.dtype, audio.shape)
    np.testing.assert_array_equal(audio, before)
    tolerance = 0.51 if dtype == "int16" else 1e-7
    np.testing.assert_allclose(np.atleast_2d(made.T), np.array(expected), atol=tolerance, rtol=1e-6)


def test_a_click_stays_where_it_is(rirs):
    audio = np.zeros(6000, np.float32)
    audio[3000] = 0.5
    for n in range(20):  # both responses, one of them resampled
        assert np.abs(apply(Reverb(rirs), audio, f"k{n}")).argmax() == 3000
    assert len({apply(Reverb(rirs), audio, f"k{n}").tobytes() for n in range(20)}) == 2


def test_reverb_keeps_the_power_if_told(rirs):
    audio = hiss(20_000)
    before = np.square(audio, dtype=np.float64).mean()
    kept = apply(Reverb(rirs, normalize="power"), audio)
    assert np.square(kept, dtype=np.float64).mean() == pytest.approx(before, rel=1e-6)
    by_energy = apply(Reverb(rirs), audio)
    assert np.square(by_energy, dtype=np.float64).mean() == pytest.approx(before, rel=0.2)  # white, so nearly
    np.testing.assert_allclose(kept / np.abs(kept).max(), by_energy / np.abs(by_energy).max(), atol=1e-6)


@pytest.mark.parametrize("normalize", ["energy", "power"])
def test_reverb_of_silence_and_nothing(rirs, normalize):
    for dtype in (np.float32, np.int16):
        assert not apply(Reverb(rirs, normalize=normalize), np.zeros(500, dtype)).any()
        assert len(apply(Reverb(rirs, normalize=normalize), np.zeros(0, dtype))) == 0


# -- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [lambda path: AddNoise(path, snr_db=(0, 9)), Reverb], ids=["AddNoise", "Reverb"])
@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"x.wav": wav(np.zeros(0))}, "it holds no audio: 0 frames. Mend it, or leave it out of the shards."),
        ({"x.wav": wav(np.array([0, np.nan]))}, "holds NaN at frame 1 of channel 0; "),
        ({"x.txt": b"A", "y.wav": wav(np.ones(3))}, "one member of audio wanted, and it holds txt. Mend it"),
        ({"x.wav": wav(np.ones(3)), "x.flac.wav": wav(np.ones(3))}, "and it holds flac.wav, wav. Mend it, or leave"),
    ],
    ids=["empty", "nan", "none", "two"],
)
def test_a_recording_that_is_none(tmp_path, make, members, message):
    folder = write_tar(tmp_path / "n.tar", members)
    stage = make(folder)
    with pytest.raises(ShardError) as caught:
        for n in range(50):
            apply(stage, hiss(100), f"k{n}")
    what = "AddNoise: noise" if isinstance(stage, AddNoise) else "Reverb: rirs"
    assert str(caught.value).startswith(f"{what} 'x' of {folder}/n.tar: ")
    assert message in str(caught.value)


def test_a_silent_impulse_response(tmp_path):
    folder = write_tar(tmp_path / "r.tar", {"r.wav": wav(np.zeros(9))})
    with pytest.raises(ShardError, match=f"Reverb: rirs 'r' of {folder}/r.tar: it is silent at 16000 Hz, and no"):
        apply(Reverb(folder), hiss(100))


def test_damaged_cut_and_vanished_shards(tmp_path, noises):
    folder = tmp_path / "noises"
    shutil.copytree(noises, folder)
    stage = AddNoise(str(folder), snr_db=(0, 9), name="street")
    assert stage.recordings.fingerprint
    whole = {path: path.read_bytes() for path in folder.glob("*.tar")}
    for path, data in whole.items():
        path.write_bytes(data[:3000] + bytes([data[3000] ^ 1]) + data[3001:])
    with pytest.raises(ShardError, match=rf"street: noise '[abc]': {folder}/n-.*it is not what was indexed \(its CRC"):
        for n in range(9):
            apply(copy.deepcopy(stage), hiss(100), f"k{n}")
    for path, data in whole.items():
        path.write_bytes(data[:5000])
    with pytest.raises(ShardError, match=rf"street: noise '[abc]': {folder}/n-.*the shard is truncated"):
        apply(copy.deepcopy(stage), hiss(100))
    for path in whole:
        path.unlink()
    with pytest.raises(ShardError, match=rf"street: noise: {folder}: the folder holds no .tar files"):
        apply(copy.deepcopy(stage), hiss(100))


def test_one_of_several_shards_has_vanished(tmp_path, noises):
    folder = tmp_path / "noises"
    shutil.copytree(noises, folder)
    stage = AddNoise(str(folder), snr_db=(0, 9))
    expected = [apply(stage, NOISES["a"], f"k{n}").tobytes() for n in range(20)]
    (folder / "n-1.tar").unlink()
    again, lost = pickle.loads(pickle.dumps(stage)), []
    for n in range(20):  # what lies in the other shard is drawn for the samples that it was drawn for
        try:
            made = apply(again, NOISES["a"], f"k{n}").tobytes()
        except ShardError as error:
            lost.append(str(error))
        else:
            assert made == expected[n]
    assert 0 < len(lost) < 20
    assert all(text.startswith(f"AddNoise: noise 'c': {folder}/n-1.tar: the shard is missing.") for text in lost)
    with pytest.raises(ShardError, match=f"AddNoise: noise: {folder}/n-1.tar: the index lists this shard and it is mi"):
        AddNoise(str(folder), snr_db=(0, 9)).recordings.fingerprint  # noqa: B018


def test_shards_that_changed_after_they_were_opened(tmp_path, noises):
    folder = tmp_path / "noises"
    shutil.copytree(noises, folder)
    stage = AddNoise(str(folder), snr_db=(0, 9))
    before = stage.recordings.fingerprint
    write_tar(folder / "n-2.tar", {"d.wav": wav(hiss(100))})
    for elsewhere in (pickle.loads(pickle.dumps(stage)), copy.deepcopy(stage)):
        with pytest.raises(ShardError, match=rf"AddNoise: noise: {folder}: the index was {before} when the pipeline"):
            apply(elsewhere, hiss(100))


@pytest.mark.parametrize("make", [lambda path: AddNoise(path, snr_db=(0, 9)), Reverb], ids=["AddNoise", "Reverb"])
def test_shards_that_hold_no_audio(tmp_path, make):
    folder = write_tar(tmp_path / "n.tar", {"x.txt": b"A"})
    with pytest.raises(ConfigError, match=rf"{folder}: the shards hold no audio; they hold chars, tokens, txt. Name"):
        apply(make(folder), hiss(100))
    with pytest.raises(ShardError, match="there is no such file or folder. Check the path"):
        apply(make(f"{folder}/nowhere"), hiss(100))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AddNoise("", snr_db=(0, 1)), "AddNoise: noise must be a folder of tars, or several, got ''"),
        (lambda: AddNoise((), snr_db=(0, 1)), "AddNoise: noise must be a folder of tars, or several, got ()"),
        (lambda: AddNoise(3, snr_db=(0, 1)), "AddNoise: noise must be a folder of tars, or several, got 3"),
        (lambda: AddNoise(snr_db=10), "AddNoise: snr_db must be two numbers in [-120, 120] dB, got 10"),
        (lambda: AddNoise(snr_db=(10, 0)), "AddNoise: snr_db must have the lesser number first, got (10, 0)"),
        (lambda: AddNoise(snr_db=(0, 1), p=2), "AddNoise: p must be a number in [0, 1], got 2"),
        (lambda: Reverb(None), "Reverb: rirs must be a folder of tars, or several, got None"),
        (lambda: Reverb("x", p="1"), "Reverb: p must be a number in [0, 1], got '1'"),
        (lambda: Reverb("x", normalize="engery"), "Reverb: unknown normalize 'engery'. Did you mean 'energy'?"),
    ],
)
def test_wrong_settings(make, message):
    with pytest.raises(ConfigError) as caught:
        make()
    assert str(caught.value).startswith(message)


def test_a_sample_that_cannot_be_processed(noises, rirs):
    for stage in (AddNoise(noises, snr_db=(0, 9)), AddNoise(snr_db=(0, 9)), Reverb(rirs)):
        with pytest.raises(ValueError, match="its audio holds NaN or infinity, first at frame 1 of 2"):
            apply(stage, np.array([0, np.nan], np.float32))
    for stage in (AddNoise(noises, snr_db=(0, 9)), Reverb(rirs)):
        assert stage.needs() == stage.gives() == ("audio", "rate_hz")
        with pytest.raises(ValueError, match="no field 'rate_hz'; it has audio"):
            stage.apply(Sample("a", {"audio": hiss(9)}), CHANCE)
    assert AddNoise(snr_db=(0, 9)).needs() == ("audio",)
    assert len(AddNoise(snr_db=(0, 9)).apply(Sample("a", {"audio": hiss(9)}), CHANCE)["audio"]) == 9


# -- in pipelines -------------------------------------------------------------------------------------------------


def augmented(path, noises, rirs, batching=None, **settings):
    return ecopipe.Pipeline(
        TarShards(str(path)),
        Shuffle(),
        batching or Bucket("frames", max_padded=700_000, max_count=6),
        DecodeAudio(),
        Gain(-6, 6, p=0.5, clipping="limit"),
        Speed(),
        Reverb(rirs, p=0.5),
        AddNoise((noises,), snr_db=(0, 15), p=0.8),
        AddNoise(snr_db=(30, 40), name="hiss"),
        RandomCrop(2.0, pad="none"),
        Collate("audio"),
        **settings,
    )


@pytest.fixture
def pipeline(shards, noises, rirs):
    return augmented(shards / "librispeech" / "train-clean-100", noises, rirs)


def test_law_1_workers_have_no_say(pipeline):
    laws.law_1_workers_have_no_say(pipeline)


def test_law_1_however_workers_start(pipeline):
    assert laws.trace(pipeline, workers=1, multiprocessing_context="spawn") == laws.trace(pipeline)


def test_a_forked_worker_opens_its_own_files(pipeline):
    expected = rows(pipeline)
    opened = next(stage for stage in pipeline.stages if isinstance(stage, AddNoise)).recordings._open()
    with opened.lock:  # as another thread may hold it when the worker is forked
        assert rows(pipeline, workers=1, multiprocessing_context="fork", timeout_s=60) == expected


def test_law_3_resume_is_exact(pipeline):
    laws.law_3_resume_is_exact(pipeline)


def test_law_5_a_sample_is_augmented_alike_in_any_batch(shards, noises, rirs, pipeline):
    alone = augmented(shards / "librispeech" / "train-clean-100", noises, rirs, Batch(1))
    assert rows(pipeline) == rows(alone)
    assert len(rows(alone)) == 24


def rows(pipeline, **settings):
    """The audio of each sample, without its padding."""
    with Loader(pipeline, **settings) as loader:
        return {
            key: row[:length].numpy().tobytes()
            for batch in loader
            for key, row, length in zip(batch["keys"], batch["audio"], batch["lengths"].tolist(), strict=True)
        }


def test_epochs_differ_and_come_again(pipeline):
    first, second, again = (rows(pipeline, epoch=epoch) for epoch in (0, 1, 0))
    assert first == again
    assert all(first[key] != second[key] for key in first)


def test_law_6(pipeline):
    laws.law_6_no_stage_changes_its_input(pipeline)
    laws.law_6_stages_are_values(pipeline)


def test_toml_holds_settings_that_differ_from_the_default(pipeline, noises):
    text = ecopipe.dumps(pipeline)
    assert f'noise = [\n    "{noises}",\n]' in text
    assert ecopipe.loads(text, {"hiss.snr_db": [1, 2], "AddNoise.noise": "elsewhere"}).stages[-4].noise == "elsewhere"
    for wrong in ({"AddNoise.noise": 3}, {"AddNoise.snr_db": ["a", "b"]}, {"Gain.min_db": "low"}):
        with pytest.raises(ConfigError, match="has the wrong type"):
            ecopipe.loads(text, wrong)


def test_identity_is_what_the_shards_hold(tmp_path, noises):
    moved = tmp_path / "moved"
    shutil.copytree(noises, moved)
    here, there = (
        ecopipe.Pipeline(TarShards("x"), Batch(2), DecodeAudio(), AddNoise(path, snr_db=(0, 9)), Collate("audio"))
        for path in (noises, str(moved))
    )
    assert here.identity == there.identity
    assert here.identity["stages"][2]["noise"].startswith("index:")
    white = ecopipe.Pipeline(TarShards("x"), Batch(2), DecodeAudio(), AddNoise(snr_db=(0, 9)), Collate("audio"))
    assert "noise" not in white.identity["stages"][2]


@pytest.mark.parametrize("change", ["replaced", "added", "removed"])
def test_a_state_is_refused_where_the_noise_has_changed(shards, noises, rirs, tmp_path, change):
    folder, speech = tmp_path / "noises", shards / "librispeech" / "train-clean-100"
    shutil.copytree(noises, folder)
    with Loader(augmented(speech, str(folder), rirs)) as loader:
        next(iter(loader))
        state = json.loads(json.dumps(loader.state_dict()))
    with Loader(augmented(speech, str(folder), rirs)) as loader:
        loader.load_state_dict(state)
    if change == "removed":
        (folder / "n-0.tar").unlink()
    else:
        write_tar(folder / ("n-0.tar" if change == "replaced" else "n-2.tar"), {"a.wav": wav(hiss(20_000))})
    if change != "added":
        with pytest.raises((ShardError, IndexFileError), match=f"AddNoise: noise: {folder}"):
            Loader(augmented(speech, str(folder), rirs))
        index_tars([str(path) for path in sorted(folder.glob("*.tar"))])
    with (
        Loader(augmented(speech, str(folder), rirs)) as loader,
        pytest.raises(StateError, match=r"another pipeline: stages\[6\]\.noise was 'index:\w+' and is 'index:\w+'"),
    ):
        loader.load_state_dict(state)


def test_shards_are_refused_before_a_byte_of_the_samples_is_read(shards, rirs, tmp_path):
    with pytest.raises(ShardError, match=f"AddNoise: noise: {tmp_path}/nowhere: there is no such file or folder"):
        Loader(augmented(shards / "librispeech" / "train-clean-100", f"{tmp_path}/nowhere", rirs))


@pytest.mark.parametrize("workers", [0, 2])
def test_damaged_noise_is_not_blamed_on_the_shard_of_the_sample(shards, noises, rirs, tmp_path, workers):
    folder, speech = tmp_path / "noises", shards / "librispeech" / "train-clean-100"
    shutil.copytree(noises, folder)
    with Loader(augmented(speech, str(folder), rirs), workers=workers) as loader:
        (folder / "n-1.tar").unlink()
        with pytest.raises(ShardError) as caught:
            list(loader)
    assert str(caught.value).startswith(f"AddNoise: noise 'c': {folder}/n-1.tar: the shard is missing.")
    assert str(speech) not in str(caught.value)


def test_samples_whose_noise_is_damaged_are_skipped_and_accounted_for(shards, noises, rirs, tmp_path):
    folder, speech = tmp_path / "noises", shards / "librispeech" / "train-clean-100"
    shutil.copytree(noises, folder)
    whole = rows(augmented(speech, noises, rirs))
    with Loader(augmented(speech, str(folder), rirs, bad_samples="skip"), workers=1) as loader:
        (folder / "n-1.tar").unlink()
        batches = list(loader)
    faults = [fault for batch in batches for fault in batch.place.faults]
    instead = Counter(fault.substitute for fault in faults if fault.substitute)
    delivered = Counter(key for batch in batches for key in batch["keys"]) - instead
    assert faults
    assert delivered + Counter(fault.key for fault in faults) == Counter(whole.keys())
    assert all(fault.reason.startswith(f"AddNoise: noise 'c': {folder}/n-1.tar: the ") for fault in faults)


# -- on real recordings -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real_shards(tmp_path_factory):
    """Twelve utterances of LibriSpeech at 16 kHz; eight real recordings at 8 kHz, and of several channels."""
    root = tmp_path_factory.mktemp("real")
    flacs = sorted(real("LibriSpeech", "test-clean").glob("*/*/*.flac"))[::11]
    write_tar(root / "speech" / "s.tar", {path.name: path.read_bytes() for path in flacs})
    with tarfile.open(real("waves_yesno.tar.gz")) as tar:
        names = sorted(name for name in tar.getnames() if name.endswith(".wav"))[:7]
        noises = {Path(name).name: tar.extractfile(name).read() for name in names}
    noises["eight.wav"] = real("audio_misc", "real_8ch.wav").read_bytes()
    write_tar(root / "noise" / "n.tar", noises)
    return root


@pytest.mark.parametrize("dtype", ["float32", "int16"])
@pytest.mark.parametrize("source", ["shards", "white"])
def test_ratio_on_real_speech(real_shards, dtype, source):
    drawn = AddNoise(str(real_shards / "noise") if source == "shards" else None, snr_db=(3, 30))
    clean, noisy = (
        ecopipe.Pipeline(
            TarShards(str(real_shards / "speech")), Batch(3), DecodeAudio(dtype=dtype), *extra, Collate("audio")
        )
        for extra in ((), (drawn,))
    )
    plain, made = rows(clean), rows(noisy)
    assert plain.keys() == made.keys()
    assert len(made) == 12
    for key in made:
        before, after = (np.frombuffer(audio[key], dtype=dtype) for audio in (plain, made))
        wanted = 3 + 27 * Chance(0, 0, "AddNoise").draws(key).uniform(2)[1]
        assert np.abs(after.astype(np.float64)).max() < (32767 if dtype == "int16" else 1)  # nothing was clipped
        assert ratio_db(before, after) == pytest.approx(wanted, abs=0.01)


def test_law_1_on_real_speech(real_shards, rirs):
    pipeline = augmented(real_shards / "speech", str(real_shards / "noise"), rirs, Batch(3))
    assert laws.trace(pipeline, workers=2) == laws.trace(pipeline)

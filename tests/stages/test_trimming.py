"""Silence taken from both ends, beside librosa's."""

from __future__ import annotations

import io

import librosa
import numpy as np
import pytest
import soundfile

from ecopipe.datasets.shards import open_index
from ecopipe.stages.trimming import Trim
from ecopipe.vocabulary.randomness import Chance
from ecopipe.vocabulary.sample import Sample

CHANCE = Chance(0, 0, "Trim")


def utterances(shards):
    folder = shards / "librispeech" / "train-clean-100"
    index = open_index(str(folder / "index.arrow"))
    for number, info in enumerate(index.shards):
        data = (folder / info.name).read_bytes()
        for row in index.read(number, 0, info.rows).to_pylist():
            (member,) = [member for member in row["members"] if member["extension"] == "flac"]
            stored = data[member["offset"] : member["offset"] + member["size"]]
            yield soundfile.read(io.BytesIO(stored), dtype="float32")[0]
    index.close()


def padded(audio, before, after):
    noise = np.random.default_rng(0).standard_normal(before + after).astype(np.float32) * 1e-4
    return np.concatenate([noise[:before], audio, noise[before:]])


def trimmed(audio, **settings):
    rate_hz = 16000
    return Trim(**settings).apply(Sample("k", {"audio": audio, "rate_hz": rate_hz}), CHANCE)["audio"]


@pytest.mark.parametrize(
    "settings", [{}, {"top_db": 20.0}, {"top_db": 35.0, "frame_length": 400, "hop_length": 160}, {"frame_length": 511}]
)
def test_cuts_where_librosa_cuts(shards, settings):
    cut = 0
    for number, audio in enumerate(utterances(shards)):
        audio = padded(audio, 1000 + 777 * number, 5000)
        expected = librosa.effects.trim(audio, **{"top_db": 60, **settings})[0]
        np.testing.assert_array_equal(trimmed(audio, **settings), expected)
        whole_numbers = np.rint(audio * 32768).astype(np.int16)
        expected = librosa.effects.trim(whole_numbers.astype(np.float32) / 32768, **{"top_db": 60, **settings})[0]
        found = trimmed(whole_numbers, **settings)
        assert found.dtype == np.int16 and len(found) == len(expected)
        cut += len(audio) - len(found)
    assert cut > 24 * 1000


def test_of_channels_the_loudest_decides():
    rng = np.random.default_rng(0)
    audio = np.zeros((40000, 2), np.float32)
    audio[8000:20000, 0] = rng.standard_normal(12000) * 0.1
    audio[15000:30000, 1] = rng.standard_normal(15000) * 0.001
    expected = librosa.effects.trim(audio.T, top_db=60)[0].T
    assert 8000 < len(expected) < 40000
    np.testing.assert_array_equal(trimmed(audio), expected)


@pytest.mark.parametrize("frames", [1, 300, 511, 512, 513, 2048])
def test_short_audio_is_as_librosa_has_it(frames):
    audio = np.random.default_rng(frames).standard_normal(frames).astype(np.float32) * 0.1
    np.testing.assert_array_equal(trimmed(audio), librosa.effects.trim(audio)[0])


def test_silence_is_left_whole_and_nothing_stays_nothing():
    for frames in (0, 100, 5000):
        assert len(trimmed(np.zeros(frames, np.float32))) == frames
    np.testing.assert_array_equal(librosa.effects.trim(np.zeros(5000, np.float32))[0], np.zeros(5000))


def test_a_margin_is_left():
    audio = np.zeros(48000, np.float32)
    audio[20000:24000] = 0.5
    bare = trimmed(audio)
    assert len(trimmed(audio, margin_s=0.25)) == len(bare) + 8000
    assert len(trimmed(audio, margin_s=10.0)) == 48000


def test_what_is_cut_off_is_not_held_in_memory():
    audio = padded(np.ones(5000, np.float32), 50000, 50000)
    assert trimmed(audio).flags.owndata

"""Numerics of waveform augmentation against numpy's and torchaudio's own."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
import torchaudio

from ecopipe.signal import waveform
from ecopipe.vocabulary.errors import MissingDependency
from ecopipe.vocabulary.randomness import Chance

RNG = np.random.default_rng(0)


def test_int16_is_rounded_half_to_even_and_clipped():
    given = np.array([0.5, 1.5, -0.5, -1.5, 2.4, 40000.0, -40000.0])
    assert waveform.as_dtype(given, np.int16).tolist() == [0, 2, 0, -2, 2, 32767, -32768]
    assert waveform.as_dtype(given, np.int16).dtype == np.int16
    assert waveform.as_dtype(given, np.float32).dtype == np.float32


def test_what_float32_cannot_hold():
    with pytest.raises(ValueError, match=r"its audio reaches 1e\+39, which passes the range of float32"):
        waveform.as_dtype(np.array([0.0, -1e39]), np.float32)


@pytest.mark.parametrize("count", [0, 1, 2, 7, 200_000])
def test_gaussian(count):
    values = waveform.gaussian(Chance(0, 0, "test").draws("a"), count)
    assert values.shape == (count,)
    assert np.isfinite(values).all()
    if count > 1000:
        assert abs(values.mean()) < 4 / np.sqrt(count)
        assert abs(values.var() - 1) < 4 * np.sqrt(2 / count)
        assert abs((values**4).mean() - 3) < 4 * np.sqrt(96 / count)
        assert abs((values[1:] * values[:-1]).mean()) < 4 / np.sqrt(count)
        assert abs((np.abs(values) < 1).mean() - 0.682689) < 4 * np.sqrt(0.2166 / count)


@pytest.mark.parametrize("channels", [None, 2])
@pytest.mark.parametrize("snr_db", [-10.0, 0.0, 13.7])
def test_noise_as_torchaudio_adds_it(snr_db, channels):
    noise = RNG.standard_normal(5000)
    audio = RNG.standard_normal((5000,) if channels is None else (5000, channels)) * 0.1
    made = waveform.mixed(audio, noise, snr_db)
    ratio = 10 * np.log10(waveform.power(audio) / waveform.power(made - audio))
    assert ratio == pytest.approx(snr_db, abs=1e-9)
    if channels is None:
        expected = torchaudio.functional.add_noise(
            torch.from_numpy(audio), torch.from_numpy(noise), torch.tensor(snr_db, dtype=torch.float64)
        )
        np.testing.assert_allclose(made, expected.numpy(), atol=1e-12)
    else:
        np.testing.assert_allclose((made - audio)[:, 0], (made - audio)[:, 1], atol=1e-12)


def test_silence_is_no_reason_for_nan():
    some, none = RNG.standard_normal(10), np.zeros(10)
    assert waveform.mixed(none, some, 0.0).tolist() == none.tolist()
    assert waveform.mixed(some, none, 0.0).tolist() == some.tolist()
    assert waveform.power(np.zeros(0)) == 0.0


@pytest.mark.parametrize("frames", [1, 2, 100, 3001])
@pytest.mark.parametrize("length", [1, 7, 4000])
@pytest.mark.parametrize("channels", [None, 3])
def test_reverberation_is_a_convolution_from_the_peak_on(frames, length, channels):
    audio = RNG.standard_normal((frames,) if channels is None else (frames, channels))
    response = RNG.standard_normal(length) * np.exp(-np.arange(length) / 500)
    response[length // 3] = -9.0  # a peak may be negative
    made = waveform.reverberated(audio, response)
    assert made.shape == audio.shape
    for one, reverberated in zip(np.atleast_2d(audio.T), np.atleast_2d(made.T), strict=True):
        expected = np.convolve(one, response)[length // 3 :][:frames]
        np.testing.assert_allclose(reverberated, expected, atol=1e-10)
        whole = torchaudio.functional.fftconvolve(torch.from_numpy(one.copy()), torch.from_numpy(response))
        np.testing.assert_allclose(reverberated, whole.numpy()[length // 3 :][:frames], atol=1e-10)


def test_nothing_reverberates_to_nothing():
    assert waveform.reverberated(np.zeros(0, np.float32), np.ones(5)).shape == (0,)


def test_fast_sizes():
    for least in [*range(1, 3000), 123_457, 560_001]:
        size = waveform._fast_size(least)
        odd = size
        while odd % 2 == 0:
            odd //= 2
        assert least <= size <= max(8, least * 1.25)
        assert odd in (1, 3, 5, 9, 15)


def test_without_soxr(monkeypatch):
    monkeypatch.setitem(sys.modules, "soxr", None)
    with pytest.raises(MissingDependency, match="needs soxr. Install it: pip install soxr"):
        waveform.resampled(np.zeros(5), 1.1, 1.0)

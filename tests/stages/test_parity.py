"""Presets against the libraries that they are named after, each on its own utterance, over a grid of settings."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pytest
import soundfile
import torch

from ecopipe.signal.mel import mel_filters
from ecopipe.stages.fbank import MFCC, Fbank, KaldiMFCC
from ecopipe.stages.normalization import CMVN
from ecopipe.stages.spectral import LogMel, Spectrogram

from ..conftest import real
from .speech import CHANCE, batch, features, speechlike

KALDI = {"rtol": 1e-4, "atol": 2e-4}
"""Between Kaldi's features in float32: rtol as kaldifeat and kaldi-native-fbank ask of each other."""
TORCHAUDIO = {"rtol": 1e-4, "atol": 1e-3}
"""torchaudio's bands of little energy are up to 6e-4 from float64's themselves."""
MEL = {"rtol": 1e-5, "atol": 5e-4}
"""Between mel spectra: as torchaudio asks of itself against librosa."""


def utterances():
    """Real speech where it is, and made-up sounds of lengths that matter."""
    yield from (speechlike(n) for n in (16000, 400, 401, 559, 560, 12345))
    for path in sorted(real("LibriSpeech").rglob("*.flac"))[:3]:
        yield soundfile.read(path, dtype="float32")[0][:80000]


def alone(stage, audio, *, rate_hz=16000):
    (found,) = features(stage, [audio], rate_hz=rate_hz)
    return found.numpy()


def close(found, expected, **bounds):
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, **bounds)


# -- librosa ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def librosa():
    return pytest.importorskip("librosa", reason="librosa is not installed")


@pytest.mark.parametrize("norm", ["none", "slaney"])
@pytest.mark.parametrize("scale", ["htk", "slaney"])
@pytest.mark.parametrize(("rate_hz", "n_fft", "n_mels", "hop_length"), [(16000, 400, 40, 160), (22050, 2048, 128, 512)])
def test_mel_as_librosa(librosa, norm, scale, rate_hz, n_fft, n_mels, hop_length):
    stage = LogMel(
        rate_hz=rate_hz, n_fft=n_fft, n_mels=n_mels, hop_length=hop_length, mel_scale=scale, norm=norm,
        pad_mode="constant", log="none",
    )  # fmt: skip
    audio = speechlike(3 * rate_hz, rate_hz=rate_hz)
    expected = librosa.feature.melspectrogram(
        y=audio, sr=rate_hz, n_fft=n_fft, hop_length=hop_length, n_mels=n_mels, htk=scale == "htk",
        norm=None if norm == "none" else norm,
    )  # fmt: skip
    bound = MEL if norm == "slaney" else {"rtol": 1e-5, "atol": 1e-6 * expected.max()}
    close(alone(stage, audio, rate_hz=rate_hz), expected.T, **bound)
    filters = librosa.filters.mel(
        sr=rate_hz, n_fft=n_fft, n_mels=n_mels, htk=scale == "htk", norm=None if norm == "none" else norm
    )
    ours = mel_filters(
        rate_hz=rate_hz, n_fft=n_fft, n_mels=n_mels, f_min=0, f_max=rate_hz / 2, mel_scale=scale, norm=norm
    )
    close(ours, filters.T, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("n_mels", [64, 128])
def test_decibels_as_librosa(librosa, n_mels):
    stage = LogMel.preset("librosa", n_mels=n_mels)
    audio = speechlike(50000, rate_hz=22050)
    expected = librosa.power_to_db(librosa.feature.melspectrogram(y=audio, sr=22050, n_mels=n_mels))
    close(alone(stage, audio, rate_hz=22050), expected.T, rtol=1e-5, atol=5e-3)


@pytest.mark.parametrize("power", [1.0, 2.0])
@pytest.mark.parametrize("win_length", [None, 1024])
def test_spectrogram_as_librosa(librosa, power, win_length):
    audio = speechlike(30000, rate_hz=22050)
    expected = np.abs(librosa.stft(audio, win_length=win_length, hop_length=512)).astype(np.float64) ** power
    stage = Spectrogram.preset("librosa", power=power, win_length=win_length)
    close(alone(stage, audio, rate_hz=22050), expected.T, rtol=1e-4, atol=1e-6 * expected.max())


@pytest.mark.parametrize("n_mfcc", [13, 20])
def test_cepstra_as_librosa(librosa, n_mfcc):
    audio = speechlike(50000, rate_hz=22050)
    expected = librosa.feature.mfcc(y=audio, sr=22050, n_mfcc=n_mfcc)
    close(alone(MFCC.preset("librosa", n_mfcc=n_mfcc), audio, rate_hz=22050), expected.T, rtol=1e-4, atol=2e-2)


# -- torchaudio ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("power", [1.0, 2.0])
@pytest.mark.parametrize(("n_fft", "win_length", "hop_length"), [(400, 400, 200), (512, 320, 80), (1024, 1024, 256)])
def test_spectrogram_as_torchaudio(power, n_fft, win_length, hop_length):
    transforms = pytest.importorskip("torchaudio.transforms", reason="torchaudio is not installed")
    audio = speechlike(20000)
    expected = transforms.Spectrogram(n_fft, win_length, hop_length, power=power)(torch.from_numpy(audio)).T.numpy()
    stage = Spectrogram(n_fft=n_fft, win_length=win_length, hop_length=hop_length, power=power)
    close(alone(stage, audio), expected, rtol=1e-4, atol=1e-6 * expected.max())


@pytest.mark.parametrize("settings", [{}, {"n_mfcc": 13, "n_mels": 40, "n_fft": 512, "hop_length": 160}], ids=str)
def test_cepstra_as_torchaudio(settings):
    transforms = pytest.importorskip("torchaudio.transforms", reason="torchaudio is not installed")
    stage = MFCC.preset("torchaudio", **settings)
    melkwargs = {"n_mels": stage.n_mels, "n_fft": stage.n_fft, "hop_length": stage.hop_length}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "At least one mel filterbank has all zero values")
        theirs = transforms.MFCC(16000, n_mfcc=stage.n_mfcc, melkwargs=melkwargs)
    audio = speechlike(20000)
    close(alone(stage, audio), theirs(torch.from_numpy(audio)).T.numpy(), rtol=1e-4, atol=2e-2)


KALDI_GRID = [
    {},
    {"n_mels": 80, "snip_edges": False},
    {"n_mels": 40, "window": "hamming_symmetric", "preemphasis": 0.0},
    {"n_mels": 40, "window": "hann_symmetric", "remove_dc_offset": False},
    {"n_mels": 40, "window": "rectangular", "f_min": 0.0, "f_max": -400.0},
    {"n_mels": 30, "window": "blackman", "f_max": 7000.0, "round_to_power_of_two": False},
    {"n_mels": 23, "use_energy": True, "energy_floor": 1.0},
    {"n_mels": 23, "use_energy": True, "raw_energy": False, "energy_floor": 1.0},
    {"n_mels": 23, "use_energy": True, "htk_compat": True, "energy_floor": 1.0},
    {"n_mels": 23, "use_log": False},
    {"n_mels": 23, "use_power": False},
    {"n_mels": 15, "frame_length_ms": 20.0, "frame_shift_ms": 7.5, "snip_edges": False},
]
NAMES = {"hann_symmetric": "hanning", "hamming_symmetric": "hamming"}


@pytest.mark.parametrize("settings", KALDI_GRID, ids=str)
def test_fbank_as_torchaudio(settings):
    kaldi = pytest.importorskip("torchaudio.compliance.kaldi", reason="torchaudio is not installed")
    stage = Fbank(**{"n_mels": 23, **settings})
    for audio in utterances():
        expected = kaldi.fbank(
            torch.from_numpy(audio)[None] * 32768, num_mel_bins=stage.n_mels, frame_length=stage.frame_length_ms,
            frame_shift=stage.frame_shift_ms, low_freq=stage.f_min, high_freq=stage.f_max,
            window_type=NAMES.get(stage.window, stage.window), preemphasis_coefficient=stage.preemphasis,
            remove_dc_offset=stage.remove_dc_offset, snip_edges=stage.snip_edges, htk_compat=stage.htk_compat,
            round_to_power_of_two=stage.round_to_power_of_two, use_energy=stage.use_energy,
            raw_energy=stage.raw_energy, energy_floor=stage.energy_floor, use_log_fbank=stage.use_log,
            use_power=stage.use_power,
        )  # fmt: skip
        bound = TORCHAUDIO if stage.use_log else {"rtol": 1e-4, "atol": 1e-6 * float(expected.max())}
        close(alone(stage, audio), expected.numpy(), **bound)


# -- Kaldi --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def knf():
    return pytest.importorskip("kaldi_native_fbank", reason="kaldi-native-fbank is not installed")


def native(knf, kind, stage, audio):
    options = knf.FbankOptions() if kind == "fbank" else knf.MfccOptions()
    frame, mel = options.frame_opts, options.mel_opts
    frame.dither = 0.0
    frame.samp_freq = stage.rate_hz
    frame.frame_length_ms, frame.frame_shift_ms = stage.frame_length_ms, stage.frame_shift_ms
    frame.preemph_coeff, frame.remove_dc_offset = stage.preemphasis, stage.remove_dc_offset
    frame.window_type, frame.snip_edges = NAMES.get(stage.window, stage.window), stage.snip_edges
    frame.round_to_power_of_two = stage.round_to_power_of_two
    mel.num_bins, mel.low_freq, mel.high_freq = stage.n_mels, stage.f_min, stage.f_max
    options.use_energy, options.raw_energy = stage.use_energy, stage.raw_energy
    options.energy_floor, options.htk_compat = stage.energy_floor, stage.htk_compat
    if kind == "fbank":
        options.use_log_fbank, options.use_power = stage.use_log, stage.use_power
        computer = knf.OnlineFbank(options)
    else:
        options.num_ceps, options.cepstral_lifter = stage.n_mfcc, stage.lifter
        computer = knf.OnlineMfcc(options)
    computer.accept_waveform(stage.rate_hz, (audio * 32768 if stage.int16_scale else audio).tolist())
    computer.input_finished()
    return np.stack([computer.get_frame(n) for n in range(computer.num_frames_ready)])


@pytest.mark.parametrize("settings", KALDI_GRID, ids=str)
def test_fbank_as_kaldi(knf, settings):
    stage = Fbank.preset("kaldi", **settings)
    for audio in utterances():
        expected = native(knf, "fbank", stage, audio)
        bound = KALDI if stage.use_log else {"rtol": 1e-4, "atol": 1e-6 * float(expected.max())}
        close(alone(stage, audio), expected, **bound)


CEPSTRA_GRID = [
    {},
    {"use_energy": False},
    {"use_energy": False, "htk_compat": True},
    {"htk_compat": True, "energy_floor": 1.0},
    {"n_mfcc": 20, "n_mels": 40, "f_max": -400.0, "snip_edges": False},
    {"lifter": 0.0, "raw_energy": False},
]


@pytest.mark.parametrize("settings", CEPSTRA_GRID, ids=str)
def test_cepstra_as_kaldi(knf, settings):
    stage = KaldiMFCC.preset("kaldi", **settings)
    for audio in utterances():
        close(alone(stage, audio), native(knf, "mfcc", stage, audio), rtol=1e-4, atol=2e-3)


def test_shorter_than_a_frame_as_kaldi(knf):
    for stage, n in itertools.product((Fbank(), Fbank(snip_edges=False)), (400, 399, 240, 81, 80, 79)):
        (found,) = features(stage, [speechlike(n)])
        options = knf.FbankOptions()
        options.frame_opts.snip_edges = stage.snip_edges
        computer = knf.OnlineFbank(options)
        computer.accept_waveform(16000, speechlike(n).tolist())
        computer.input_finished()
        assert len(found) == computer.num_frames_ready


def test_lhotse_preset_is_kaldi_in_other_settings():
    assert Fbank.preset("lhotse") == Fbank(f_max=-400.0, snip_edges=False, int16_scale=False)


# -- Whisper and NeMo, as transformers makes their features ---------------------------------------------------------


@pytest.mark.parametrize("n_mels", [80, 128])
def test_as_whisper(n_mels):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    theirs = transformers.WhisperFeatureExtractor(feature_size=n_mels)
    audios = [*utterances(), speechlike(480000), speechlike(479990)]
    expected = [theirs(audio, sampling_rate=16000, return_tensors="np")["input_features"][0].T for audio in audios]
    found = features(LogMel.preset("whisper", n_mels=n_mels), audios)
    for ours, other in zip(found, expected, strict=True):
        close(ours.numpy(), other, rtol=1e-4, atol=2e-4)
    assert found[0].shape == (3000, n_mels)


def test_as_nemo():
    """Parakeet's extractor takes NeMo's steps; here a padded batch of it, which is right since its padding is zero."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    theirs = transformers.ParakeetFeatureExtractor()
    audios = [audio for audio in utterances() if len(audio) >= 480]
    made = CMVN.preset("nemo").apply(LogMel.preset("nemo").apply(batch(audios), CHANCE), CHANCE)
    for number, audio in enumerate(audios):
        expected = theirs([audio], sampling_rate=16000)
        count = int(expected["attention_mask"].sum())
        assert made["lengths"][number] == count
        close(
            made["features"][number, :count].numpy(),
            expected["input_features"][0, :count].numpy(),
            rtol=1e-3,
            atol=2e-3,
        )

"""Log-mel features: parity with torchaudio, and independence of the batch."""

from __future__ import annotations

import io
import math
import pickle

import numpy as np
import pytest
import soundfile
import torch

from ecopipe.signal.mel import mel_filters
from ecopipe.stages.collate import Collate
from ecopipe.stages.masking import SpecAugment
from ecopipe.stages.spectral import LogMel
from ecopipe.vocabulary.errors import ConfigError
from ecopipe.vocabulary.sample import Sample

from ..conftest import real
from .speech import CHANCE, batch, features, speechlike

RNG = np.random.default_rng(0)
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def transforms():
    return pytest.importorskip("torchaudio.transforms", reason="torchaudio is not installed")


# -- parity -------------------------------------------------------------------------------------------------------

GRID = [
    {"rate_hz": 16000, "n_mels": 80},
    {"rate_hz": 16000, "n_mels": 80, "mel_scale": "slaney", "norm": "slaney"},
    {"rate_hz": 16000, "n_mels": 80, "mel_scale": "slaney"},
    {"rate_hz": 16000, "n_mels": 80, "norm": "slaney"},
    {"rate_hz": 16000, "n_mels": 40, "n_fft": 512, "win_length": 400, "f_min": 20.0, "f_max": 7600.0},
    {"rate_hz": 16000, "n_mels": 23, "power": 1.0},
    {"rate_hz": 16000, "n_mels": 23, "power": 3.0},
    {"rate_hz": 8000, "n_mels": 40, "n_fft": 256, "hop_length": 80},
    {"rate_hz": 22050, "n_mels": 80, "n_fft": 1024, "win_length": 1024, "hop_length": 256, "f_max": 8000.0},
    {"rate_hz": 44100, "n_mels": 128, "n_fft": 2048, "hop_length": 512, "mel_scale": "slaney", "norm": "slaney"},
    {"rate_hz": 16000, "n_mels": 1, "n_fft": 64, "win_length": 33, "hop_length": 7},
    {"rate_hz": 16000, "n_mels": 10, "n_fft": 100, "hop_length": 300},
]


@pytest.mark.parametrize("settings", GRID, ids=str)
@pytest.mark.parametrize("seconds", [0.05, 1.0, 7.3])
@pytest.mark.parametrize("device", DEVICES)
def test_as_torchaudio(settings, seconds, device):
    stage = LogMel(**settings)
    audio = speechlike(max(round(seconds * stage.rate_hz), stage.n_fft), rate_hz=stage.rate_hz)
    theirs = transforms().MelSpectrogram(
        stage.rate_hz, n_fft=stage.n_fft, win_length=stage.win_length, hop_length=stage.hop_length, f_min=stage.f_min,
        f_max=stage.f_max, n_mels=stage.n_mels, power=stage.power, mel_scale=stage.mel_scale,
        norm=None if stage.norm == "none" else stage.norm,
    )  # fmt: skip
    expected = theirs(torch.from_numpy(audio)).T
    (found,) = features(stage, [audio], rate_hz=stage.rate_hz, device=device)
    assert found.shape == expected.shape == (1 + len(audio) // stage.hop_length, stage.n_mels)
    torch.testing.assert_close(found.exp(), expected.clamp_min(1e-10), rtol=1e-5, atol=2e-6 * expected.max().item())
    heard = expected > 1e-4 * expected.max()
    # torchaudio makes its filters in float32, which alone moves a band by up to 6e-4
    torch.testing.assert_close(found[heard], expected[heard].log(), rtol=0, atol=1e-3)


def test_as_torchaudio_on_real_speech():
    paths = sorted(real("LibriSpeech").rglob("*.flac"))[:8]
    audios = [soundfile.read(path, dtype="float32")[0] for path in paths]
    theirs = transforms().MelSpectrogram(16000, n_fft=400, hop_length=160, n_mels=80)
    for found, audio in zip(features(LogMel(), audios), audios, strict=True):
        expected = theirs(torch.from_numpy(audio)).T
        torch.testing.assert_close(found.exp(), expected.clamp_min(1e-10), rtol=1e-5, atol=2e-3)
        heard = expected > 1e-5
        torch.testing.assert_close(found[heard], expected[heard].log(), rtol=0, atol=1e-3)


def by_definition(stage, audio):
    """The energies float64 [frames, n_mels] of one sample, by plain numpy in float64."""
    width = stage.win_length or stage.n_fft
    window = np.zeros(stage.n_fft)
    left = (stage.n_fft - width) // 2
    window[left : left + width] = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(width) / width)
    padded = np.pad(audio.astype(np.float64), stage.n_fft // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, stage.n_fft)[:: stage.hop_length] * window
    return np.abs(np.fft.rfft(frames)) ** stage.power @ stage.recipe.bands.filters(stage.n_fft)


@pytest.mark.parametrize("settings", GRID, ids=str)
def test_close_to_the_definition_in_float64(settings):
    stage = LogMel(**settings)
    audio = speechlike(30 * stage.n_fft + 1, rate_hz=stage.rate_hz)
    expected = by_definition(stage, audio)
    (found,) = features(stage, [audio], rate_hz=stage.rate_hz)
    np.testing.assert_allclose(np.exp(found.double().numpy()), expected, rtol=2e-5, atol=1e-6 * expected.max())
    heard = expected > 1e-4 * expected.max()
    np.testing.assert_allclose(found.double().numpy()[heard], np.log(expected[heard]), rtol=0, atol=1e-4)


def test_closer_to_the_definition_than_torchaudio_on_real_speech():
    theirs = transforms().MelSpectrogram(16000, n_fft=400, hop_length=160, n_mels=80)
    for path in sorted(real("LibriSpeech").rglob("*.flac"))[:8]:
        audio = soundfile.read(path, dtype="float32")[0]
        expected = by_definition(LogMel(), audio)
        (found,) = features(LogMel(), [audio])
        error = np.abs(found.double().exp().numpy() - expected).max()
        assert error < np.abs(theirs(torch.from_numpy(audio)).T.double().numpy() - expected).max()
        assert error < 1e-6 * expected.max()


@pytest.mark.parametrize("mel_scale", ["htk", "slaney"])
@pytest.mark.parametrize("norm", ["none", "slaney"])
@pytest.mark.parametrize(
    ("rate_hz", "n_fft", "n_mels", "f_min", "f_max"), [(16000, 400, 80, 0, 8000), (44100, 2048, 128, 50, 12000)]
)
def test_filters_are_those_of_torchaudio(mel_scale, norm, rate_hz, n_fft, n_mels, f_min, f_max):
    functional = pytest.importorskip("torchaudio.functional", reason="torchaudio is not installed")
    found = mel_filters(
        rate_hz=rate_hz, n_fft=n_fft, n_mels=n_mels, f_min=f_min, f_max=f_max, mel_scale=mel_scale, norm=norm
    )  # fmt: skip
    expected = functional.melscale_fbanks(
        n_fft // 2 + 1, f_min, f_max, n_mels, rate_hz, norm=None if norm == "none" else norm, mel_scale=mel_scale
    )
    np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=2e-5 * found.max())


def test_slaney_triangles_have_area_one():
    filters = mel_filters(rate_hz=16000, n_fft=8192, n_mels=40, f_min=0, f_max=8000, mel_scale="slaney", norm="slaney")
    np.testing.assert_allclose(filters.sum(axis=0) * 16000 / 8192, 1, rtol=2e-3)


# -- independence of the batch ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "int16"])
@pytest.mark.parametrize("device", DEVICES)
def test_alone_and_among_others_bit_for_bit(dtype, device):
    stage = LogMel()
    audios = [speechlike(n) for n in (16000, 5, 0, 123457, 1, 200, 201, 400, 33333, 160, 159)]
    if dtype == "int16":
        audios = [np.rint(audio * 32767).astype(np.int16) for audio in audios]
    rubbish = 9999 if dtype == "int16" else math.nan
    together = features(stage, audios, wider=777, rubbish=rubbish, device=device)
    backwards = features(stage, audios[::-1], device=device)[::-1]
    for audio, one, other in zip(audios, together, backwards, strict=True):
        (alone,) = features(stage, [audio], device=device)
        assert torch.equal(alone, one)
        assert torch.equal(alone, other)


def test_many_shapes_and_thread_counts_bit_for_bit():
    stage = LogMel()
    audio = speechlike(48123)
    (expected,) = features(stage, [audio])
    threads = torch.get_num_threads()
    try:
        for count, others in ((1, 0), (2, 1), (1, 7), (3, 30)):
            torch.set_num_threads(count)
            (found, *_) = features(stage, [audio, *(speechlike(1000 * n, seed=1) for n in range(others))])
            assert torch.equal(found, expected)
    finally:
        torch.set_num_threads(threads)


def test_no_setting_of_torch_changes_features():
    stage, given = LogMel(), [speechlike(20000)]
    (expected,) = features(stage, given)
    precision = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        with torch.autocast("cpu", dtype=torch.bfloat16):
            (found,) = features(stage, given)
    finally:
        torch.set_float32_matmul_precision(precision)
    assert torch.equal(found, expected)


def test_int16_is_float32_over_32768():
    audio = np.rint(speechlike(16000) * 32767).astype(np.int16)
    (whole,), (real_,) = features(LogMel(), [audio]), features(LogMel(), [(audio / 32768).astype(np.float32)])
    assert torch.equal(whole, real_)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_cuda_as_cpu():
    given = [speechlike(n) for n in (16000, 50000)]
    for cpu, cuda in zip(features(LogMel(), given), features(LogMel(), given, device="cuda"), strict=True):
        torch.testing.assert_close(cpu.exp(), cuda.exp(), rtol=1e-4, atol=1e-6)


# -- edges --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("frames", [1, 2, 3, 150, 199, 200, 201, 399])
def test_short_audio_is_reflected_as_numpy_does(frames):
    audio = speechlike(frames)
    expected = by_definition(LogMel(), audio)
    (found,) = features(LogMel(), [audio])
    np.testing.assert_allclose(np.exp(found.double().numpy()), np.maximum(expected, 1e-10), rtol=1e-4, atol=1e-8)


def test_silence_and_empty_audio_are_the_floor():
    for found, frames in zip(
        features(LogMel(), [np.zeros(320, np.float32), np.zeros(0, np.float32)]), (3, 1), strict=True
    ):
        assert found.shape == (frames, 80)
        assert torch.equal(found, torch.full_like(found, math.log(1e-10)))
    (found,) = features(LogMel(floor=1e-5), [np.zeros(0, np.float32)])
    assert found.shape == (1, 80)
    torch.testing.assert_close(found[0, 0].item(), math.log(1e-5))


@pytest.mark.parametrize("pad_value", [0.0, -5.5])
def test_batch_of_features(pad_value):
    given = batch([speechlike(16000), speechlike(8000)])
    before = given["audio"].clone()
    made = LogMel(pad_value=pad_value).apply(given, CHANCE)
    assert set(made) == {"keys", "features", "lengths", "rate_hz"}
    assert made["features"].shape == (2, 101, 80)
    assert made["features"].dtype == torch.float32
    assert made["features"].is_contiguous()
    assert made["lengths"].tolist() == [101, 51]
    assert torch.equal(made["features"][1, 51:], torch.full((50, 80), pad_value))
    assert torch.equal(given["audio"], before)
    assert given["lengths"].tolist() == [16000, 8000]


def test_fields():
    stage = LogMel()
    assert (stage.needs(), stage.gives(), stage.takes_away()) == (
        ("audio", "lengths", "rate_hz"),
        ("features", "lengths"),
        ("audio",),
    )
    assert pickle.loads(pickle.dumps(stage)) == stage


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LogMel(rate_hz=0), "rate_hz must be a positive int, got 0"),
        (lambda: LogMel(n_mels=2.5), "n_mels = 2.5 has the wrong type; it takes int"),
        (lambda: LogMel(hop_length=-1), "hop_length must be a positive int, got -1"),
        (lambda: LogMel(n_fft=401), "n_fft must be even, got 401"),
        (lambda: LogMel(win_length=401), "win_length must be in 1..n_fft = 400, got 401"),
        (lambda: LogMel(f_max=9000.0), "0 <= f_min < f_max <= 8000.0 Hz must hold, got 0.0 and 9000.0"),
        (lambda: LogMel(f_min=100.0, f_max=50.0), "0 <= f_min < f_max <= 8000.0 Hz must hold, got 100.0 and 50.0"),
        (
            lambda: LogMel(mel_scale="slany"),
            "unknown mel_scale 'slany'. Did you mean 'slaney'? Known: htk, kaldi, slaney.",
        ),
        (lambda: LogMel(norm=None), "norm = None has the wrong type; it takes Norm"),
        (lambda: LogMel(floor=0.0), "floor must be at least 1e-37 and at most 1e37 (float32), got 0.0"),
        (lambda: LogMel(power=0), "power must be positive, got 0"),
        (lambda: LogMel(n_mels=128), "n_mels = 128 is too many for n_fft = 400: band "),
        (
            lambda: LogMel().apply(batch([speechlike(9)], rate_hz=8000), CHANCE),
            "the batch has rate_hz = 8000, 16000 wanted; put Resample(16000) before Collate or ",
        ),
        (
            lambda: LogMel().apply(batch([speechlike(9)]).without("rate_hz"), CHANCE),
            "the batch has rate_hz = None, 16000 wanted; put Resample(16000) before Collate or ",
        ),
        (
            lambda: LogMel().apply(batch([np.zeros(9)]), CHANCE),
            "audio must be float32 or int16 [B, T], got float64 [1, 9]; DecodeAudio(channels='mono') makes such",
        ),
    ],
)
def test_wrong_settings(make, message):
    with pytest.raises(ConfigError) as caught:
        make()
    assert str(caught.value).startswith(f"LogMel: {message}")


def test_real_speech_from_bytes_to_masked_features():
    from ecopipe.stages.audio import DecodeAudio

    paths = sorted(real("LibriSpeech").rglob("*.flac"))[:3]
    decode = DecodeAudio(dtype="int16")
    given = [decode.apply(Sample(path.stem, {"flac": path.read_bytes()}), CHANCE) for path in paths]
    made = SpecAugment().apply(LogMel().apply(Collate("audio").apply(given), CHANCE), CHANCE)
    assert made["lengths"].tolist() == [
        1 + soundfile.info(io.BytesIO(path.read_bytes())).frames // 160 for path in paths
    ]
    assert made["features"].isfinite().all()

"""What every stage of features keeps: nothing depends on the batch, on padding or layout; bad input is defined."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
import torch

import ecopipe
from ecopipe.stages.collate import Collate
from ecopipe.stages.fbank import MFCC, Fbank, KaldiMFCC
from ecopipe.stages.spectral import LogMel, Spectrogram
from ecopipe.vocabulary.errors import ConfigError, SampleError
from ecopipe.vocabulary.sample import Place, Sample

from .speech import CHANCE, batch, features, speechlike

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
STAGES = [
    Spectrogram(),
    Spectrogram(log="db", max_range=60.0, win_length=300),
    LogMel(),
    LogMel(engine="matmul"),
    LogMel.preset("librosa", rate_hz=16000, n_fft=512, n_mels=40, hop_length=160),
    LogMel.preset("whisper", pad_audio_to_s=0.0),
    LogMel.preset("whisper", pad_audio_to_s=4.0),
    LogMel.preset("nemo"),
    LogMel(dtype="bfloat16"),
    Fbank(),
    Fbank(snip_edges=False, use_energy=True),
    Fbank(use_energy=True, htk_compat=True, raw_energy=False),
    MFCC(),
    KaldiMFCC(),
    KaldiMFCC(use_energy=False, htk_compat=True, snip_edges=False),
]
NAMES = [f"{n}-{type(stage).__name__}" for n, stage in enumerate(STAGES)]
LENGTHS = (16000, 5, 0, 62345, 1, 200, 201, 400, 399, 33333, 160, 159, 80, 79)


def flat(audios, *, rate_hz=16000):
    keys = [f"k{n}" for n in range(len(audios))]
    return Collate("audio", layout="flat").apply(
        [Sample(key, {"audio": audio, "rate_hz": rate_hz}) for key, audio in zip(keys, audios, strict=True)]
    )


@pytest.mark.parametrize("stage", STAGES, ids=NAMES)
@pytest.mark.parametrize("dtype", ["float32", "int16"])
@pytest.mark.parametrize("device", DEVICES)
def test_alone_among_others_flat_and_padded_bit_for_bit(stage, dtype, device):
    audios = [speechlike(n) for n in LENGTHS]
    if dtype == "int16":
        audios = [np.rint(audio * 32767).astype(np.int16) for audio in audios]
    rubbish = 9999 if dtype == "int16" else math.nan
    wider = 0 if getattr(stage, "pad_audio_to_s", 0) else 777
    together = features(stage, audios, wider=wider, rubbish=rubbish, device=device)
    backwards = features(stage, audios[::-1], device=device)[::-1]
    packed = stage.apply(flat(audios).to(device), CHANCE)
    pieces = torch.split(packed["features"].cpu(), packed["lengths"].tolist())
    if stage.engine == "matmul":  # a flat batch of it goes by fft
        pieces = together
    assert len(packed["features"]) == packed["lengths"].sum()
    assert packed["offsets"].tolist() == [0, *packed["lengths"].cumsum(0)[:-1].tolist()]
    for audio, one, other, piece in zip(audios, together, backwards, pieces, strict=True):
        (alone,) = features(stage, [audio], device=device)
        assert len(alone) == stage.recipe.framing.frames(len(audio))
        assert torch.equal(alone, one)
        assert torch.equal(alone, other)
        assert torch.equal(alone, piece)
        assert alone.isfinite().all()


@pytest.mark.parametrize("stage", STAGES, ids=NAMES)
def test_values(stage):
    assert pickle.loads(pickle.dumps(stage)) == stage
    made = ecopipe.Pipeline(
        ecopipe.TarShards("x"), ecopipe.Batch(2), ecopipe.DecodeAudio(), ecopipe.Collate("audio"), stage
    )
    assert ecopipe.loads(ecopipe.dumps(made)) == made
    given = batch([speechlike(1000), speechlike(2000)])
    before = given["audio"].clone()
    stage.apply(given, CHANCE)
    assert torch.equal(given["audio"], before)


@pytest.mark.parametrize("stage", STAGES, ids=NAMES)
def test_silence_direct_current_and_clipping_are_finite(stage):
    sounds = {
        "silence": np.zeros(4000, np.float32),
        "direct current": np.full(4000, 0.5, np.float32),
        "clipped": np.sign(speechlike(4000)),
        "one click": np.eye(1, 4000, 2000, dtype=np.float32)[0],
        "beyond the range": 100 * speechlike(4000),
    }
    for name, audio in sounds.items():
        (found,) = features(stage, [audio])
        assert found.isfinite().all(), name
        assert found.abs().max() < 1e9, name


@pytest.mark.parametrize("layout", ["pad", "flat"])
@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("stage", [Spectrogram(), LogMel(), LogMel.preset("whisper"), Fbank(use_energy=True), MFCC()])
def test_not_a_number_is_an_error_that_names_the_sample(stage, wrong, layout):
    audios = [speechlike(3000), speechlike(4000), speechlike(2000)]
    given = batch(audios) if layout == "pad" else flat(audios)
    audio = given["audio"].clone()
    (audio[1] if layout == "pad" else audio[3000:])[1234] = wrong
    given = given.with_fields(audio=audio)
    given.place = Place(0, 0, shards=("a.tar", "b.tar", "c.tar"))
    with pytest.raises(SampleError, match=r"'k1'.*b\.tar.*its audio holds NaN, infinite or enormous values"):
        stage.apply(given, CHANCE)


def test_no_sample_has_a_frame():
    for given in (batch([speechlike(9), speechlike(3)]), flat([speechlike(9), speechlike(3)])):
        made = Fbank().apply(given, CHANCE)
        assert made["lengths"].tolist() == [0, 0]
        assert made["features"].shape[-1] == 80
        assert made["features"].numel() == 0
    assert features(KaldiMFCC(), [speechlike(300), speechlike(400)])[1].shape == (1, 13)


def test_whisper_is_refused_what_is_longer():
    given = batch([speechlike(1000), speechlike(31 * 16000)])
    with pytest.raises(
        SampleError, match="LogMel: sample 'k1': its audio lasts 31 s, and pad_audio_to_s is 30; cut it"
    ):
        LogMel.preset("whisper").apply(given, CHANCE)
    stage = LogMel.preset("whisper", pad_audio_to_s=0.1)  # padding may be wider than that
    (found,), (wide,) = features(stage, [speechlike(900)]), features(stage, [speechlike(900)], wider=5000)
    assert torch.equal(found, wide)


@pytest.mark.parametrize("stage", STAGES, ids=NAMES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_no_default_dtype_has_a_say(stage, dtype):
    audio = speechlike(5000)
    (expected,) = features(stage, [audio])
    torch.set_default_dtype(dtype)
    try:
        (found,) = features(stage, [audio])
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(found, expected)


def test_presets():
    assert LogMel.preset("torchaudio") == LogMel()
    assert LogMel.preset("whisper", n_mels=128).n_mels == 128
    with pytest.raises(
        ConfigError, match=r"LogMel: unknown preset 'whispr'. Did you mean 'whisper'\? Known: librosa, nemo"
    ):
        LogMel.preset("whispr")
    with pytest.raises(ConfigError, match="Collate: unknown preset 'x'. It has none."):
        Collate.preset("x")
    text = '[source]\npath = "x"\n[[stages]]\nstage = "Batch"\nsize = 2\n[[stages]]\nstage = "DecodeAudio"\n'
    text += '[[stages]]\nstage = "Collate"\ninput = "audio"\n'
    text += '[[stages]]\nstage = "LogMel"\npreset = "whisper"\nn_mels = 128\n'
    assert ecopipe.loads(text).device_stages[-1] == LogMel.preset("whisper", n_mels=128)
    assert ecopipe.loads(text, {"LogMel.preset": "nemo"}).device_stages[-1] == LogMel.preset("nemo", n_mels=128)
    with pytest.raises(ConfigError, match=r"stage 4, LogMel: unknown preset 'wisper'. Did you mean 'whisper'\?"):
        ecopipe.loads(text.replace("whisper", "wisper"))


def test_bfloat16_is_float32_rounded():
    audio = speechlike(8000)
    (exact,), (rounded,) = features(LogMel(), [audio]), features(LogMel(dtype="bfloat16"), [audio])
    assert torch.equal(exact.bfloat16(), rounded)


def test_engines_agree():
    audios = [speechlike(n) for n in (16000, 300, 5000)]
    for stage in (LogMel(), LogMel.preset("nemo"), LogMel.preset("whisper", pad_audio_to_s=2.0)):
        other = type(stage)(**{**vars(stage), "engine": "matmul"})
        for one, two in zip(features(stage, audios), features(other, audios), strict=True):
            torch.testing.assert_close(one, two, rtol=0, atol=2e-4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Fbank(n_mels=0), "Fbank: n_mels must be a positive int, got 0"),
        (lambda: Fbank(window="hann"), "Fbank: unknown window 'hann'. "),
        (lambda: Fbank(frame_shift_ms=0.0), "Fbank: frame_shift_ms must be at least one sample, got 0.0"),
        (lambda: Fbank(preemphasis=2.0), "Fbank: preemphasis must be in 0..1, got 2.0"),
        (lambda: Fbank(energy_floor=-1.0), "Fbank: energy_floor must be at least 0, got -1.0"),
        (lambda: Fbank(f_max=-8000.0), "Fbank: 0 <= f_min < f_max <= 8000.0 Hz must hold, got 20.0 and 0.0"),
        (lambda: Fbank(n_mels=300), "Fbank: n_mels = 300 is too many for frames of 512 samples: band "),
        (
            lambda: Fbank(rate_hz=22050, round_to_power_of_two=False, n_mels=23),
            "Fbank: frames of 551 samples need round_to_power_of_two: a transform of an even size is wanted",
        ),
        (lambda: KaldiMFCC(n_mfcc=24), "KaldiMFCC: n_mfcc = 24 coefficients need as many mel bands, n_mels is 23"),
        (lambda: KaldiMFCC(use_log=False), "KaldiMFCC: cepstra are made of the logarithm of energies"),
        (lambda: MFCC(lifter=-1.0), "MFCC: lifter must be at least 0, got -1.0"),
        (lambda: LogMel(preemphasis=1.5), "LogMel: preemphasis must be in 0..1, got 1.5"),
        (lambda: LogMel(pad_audio_to_s=-1.0), "LogMel: pad_audio_to_s must be at least 0, got -1.0"),
        (lambda: LogMel(factor=0.0), "LogMel: factor 0 would make all features equal"),
        (lambda: LogMel(max_range=-1.0), "LogMel: max_range must be at least 0, got -1.0"),
        (lambda: LogMel(dtype="float16"), "LogMel: unknown dtype 'float16'. Did you mean 'bfloat16'?"),
        (lambda: LogMel(engine="cuda"), "LogMel: unknown engine 'cuda'."),
        (lambda: LogMel(power="2"), "LogMel: power = '2' has the wrong type; it takes float"),
        (lambda: LogMel(drop_last="yes"), "LogMel: drop_last = 'yes' has the wrong type; it takes bool"),
        (lambda: LogMel(win_length=True), "LogMel: win_length = True has the wrong type; it takes int | None"),
        (lambda: LogMel(shift=math.inf), "LogMel: shift must be finite, got inf"),
        (lambda: LogMel(pad_value=math.nan), "LogMel: pad_value must be finite, got nan"),
        (lambda: LogMel(floor=1e39), "LogMel: floor must be at least 1e-37 and at most 1e37 (float32), got 1e+39"),
        (lambda: Fbank(frame_shift_ms=0.05), "Fbank: frame_shift_ms must be at least one sample, got 0.05"),
        (lambda: Spectrogram(max_range=8.0), "Spectrogram: max_range is in units of the logarithm; set log"),
        (
            lambda: LogMel().apply(flat([speechlike(9)]).with_fields(audio=torch.zeros(1, 9)), CHANCE),
            "LogMel: audio must be float32 or int16 [sum of T], got float32 [1, 9]",
        ),
        (
            lambda: LogMel(engine="triton").apply(batch([speechlike(9)]), CHANCE),
            "LogMel: engine 'triton' needs triton and a CUDA device, the audio is on cpu",
        ),
    ],
)
def test_wrong_settings(make, message):
    with pytest.raises(ConfigError) as caught:
        make()
    assert str(caught.value).startswith(message)

"""The stages that resample: soxr's in the workers, measured, and ours on the device."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
import soxr
import torch

from ecopipe.signal.resampling import Kernel, resample
from ecopipe.stages.audio import Resample
from ecopipe.stages.collate import Collate
from ecopipe.stages.resampling import ResampleOnDevice
from ecopipe.stages.spectral import LogMel
from ecopipe.vocabulary.errors import ConfigError
from ecopipe.vocabulary.randomness import Chance
from ecopipe.vocabulary.sample import Batch, Sample

from ..signal.test_resampling import USUAL, measured

CHANCE = Chance(7, 1, "test")
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def speechlike(frames, seed=0):
    rng = np.random.default_rng((seed, frames))
    return np.convolve(rng.standard_normal(frames + 3), [0.1, 0.2, 0.2, 0.1], mode="valid")[:frames].astype(np.float32)


# -- in the workers -----------------------------------------------------------------------------------------------


def by_soxr(audio, old_hz, new_hz, **settings):
    """float32 [T] or [T, channels]."""
    return Resample(new_hz, **settings).apply(Sample("a", {"audio": audio, "rate_hz": old_hz}), CHANCE)["audio"]


@pytest.mark.parametrize(("old_hz", "new_hz"), USUAL)
def test_ripple_images_and_aliases_of_soxr(old_hz, new_hz):
    ripple_db, images_db, aliases_db = measured(lambda audio: by_soxr(audio.T, old_hz, new_hz).T, old_hz, new_hz)
    assert ripple_db < 0.1
    assert images_db < -90
    assert aliases_db < -90


@pytest.mark.parametrize(("old_hz", "new_hz"), USUAL)
def test_soxr_piece_by_piece_is_the_whole(old_hz, new_hz):
    audio = speechlike(old_hz + 7)
    stream = soxr.ResampleStream(old_hz, new_hz, 1, dtype="float32", quality="HQ")
    *pieces, last = np.array_split(audio, np.sort(np.random.default_rng(0).integers(0, len(audio), 12)))
    made = [*(stream.resample_chunk(piece) for piece in pieces), stream.resample_chunk(last, last=True)]
    np.testing.assert_array_equal(np.concatenate(made), by_soxr(audio, old_hz, new_hz))


# -- on the device ------------------------------------------------------------------------------------------------


def batch(audios, *, rate_hz, layout="pad", wider=0, rubbish=0.0, device="cpu"):
    samples = [Sample(f"k{n}", {"audio": audio, "rate_hz": rate_hz}) for n, audio in enumerate(audios)]
    made = Collate("audio", layout=layout).apply(samples)
    if layout == "pad":
        audio = torch.nn.functional.pad(made["audio"], (0, wider))
        behind = torch.arange(audio.shape[1]) >= made["lengths"][:, None]
        made = made.with_fields(audio=audio.masked_fill(behind, rubbish))
    return made.to(device)


def test_fields():
    stage = ResampleOnDevice(16000)
    assert stage.needs() == stage.gives() == ("audio", "lengths", "rate_hz")
    assert stage.takes_away() == ()
    assert pickle.loads(pickle.dumps(stage)) == stage
    assert repr(stage) == "ResampleOnDevice(name='', rate_hz=16000, zeros=64, rolloff=0.95, beta=10.0)"


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", ["float32", "int16"])
def test_a_padded_and_a_flat_batch(dtype, device):
    audios = [speechlike(frames) for frames in (44100, 0, 7, 30000)]
    audios = [(audio * 20000).astype(np.int16) if dtype == "int16" else audio for audio in audios]
    given = batch(audios, rate_hz=44100, wider=99, rubbish=math.nan if dtype == "float32" else 999, device=device)
    before = given["audio"].clone()
    made = ResampleOnDevice(16000).apply(given, CHANCE)
    assert torch.equal(given["audio"].nan_to_num(), before.nan_to_num())
    assert (made["rate_hz"], made["lengths"].tolist()) == (16000, [16000, 0, 3, 10884])
    assert (given["rate_hz"], given["lengths"].tolist()) == (44100, [44100, 0, 7, 30000])
    assert made["audio"].dtype == torch.float32
    assert made["audio"].shape == (4, 16036)
    assert made["audio"].is_contiguous()
    for row, audio, length in zip(made["audio"].cpu(), audios, made["lengths"].tolist(), strict=True):
        alone = ResampleOnDevice(16000).apply(batch([audio], rate_hz=44100, device=device), CHANCE)["audio"][0]
        assert torch.equal(row[:length], alone.cpu())
        assert not row[length:].any()
    flat = ResampleOnDevice(16000).apply(batch(audios, rate_hz=44100, layout="flat", device=device), CHANCE)
    assert (flat["rate_hz"], flat["offsets"].tolist()) == (16000, [0, 16000, 16000, 16003])
    assert torch.equal(flat["lengths"], made["lengths"])
    rows = [row[:length] for row, length in zip(made["audio"], made["lengths"].tolist(), strict=True)]
    assert torch.equal(flat["audio"], torch.cat(rows))


@pytest.mark.parametrize("dtype", [np.float32, np.int16])
def test_the_same_rate_is_left_alone(dtype):
    given = batch([speechlike(50).astype(dtype)], rate_hz=16000)
    assert ResampleOnDevice(16000).apply(given, CHANCE) is given


def test_settings_reach_the_filter():
    given = batch([speechlike(4800)], rate_hz=48000)
    made = ResampleOnDevice(16000, zeros=16, rolloff=0.8, beta=8).apply(given, CHANCE)["audio"]
    expected, _ = resample(given["audio"], given["lengths"], 48000, 16000, kernel=Kernel(16, 0.8, 8.0))
    assert torch.equal(made, expected)
    assert not torch.equal(made, ResampleOnDevice(16000).apply(given, CHANCE)["audio"])


def test_features_behind_it():
    """Resampled on the device or by soxr: the same log-mel features, but for the filters' transition bands."""
    t = np.arange(48000) / 48000
    audio = sum(np.sin(2 * np.pi * hz * t + hz) / 10 for hz in range(100, 7200, 130)).astype(np.float32)
    stage = LogMel(f_max=7000.0, floor=1e-3)
    ours = stage.apply(ResampleOnDevice(16000).apply(batch([audio], rate_hz=48000), CHANCE), CHANCE)
    theirs = stage.apply(batch([by_soxr(audio, 48000, 16000)], rate_hz=16000), CHANCE)
    torch.testing.assert_close(ours["features"][:, 3:-3], theirs["features"][:, 3:-3], atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ResampleOnDevice(0), "rate_hz must be a positive int, got 0"),
        (lambda: ResampleOnDevice(16000.0), "rate_hz must be a positive int, got 16000.0"),
        (lambda: ResampleOnDevice(True), "rate_hz must be a positive int, got True"),
        (lambda: ResampleOnDevice(8000, zeros=0), "zeros must be a positive int, got 0"),
        (lambda: ResampleOnDevice(8000, rolloff=1.5), "rolloff must be in (0, 1], got 1.5"),
        (lambda: ResampleOnDevice(8000, beta=-1), "beta must be in 0..100, got -1"),
        (lambda: ResampleOnDevice(8000, beta=math.nan), "beta must be finite, got nan"),
    ],
)
def test_wrong_settings(make, message):
    with pytest.raises(ConfigError) as caught:
        make()
    assert str(caught.value) == f"ResampleOnDevice: {message}"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rate_hz": None}, "the batch must have one rate_hz, a positive int, got None; DecodeAudio and Collate"),
        ({"rate_hz": torch.tensor([1, 2])}, "the batch must have one rate_hz, a positive int, got tensor([1, 2])"),
        (
            {"audio": torch.zeros(1, 2, 3)},
            "audio must be float32 or int16 [B, T], got float32 [1, 2, 3]; DecodeAudio(channels='mono') makes such",
        ),
        ({"audio": torch.zeros(1, 2).double()}, "audio must be float32 or int16 [B, T], got float64 [1, 2]"),
        ({"offsets": torch.zeros(1)}, "audio must be float32 or int16 [sum of T], got float32 [1, 2]"),
    ],
)
def test_a_batch_that_cannot_be_resampled(fields, message):
    given = {"keys": ["a"], "audio": torch.zeros(1, 2), "lengths": torch.tensor([2]), "rate_hz": 8000, **fields}
    with pytest.raises(ConfigError) as caught:
        ResampleOnDevice(16000).apply(Batch(given), CHANCE)
    assert str(caught.value).startswith(f"ResampleOnDevice: {message}")

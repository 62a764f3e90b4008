"""Fused front ends: the features of the single stages, in one or two launches, under Triton's interpreter."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context

import numpy as np
import pytest
import torch

from ecopipe.run.device import apply_stages
from ecopipe.signal import kernels
from ecopipe.stages.fbank import MFCC, Fbank
from ecopipe.stages.foreign import OnDevice
from ecopipe.stages.fusion import FusedFrontEnd, fuse
from ecopipe.stages.masking import SpecAugment
from ecopipe.stages.normalization import CMVN, Statistics
from ecopipe.stages.spectral import LogMel, Spectrogram
from ecopipe.vocabulary.errors import ConfigError
from ecopipe.vocabulary.sample import Batch

from .speech import batch, speechlike
from .test_features import flat

CPU = torch.device("cpu")
AUDIOS = [np.rint(speechlike(n) * 32767).astype(np.int16) for n in (3200, 5, 4800, 0, 1500)]
MASKS = SpecAugment(freq_mask_width=8, time_mask_width=6)
CHAINS = [
    [LogMel(n_mels=40)],
    [LogMel(n_mels=40), replace(MASKS, fill="zero")],
    [LogMel(n_mels=40), MASKS],
    [LogMel.preset("nemo", n_mels=40), CMVN.preset("nemo"), MASKS],
    [LogMel.preset("whisper", n_mels=40, pad_audio_to_s=0.0), replace(MASKS, fill="zero")],
    [LogMel(n_mels=40, dtype="bfloat16"), CMVN(norm_vars=False)],
    [Fbank(n_mels=23, use_energy=True), CMVN(), replace(MASKS, fill="zero")],
    [Spectrogram(n_fft=128, log="db", max_range=40.0)],
]


@pytest.fixture(scope="module")
def interpreter() -> Iterator[ProcessPoolExecutor]:
    if importlib.util.find_spec("triton") is None:
        pytest.skip("triton is not installed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            assert pool.submit(kernels.available, CPU).result()
            yield pool


def through(stages, given, *, fused):
    """The features of each sample, and how many stages there were."""
    stages = [replace(stages[0], engine="triton" if fused else "fft"), *stages[1:]]
    used = fuse(stages, CPU) if fused else stages
    made = apply_stages(given, used, 3)
    counts = made["lengths"].tolist()
    rows = torch.split(made["features"], counts) if "offsets" in made else made["features"]
    return (
        [row[:n].float().numpy().copy() for row, n in zip(rows, counts, strict=True)],
        [one.label for one in used],
        made,
    )


@pytest.mark.parametrize("chain", CHAINS, ids=lambda chain: "+".join(type(stage).__name__ for stage in chain))
@pytest.mark.parametrize("layout", ["pad", "flat"])
def test_as_the_single_stages(interpreter, chain, layout):
    given = batch(AUDIOS, wider=100, rubbish=30000) if layout == "pad" else flat(AUDIOS)
    expected, _, plain = through(chain, given, fused=False)
    found, labels, made = interpreter.submit(through, chain, given, fused=True).result()
    assert labels == ["+".join(stage.label for stage in chain)]
    assert made.keys() == plain.keys()
    assert made["features"].shape == plain["features"].shape
    assert made["features"].dtype == plain["features"].dtype
    assert torch.equal(made["lengths"], plain["lengths"])
    for one, other in zip(found, expected, strict=True):
        bound = 0.05 if plain["features"].dtype == torch.bfloat16 else 2e-3
        np.testing.assert_allclose(one, other, rtol=bound, atol=bound)
    if layout == "pad":
        for row, plain_row, count in zip(made["features"], plain["features"], made["lengths"].tolist(), strict=True):
            assert torch.equal(row[count:], plain_row[count:])


def test_alone_and_among_others_bit_for_bit(interpreter):
    chain = CHAINS[3]
    keys = [f"k{n}" for n in range(len(AUDIOS))]
    together, _, _ = interpreter.submit(through, chain, batch(AUDIOS, wider=55), fused=True).result()
    for audio, key, one in zip(AUDIOS, keys, together, strict=True):
        (alone,), _, _ = interpreter.submit(through, chain, batch([audio], keys=[key]), fused=True).result()
        np.testing.assert_array_equal(alone, one)


def test_statistics_of_the_corpus(interpreter, tmp_path):
    path = tmp_path / "stats.json"
    mean, std = np.linspace(-8, -2, 40), np.linspace(1, 3, 40)
    path.write_text(Statistics("features", 40, 1, 1, tuple(mean), tuple(std)).dumps())
    for masks in (MASKS, replace(MASKS, fill="zero")):
        chain = [LogMel(n_mels=40), CMVN(stats=str(path)), masks]
        expected, _, _ = through(chain, batch(AUDIOS), fused=False)
        found, labels, _ = interpreter.submit(through, chain, batch(AUDIOS), fused=True).result()
        assert labels == ["LogMel+CMVN+SpecAugment"]
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=2e-3, atol=2e-3)


def _labels(stages):
    return [stage.label for stage in fuse(stages, CPU)]


def test_what_is_fused_and_what_is_not(interpreter, tmp_path):
    mel = LogMel(engine="triton")
    noise = OnDevice("torchaudio.transforms.FrequencyMasking", kwargs={"freq_mask_param": 5})
    cases = {
        (mel,): ["LogMel"],
        (mel, SpecAugment.preset("LD")): ["LogMel", "SpecAugment"],  # time warp
        (mel, noise, MASKS): ["LogMel", "OnDevice", "SpecAugment"],
        (mel, MASKS, CMVN()): ["LogMel+SpecAugment", "CMVN"],
        (mel, CMVN(name="a"), CMVN(name="b")): ["LogMel+a", "b"],
        (MFCC(engine="triton"), CMVN()): ["MFCC", "CMVN"],
        (LogMel(), CMVN()): ["LogMel", "CMVN"],  # on the CPU, unless it is asked for
        (LogMel(engine="fft"), CMVN()): ["LogMel", "CMVN"],
        (Fbank(engine="triton", use_energy=True, htk_compat=True), CMVN()): ["Fbank", "CMVN"],
        (LogMel(engine="triton", shift=1.0), CMVN()): ["LogMel", "CMVN"],
    }
    for stages, labels in cases.items():
        assert interpreter.submit(_labels, stages).result() == labels


def test_without_kernels_nothing_is_fused():
    stages = [LogMel(), CMVN(), MASKS]
    assert fuse(stages, CPU) == stages


def test_errors_are_the_front_ends():
    fused = FusedFrontEnd(LogMel(), None, None, name="LogMel")
    assert (fused.needs(), fused.gives(), fused.takes_away()) == (LogMel().needs(), LogMel().gives(), ("audio",))
    with pytest.raises(ConfigError, match="LogMel: the batch has rate_hz = 8000, 16000 wanted"):
        apply_stages(batch([speechlike(9)], rate_hz=8000), [fused], 0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("chain", CHAINS, ids=lambda chain: "+".join(type(stage).__name__ for stage in chain))
def test_on_cuda(chain):
    device = torch.device("cuda")
    given: Batch = batch(AUDIOS, wider=100, rubbish=30000)
    expected = apply_stages(given, chain, 3)
    stages = fuse(chain, device)
    assert len(stages) == 1
    found = apply_stages(given.to(device), stages, 3)
    torch.testing.assert_close(found["features"].cpu(), expected["features"], rtol=5e-3, atol=5e-3)

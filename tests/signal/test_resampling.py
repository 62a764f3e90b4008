"""Resampling on tensors: what the filter keeps and takes away, and that a sample stands alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
import soundfile
import soxr
import torch

from ecopipe.signal import resampling
from ecopipe.signal.resampling import Kernel, resample, resample_chunks, resample_flat, resampled_length

from ..conftest import real

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
USUAL = [(48000, 16000), (44100, 16000), (8000, 16000), (16000, 8000), (22050, 16000), (16000, 44100), (44100, 48000)]
SMALL_DIVISOR = [(16000, 16001), (96000, 44102)]
ALL = [*USUAL, *SMALL_DIVISOR]


def whole(audio, old_hz, new_hz, **settings):
    """One signal [T] by itself."""
    made, lengths = resample(audio[None], torch.tensor([len(audio)], device=audio.device), old_hz, new_hz, **settings)
    assert lengths.tolist() == [made.shape[1]]
    return made[0]


def noise(frames, seed=0):
    return torch.randn(frames, generator=torch.Generator().manual_seed(frames + seed)) * 0.1


# -- what the filter does -----------------------------------------------------------------------------------------


def tones(hz, rate_hz, frames):
    """float64 [len(hz), frames]: sines, all with one phase at time 0."""
    return np.sin(2 * np.pi * np.asarray(hz)[:, None] * np.arange(frames) / rate_hz + 0.3)


def measured(make, old_hz, new_hz):
    """In dB: the greatest ripple up to 0.9 of the lower Nyquist, and what is left beside full tones below and above it.

    ``make`` takes float32 [tones, T]. Left beside a tone in the pass band is all that is not that tone, in its place
    in time: images, aliases, noise, delay. Left of a tone above the new Nyquist is everything.
    """
    nyquist, frames = min(old_hz, new_hz) / 2, old_hz // 2
    passed = np.linspace(0.005, 0.9, 40) * nyquist
    made = make(tones(passed, old_hz, frames).astype(np.float32)).astype(np.float64)
    middle = slice(made.shape[1] // 4, -made.shape[1] // 4)
    wanted = tones(passed, new_hz, made.shape[1])[:, middle]
    gains = (made[:, middle] * wanted).sum(axis=1) / (wanted**2).sum(axis=1)
    left = ((made[:, middle] - gains[:, None] * wanted) ** 2).mean(axis=1)
    ripple_db, images_db = np.abs(20 * np.log10(gains)).max(), 10 * np.log10(left.max() / 0.5)
    if new_hz >= old_hz:
        return ripple_db, images_db, -math.inf
    stopped = np.linspace(nyquist, 0.999 * old_hz / 2, 40)
    made = make(tones(stopped, old_hz, frames).astype(np.float32)).astype(np.float64)[:, middle]
    return ripple_db, images_db, 10 * np.log10((made**2).mean(axis=1).max() / 0.5)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("old_hz", "new_hz"), ALL)
def test_ripple_images_and_aliases(old_hz, new_hz, device):
    def make(audio):
        lengths = torch.full((len(audio),), audio.shape[1], device=device)
        return resample(torch.from_numpy(audio).to(device), lengths, old_hz, new_hz)[0].cpu().numpy()

    ripple_db, images_db, aliases_db = measured(make, old_hz, new_hz)
    assert ripple_db < 0.001
    assert images_db < -115
    assert aliases_db < -110


def test_the_settings_are_those_of_the_filter():
    def at(hz, **settings):
        tone = torch.from_numpy(tones([hz], 48000, 24000)[0]).float()
        made = whole(tone, 48000, 16000, kernel=Kernel(**settings))[2000:-2000].double()
        return 10 * math.log10(made.square().mean() / 0.5)

    assert at(0.95 * 8000) == pytest.approx(-6.02, abs=0.05)
    assert at(0.7 * 8000, rolloff=0.7) == pytest.approx(-6.02, abs=0.05)
    assert at(0.9 * 8000) > -0.001 > -0.5 > at(0.9 * 8000, zeros=16)
    assert at(1.02 * 8000) < -100 < -80 < at(1.02 * 8000, beta=2.0)


@pytest.mark.parametrize(("old_hz", "new_hz"), ALL)
def test_a_constant_stays_and_silence_is_around_it(old_hz, new_hz):
    made = whole(torch.ones(old_hz), old_hz, new_hz)
    torch.testing.assert_close(made[new_hz // 4 : -new_hz // 4], torch.ones(new_hz)[new_hz // 4 : -new_hz // 4])
    # Half of the filter lies before the beginning, but for its middle, which is the cutoff's share of the rate.
    assert made[0].item() == pytest.approx((1 + 0.95 * min(1, new_hz / old_hz)) / 2, abs=1e-5)


@pytest.mark.parametrize("new_hz", [8000, 11025, 16001, 22050, 44100, 48000])
def test_speech_is_that_of_soxr(new_hz):
    path = min(real("LibriSpeech", "test-clean").glob("*/*/*.flac"))
    audio, rate_hz = soundfile.read(path, dtype="float64")
    spectrum = np.fft.rfft(audio)
    spectrum[int(len(spectrum) * 0.9 * min(1, new_hz / rate_hz)) :] = 0  # above that, the two filters differ
    audio = np.fft.irfft(spectrum, n=len(audio)).astype(np.float32)
    expected = soxr.resample(audio, rate_hz, new_hz, quality="HQ")
    made = whole(torch.from_numpy(audio), rate_hz, new_hz).numpy()
    assert made.shape == expected.shape
    assert 10 * np.log10((expected**2).sum() / ((made - expected) ** 2).sum()) > 90


@pytest.mark.parametrize(("old_hz", "new_hz"), ALL)
def test_length_is_that_of_soxr(old_hz, new_hz):
    for frames in (0, 1, 2, 3, 5, 101, 999, 1001, 16001):
        made = whole(torch.zeros(frames), old_hz, new_hz)
        assert len(made) == resampled_length(frames, old_hz, new_hz) == math.floor(frames * new_hz / old_hz + 0.5)
        assert len(made) == len(soxr.resample(np.zeros(frames, np.float32), old_hz, new_hz))


# -- a sample stands alone ----------------------------------------------------------------------------------------


def padded(parts, wider=0, rubbish=math.nan, device="cpu"):
    audio = torch.full((len(parts), max(map(len, parts)) + wider), rubbish)
    for row, part in zip(audio, parts, strict=True):
        row[: len(part)] = part
    return audio.to(device), torch.tensor([len(part) for part in parts], device=device)


def each(parts, old_hz, new_hz, **settings):
    made, lengths = resample(*padded(parts, **settings), old_hz, new_hz)
    assert lengths.tolist() == [resampled_length(len(part), old_hz, new_hz) for part in parts]
    assert not made[torch.arange(made.shape[1], device=made.device) >= lengths[:, None]].any()
    return [row[:length].cpu() for row, length in zip(made, lengths.tolist(), strict=True)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("old_hz", "new_hz"), ALL)
def test_alone_and_among_others_bit_for_bit(old_hz, new_hz, device):
    parts = [noise(frames) for frames in (2 * old_hz + 17, 1, 0, old_hz // 2, old_hz, 100)]
    alone = [each([part], old_hz, new_hz, device=device)[0] for part in parts]
    assert all(part.isfinite().all() and (part.any() or not len(part)) for part in alone)
    for order, wider in (([0, 1, 2, 3, 4, 5], 777), ([5, 3, 1, 2, 4], 0)):
        made = each([parts[n] for n in order], old_hz, new_hz, wider=wider, device=device)
        assert all(torch.equal(one, alone[n]) for one, n in zip(made, order, strict=True))
        chosen = [parts[n] for n in order]
        lengths = torch.tensor([len(part) for part in chosen], device=device)
        flat, made_lengths, offsets = resample_flat(
            torch.cat(chosen).to(device), lengths, lengths.cumsum(0) - lengths, old_hz, new_hz
        )
        assert torch.equal(flat.cpu(), torch.cat([alone[n] for n in order]))
        assert made_lengths.tolist() == [len(alone[n]) for n in order]
        assert torch.equal(offsets, made_lengths.cumsum(0) - made_lengths)


@pytest.mark.parametrize(("old_hz", "new_hz"), ALL)
def test_any_number_of_threads(old_hz, new_hz):
    parts = [noise(2 * old_hz), noise(old_hz // 3)]
    before, made = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 8):
            torch.set_num_threads(threads)
            made.append(each(parts, old_hz, new_hz))
    finally:
        torch.set_num_threads(before)
    for other in made[1:]:
        assert all(torch.equal(one, part) for one, part in zip(made[0], other, strict=True))


@pytest.mark.parametrize(("old_hz", "new_hz"), ALL)
def test_int16_is_float32_of_the_same_audio(old_hz, new_hz):
    audio = (noise(old_hz) * 90000).clamp(-32768, 32767).to(torch.int16)
    assert torch.equal(whole(audio, old_hz, new_hz), whole(audio / 32768, old_hz, new_hz))


@pytest.mark.parametrize(("old_hz", "new_hz"), USUAL)
def test_gathering_fills_blocks_as_copying_does(old_hz, new_hz):
    """The way that CUDA takes, on the CPU."""
    blocks = resampling._blocks(old_hz, new_hz, Kernel(), torch.device("cpu"))
    parts = [noise(old_hz), noise(old_hz // 3), noise(5)]
    audio, lengths = padded(parts)
    count = -(-audio.shape[1] // blocks.hop)
    rows = resampling._Rows(
        (torch.arange(len(parts)) * audio.shape[1]).repeat_interleave(count),
        (torch.arange(count) * blocks.hop).repeat(len(parts)),
        lengths.repeat_interleave(count),
    )
    copied, gathered = torch.zeros(2, len(parts) * count, blocks.size)
    everything = slice(0, len(parts) * count)
    resampling._copying(audio.flatten(), rows, blocks)(copied, everything)
    resampling._gathering(audio.flatten(), rows, blocks)(gathered, everything)
    assert copied.any()
    assert torch.equal(copied, gathered)


def test_no_setting_of_torch_makes_it_less_exact():
    audio = noise(16000)
    made = whole(audio, 16000, 44100)
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(whole(audio, 16000, 44100), made)
    finally:
        torch.set_float32_matmul_precision(precision)


def test_nan_within_a_sample_stays_near_and_in_its_sample():
    parts = [noise(48000), noise(48000, seed=1)]
    clean = each(parts, 48000, 16000)
    parts[0] = parts[0].index_fill(0, torch.tensor([24000]), math.nan)
    hurt = each(parts, 48000, 16000)
    assert hurt[0].isnan().any()
    assert torch.equal(hurt[0][:4000], clean[0][:4000])
    assert torch.equal(hurt[0][-4000:], clean[0][-4000:])
    assert torch.equal(hurt[1], clean[1])


# -- piece by piece -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("old_hz", "new_hz"), ALL)
def test_chunks_joined_are_the_whole(old_hz, new_hz, device):
    rng = np.random.default_rng((old_hz, new_hz))
    for frames, dtype in (
        (0, torch.float32),
        (50, torch.int16),
        (old_hz + 3, torch.int16),
        (2 * old_hz, torch.float32),
    ):
        audio = (noise(frames) * (30000 if dtype == torch.int16 else 1)).to(dtype).to(device)
        expected = whole(audio, old_hz, new_hz)
        for pieces in (1, 20):
            cuts = np.sort(rng.integers(0, frames + 1, pieces - 1)).tolist()  # some of them empty
            made = list(resample_chunks(audio.tensor_split(cuts), old_hz, new_hz))
            assert torch.equal(torch.cat([*made, expected[:0]]), expected)


def test_chunks_come_as_soon_as_they_can():
    def pieces():
        for number in range(400):
            came.append(number)
            yield torch.zeros(160)

    came = []
    made = resample_chunks(pieces(), 16000, 48000)
    next(made)
    assert len(came) < 10  # 0.1 s; a block is 1024 frames
    assert len(torch.cat(list(made))) < 400 * 160 * 3
    assert list(resample_chunks([], 16000, 8000)) == []


def test_chunks_may_come_in_one_buffer():
    audio = noise(9000)

    def pieces():
        buffer = torch.empty(100)
        for piece in audio.split(100):
            buffer.copy_(piece)
            yield buffer
            buffer.fill_(math.nan)

    assert torch.equal(torch.cat(list(resample_chunks(pieces(), 16000, 8000))), whole(audio, 16000, 8000))


@pytest.mark.parametrize(
    ("chunks", "message"),
    [
        ([torch.zeros(3, 2)], r"must be float32 or int16 \[T\], and all of one dtype, got float32 \[3, 2\]"),
        ([torch.zeros(3).double()], r"must be float32 or int16 \[T\], .* got float64 \[3\]"),
        ([torch.zeros(3), torch.zeros(3).short()], r"must be float32 \[T\], .* got int16 \[3\]; convert it before"),
    ],
)
def test_chunks_that_cannot_be_joined(chunks, message):
    with pytest.raises(ValueError, match=message):
        list(resample_chunks(chunks, 16000, 8000))


def test_filters_are_kept_but_not_without_end():
    resampling._blocks.cache_clear()
    for rate_hz in (8000, 8000, 44100):
        whole(noise(100), 16000, rate_hz)
    info = resampling._blocks.cache_info()
    assert (info.hits, info.misses, info.maxsize) == (1, 2, 32)

"""Framing: which samples are in which frame, against a plain definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ecopipe.signal.framing import Framing, lay_out, places

EDGES = ("reflect", "mirror", "zero")


def by_definition(signal, framing):
    """float64 [frames, length], sample by sample."""
    whole = max(len(signal), framing.pad_to)
    signal = np.pad(np.asarray(signal, dtype=np.float64), (0, whole - len(signal))) * framing.scale
    wide = framing.n_fft + framing.length + framing.hop
    if framing.edge == "zero" or not whole:
        extended = np.pad(signal, wide)
    else:
        extended = np.pad(signal, wide, mode={"reflect": "reflect", "mirror": "symmetric"}[framing.edge])
    frames = []
    for n in range(framing.frames(len(signal))):
        begin = {
            "centered": n * framing.hop - framing.n_fft // 2 + (framing.n_fft - framing.length) // 2,
            "inside": n * framing.hop,
            "middle": n * framing.hop + framing.hop // 2 - framing.length // 2,
        }[framing.placing]
        frames.append(extended[wide + begin : wide + begin + framing.length])
    return np.array(frames).reshape(-1, framing.length)


framings = st.builds(
    Framing,
    length=st.integers(1, 40),
    hop=st.integers(1, 50),
    n_fft=st.integers(40, 64),
    placing=st.sampled_from(("centered", "inside", "middle")),
    edge=st.sampled_from(EDGES),
    drop_last=st.booleans(),
    pad_to=st.sampled_from((0, 0, 30, 100)),
    scale=st.sampled_from((1.0, 32768.0)),
)


@settings(max_examples=150, deadline=None)
@given(
    framing=framings, lengths=st.lists(st.integers(0, 150), min_size=1, max_size=5), chunk=st.sampled_from((1, 8, 64))
)
def test_frames_are_those_of_the_definition(framing, lengths, chunk):
    rng = np.random.default_rng(sum(lengths))
    signals = [torch.from_numpy(rng.standard_normal(n).astype(np.float32)) for n in lengths]
    laid = lay_out(signals, framing, chunk)
    frames = laid.signal.unfold(0, framing.length, framing.hop)
    assert list(laid.counts) == [framing.frames(n) for n in lengths]
    assert framing.frames_of(torch.tensor(lengths)).tolist() == list(laid.counts)
    for signal, start, count in zip(signals, laid.starts, laid.counts, strict=True):
        np.testing.assert_allclose(frames[start : start + count].numpy(), by_definition(signal, framing), rtol=1e-6)


def test_no_padding_is_framed():
    """Three rows of 400-sample frames lie between two utterances, whatever their lengths."""
    signals = [torch.zeros(n) for n in (160000, 16000, 0)]
    framing = Framing(400, 160, 400)
    laid = lay_out(signals, framing, 1)
    assert laid.starts == [0, 1001 + 2, 1001 + 2 + 101 + 2]
    assert sum(laid.counts) == 1001 + 101 + 1


@pytest.mark.parametrize("edge", ["reflect", "mirror"])
@pytest.mark.parametrize("length", [1, 2, 3, 10])
def test_places_are_those_of_numpy(edge, length):
    mode = {"reflect": "reflect", "mirror": "symmetric"}[edge]
    expected = np.pad(np.arange(length), 25, mode=mode)
    at = torch.arange(-25, length + 25)
    assert places(at, torch.tensor(length), edge).tolist() == expected.tolist()


def test_places_of_zeros_and_of_nothing():
    assert places(torch.arange(-2, 5), torch.tensor(3), "zero").tolist() == [-1, -1, 0, 1, 2, -1, -1]
    for edge in EDGES:
        assert set(places(torch.arange(-5, 5), torch.tensor(0), edge).tolist()) == {-1}


def test_int16_and_emphasis_of_the_signal():
    framing = Framing(4, 4, 4, placing="inside", preemphasis=0.5)
    laid = lay_out([torch.tensor([16384, -8192, 0, 32767], dtype=torch.int16)], framing, 1)
    expected = np.array([0.5, -0.25 - 0.25, 0.125, 32767 / 32768])
    np.testing.assert_allclose(laid.signal[:4].numpy(), expected, rtol=1e-6)

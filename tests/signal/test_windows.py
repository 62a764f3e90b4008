"""Windows against torch, scipy and Kaldi's definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ecopipe.signal.windows import window


@pytest.mark.parametrize("length", [1, 2, 25, 400])
@pytest.mark.parametrize("periodic", [True, False])
@pytest.mark.parametrize("name", ["hann", "hamming"])
def test_as_torch(name, periodic, length):
    make = torch.hann_window if name == "hann" else torch.hamming_window
    expected = make(length, periodic=periodic, dtype=torch.float64).numpy()
    np.testing.assert_allclose(window(name if periodic else f"{name}_symmetric", length), expected, atol=1e-14)


@pytest.mark.parametrize("name", ["povey", "hanning", "hamming", "blackman", "rectangular"])
def test_as_kaldi(name):
    knf = pytest.importorskip("kaldi_native_fbank", reason="kaldi-native-fbank is not installed")
    options = knf.FrameExtractionOptions()
    options.window_type = name
    expected = np.array(knf.FeatureWindowFunction(options).window)
    ours = {"hanning": "hann_symmetric", "hamming": "hamming_symmetric"}.get(name, name)
    np.testing.assert_allclose(window(ours, 400), expected, atol=1e-6)


@pytest.mark.parametrize("name", ["hann", "hamming_symmetric", "povey", "blackman", "rectangular"])
def test_one_sample(name):
    assert window(name, 1).tolist() == [1.0]

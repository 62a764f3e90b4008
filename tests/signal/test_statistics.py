"""Sums that are the same bits in any order, batch and layout, held against numpy in float64."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from ecopipe.signal.statistics import ExactSum, Frames, means, squared_deviations

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
LENGTHS = (300, 1, 0, 1000, 7)


def sample(length, bins=5, scale=1.0):
    """float32 [length, bins], of which each bin has a mean and a scale of its own."""
    values = np.random.default_rng(length).standard_normal((length, bins))
    return ((values + np.arange(bins) - 1) * 10.0 ** -np.arange(bins) * scale).astype(np.float32)


def padded(rows, *, wider=3, rubbish=math.nan):
    features = np.full((len(rows), max(map(len, rows)) + wider, rows[0].shape[1]), rubbish, dtype=np.float32)
    for at, row in enumerate(rows):
        features[at, : len(row)] = row
    features, lengths = torch.from_numpy(features), torch.tensor([len(row) for row in rows])
    return features, Frames(features, lengths)


def flat(rows, *, between=2, rubbish=math.nan):
    """With rubbish before, between and behind the samples."""
    gap = np.full((between, rows[0].shape[1]), rubbish, dtype=np.float32)
    features = torch.from_numpy(np.concatenate([gap, *(part for row in rows for part in (row, gap))]))
    lengths = torch.tensor([len(row) for row in rows])
    return features, Frames(features, lengths, (lengths + between).cumsum(0) - lengths)


def moments(features, frames):
    mean = means(features, frames)
    return mean, squared_deviations(features, frames, mean.float())


@pytest.mark.parametrize("scale", [1e-20, 1e-3, 1.0, 1e6, 1e30])
def test_means_and_deviations_are_those_of_numpy(scale):
    rows = [sample(length, scale=scale) for length in LENGTHS]
    mean, squares = moments(*padded(rows))
    assert (mean.dtype, squares.dtype) == (torch.float64, torch.float64)
    for at, row in enumerate(rows):
        if not len(row):
            assert not mean[at].any()
            assert not squares[at].any()
            continue
        exact = row.astype(np.float64)
        top = np.abs(exact).max(axis=0)
        np.testing.assert_allclose(mean[at].numpy() / top, exact.mean(axis=0) / top, rtol=0, atol=1e-9)
        expected = ((exact - exact.mean(axis=0)) ** 2).sum(axis=0)
        np.testing.assert_allclose(squares[at].numpy(), expected, rtol=2e-6, atol=0)


def test_one_mean_of_all_bins():
    rows = [sample(length) for length in LENGTHS]
    expected = [row.mean(dtype=np.float64) if len(row) else 0.0 for row in rows]
    for features, frames in (padded(rows), flat(rows)):
        mean = means(features, frames, whole=True)
        assert mean.shape == (len(rows), 1)
        np.testing.assert_allclose(mean[:, 0].numpy(), expected, rtol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("device", DEVICES)
def test_same_bits_alone_in_any_batch_layout_order_and_thread_count(dtype, device):
    rows = [sample(length) for length in LENGTHS]
    alone = [moments(features.to(dtype), frames) for features, frames in (padded([row], wider=0) for row in rows)]
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            for make in (padded, flat):
                for order in ((0, 1, 2, 3, 4), (4, 2, 0, 3, 1)):
                    features, frames = make([rows[at] for at in order])
                    offsets = frames.starts if make is flat else None
                    features = features.to(device, dtype)
                    placed = Frames(
                        features, frames.lengths.to(device), None if offsets is None else offsets.to(device)
                    )
                    for many, one in zip(moments(features, placed), zip(*alone, strict=True), strict=True):
                        assert torch.equal(many.cpu(), torch.cat([one[at] for at in order]))
    finally:
        torch.set_num_threads(threads)


def test_same_bits_for_any_order_of_frames():
    row = sample(1000)
    shuffled = row[np.random.default_rng(0).permutation(len(row))]
    for one, other in zip(moments(*padded([row])), moments(*padded([shuffled])), strict=True):
        assert torch.equal(one, other)
    assert len({float(np.add.reduce(np.roll(row[:, 1], by))) for by in range(50)}) > 1  # floats do depend on it


def test_a_constant_has_no_deviation():
    mean, squares = moments(*padded([np.full((777, 2), -23.02585, dtype=np.float32), np.zeros((3, 2), np.float32)]))
    assert mean[0].float().tolist() == [np.float32(-23.02585)] * 2
    assert not mean[1].any()
    assert not squares.any()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("make", [padded, flat])
def test_what_is_not_finite_spoils_its_own_bin_and_sample(bad, make):
    rows = [sample(length) for length in (30, 20, 10)]
    clean = moments(*make(rows))
    rows[1][7, 2] = bad
    for spoilt, before in zip(moments(*make(rows)), clean, strict=True):
        assert spoilt[1, 2].isnan()
        before[1, 2] = spoilt[1, 2] = 0
        assert torch.equal(spoilt, before)


def test_exact_sums_have_no_rounding_and_no_order():
    rng = np.random.default_rng(3)
    values = rng.standard_normal((200, 3)) * 2.0 ** rng.integers(-1070, 1000, (200, 3))
    values[:3] = [[1e300, 5e-324, 0.0], [1.0, -5e-324, -0.0], [-1e300, 2.0**-1022, 1.0]]
    expected = [sum(map(Fraction, column)) for column in values.T.tolist()]
    once, parts = ExactSum(3), ExactSum(3)
    once.add(values)
    for chunk in np.array_split(values[::-1], 7):
        parts.add(chunk)
    assert once.totals() == parts.totals() == expected
    assert list(map(float, once.totals())) == [math.fsum(column) for column in values.T.tolist()]
    assert ExactSum(2).totals() == [0, 0]


def test_steps_are_rounded_and_not_cut_off():
    """One large number among small ones of one sign, where cutting off would lower the mean by half a step."""
    values = np.random.default_rng(1).uniform(0.001, 0.002, (20000, 1)).astype(np.float32)
    values[7] = 1.0
    mean, squares = moments(*padded([values]))
    exact = values.astype(np.float64)
    assert abs(mean.item() - exact.mean()) < 5e-11
    assert abs(squares.item() / ((exact - exact.mean()) ** 2).sum() - 1) < 1e-6


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_samples_one_by_one_and_all_at_once_are_the_same_bits(scale):
    rows = [sample(length, scale=scale) for length in LENGTHS]
    rows[0][5, 1] = math.nan
    rows[3][7, 2] = math.inf
    for features, frames in (padded(rows), flat(rows)):
        at_once = features.clone().requires_grad_()  # what has a gradient is taken at once, as on a GPU
        for whole in (False, True):
            one, other = means(features, frames, whole=whole), means(at_once, frames, whole=whole)
            torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)
        mean = means(features, frames).float()
        one, other = (squared_deviations(values, frames, mean) for values in (features, at_once))
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


def test_the_true_frames_of_each_sample():
    rows = [sample(length) for length in LENGTHS]
    for features, frames in (padded(rows), flat(rows)):
        found = frames.rows(features)
        assert len(found) == len(rows)
        assert all(np.array_equal(one.numpy(), row) for one, row in zip(found, rows, strict=True))
    features, frames = torch.zeros(0, 4, 3), Frames(torch.zeros(0, 4, 3), torch.zeros(0, dtype=torch.int64))
    assert means(features, frames).shape == (0, 3)
    assert means(features, frames, whole=True).shape == (0, 1)

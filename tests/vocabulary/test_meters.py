"""Histograms of durations: merging is adding, and quantiles are near."""

from __future__ import annotations

import pickle
import random

import numpy as np
import pytest

from ecopipe.vocabulary.meters import Histogram, Tally


def test_quantiles_are_within_a_bin_of_the_true_ones() -> None:
    chance = random.Random(1)
    values = [int(chance.lognormvariate(12, 1.5)) for _ in range(5000)]
    found = Histogram()
    found.add_all(values)
    for share in (0.5, 0.95, 0.99):
        assert found.quantile(share) == pytest.approx(float(np.quantile(values, share)), rel=0.06)
    assert found.mean_ns == pytest.approx(np.mean(values))
    assert (found.least_ns, found.most_ns, found.count) == (min(values), max(values), 5000)


def test_merging_in_any_order_is_entering_all() -> None:
    parts = [[5, 900, 17], [], [10**9], [3, 3, 3]]
    whole, forwards, backwards = Histogram(), Histogram(), Histogram()
    whole.add_all(value for part in parts for value in part)
    for merged, order in ((forwards, parts), (backwards, parts[::-1])):
        for part in order:
            one = Histogram()
            one.add_all(part)
            merged.merge(pickle.loads(pickle.dumps(one)))
    assert forwards == backwards == whole


def test_nothing_entered_is_nothing() -> None:
    assert Histogram().figures() == {
        "count": 0, "mean_us": 0.0, "p50_us": 0.0, "p95_us": 0.0, "p99_us": 0.0, "most_us": 0.0
    }  # fmt: skip


def test_a_quantile_is_never_outside_of_what_was_entered() -> None:
    found = Histogram()
    found.add(1000)
    assert found.quantile(0.0) == found.quantile(1.0) == 1000
    found.add(0)
    assert found.least_ns == 1


def test_tallies_merge() -> None:
    one, other = Tally(cpu_ns=3.0, bytes_in=1.0), Tally(cpu_ns=4.0, bytes_out=2.0)
    other.wall.add(10)
    one.merge(other)
    assert (one.cpu_ns, one.bytes_in, one.bytes_out, one.wall.count) == (7.0, 1.0, 2.0, 1)

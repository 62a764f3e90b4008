"""Philox for many keys at once gives what each key's own generator gives."""

from __future__ import annotations

import numpy as np
import pytest

from ecopipe.vocabulary.philox import uniforms
from ecopipe.vocabulary.randomness import Chance


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 8, 22, 101])
@pytest.mark.parametrize("chance", [Chance(0, 0, "a"), Chance(2**62 + 1, 12, "Crop \N{SNOWMAN}")])
def test_as_each_key_draws_by_itself(chance, count):
    keys = ["", "a", "b", "a", "train/0001", "\N{SNOWMAN}", *map(str, range(100))]
    expected = np.stack([chance.draws(key).uniform(count) for key in keys])
    made = uniforms(chance, keys, count)
    assert made.dtype == np.float64
    np.testing.assert_array_equal(made, expected)


def test_no_keys_and_no_numbers():
    assert uniforms(Chance(0, 0, "a"), [], 3).shape == (0, 3)
    assert uniforms(Chance(0, 0, "a"), ["a"], 0).shape == (1, 0)

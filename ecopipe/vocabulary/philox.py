"""Philox for many keys at once: the numbers of :class:`~ecopipe.vocabulary.randomness.Draws`, in one sweep of numpy.

To draw for every sample of a batch from a generator of its own costs tens of microseconds a sample in making the
generators. Here the ten rounds of Philox-4x64 (Salmon et al., SC 2011) are made for all keys and all counters together.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ecopipe.vocabulary.randomness import Chance

_Words = npt.NDArray[np.uint64]

_ROUNDS = 10
_MULTIPLIERS = (np.uint64(0xD2E7470EE14C6C93), np.uint64(0xCA5A826395121157))
_STEPS = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBB67AE8584CAA73B))
_HALF, _LOW = np.uint64(32), np.uint64(0xFFFFFFFF)


def uniforms(chance: Chance, keys: Sequence[str], count: int) -> npt.NDArray[np.float64]:
    """float64 [len(keys), count] in [0, 1): row i is ``chance.draws(keys[i]).uniform(count)``."""
    digests = b"".join(chance._digest((key,), 16) for key in keys)
    key = np.frombuffer(digests, dtype="<u8").astype(np.uint64).reshape(len(keys), 2)
    blocks = -(-count // 4)
    bits = _philox(key[:, :1], key[:, 1:], np.arange(1, blocks + 1, dtype=np.uint64)[None])
    bits = bits.reshape(len(keys), 4 * blocks)[:, :count]
    drawn: npt.NDArray[np.float64] = np.multiply(bits >> np.uint64(11), 2.0**-53, dtype=np.float64)
    return drawn


def _philox(key_0: _Words, key_1: _Words, counter: _Words) -> _Words:
    """uint64 [keys, counters, 4] of keys [keys, 1] and counters [1, counters], whose upper three words are 0."""
    shape = np.broadcast_shapes(key_0.shape, counter.shape)
    a, b, c, d = np.broadcast_to(counter, shape), *(np.zeros(shape, dtype=np.uint64) for _ in range(3))
    for number in range(_ROUNDS):
        if number:
            key_0, key_1 = key_0 + _STEPS[0], key_1 + _STEPS[1]
        (high_0, low_0), (high_1, low_1) = _product(_MULTIPLIERS[0], a), _product(_MULTIPLIERS[1], c)
        a, b, c, d = high_1 ^ b ^ key_0, low_1, high_0 ^ d ^ key_1, low_0
    return np.stack([a, b, c, d], axis=-1)


def _product(one: np.uint64, other: _Words) -> tuple[_Words, _Words]:
    """The upper and the lower 64 bits of the products."""
    one_high, one_low = one >> _HALF, one & _LOW
    high, low = other >> _HALF, other & _LOW
    crossed = one_low * high + ((one_low * low) >> _HALF)
    middle = one_high * low + (crossed & _LOW)
    return one_high * high + (crossed >> _HALF) + (middle >> _HALF), one * other

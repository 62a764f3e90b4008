"""Randomness without state: what is drawn is a pure function of (seed, epoch, stage, place).

The generator is Philox-4x64-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) as numpy ships
it, keyed by a BLAKE2b hash. Only its raw 64-bit output is used: numpy promises that stream for ever, and does not
promise the methods of ``numpy.random.Generator``.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.random  # at the first draw otherwise: numpy loads it lazily, 20 ms of the first batch
import numpy.typing as npt


class Draws:
    """A stream of random numbers with a fixed beginning."""

    def __init__(self, key: bytes) -> None:
        self._philox = np.random.Philox(key=int.from_bytes(key, "little"))

    def bits(self, count: int) -> npt.NDArray[np.uint64]:
        """uint64 [count], each bit fair."""
        return np.asarray(self._philox.random_raw(count), dtype=np.uint64)

    def uniform(self, count: int) -> npt.NDArray[np.float64]:
        """float64 [count] in [0, 1)."""
        drawn: npt.NDArray[np.float64] = np.multiply(self.bits(count) >> np.uint64(11), 2.0**-53, dtype=np.float64)
        return drawn

    def integer(self, below: int) -> int:
        """One int in [0, below), unbiased to within 2**-53."""
        return int(self.uniform(1)[0] * below)

    def permutation(self, count: int) -> npt.NDArray[np.int64]:
        """int64 [count], each of 0..count-1 once, in random order."""
        return np.argsort(self.bits(count), kind="stable").astype(np.int64)


@dataclass(frozen=True)
class Chance:
    """What a stage may draw from: one stage in one epoch under one seed."""

    seed: int
    epoch: int
    stage: str

    def _digest(self, place: tuple[str | int, ...], size: int) -> bytes:
        text = "\x1f".join(map(str, (self.seed, self.epoch, self.stage, *place)))
        return hashlib.blake2b(text.encode(), digest_size=size).digest()

    def draws(self, *place: str | int) -> Draws:
        """The random numbers of one place, such as a sample key, or a lane and a block."""
        return Draws(self._digest(place, 16))

    def seed_for(self, *place: str | int) -> int:
        """A seed in [0, 2**63) for a foreign generator at one place."""
        return int.from_bytes(self._digest(place, 8), "little") >> 1

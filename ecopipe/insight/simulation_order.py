"""Which batch of the one global sequence comes from which block, and which host takes it, for all batches at once.

:func:`ecopipe.plan.sequence.sequence` and :func:`ecopipe.run.ranks.deal` say so batch by batch, as the blocks are
planned. Here only the number of batches of each block is known, and the answer is arrays.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ecopipe.run.ranks import Tail, steps
from ecopipe.run.worth import HostRanks
from ecopipe.vocabulary.errors import ConfigError

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class World:
    """The ranks of a run, and the hosts that they share: ranks 0 to ``ranks_per_host`` - 1 are on host 0, and so on.

    Raises:
        ConfigError: A number is less than 1.
    """

    ranks: int
    ranks_per_host: int = 8
    tail: Tail = "repeat"

    def __post_init__(self) -> None:
        for name, value in (("ranks", self.ranks), ("ranks-per-host", self.ranks_per_host)):
            if value < 1:
                raise ConfigError(f"simulate: --{name} must be at least 1, got {value}.")

    @property
    def hosts(self) -> int:
        """Hosts; the last one may have fewer ranks."""
        return -(-self.ranks // self.ranks_per_host)

    def ranks_of(self, host: int) -> HostRanks:
        """The ranks of a host."""
        first = host * self.ranks_per_host
        return HostRanks(first, min(self.ranks_per_host, self.ranks - first), self.ranks)

    def steps(self, batches: int) -> int:
        """Steps that each rank makes with so many batches."""
        return steps(batches, self.ranks, self.tail)

    def taken(self, batches: int) -> tuple[Numbers, Numbers]:
        """What is taken in an epoch of so many batches, in the order of the steps and of the ranks in each.

        Returns:
            The number of the batch, and the host that takes it: int64 [steps * ranks], equal on both.
        """
        number = np.arange(self.steps(batches) * self.ranks, dtype=np.int64)
        host = number % self.ranks // self.ranks_per_host
        last = batches - batches % self.ranks  # the first batch of the step that is not filled: it is dealt again
        over = number >= batches
        number[over] = last + (number[over] - last) % max(batches - last, 1)
        return number, host


def sequence_of(lane: Numbers, batches: Numbers, group: int) -> tuple[Numbers, Numbers]:
    """The batches of an epoch in their order: lanes take turns of ``group`` batches, within one block each.

    Args:
        lane: The lane of each block, int64 [blocks]: all blocks of lane 0 in order, then those of the next.
        batches: The batches of each block, int64 [blocks].
        group: Batches of a turn.

    Returns:
        The block of each batch, and its place in it: int64 [batches], equal on both.
    """
    turns = -(-batches // group)
    block = np.repeat(np.arange(len(lane), dtype=np.int64), turns)
    ends = np.cumsum(turns)
    first = (np.arange(len(block), dtype=np.int64) - (ends - turns)[block]) * group
    size = np.minimum(batches[block] - first, group)
    of_lane = lane[block]
    begins = np.searchsorted(of_lane, np.arange(int(lane.max(initial=0)) + 1))
    order = np.lexsort((of_lane, np.arange(len(block), dtype=np.int64) - begins[of_lane]))
    size, first = size[order], first[order]
    before = np.repeat(np.cumsum(size) - size, size)
    within = np.repeat(first, size) + np.arange(int(size.sum()), dtype=np.int64) - before
    return np.repeat(block[order], size), within

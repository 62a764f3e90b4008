"""The one file about ranks: who am I, and which batches of the global sequence are mine.

At step t, rank r of W takes batch B(t*W + r). So every rank makes the same number of steps without a word to another,
and a sequence begun by W ranks can be continued by any other number of them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch.distributed

from ecopipe.plan.sequence import Cursor, Planned
from ecopipe.vocabulary.errors import ConfigError

Tail = Literal["repeat", "drop"]


@dataclass(frozen=True)
class Dealt:
    """A rank's batch of one step, the place after the step, and whether it is a repeat that only fills the step."""

    planned: Planned
    after: Cursor
    repeat: bool
    step: int


def who_am_i(rank: int | None, world_size: int | None) -> tuple[int, int]:
    """Rank and world size: as given; else of torch.distributed; else of torchrun's environment; else (0, 1).

    Raises:
        ConfigError: Only one of the two is given, or the rank is not one of the world.
    """
    if (rank is None) != (world_size is None):
        raise ConfigError(
            f"loader: got rank {rank} and world_size {world_size}. Give both (--rank and --world-size), or neither."
        )
    if rank is None or world_size is None:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            rank, world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
        else:
            rank, world_size = _from_environment("RANK", 0), _from_environment("WORLD_SIZE", 1)
            if ("RANK" in os.environ) != ("WORLD_SIZE" in os.environ) and world_size > 1:
                raise ConfigError(
                    f"loader: the environment says WORLD_SIZE={world_size} and no RANK. Initialise torch.distributed "
                    "first, or give rank and world_size."
                )
    if not 0 <= rank < world_size:
        raise ConfigError(f"loader: rank {rank} is not one of 0 to {world_size - 1} (world_size {world_size}).")
    return rank, world_size


def _from_environment(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    try:
        return int(text)
    except ValueError:
        raise ConfigError(
            f"loader: the environment says {name}={text!r}, which is no number. Unset or mend it."
        ) from None


def host_share(world_size: int) -> float:
    """The share of the batches that the ranks of this host take together; their number is torchrun's."""
    return min(1.0, max(1, _from_environment("LOCAL_WORLD_SIZE", 1)) / world_size)


def place_on_host() -> int:
    """This rank's number among those of this host, from torchrun's environment."""
    return _from_environment("LOCAL_RANK", 0)


def deal(sequence: Iterator[Planned], rank: int, world_size: int, tail: Tail, first_step: int = 0) -> Iterator[Dealt]:
    """A rank's batches of a sequence, one per step.

    Args:
        sequence: The global sequence, from the first batch of a step on.
        rank: This rank.
        world_size: Number of ranks.
        tail: What ranks without a batch in the last step do: ``repeat`` a batch of that step, or all ``drop`` the step.
        first_step: Number of the first step.
    """
    number = first_step
    step: list[Planned] = []
    for planned in sequence:
        step.append(planned)
        if len(step) == world_size:
            yield Dealt(step[rank], planned.after, repeat=False, step=number)
            step, number = [], number + 1
    if step and tail == "repeat":
        yield Dealt(step[rank % len(step)], step[-1].after, repeat=rank >= len(step), step=number)


def steps(batches: int, world_size: int, tail: Tail) -> int:
    """Steps that each rank makes with so many batches."""
    return -(-batches // world_size) if tail == "repeat" else batches // world_size

"""Memory for the arrays of batches, used again when nobody holds it any more."""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from operator import is_
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

LEAST = 2**16
"""Bytes of an array from which on its memory is kept, or shared with another process. A smaller one is had faster from
the allocator, and goes with the rest of what is sent."""

_KEPT = 3
"""Arrays of earlier batches whose memory is kept."""


class Shared(Protocol):
    """Gives memory that another process shares."""

    def empty(self, size: int) -> npt.NDArray[np.uint8] | None:
        """An array whose content is not set, uint8 [size]; None if there is none to be had."""


class Memory:
    """Memory for the arrays of batches. That of a batch which nobody holds any more is used again: to get pages from
    the system takes several times as long as to fill them.

    An array's memory is free when neither the array, nor a view of it, nor a tensor that shares it is left. Several
    threads may use one.
    """

    def __init__(self) -> None:
        self._free: dict[int, Any] = {}  # each call on it is one step: threads, and what is let go meanwhile, may come

    def empty(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """An array whose content is not set."""
        count, kind = math.prod(shape), np.dtype(dtype)
        size = count * kind.itemsize
        owner = self._taken(size)
        if owner is None:
            owner = np.empty(size, dtype=np.uint8)
        # through a memoryview, so that views of the array keep the array, and not only its memory, alive
        array = np.frombuffer(memoryview(owner), dtype=kind, count=count)
        weakref.finalize(array, self._take_back, owner).atexit = False
        return array.reshape(shape)

    def _taken(self, size: int) -> Any:
        for kept in reversed(list(self._free.values())):
            if size <= len(kept) <= 2 * size and (owner := self._free.pop(id(kept), None)) is not None:
                return owner
        return None

    def _take_back(self, owner: Any) -> None:
        self._free[id(owner)] = owner
        for oldest in list(self._free)[:-_KEPT]:
            self._free.pop(oldest, None)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ()


class BatchMemory(Memory):
    """Memory for what a batch holds when it is made. In a worker it is what the consumer shares, as far as there is
    such: ``shared`` gives uint8 arrays of so many bytes, or None."""

    shared: ClassVar[Shared | None] = None

    def empty(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        kind = np.dtype(dtype)
        size = math.prod(shape) * kind.itemsize
        if size < LEAST:
            return np.empty(shape, dtype=kind)
        found = None if self.shared is None else self.shared.empty(size)
        return super().empty(shape, dtype) if found is None else found.view(kind).reshape(shape)


@dataclass(frozen=True)
class BatchRows:
    """The memory of a batch that is padded behind, before its samples are there: ``whole`` [B, Tmax], of which
    ``rows[i]`` [T_i] is what sample i fills. Nothing of it is set."""

    whole: npt.NDArray[Any]
    rows: list[npt.NDArray[Any]]

    @classmethod
    def empty(cls, lengths: npt.NDArray[np.int64], dtype: npt.DTypeLike, memory: Memory) -> BatchRows:
        """For samples of these lengths, int64 [B]."""
        whole = memory.empty((len(lengths), int(lengths.max())), dtype)
        return cls(whole, [row[:length] for row, length in zip(whole, lengths.tolist(), strict=True)])

    def hold(self, arrays: Sequence[npt.NDArray[Any]]) -> bool:
        """Whether the arrays of all samples are these rows."""
        return len(arrays) == len(self.rows) and all(map(is_, arrays, self.rows))

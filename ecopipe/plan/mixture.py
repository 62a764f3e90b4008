"""In which order the rows of several sources follow each other, by their weights.

The j-th row (from 0) of a source with weight w is due at (j + 1/2) / w; rows come as they are due. So of any first n
rows every source has its share to within a row or two, and has never fewer of more: the divisor method of
Sainte-Laguë (1910), known as Webster's. Nothing is drawn, so a place in the mixture is one number.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Stop = Literal["first", "all", "cycle", "forever"]
"""When a mixture ends.

``first``: when a source has no more rows. ``all``: when none has; one that has none left drops out. ``cycle``: when
every source has been delivered whole; those that end sooner begin again. ``forever``: never; each begins again.
"""


@dataclass(frozen=True)
class _Phase:
    """A part of the mixture with the same sources in it: where it begins, and what had come of each source by then."""

    first: int
    before: tuple[int, ...]
    weights: tuple[float, ...]

    def counts(self, n: int) -> list[int]:
        """Rows of each source among the first ``n`` of the mixture, for an ``n`` in this phase."""
        left = n - self.first
        if not left:
            return list(self.before)
        total, sources = sum(self.weights), sum(weight > 0 for weight in self.weights)
        found = [max(0, int(left * weight / total) - sources) for weight in self.weights]
        due = [((found[at] + 0.5) / weight, at) for at, weight in enumerate(self.weights) if weight]
        heapq.heapify(due)
        for _ in range(left - sum(found)):
            _, at = due[0]
            found[at] += 1
            heapq.heapreplace(due, ((found[at] + 0.5) / self.weights[at], at))
        return [before + count for before, count in zip(self.before, found, strict=True)]


class Mixture:
    """The order of the rows of some sources.

    Args:
        rows: Rows of each source.
        weights: Weight of each source, in rows; a source with weight 0, or without rows, has no part in it.
        stop: When it ends.
    """

    def __init__(self, rows: Sequence[int], weights: Sequence[float], stop: Stop) -> None:
        self._rows = list(rows)
        active = tuple(float(weight) if count else 0.0 for count, weight in zip(rows, weights, strict=True))
        self._phases = [_Phase(0, (0,) * len(rows), active)]
        self.total: int | None = None
        """Rows of the mixture; None if it never ends."""
        if not any(active):
            self.total = 0
        elif stop == "all":
            self.total = self._drop_out()
        elif stop == "first":
            self.total = self._last_before_one_ends(self._phases[0])
        elif stop == "cycle":
            self.total = self._first_after_all_ended(self._phases[0])

    def _drop_out(self) -> int:
        while True:
            phase = self._phases[-1]
            end = self._last_before_one_ends(phase)
            counts = phase.counts(end)
            left = tuple(
                weight if count < rows else 0.0
                for weight, count, rows in zip(phase.weights, counts, self._rows, strict=True)
            )
            if not any(left):
                return end
            self._phases.append(_Phase(end, tuple(counts), left))

    def _last_before_one_ends(self, phase: _Phase) -> int:
        """The most rows of the mixture that take no more of any source than it has."""
        low, high = phase.first, phase.first + sum(self._rows)
        while low < high:
            middle = (low + high + 1) // 2
            fits = all(count <= rows for count, rows in zip(phase.counts(middle), self._rows, strict=True))
            low, high = (middle, high) if fits else (low, middle - 1)
        return low

    def _first_after_all_ended(self, phase: _Phase) -> int:
        """The fewest rows of the mixture that take all of each source."""
        total, size = sum(phase.weights), len(phase.weights)
        active = [(rows, weight) for rows, weight in zip(self._rows, phase.weights, strict=True) if weight]
        low, high = 0, max(int((rows + size + 1) * total / weight) for rows, weight in active) + size
        while low < high:
            middle = (low + high) // 2
            counts = phase.counts(middle)
            whole = all(
                count >= rows or not weight
                for count, rows, weight in zip(counts, self._rows, phase.weights, strict=True)
            )
            low, high = (low, middle) if whole else (middle + 1, high)
        return low

    def _parts(self, low: int, high: int) -> list[tuple[_Phase, int, int]]:
        ends = [*(phase.first for phase in self._phases[1:]), max(high, self._phases[-1].first)]
        found = [(phase, max(low, phase.first), min(high, end)) for phase, end in zip(self._phases, ends, strict=True)]
        return [(phase, start, stop) for phase, start, stop in found if start < stop]

    def counts(self, n: int) -> list[int]:
        """Rows of each source among the first ``n`` rows of the mixture; it never falls as ``n`` grows."""
        return next(phase for phase in reversed(self._phases) if phase.first <= n).counts(n)

    def order(self, low: int, high: int) -> npt.NDArray[np.int64]:
        """Rows [low, high) of the mixture, as int64 [high - low] positions into the rows of the first source followed
        by those of the next."""
        begin, end = self.counts(low), self.counts(high)
        firsts = np.cumsum([0, *(stop - start for start, stop in zip(begin, end, strict=True))])
        parts = []
        for phase, start, stop in self._parts(low, high):
            due, at = [], []
            for number, (first, last) in enumerate(zip(phase.counts(start), phase.counts(stop), strict=True)):
                rows = np.arange(first, last, dtype=np.int64)
                if len(rows):
                    due.append((rows - phase.before[number] + 0.5) / phase.weights[number])
                    at.append(rows - begin[number] + firsts[number])
            parts.append(np.concatenate(at)[np.argsort(np.concatenate(due), kind="stable")])
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)

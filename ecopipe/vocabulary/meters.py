"""Meters: durations in histograms that can be merged, and what one stage took for one batch."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import log2
from typing import Any

import numpy as np

BINS_PER_OCTAVE = 8
"""Bins between a duration and its double: a quantile is off by 4.5 % at most."""

FEW = 48
"""Durations up to which it is faster to enter them one by one."""


@dataclass
class Histogram:
    """Durations in ns, in log-spaced bins. Merging is adding: in any order, from any process, it is the same.

    >>> found = Histogram()
    >>> found.add_all([1000, 1000, 1000, 4000])
    >>> found.count, round(found.mean_ns), 950 < found.quantile(0.5) < 1050
    (4, 1750, True)
    """

    bins: dict[int, int] = field(default_factory=dict)
    count: int = 0
    total_ns: int = 0
    least_ns: int = 0
    most_ns: int = 0

    def add(self, duration_ns: int) -> None:
        """Enters one duration; less than a nanosecond is entered as one."""
        self.add_all((duration_ns,))

    def add_all(self, durations_ns: Iterable[int], each: int = 1) -> None:
        """Enters some durations, each as often as said: it stands for others like it."""
        values = list(durations_ns)
        if not values:
            return
        if min(values) < 1:
            values = [max(value, 1) for value in values]
        bins = self.bins
        if len(values) < FEW:
            for value in values:
                number = int(log2(value) * BINS_PER_OCTAVE)
                bins[number] = bins.get(number, 0) + each
        else:
            counts = np.bincount((np.log2(values) * BINS_PER_OCTAVE).astype(np.int64))
            for number in np.flatnonzero(counts).tolist():
                bins[number] = bins.get(number, 0) + int(counts[number]) * each
        least = min(values)
        self.least_ns = min(self.least_ns, least) if self.count else least
        self.most_ns = max(self.most_ns, *values)
        self.count += len(values) * each
        self.total_ns += sum(values) * each

    def merge(self, other: Histogram) -> None:
        """Enters what another one holds."""
        if not other.count:
            return
        for number, count in other.bins.items():
            self.bins[number] = self.bins.get(number, 0) + count
        self.least_ns = min(self.least_ns, other.least_ns) if self.count else other.least_ns
        self.most_ns = max(self.most_ns, other.most_ns)
        self.count += other.count
        self.total_ns += other.total_ns

    @property
    def mean_ns(self) -> float:
        """The mean in ns, exact; 0 if nothing was entered."""
        return self.total_ns / self.count if self.count else 0.0

    def quantile(self, share: float) -> float:
        """The duration in ns that ``share`` (0 to 1) of those entered do not exceed; 0 if nothing was entered."""
        left = share * self.count
        for number, count in sorted(self.bins.items()):
            left -= count
            if left <= 0:
                middle = 2.0 ** ((number + 0.5) / BINS_PER_OCTAVE)
                return float(min(max(middle, self.least_ns), self.most_ns))
        return float(self.most_ns)

    def figures(self) -> dict[str, Any]:
        """Count, mean and quantiles in microseconds, as JSON."""
        quantiles = {f"p{round(100 * share)}_us": self.quantile(share) / 1e3 for share in (0.5, 0.95, 0.99)}
        figures = {"mean_us": self.mean_ns / 1e3, **quantiles, "most_us": self.most_ns / 1e3}
        return {"count": self.count, **{name: round(value, 3) for name, value in figures.items()}}


@dataclass
class Tally:
    """What one stage took: wall time, of it on a core, and bytes that went in and came out.

    ``cpu_ns``, ``bytes_in`` and ``bytes_out`` are estimates: not every call is measured so closely.
    """

    wall: Histogram = field(default_factory=Histogram)
    cpu_ns: float = 0.0
    bytes_in: float = 0.0
    bytes_out: float = 0.0

    def merge(self, other: Tally) -> None:
        """Enters what another one holds."""
        self.wall.merge(other.wall)
        self.cpu_ns += other.cpu_ns
        self.bytes_in += other.bytes_in
        self.bytes_out += other.bytes_out


def cores() -> int:
    """Cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1

"""Samples that were made a moment ago, for pipelines in which several parts of a document follow each other."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable

from ecopipe.vocabulary.sample import Sample


class RecentSamples:
    """Remembers the samples of the last batches, so that a document is tokenized once and not for each of its parts."""

    def __init__(self) -> None:
        self._made: OrderedDict[Hashable, Sample] = OrderedDict()

    def get(self, which: Hashable, make: Callable[[], Sample]) -> Sample:
        """The sample that ``which`` stands for: remembered, or made now."""
        if (sample := self._made.get(which)) is None:
            sample = self._made[which] = make()
        self._made.move_to_end(which)
        return sample

    def keep(self, count: int) -> None:
        """Forgets all but so many that were used last."""
        while len(self._made) > count:
            self._made.popitem(last=False)

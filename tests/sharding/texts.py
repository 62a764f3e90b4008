"""A corpus of made-up texts, in which some may be bad."""

from __future__ import annotations

import time
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from ecopipe.datasets.corpus import Corpus, RawSample


class Texts(Corpus):
    """A corpus of texts; the samples ``bad`` of train cannot be measured. Each takes ``wait_s`` to read."""

    name = "texts"
    columns: ClassVar[dict[str, str]] = {"speaker": "int32"}
    classes = ("no", "yes")

    def __init__(self, count: int, bad: tuple[int, ...] = (), *, wait_s: float = 0.0, longest: int = 10**9) -> None:
        self._count, self._bad, self._wait_s, self._longest = count, bad, wait_s, longest

    def splits(self) -> tuple[str, ...]:
        return ("test", "train")

    def count(self, split: str) -> int:
        return self._count

    def report(self) -> list[str]:
        return []

    def key(self, split: str, place: int) -> str:
        return f"{split}-{place:03d}"

    def sizes(self, split: str) -> npt.NDArray[np.int64]:
        return np.minimum(np.arange(1, self._count + 1), self._longest) * 5 + 1

    def sample(self, split: str, place: int) -> RawSample:
        time.sleep(self._wait_s)
        members = {"txt": b"word " * min(place + 1, self._longest), "cls": b"%d" % (place % 2)}
        if place in self._bad and split == "train":
            members["flac"] = b"no flac"
        return RawSample(self.key(split, place), members, {"speaker": place})

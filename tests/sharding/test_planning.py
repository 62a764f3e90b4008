from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from ecopipe.datasets.corpus import RawSample
from ecopipe.datasets.shards import opened
from ecopipe.sharding.limits import Limits
from ecopipe.sharding.recipe import Recipe
from ecopipe.sharding.write import write_corpus
from ecopipe.stages.plan import Where

from .texts import Texts

KIB = 2**10


class Sized(Texts):
    """Samples of given bytes."""

    def __init__(self, sizes: list[int]) -> None:
        super().__init__(len(sizes))
        self._sizes = sizes

    def splits(self) -> tuple[str, ...]:
        return ("train",)

    def sizes(self, split: str) -> npt.NDArray[np.int64]:
        return np.array(self._sizes)

    def sample(self, split: str, place: int) -> RawSample:
        return RawSample(self.key(split, place), {"bin": bytes(self._sizes[place])}, {"speaker": place})


def shards_of(folder: Path) -> list[tuple[int, int]]:
    """Rows and bytes of each shard."""
    with opened(str(folder / "index.arrow")) as index:
        return [(shard.rows, shard.size) for shard in index.shards]


@pytest.mark.parametrize("max_count", [None, 4])
@pytest.mark.parametrize(
    "sizes",
    [
        [600 * KIB] * 10,
        [100 * KIB] * 40,
        [10 * KIB] * 20 + [900 * KIB] * 6,
        [3000 * KIB] + [10 * KIB] * 20,
        [10 * KIB] * 20 + [3000 * KIB],
    ],
)
def test_limits_are_kept_whatever_the_samples(tmp_path: Path, sizes: list[int], max_count: int | None) -> None:
    limit = 1000 * KIB
    write_corpus(Sized(sizes), tmp_path, limits=Limits(max_bytes=limit, max_count=max_count))
    shards = shards_of(tmp_path / "train")
    assert sum(rows for rows, _ in shards) == len(sizes)
    framing = 20 * KIB  # what ends a tar is not a sample's
    assert all(size <= limit + framing or rows == 1 for rows, size in shards)
    assert all(rows <= (max_count or len(sizes)) for rows, _ in shards)
    assert len(shards) <= 2 * sum(sizes) / limit + len(sizes) / (max_count or len(sizes)) + 2


def test_the_count_is_kept_where_a_filter_keeps_neighbours(tmp_path: Path) -> None:
    recipe = Recipe((Where("speaker", at_most=49),))
    write_corpus(Sized([10] * 100), tmp_path, limits=Limits(max_count=10), recipe=recipe)
    shards = shards_of(tmp_path / "train")
    assert sum(rows for rows, _ in shards) == 50
    assert max(rows for rows, _ in shards) == 10


def test_shards_of_a_byte_hold_one_sample(tmp_path: Path) -> None:
    write_corpus(Sized([1, 5000, 1, 1, 9000]), tmp_path, limits=Limits(max_bytes=1))
    assert [rows for rows, _ in shards_of(tmp_path / "train")] == [1] * 5

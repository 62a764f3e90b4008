"""Entering the sequence at every cursor gives the rest of it, for uneven lanes and empty blocks."""

import numpy as np
import pyarrow as pa
import pytest

from ecopipe.plan.blocks import Lane, Slice, deal_lanes, slices_of
from ecopipe.plan.sequence import Cursor, Rows, sequence


class Recipe:
    """Cuts blocks in threes; every third block gives nothing at all."""

    def __init__(self, shards: list[int], lanes: int) -> None:
        self._lanes = deal_lanes(slices_of(shards, 64), lanes, 7)

    def lanes(self) -> list[Lane]:
        return self._lanes

    def cut(self, block: pa.Table, lane: int, number: int) -> list[Rows]:
        if number % 3 == 2:
            return []
        rows = np.arange(block.num_rows, dtype=np.int64)
        return [rows[at : at + 3] for at in range(0, len(rows), 3)]


def read(slices: list[Slice]) -> pa.Table:
    return pa.table({"key": [f"{piece.shard}:{row}" for piece in slices for row in range(piece.start, piece.stop)]})


@pytest.mark.parametrize("lanes", [1, 2, 3, 5])
@pytest.mark.parametrize("shards", [[50], [1, 40, 3, 0, 9], [0, 0], [2]])
def test_every_cursor_gives_the_rest(shards: list[int], lanes: int) -> None:
    recipe = Recipe(shards, lanes)
    whole = list(sequence(recipe, read))
    keys = [planned.rows()["key"].to_pylist() for planned in whole]
    assert [planned.number for planned in whole] == list(range(len(whole)))
    assert len({key for batch in keys for key in batch}) == sum(map(len, keys))
    for at, planned in enumerate(whole):
        rest = list(sequence(recipe, read, planned.after))
        assert [other.rows()["key"].to_pylist() for other in rest] == keys[at + 1 :]
        assert [other.after for other in rest] == [other.after for other in whole[at + 1 :]]


def test_lanes_take_turns() -> None:
    recipe = Recipe([40, 40], 2)
    places = [planned.after.lanes for planned in sequence(recipe, read)][:2]
    assert places == [((0, 1), (0, 0)), ((0, 1), (0, 1))]


def test_an_empty_cursor_is_the_beginning() -> None:
    recipe = Recipe([9], 2)
    assert [p.after for p in sequence(recipe, read, Cursor())] == [p.after for p in sequence(recipe, read)]

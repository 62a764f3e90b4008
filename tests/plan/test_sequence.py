"""Entering the sequence at every cursor gives the rest of it, for uneven lanes and empty blocks."""

import numpy as np
import pyarrow as pa
import pytest

from ecopipe.plan.blocks import Lane, Rows, Slice, slices_of
from ecopipe.plan.parts import Cut
from ecopipe.plan.sequence import Cursor, sequence

from .test_blocks import lanes_of


class Recipe:
    """Cuts blocks in threes; every third block gives nothing at all."""

    def __init__(self, shards: list[int], lanes: int, group: int = 1) -> None:
        self._lanes = lanes_of(slices_of(shards, 64), lanes, 7)
        self.group = group

    def lanes(self) -> list[Lane]:
        return self._lanes

    def cut(self, block: pa.Table, order: Rows, lane: int, number: int) -> Cut:
        batches = [order[at : at + 3] for at in range(0, len(order), 3)]
        return Cut([] if number % 3 == 2 else batches, block)


def read(slices: list[Slice], columns: tuple[str, ...] | None = None) -> pa.Table:
    names = [f"{piece.shard}:{row}" for piece in slices for row in range(piece.start, piece.stop)]
    return pa.table({"key": names, "other": np.arange(len(names))}).select(columns or ("key", "other"))


@pytest.mark.parametrize("group", [1, 2, 3])
@pytest.mark.parametrize("lanes", [1, 2, 3, 5])
@pytest.mark.parametrize("shards", [[50], [1, 40, 3, 0, 9], [0, 0], [2]])
def test_every_cursor_gives_the_rest(shards: list[int], lanes: int, group: int) -> None:
    recipe = Recipe(shards, lanes, group)
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


def test_a_lane_gives_a_group_of_batches_a_turn() -> None:
    recipe = Recipe([40, 40], 2, group=2)
    turns = [planned.after.turn for planned in sequence(recipe, read)]
    assert turns[:10] == [0, 1, 1, 0, 0, 1, 1, 0, 1, 0]  # a block of two batches, and one of three: two, and one left


def test_other_columns_are_read_where_rows_are_asked_for_and_only_there() -> None:
    asked = []

    def counted(slices: list[Slice], columns: tuple[str, ...] | None = None) -> pa.Table:
        asked.append(columns)
        return read(slices, columns)

    recipe = Recipe([40], 1)
    expected = [planned.rows() for planned in sequence(recipe, read)]
    found = [planned.rows() for planned in sequence(recipe, counted, columns=("key",)) if planned.number != 0]
    assert found == expected[1:]
    blocks = int(recipe.lanes()[0].blocks)
    assert asked.count(("key",)) == blocks
    assert asked.count(None) == sum(number % 3 != 2 for number in range(blocks))

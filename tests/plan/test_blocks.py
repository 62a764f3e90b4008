import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecopipe.plan.blocks import Slice, deal_lanes, first_rows, slices_of


def rows(slices: list[Slice]) -> list[tuple[int, int]]:
    return [(piece.shard, row) for piece in slices for row in range(piece.start, piece.stop)]


@given(st.lists(st.integers(0, 70), max_size=8), st.integers(1, 200), st.integers(1, 4), st.integers(1, 40))
def test_lanes_and_blocks_hold_every_row_once(shards: list[int], block_rows: int, lanes: int, size: int) -> None:
    slices = slices_of(shards, block_rows)
    everything = [(shard, row) for shard, count in enumerate(shards) for row in range(count)]
    assert rows(slices) == everything
    assert all(0 < len(piece) <= max(1, block_rows // 16) for piece in slices)
    found = []
    for lane in deal_lanes(slices, lanes, size):
        blocks = [rows(lane.block(number)) for number in range(lane.blocks)]
        assert all(len(block) == size for block in blocks[:-1])
        assert sum(map(len, blocks)) == lane.rows
        found += [row for block in blocks for row in block]
    assert sorted(found) == everything


@pytest.mark.parametrize("count", [0, 1, 5, 6, 99])
def test_first_rows_are_the_first(count: int) -> None:
    slices = slices_of([3, 0, 3], 1000)
    assert rows(first_rows(slices, count)) == rows(slices)[:count]

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecopipe.plan.blocks import Lane, Share, Slice, Slices, Stream, bounds_of, first_rows, slices_of
from ecopipe.plan.mixture import Mixture, Stop


def rows(slices: Sequence[Slice]) -> list[tuple[int, int]]:
    return [(piece.shard, row) for piece in slices for row in range(piece.start, piece.stop)]


def listed(slices: Slices) -> list[Slice]:
    return [Slice(*map(int, piece)) for piece in slices]


def lanes_of(slices: Slices, lanes: int, block_rows: int, multiple: int = 1) -> list[Lane]:
    """Lanes of one source, in which nothing is mixed."""
    stream = Stream(slices)
    return [
        Lane([Share(lambda _: stream, low, high)], Mixture([high - low], [1], "all"), block_rows, multiple)
        for low, high in bounds_of(len(stream), lanes)
    ]


@given(
    st.lists(st.integers(0, 70), max_size=8),
    st.integers(1, 200),
    st.integers(1, 4),
    st.integers(1, 9),
    st.integers(1, 5),
)
def test_lanes_and_blocks_hold_every_row_once(
    shards: list[int], block_rows: int, lanes: int, times: int, multiple: int
) -> None:
    slices = slices_of(shards, block_rows)
    everything = [(shard, row) for shard, count in enumerate(shards) for row in range(count)]
    assert rows(listed(slices)) == everything
    assert all(0 < len(piece) <= max(1, block_rows // 16) for piece in listed(slices))
    found = []
    sizes = []
    for lane in lanes_of(slices, lanes, times * multiple, multiple):
        blocks = [rows(lane.block(number)) for number in range(int(lane.blocks))]
        assert [len(block) for block in blocks] == lane.block_sizes()
        assert all(len(block) <= times * multiple for block in blocks)
        assert all(len(block) % multiple == 0 for block in blocks[:-1])
        sizes.append(sum(map(len, blocks)))
        found += [row for block in blocks for row in block]
    assert found == everything
    assert max(sizes) - min(sizes) <= 1


def test_blocks_of_a_lane_are_of_about_equal_size() -> None:
    (lane,) = lanes_of(slices_of([66], 64), 1, 64)
    assert lane.block_sizes() == [33, 33]


@pytest.mark.parametrize("count", [0, 1, 5, 6, 99])
def test_first_rows_are_the_first(count: int) -> None:
    slices = slices_of([3, 0, 3], 1000)
    assert rows(listed(first_rows(slices, count))) == rows(listed(slices))[:count]


def test_slices_of_a_second_source_go_on_counting() -> None:
    assert slices_of([2, 3], 1000, 7).tolist() == [[7, 0, 2], [8, 0, 3]]


def mixed(stop: Stop, weights: Sequence[float], block_rows: int = 8) -> Lane:
    """Two sources, of 10 and of 30 rows; the second pass of each is in reverse."""
    shares = []
    for shard, count in enumerate((10, 30)):
        slices = slices_of([count], 16, shard)
        passes = [Stream(slices), Stream(slices[::-1])]
        shares.append(Share(lambda turn, passes=passes: passes[turn % 2], 0, count))  # type: ignore[misc]
    return Lane(shares, Mixture([10, 30], weights, stop), block_rows)


def delivered(lane: Lane, blocks: int | None = None) -> list[tuple[int, int]]:
    found = []
    for number in range(int(lane.blocks) if blocks is None else blocks):
        block = rows(lane.block(number))
        order = lane.order(number)
        assert sorted(order.tolist()) == list(range(len(block)))
        found += [block[at] for at in order]
    return found


def test_a_mixed_lane_keeps_each_sources_own_order() -> None:
    found = delivered(mixed("all", (1, 1)))
    assert [row for shard, row in found if shard == 0] == list(range(10))
    assert [row for shard, row in found if shard == 1] == list(range(30))
    assert [shard for shard, _ in found[:20]] == [0, 1] * 10  # in turns, while both have some
    assert {shard for shard, _ in found[20:]} == {1}


def test_a_source_that_ends_sooner_begins_again_with_its_next_pass() -> None:
    found = delivered(mixed("cycle", (1, 1)))
    assert [row for shard, row in found if shard == 0] == [*range(10), *reversed(range(10)), *range(10)]
    assert [row for shard, row in found if shard == 1] == list(range(30))
    lane = mixed("forever", (1, 1))
    assert lane.blocks == math.inf
    far = delivered(lane, 40)
    assert far[: len(found)] == found
    assert len(far) == 40 * 8


def test_a_block_follows_from_its_number_alone() -> None:
    lane = mixed("cycle", (2, 3))
    whole = [rows(lane.block(number)) for number in range(int(lane.blocks))]
    for number in reversed(range(int(lane.blocks))):
        assert rows(mixed("cycle", (2, 3)).block(number)) == whole[number]


def test_slices_take_little_memory() -> None:
    assert slices_of(np.full(20_000, 5000), 16384).nbytes < 3_000_000  # 100 million rows

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecopipe.plan.mixture import Mixture, Stop

ROWS = st.lists(st.integers(0, 40), min_size=1, max_size=4)
WEIGHT = st.one_of(st.floats(0.3, 4), st.sampled_from([0.0, 1.0, 2.0, 1 / 3]))


def sources(mixture: Mixture, low: int, high: int) -> list[int]:
    """The source of each row, in order."""
    begin, end = mixture.counts(low), mixture.counts(high)
    of = np.repeat(np.arange(len(begin)), np.subtract(end, begin))
    return of[mixture.order(low, high)].tolist()  # type: ignore[no-any-return]


@settings(max_examples=200, deadline=None)
@given(ROWS, st.data(), st.sampled_from(["first", "all", "cycle"]))
def test_any_part_of_the_order_is_that_part_of_the_whole(rows: list[int], data: st.DataObject, stop: Stop) -> None:
    weights = data.draw(st.lists(WEIGHT, min_size=len(rows), max_size=len(rows)))
    mixture = Mixture(rows, weights, stop)
    total = mixture.total
    assert total is not None
    whole = sources(mixture, 0, total)
    for n in range(total + 1):
        assert mixture.counts(n) == [whole[:n].count(source) for source in range(len(rows))]
    low = data.draw(st.integers(0, total))
    high = data.draw(st.integers(low, total))
    assert sources(mixture, low, high) == whole[low:high]


@settings(max_examples=200, deadline=None)
@given(ROWS, st.data())
def test_when_it_ends(rows: list[int], data: st.DataObject) -> None:
    weights = data.draw(st.lists(WEIGHT, min_size=len(rows), max_size=len(rows)))
    active = [count if weight else 0 for count, weight in zip(rows, weights, strict=True)]
    in_it = [source for source, count in enumerate(active) if count]

    def end(stop: Stop) -> tuple[int, list[int]]:
        mixture = Mixture(rows, weights, stop)
        assert mixture.total is not None
        return mixture.total, mixture.counts(mixture.total)

    assert end("all") == (sum(active), active)
    total, counts = end("first")
    assert all(count <= most for count, most in zip(counts, active, strict=True))
    if in_it:
        after = Mixture(rows, weights, "forever").counts(total + 1)
        assert any(count > most for count, most in zip(after, active, strict=True))
        total, counts = end("cycle")
        assert all(counts[source] >= rows[source] for source in in_it)
        before = Mixture(rows, weights, "forever").counts(total - 1)
        assert any(before[source] < rows[source] for source in in_it)
    else:
        assert total == 0 == end("cycle")[0]


@given(st.lists(st.floats(0.01, 50), min_size=2, max_size=5), st.integers(0, 10**12))
def test_every_source_has_its_share_wherever_one_looks(weights: list[float], n: int) -> None:
    counts = Mixture([1] * len(weights), weights, "forever").counts(n)
    assert sum(counts) == n
    for count, weight in zip(counts, weights, strict=True):
        assert abs(count - n * weight / sum(weights)) < len(weights) + 1e-3


@pytest.mark.parametrize(("weights", "expected"), [((3, 1), [0, 0, 1, 0]), ((1, 1), [0, 1]), ((1, 0), [0])])
def test_the_order_repeats_for_simple_weights(weights: Sequence[float], expected: list[int]) -> None:
    found = sources(Mixture([40, 40], weights, "forever"), 0, 4 * len(expected))
    assert sorted(found[: len(expected)]) == sorted(expected)
    assert found == found[: len(expected)] * 4


def test_without_rows_or_weights_it_is_empty() -> None:
    for stop in ("first", "all", "cycle", "forever"):
        mixture = Mixture([0, 5], [1, 0], stop)  # type: ignore[arg-type]
        assert mixture.total == 0
        assert mixture.order(0, 0).tolist() == []

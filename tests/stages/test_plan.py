from __future__ import annotations

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecopipe.formats.audio import probe
from ecopipe.plan.blocks import slices_of
from ecopipe.stages.plan import Batch, Bucket, Shuffle, Take, Where
from ecopipe.stages.stage import Rows
from ecopipe.vocabulary.errors import ConfigError, SampleError
from ecopipe.vocabulary.randomness import Chance

from ..conftest import real

CHANCE = Chance(0, 0, "stage")
PLACE = (0, 0)


def block(**columns: list[object]) -> pa.Table:
    count = len(next(iter(columns.values())))
    return pa.table({"key": [f"k{row}" for row in range(count)], "shard": ["s.tar"] * count, **columns})


def everything(table: pa.Table) -> Rows:
    return np.arange(table.num_rows, dtype=np.int64)


@pytest.mark.parametrize(
    ("stage", "kept"),
    [
        (Where("n", at_least=2), [1, 2, 4]),
        (Where("n", at_most=2), [0, 1]),
        (Where("n", at_least=2, at_most=3), [1, 2]),
        (Where("n", one_of=(1, 9)), [0, 4]),
    ],
)
def test_where_keeps_what_it_says_and_no_row_without_the_measure(stage: Where, kept: list[int]) -> None:
    table = block(n=[1, 2, 3, None, 9])
    assert stage.apply(table, everything(table), CHANCE, PLACE).tolist() == kept
    backwards = everything(table)[::-1]
    assert stage.apply(table, backwards, CHANCE, PLACE).tolist() == kept[::-1]


def test_where_takes_names_too() -> None:
    table = block(s=["a", None, "b"])
    assert Where("s", one_of=("b",)).apply(table, everything(table), CHANCE, PLACE).tolist() == [2]


@pytest.mark.parametrize(
    ("stage", "column"),
    [
        (Where("s", at_least=1), ["a"]),
        (Where("n", one_of=(0, "x")), [1]),
        (Where("n", one_of=("0",)), [1]),
        (Where("n", one_of=(1.7,)), [1]),
        (Where("n", one_of=(2**70,)), [1]),
    ],
)
def test_where_refuses_what_cannot_be_compared(stage: Where, column: list[object]) -> None:
    table = block(**{stage.measure: column})
    with pytest.raises(ConfigError, match=f"Where: {stage.measure} holds (string|int64), which cannot be compared so"):
        stage.apply(table, everything(table), CHANCE, PLACE)


def test_bucket_refuses_a_measure_that_is_no_number() -> None:
    table = block(s=["a"])
    with pytest.raises(ConfigError, match="Bucket: s holds string, which is no length"):
        Bucket("s", max_count=1).apply(table, everything(table), CHANCE, PLACE)


@pytest.mark.parametrize("stage", [Batch(3), Batch(3, drop_last=True)])
@pytest.mark.parametrize("count", [0, 1, 3, 7])
def test_the_count_of_batches_is_that_of_the_cut(stage: Batch, count: int) -> None:
    table = block(n=list(range(count)) or [0]).slice(0, count)
    assert stage.count(count) == len(stage.apply(table, everything(table), CHANCE, PLACE))


@pytest.mark.parametrize("count", [1, 7, 100])
def test_take_keeps_the_first(count: int) -> None:
    dealt = Take(count).deal(slices_of([5, 20], 64), CHANCE)
    assert (dealt[:, 2] - dealt[:, 1]).sum() == min(count, 25)
    assert dealt[0].tolist()[:2] == [0, 0]


def test_shuffle_is_a_permutation_that_epoch_and_place_change() -> None:
    table = block(n=list(range(100)))
    orders = [
        Shuffle().apply(table, everything(table), Chance(seed, epoch, "Shuffle"), place).tolist()
        for seed, epoch, place in [(0, 0, (0, 0)), (1, 0, (0, 0)), (0, 1, (0, 0)), (0, 0, (1, 0)), (0, 0, (0, 1))]
    ]
    assert all(sorted(order) == list(range(100)) for order in orders)
    assert len({tuple(order) for order in orders}) == 5
    slices = slices_of([300], 160)
    dealt = Shuffle().deal(slices, CHANCE).tolist()
    assert sorted(dealt) == slices.tolist()
    assert dealt != slices.tolist()


def test_batch_cuts_in_order() -> None:
    table = block(n=list(range(7)))
    assert [batch.tolist() for batch in Batch(3).apply(table, everything(table), CHANCE, PLACE)] == [
        [0, 1, 2],
        [3, 4, 5],
        [6],
    ]
    assert [len(batch) for batch in Batch(3, drop_last=True).apply(table, everything(table), CHANCE, PLACE)] == [3, 3]


LENGTHS = st.lists(st.integers(1, 1000), min_size=1, max_size=200)


@given(LENGTHS, st.integers(1000, 20_000), st.one_of(st.none(), st.integers(1, 50)), st.floats(1, 1.2))
def test_bucket_keeps_every_row_once_within_the_budget(
    lengths: list[int], budget: int, count: int | None, spread: float
) -> None:
    table = block(n=lengths)
    rows = np.random.default_rng(0).permutation(len(lengths)).astype(np.int64)
    batches = Bucket("n", max_padded=budget, max_count=count, spread=spread).apply(table, rows, CHANCE, PLACE)
    assert sorted(int(row) for batch in batches for row in batch) == list(range(len(lengths)))
    for batch in batches:
        longest = max(lengths[row] for row in batch)
        assert len(batch) * longest <= budget
        assert count is None or len(batch) <= count


@given(LENGTHS, st.floats(0, 0.2))
def test_bucket_keeps_the_padding_of_a_block_within_its_limit(lengths: list[int], limit: float) -> None:
    table = block(n=lengths)
    batches = Bucket("n", max_padded=20_000, max_padding=limit).apply(table, everything(table), CHANCE, PLACE)
    assert padding(np.array(lengths, dtype=float), batches) <= limit + 1e-6


def padding(lengths: np.ndarray, batches: list[Rows]) -> float:
    return 1 - lengths.sum() / sum(len(batch) * lengths[batch].max() for batch in batches)


def librispeech_lengths() -> np.ndarray:
    paths = sorted(real("LibriSpeech").glob("test-clean/*/*/*.flac"))
    infos = [probe(path.read_bytes(), "flac") for path in paths]
    assert len(infos) == 132
    return np.array([info.frames / info.rate_hz for info in infos])


def test_padding_of_real_librispeech_at_416_s_is_at_most_3_percent() -> None:
    """132 real lengths, and the same repeated to test-clean's 2,640 or so and perturbed by up to 5 %."""
    few = librispeech_lengths()
    many = np.tile(few, 20)
    perturbed = many * np.random.default_rng(0).uniform(0.95, 1.05, len(many))
    for lengths, limit in ((few, 0.03), (many, None), (perturbed, None)):
        table = block(duration_s=list(lengths))
        rows = Shuffle().apply(table, everything(table), CHANCE, PLACE)
        batches = Bucket("duration_s", max_padded=416.0, max_padding=limit).apply(table, rows, CHANCE, PLACE)
        assert padding(lengths, batches) <= 0.03, len(lengths)
    random = [rows[at : at + 50] for at in range(0, len(rows), 50)]
    assert padding(lengths, random) > 0.5


def test_bucket_without_a_shuffle_keeps_the_corpus_order_of_its_batches() -> None:
    table = block(n=[5, 9, 5, 9, 5, 9])
    batches = Bucket("n", max_count=3).apply(table, everything(table), CHANCE, PLACE)
    assert [batch.tolist() for batch in batches] == [[0, 2, 4], [1, 3, 5]]


def test_after_a_shuffle_the_order_of_batches_says_nothing_of_their_length() -> None:
    lengths = [*([10] * 900), *([100] * 100)]
    table = block(n=lengths)
    first = []
    for epoch in range(200):
        rows = Shuffle().apply(table, everything(table), Chance(0, epoch, "Shuffle"), PLACE)
        batches = Bucket("n", max_padded=1000).apply(table, rows, CHANCE, PLACE)
        assert len(batches) == 19
        first.append(lengths[batches[0][0]])
    long_first = sum(length == 100 for length in first) / len(first)
    assert abs(long_first - 10 / 19) < 0.12


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Where("n"), "Where: says nothing to keep. Give at_least, at_most or one_of."),
        (lambda: Take(0), "Take: count must be at least 1, got 0."),
        (lambda: Batch(0), "Batch: size must be at least 1, got 0."),
        (lambda: Bucket("n"), "Bucket: has no limit. Give max_padded"),
        (lambda: Bucket("n", max_padded=0), "Bucket: max_padded must be positive and finite, got 0"),
        (lambda: Bucket("n", max_count=0), "Bucket: max_count must be at least 1, got 0"),
        (lambda: Bucket("n", max_count=1, max_padding=2), r"Bucket: max_padding must lie in \[0, 1\], got 2"),
        (lambda: Bucket("n", max_count=1, spread=0.9), "Bucket: spread must be finite and at least 1, got 0.9"),
    ],
)
def test_settings_that_cannot_work_are_refused(make, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ConfigError, match=message):
        make()


def test_a_sample_over_the_budget_is_named_with_the_remedy() -> None:
    table = block(duration_s=[3.0, 31.2])
    with pytest.raises(
        SampleError, match=r"Bucket: sample 'k1' in s\.tar: has duration_s 31\.2, over max_padded 24\. Raise .*Where"
    ):
        Bucket("duration_s", max_padded=24.0).apply(table, everything(table), CHANCE, PLACE)


def test_a_sample_without_the_measure_is_named() -> None:
    table = block(n=[3, None])
    with pytest.raises(SampleError, match=r"Bucket: sample 'k1' in s\.tar: has no n\. Leave it out with Where"):
        Bucket("n", max_count=2).apply(table, everything(table), CHANCE, PLACE)


@given(st.lists(st.integers(1, 60), min_size=1, max_size=60), st.integers(1, 8), st.integers(1, 9))
def test_groups_are_whole_and_of_like_length(lengths: list[int], group: int, most: int) -> None:
    table = block(n=lengths)
    rows = Shuffle().apply(table, everything(table), CHANCE, PLACE)
    batches = Bucket("n", max_count=most, group=group).apply(table, rows, CHANCE, PLACE)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    assert all(len(batch) <= most for batch in batches)
    assert len(batches) % group == 0 or all(len(batch) == 1 for batch in batches)
    groups = [np.concatenate(batches[at : at + group]) for at in range(0, len(batches), group)]
    ranges = sorted((min(lengths[row] for row in rows), max(lengths[row] for row in rows)) for rows in groups)
    assert all(high <= low for (_, high), (low, _) in pairwise(ranges))  # groups share no lengths but at their borders


def test_a_group_of_one_is_the_order_without_groups_and_groups_come_at_random() -> None:
    table = block(n=np.random.default_rng(0).integers(1, 1000, 400).tolist())
    rows = Shuffle().apply(table, everything(table), CHANCE, PLACE)
    lengths = np.array(table["n"])
    batches = Bucket("n", max_count=8, group=5).apply(table, rows, CHANCE, PLACE)
    means = [lengths[np.concatenate(batches[at : at + 5])].mean() for at in range(0, len(batches), 5)]
    assert means != sorted(means)
    assert means != sorted(means, reverse=True)
    spread = [np.ptp([lengths[batch].max() for batch in batches[at : at + 5]]) for at in range(0, len(batches), 5)]
    alone = Bucket("n", max_count=8).apply(table, rows, CHANCE, PLACE)
    ungrouped = [np.ptp([lengths[batch].max() for batch in alone[at : at + 5]]) for at in range(0, len(alone), 5)]
    assert max(spread) <= 150 < 400 < max(ungrouped)


def test_batches_are_ranked_by_length_where_there_is_one() -> None:
    table = block(n=[10, 11, 50, 51, 90, 91])
    batches = [np.array([2, 3]), np.array([4, 5]), np.array([0, 1])]
    ranked = Bucket("n", max_count=2).by_length(table, batches)
    assert ranked is not None
    assert ranked.tolist() == [1, 0, 2]
    assert Batch(2).by_length(table, batches) is None

import numpy as np
import pytest

from ecopipe.vocabulary.randomness import Chance


def test_draws_depend_on_all_of_seed_epoch_stage_and_place() -> None:
    base = Chance(1, 2, "Shuffle").draws("a").bits(4).tolist()
    assert base == Chance(1, 2, "Shuffle").draws("a").bits(4).tolist()
    others = [
        Chance(0, 2, "Shuffle").draws("a"),
        Chance(1, 3, "Shuffle").draws("a"),
        Chance(1, 2, "Other").draws("a"),
        Chance(1, 2, "Shuffle").draws("b"),
        Chance(1, 2, "Shuffle").draws("a", 0),
    ]
    assert all(other.bits(4).tolist() != base for other in others)


def test_the_stream_is_the_same_on_every_machine_and_version() -> None:
    assert Chance(0, 0, "stage").draws("key").bits(2).tolist() == [5856483629199767551, 1979672865200605075]
    assert Chance(0, 0, "stage").seed_for("key") == 4226508280483750969


def test_uniform_integer_and_permutation_are_what_they_say() -> None:
    draws = Chance(7, 0, "s").draws()
    values = draws.uniform(10_000)
    assert values.min() >= 0
    assert values.max() < 1
    assert abs(values.mean() - 0.5) < 0.02
    integers = [draws.integer(28) for _ in range(3000)]
    assert set(integers) == set(range(28))
    assert np.array_equal(np.sort(draws.permutation(1000)), np.arange(1000))


@pytest.mark.parametrize("places", [(("ab", "c"), ("a", "bc")), ((1, 23), (12, 3))])
def test_places_do_not_run_together(places: tuple[tuple[str, ...], tuple[str, ...]]) -> None:
    first, second = (Chance(0, 0, "s").draws(*place).bits(1)[0] for place in places)
    assert first != second

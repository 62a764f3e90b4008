"""Between numpy and Arrow: the same values as by pyarrow's own ways, and without pandas."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ecopipe.formats.index_arrays import of_numbers, of_texts, scalar, to_floats, to_numpy


@pytest.mark.parametrize("kind", ["int8", "int32", "int64", "uint32", "uint64", "float32", "float64"])
@pytest.mark.parametrize("step", [1, 2, -1])
def test_numbers_go_there_and_back(kind: str, step: int) -> None:
    values = np.arange(20).astype(kind)[::step]
    found = of_numbers(values)
    assert found.equals(pa.array(values))
    for piece in (found, found[3:7], found[5:5], pa.chunked_array([found[:4], found[4:]])):
        back = to_numpy(piece)
        assert (back.dtype, back.tolist()) == (values.dtype, piece.to_pylist())
    assert to_floats(found).tolist() == values.astype(np.float64).tolist()


def test_numbers_share_their_memory() -> None:
    values = np.arange(5)
    back = to_numpy(of_numbers(values)[1:])
    values[2] = 7
    assert back.tolist() == [1, 7, 3, 4]


def test_no_values_are_none() -> None:
    assert len(of_numbers(np.empty(0, np.int32))) == len(of_texts(())) == len(to_numpy(pa.array([], pa.int64()))) == 0
    assert to_numpy(pa.chunked_array([], pa.float64())).dtype == np.float64


def test_bools_at_any_offset() -> None:
    values = [number % 3 == 0 for number in range(30)]
    assert of_numbers(np.array(values)).equals(pa.array(values))
    for start, stop in ((0, 30), (3, 20), (9, 9), (17, 30)):
        assert to_numpy(pa.array(values)[start:stop]).tolist() == values[start:stop]


@pytest.mark.parametrize("value", [True, False, 7, -1, 0.5])
def test_one_value(value: float) -> None:
    assert scalar(value).equals(pa.scalar(value))


def test_numbers_that_arrow_has_not_are_refused() -> None:
    with pytest.raises(pa.ArrowException):
        scalar(2**70)


def test_texts_of_any_script() -> None:
    texts = ["", "a", "Grüße", "日本", "a\0b"]
    assert of_texts(iter(texts)).equals(pa.array(texts, pa.string()))


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (pa.array([1, None, None]), "2 of 3 values are missing"),
        (pa.array(["a"]), "of type string, which is no number"),
        (pa.array([1], pa.timestamp("s")), "of type timestamp"),
    ],
)
def test_what_is_no_number_is_refused(values: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        to_numpy(values)


def test_missing_floats_are_nan() -> None:
    assert np.array_equal(to_floats(pa.array([1, None, 3])), [1.0, np.nan, 3.0], equal_nan=True)
    assert np.array_equal(to_floats(pa.array([None, 0.5, 3])[:2]), [np.nan, 0.5], equal_nan=True)


def test_none_of_it_asks_for_pandas() -> None:
    program = """
import importlib.abc, sys
import numpy as np
from ecopipe.formats.index_arrays import of_numbers, of_texts, to_floats, to_numpy

class Told(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        print(name)

sys.meta_path.insert(0, Told())
numbers, texts = of_numbers(np.arange(4)), of_texts(["a", "b"])
to_numpy(numbers), to_numpy(numbers.is_null()), to_floats(numbers), texts[0]
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert not {name for name in done.stdout.split() if name.partition(".")[0] in ("pandas", "numpy")}

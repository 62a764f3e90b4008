"""Index rows as arrays give what they give as a table."""

import pickle

import numpy as np
import pyarrow as pa
import pytest

from ecopipe.plan.alike import Alike
from ecopipe.plan.items import ITEM
from ecopipe.plan.parts import START


def member(extension: str, offset: int) -> dict[str, object]:
    return {"extension": extension, "offset": offset, "size": 7 + offset % 3, "crc32": 2**32 - 1 - offset}


def index(extensions: tuple[str, ...] = ("png", "cls"), count: int = 6) -> pa.RecordBatch:
    return pa.RecordBatch.from_pydict(
        {
            "key": [f"key {row}" for row in range(count)],
            "shard": [f"{row % 2}.tar" for row in range(count)],
            "members": [[member(name, 100 * row + at) for at, name in enumerate(extensions)] for row in range(count)],
            "label": [row if row != 2 else None for row in range(count)],
            "duration_s": pa.nulls(count, pa.float64()),
            "path": [f"folder/{row % 2}.tar" for row in range(count)],
        }
    )


def test_rows_are_those_of_the_table():
    rows, positions = index(), np.array([5, 0, 2, 0])
    found = Alike.of(rows)
    assert found is not None and found.to_pylist() == rows.to_pylist()
    taken = pickle.loads(pickle.dumps(found.take(positions)))
    expected = rows.take(pa.array(positions))
    assert taken.to_pylist() == expected.to_pylist() and len(taken) == taken.num_rows == 4
    for name in taken.column_names:
        assert taken[name].to_pylist() == expected[name].to_pylist()
    assert taken.shard_names() == tuple(expected["shard"].to_pylist())
    assert (taken.sum("duration_s"), taken.sum("label")) == (0.0, 5)
    assert set(taken.column_names) == set(rows.schema.names)
    assert set(taken.select(["key"]).column_names) == {"key", "shard", "path", "members"}


@pytest.mark.parametrize("odd", [[], [member("png", 1)], [member("cls", 1), member("png", 2)]])
def test_members_that_are_not_alike(odd):
    rows = index()
    members = [*rows["members"].to_pylist()[:-1], odd]
    assert Alike.of(rows.set_column(2, "members", pa.array(members, rows["members"].type))) is None


def test_rows_without_members_of_shards():
    rows = index()
    assert Alike.of(index(())) is None
    assert Alike.of(rows.slice(0, 0)) is None
    for name in (ITEM, START):
        assert Alike.of(rows.append_column(name, pa.array([1] * 6))) is None
    sliced = Alike.of(rows.slice(2, 3))
    assert sliced is not None and sliced.to_pylist() == rows.slice(2, 3).to_pylist()

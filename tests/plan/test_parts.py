"""Rows that stand for parts of samples, in a block and in its sequence."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from ecopipe.formats.checks import checks_of
from ecopipe.plan.blocks import Lane, Rows, Slice, slices_of
from ecopipe.plan.parts import START, STOP, WHOLE, Cut, Parts
from ecopipe.plan.sequence import sequence

from .test_blocks import lanes_of

MEMBERS = pa.list_(
    pa.struct([("extension", pa.string()), ("offset", pa.int64()), ("size", pa.int64()), ("crc32", pa.uint32())])
)


def read(slices: list[Slice], columns: tuple[str, ...] | None = None) -> pa.Table:
    rows = [(piece.shard, row) for piece in slices for row in range(piece.start, piece.stop)]
    members = [[{"extension": "x", "offset": 0, "size": 1, "crc32": 1000 * shard + row}] for shard, row in rows]
    table = pa.table({
        "key": [f"{shard}:{row}" for shard, row in rows],
        "shard": [str(shard) for shard, _ in rows],
        "size": [row % 3 for _, row in rows],
        "members": pa.array(members, MEMBERS),
        "label": [10 * row for _, row in rows],
    })  # fmt: skip
    return table.select(columns) if columns else table


class Recipe:
    """Makes ``size`` parts of each row, and batches of four of them."""

    group = 1

    def lanes(self) -> list[Lane]:
        return lanes_of(slices_of([20, 7], 8), 2, 8)

    def cut(self, block: pa.Table, order: Rows, lane: int, number: int) -> Cut:
        sizes = block["size"].to_numpy()[order]
        which = np.repeat(order, sizes)
        number_of = np.arange(len(which)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        parts = Parts.of(which, number_of, number_of + 1, np.repeat(sizes, sizes), size=np.ones_like(which))
        planned = parts.table(block, {"key", "size"})
        at = np.arange(len(parts))
        return Cut([at[low : low + 4] for low in range(0, len(at), 4)], planned, parts)


def test_parts_are_the_rows_of_a_block_wherever_its_columns_are_read() -> None:
    expected = {f"{shard}:{row}": row % 3 for shard, rows in enumerate((20, 7)) for row in range(rows)}
    for columns in (None, ("key", "size")):
        found: dict[str, list[int]] = {}
        for planned in sequence(Recipe(), read, columns=columns):
            rows = planned.rows()
            assert planned.checks().tolist() == checks_of(rows["members"].combine_chunks()).tolist()
            assert set(planned.block.planned.column_names) == {"key", "size", START, STOP, WHOLE}
            for row in rows.to_pylist():
                found.setdefault(row["key"], []).append(row[START])
                assert (row[STOP], row["size"]) == (row[START] + 1, 1)
                assert row[WHOLE] == expected[row["key"]]
                assert row["members"][0]["crc32"] == 1000 * int(row["shard"]) + int(row["key"].split(":")[1])
        assert found == {key: list(range(count)) for key, count in expected.items() if count}


def test_every_cursor_gives_the_rest_of_the_parts() -> None:
    whole = list(sequence(Recipe(), read))
    for at, planned in enumerate(whole):
        rest = sequence(Recipe(), read, planned.after)
        assert [one.rows() for one in rest] == [one.rows() for one in whole[at + 1 :]]


def test_some_columns_of_parts_by_name() -> None:
    planned = next(sequence(Recipe(), read))
    rows = planned.block.rows(planned.block.batches[0], frozenset({"key", "label", START}))
    assert rows.column_names == ["key", "label", START]
    none = Parts.of(*(np.empty(0, dtype=np.int64) for _ in range(4)))
    assert len(none) == 0
    assert none.table(read([Slice(0, 0, 3)]), {"key"}).num_rows == 0

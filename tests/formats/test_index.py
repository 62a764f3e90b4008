from __future__ import annotations

import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ecopipe.formats import index as index_format
from ecopipe.formats.index import IndexFile, IndexWriter, Row
from ecopipe.formats.tar import Member
from ecopipe.vocabulary.errors import IndexFileError


def rows(shard: int, count: int) -> list[Row]:
    return [
        Row(
            f"{shard}-{row}",
            [Member("txt", 512 * row, 5, row), Member("cls", 9, 1, 7)],
            {"label": row, "speaker": shard},
        )
        for row in range(count)
    ]


def write(path: Path, counts: list[int]) -> IndexFile:
    writer = IndexWriter(path, extras={"speaker": "int32"})
    for shard, count in enumerate(counts):
        writer.add(f"{shard}.tar", 1000 + shard, rows(shard, count))
    writer.finish()
    return IndexFile(str(path))


def test_rows_are_read_by_shard_and_range(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_format, "ROW_GROUP", 4)
    index = write(tmp_path / "i.parquet", [10, 0, 3])
    assert [(info.name, info.size, info.rows) for info in index.shards] == [
        ("0.tar", 1000, 10),
        ("1.tar", 1001, 0),
        ("2.tar", 1002, 3),
    ]
    assert index.read(0, 2, 9)["key"].to_pylist() == [f"0-{row}" for row in range(2, 9)]
    assert index.read(0, 2, 9, ("key", "label"))["label"].to_pylist() == list(range(2, 9))
    assert index.read(1, 0, 0).num_rows == 0
    assert index.read(2, 0, 3)["members"][1].as_py()[0] == {"extension": "txt", "offset": 512, "size": 5, "crc32": 1}
    assert index.extras == {"speaker": "int32"}
    assert index.extensions == {"txt", "cls"}
    assert index.filled() == {"key", "shard", "members", "label", "speaker"}
    index.close()


def test_the_digest_is_of_what_the_shard_holds(tmp_path: Path) -> None:
    first, second = write(tmp_path / "a.parquet", [3, 4]), write(tmp_path / "b.parquet", [3, 5])
    assert first.shards[0].digest == second.shards[0].digest
    assert first.shards[1].digest != second.shards[1].digest
    for index in (first, second):
        index.close()


def test_the_digest_is_of_the_measures_too(tmp_path: Path) -> None:
    digests = set()
    for label in (1, 2, 2):
        writer = IndexWriter(tmp_path / "i.parquet")
        digests.add(writer.add("0.tar", 1, [Row("a", [Member("txt", 0, 1, 2)], {"label": label})]).digest)
        writer.finish()
    assert len(digests) == 2


def test_a_damaged_index_is_one_clear_error(tmp_path: Path) -> None:
    write(tmp_path / "i.parquet", [300]).close()
    data = bytearray((tmp_path / "i.parquet").read_bytes())
    data[4:600] = bytes(596)
    (tmp_path / "i.parquet").write_bytes(data)
    index = IndexFile(str(tmp_path / "i.parquet"))
    with pytest.raises(IndexFileError, match=r"i\.parquet: is damaged \(.*Delete it and run 'ecopipe index'"):
        index.read(0, 0, 300)
    index.close()


def test_a_measure_without_a_column_is_refused(tmp_path: Path) -> None:
    writer = IndexWriter(tmp_path / "i.parquet")
    with pytest.raises(IndexFileError, match=r"0\.tar: sample '0-0' has measures \['speaker'\] that no column holds"):
        writer.add("0.tar", 1, rows(0, 1))
    writer.abandon()


def parquet(meta: dict[str, str] | None) -> io.BytesIO:
    file = io.BytesIO()
    table = pa.table({"key": ["a"]})
    with pq.ParquetWriter(file, table.schema) as writer:
        writer.write_table(table)
        if meta:
            writer.add_key_value_metadata(meta)
    file.seek(0)
    return file


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (io.BytesIO(b"no parquet"), "i.parquet: is no readable Parquet file .*run 'ecopipe index'"),
        (parquet(None), "was not written by ecopipe"),
        (parquet({"ecopipe": json.dumps({"version": 99})}), "has version 99, this ecopipe reads 1"),
        (
            parquet(
                {
                    "ecopipe": json.dumps(
                        {
                            "version": 1,
                            "made_by": "",
                            "extensions": [],
                            "shards": [{"name": "x", "size": 1, "rows": 9, "digest": ""}],
                        }
                    )
                }
            ),
            "lists 9 rows for x and holds 1",
        ),
    ],
)
def test_what_is_no_index_is_refused(file: io.BytesIO, message: str) -> None:
    with pytest.raises(IndexFileError, match=message):
        IndexFile("i.parquet", file)

from __future__ import annotations

import io
import json
import struct
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import feather

from ecopipe.formats import index as index_format
from ecopipe.formats.index import IndexFile, IndexWriter, Row, ShardInfo, sum_of
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
        writer.add(f"{shard}.tar", 10_000_000 + shard, rows(shard, count))
    writer.finish()
    return IndexFile(str(path))


def test_rows_are_read_by_shard_and_range(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_format, "BATCH_ROWS", 4)
    index = write(tmp_path / "i.arrow", [10, 0, 3])
    assert [(info.name, info.size, info.rows) for info in index.shards] == [
        ("0.tar", 10_000_000, 10),
        ("1.tar", 10_000_001, 0),
        ("2.tar", 10_000_002, 3),
    ]
    assert index.read(0, 2, 9)["key"].to_pylist() == [f"0-{row}" for row in range(2, 9)]
    assert index.read(0, 2, 9, ("key", "label"))["label"].to_pylist() == list(range(2, 9))
    assert index.read(1, 0, 0).num_rows == 0
    assert index.read(2, 0, 3)["members"][1].as_py()[0] == {"extension": "txt", "offset": 512, "size": 5, "crc32": 1}
    assert index.extras == {"speaker": "int32"}
    assert index.extensions == {"txt", "cls"}
    assert index.filled == {"key", "shard", "members", "label", "speaker"}
    assert index.shards.table[sum_of("label")].to_pylist() == [45, 0, 3]
    assert [name for name in index.shards.table.column_names if "sum" in name] == [sum_of("label"), sum_of("speaker")]
    index.close()


@pytest.mark.parametrize("count", [1, 4, 5, 8, 9, 23])
def test_every_range_is_what_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(index_format, "BATCH_ROWS", 4)
    monkeypatch.setattr(index_format, "RECENT_BATCHES", 2)
    index = write(tmp_path / "i.arrow", [3, count])
    for start in range(count + 1):
        for stop in range(start, count + 2):  # one beyond the end is not there
            read = index.read(1, start, stop, ("key",))
            assert read["key"].to_pylist() == [f"1-{row}" for row in range(start, min(stop, count))]
    index.close()


def test_the_index_is_an_arrow_file_for_whoever_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_format, "BATCH_ROWS", 4)
    index = write(tmp_path / "i.arrow", [10, 0, 3])
    whole = feather.read_table(tmp_path / "i.arrow")
    assert whole["key"].to_pylist() == [row.key for shard in (0, 2) for row in rows(shard, (10, 0, 3)[shard])]
    assert whole.slice(10).equals(index.read(2, 0, 3))
    index.close()


class Counted(io.BytesIO):
    """A file that counts the bytes that are read of it."""

    done = 0

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        self.done += len(data)
        return data


def test_what_is_read_of_an_index_does_not_grow_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_format, "BATCH_ROWS", 16)
    opened, sliced = {}, {}
    for count in (16 * 8, 16 * 264):
        write(tmp_path / "i.arrow", [count]).close()
        file = Counted((tmp_path / "i.arrow").read_bytes())
        index = IndexFile("i.arrow", file)
        opened[count], file.done = file.done, 0
        assert index.read(0, 100, 116)["key"].to_pylist() == [f"0-{row}" for row in range(100, 116)]
        sliced[count] = file.done
        index.close()
    small, large = opened
    assert 0 < opened[large] - opened[small] <= 256 * 24 + 64  # 24 bytes for each further batch
    assert abs(sliced[large] - sliced[small]) < 1024 < sliced[large]


def test_the_digest_is_of_what_the_shard_holds(tmp_path: Path) -> None:
    first, second = write(tmp_path / "a.arrow", [3, 4]), write(tmp_path / "b.arrow", [3, 5])
    assert first.shards[0].digest == second.shards[0].digest
    assert first.shards[1].digest != second.shards[1].digest
    for index in (first, second):
        index.close()


def test_the_digest_is_of_the_measures_too(tmp_path: Path) -> None:
    digests = set()
    for label in (1, 2, 2):
        writer = IndexWriter(tmp_path / "i.arrow")
        digests.add(writer.add("0.tar", 1, [Row("a", [Member("txt", 0, 1, 2)], {"label": label})]).digest)
        writer.finish()
    assert len(digests) == 2


def test_a_damaged_index_is_one_clear_error(tmp_path: Path) -> None:
    write(tmp_path / "i.arrow", [300]).close()
    data = bytearray((tmp_path / "i.arrow").read_bytes())
    data[1000:2000] = bytes(1000)
    (tmp_path / "i.arrow").write_bytes(data)
    index = IndexFile(str(tmp_path / "i.arrow"))
    with pytest.raises(IndexFileError, match=r"i\.arrow: is damaged \(.*Delete it and run 'ecopipe index'"):
        index.read(0, 0, 300)
    index.close()


def test_a_measure_without_a_column_is_refused(tmp_path: Path) -> None:
    writer = IndexWriter(tmp_path / "i.arrow")
    with pytest.raises(IndexFileError, match=r"0\.tar: sample '0-0' has measures \['speaker'\] that no column holds"):
        writer.add("0.tar", 1, rows(0, 1))
    writer.abandon()


def arrow(meta: dict[str, object] | None) -> io.BytesIO:
    """An Arrow file whose last batch holds what an index would say."""
    file = io.BytesIO()
    nothing = pa.RecordBatch.from_pylist([], schema=pa.schema([("key", pa.string())]))
    with pa.ipc.new_file(file, nothing.schema) as writer:
        writer.write_batch(nothing, custom_metadata={"ecopipe": json.dumps(meta)} if meta else None)
    file.seek(0)
    return file


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (io.BytesIO(b"no arrow"), "i.arrow: is no readable Arrow file .*run 'ecopipe index'"),
        (arrow(None), "i.arrow: was not written by ecopipe. Move it away and run 'ecopipe index' on the tars"),
        (arrow({"version": 99}), "i.arrow: has version 99, this ecopipe reads 3. Delete it and run 'ecopipe index'"),
    ],
)
def test_what_is_no_index_is_refused(file: io.BytesIO, message: str) -> None:
    with pytest.raises(IndexFileError, match=message):
        IndexFile("i.arrow", file)


def test_other_batches_than_the_shards_make_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(index_format, "BATCH_ROWS", 4)
        write(tmp_path / "i.arrow", [10]).close()
    with pytest.raises(IndexFileError, match="lists 10 rows, which are 1 batches, and holds 3. Delete it and run"):
        IndexFile(str(tmp_path / "i.arrow"))

    writer = IndexWriter(tmp_path / "j.arrow")
    table = feather.read_table(tmp_path / "i.arrow").slice(0, 8).select(writer.schema.names)
    writer.add_table(ShardInfo("0.tar", 1, 9, ""), table)
    writer.finish()
    index = IndexFile(str(tmp_path / "j.arrow"))
    with pytest.raises(IndexFileError, match=r"is damaged \(batch 0 holds 8 rows and should hold 9\)"):
        index.read(0, 0, 1)
    index.close()


def test_values_that_point_nowhere_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Arrow does not look at offsets when it reads them: a damaged one would be an access to foreign memory."""
    monkeypatch.setattr(index_format, "COMPRESSION", None)  # so that they can be found
    write(tmp_path / "i.arrow", [2]).close()
    data = (tmp_path / "i.arrow").read_bytes()
    good, bad = struct.pack("<iii", 0, 5, 10), struct.pack("<iii", 0, 5, 1 << 30)  # of the shards' names
    assert data.count(good) == 1
    index = IndexFile("i.arrow", io.BytesIO(data.replace(good, bad)))
    with pytest.raises(IndexFileError, match=r"is damaged \(.*offset"):
        index.read(0, 0, 2)
    index.close()

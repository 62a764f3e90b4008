"""Hostile indexes: an IndexFileError that names the index, whatever they say; no file outside their folder is named."""

from __future__ import annotations

import base64
import contextlib
import json
import random

import pyarrow as pa
import pytest

from ecopipe.formats import index as index_format
from ecopipe.formats.index import IndexFile, IndexWriter, Row
from ecopipe.formats.tar import Member
from ecopipe.vocabulary.errors import IndexFileError

MEMBERS = (Member("txt", 512, 3, 1),)


def write(path, change=None, members=MEMBERS, extras=None):
    writer = IndexWriter(path, extras=extras)
    writer.add("a.tar", 10240, [Row(f"k{n}", list(members), {"chars": 3}) for n in range(10)])
    if change is None:
        writer.finish()
        return path
    schema, finished = writer.schema, {}
    original = writer._writer.write_batch

    def changed(batch, custom_metadata):
        finished.update(json.loads(custom_metadata["ecopipe"]))
        told = change(finished)
        original(batch, custom_metadata={"ecopipe": told if isinstance(told, str | bytes) else json.dumps(told)})

    class Through:
        write_batch = staticmethod(changed)
        close = staticmethod(writer._writer.close)

    writer._writer = Through()
    writer.finish()
    assert schema is writer.schema
    return path


def read_all(path):
    index = IndexFile(str(path))
    try:
        list(index.shards)
        return [row for n in range(len(index.shards)) for row in index.read(n, 0, index.shards[n].rows).to_pylist()]
    finally:
        index.close()


def shards_of(**columns):
    """A description whose table of shards has other columns."""
    table = pa.table({"name": ["a.tar"], "size": [10240], "rows": [10], "digest": ["x"], **columns})
    stream = pa.BufferOutputStream()
    with pa.ipc.new_stream(stream, table.schema) as writer:
        writer.write_table(table)
    return lambda told: {**told, "shards": base64.b64encode(stream.getvalue()).decode()}


def nothing(kind):
    return pa.array([None], kind)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda told: "{", "is damaged"),
        (lambda told: b"\xff\xfe{}", "is damaged"),
        (lambda told: "[" * 200_000, "nested too deeply"),
        (lambda told: '{"a":' * 200_000, "nested too deeply"),
        (lambda told: "[1]", "is no JSON object"),
        (lambda told: '{"version":' + "9" * 5000 + "}", "is damaged"),
        (lambda told: {}, "has version None"),
        (lambda told: {**told, "version": "x" * 10**6}, "has version xxxxxxxxxxxxxxxxxxxx, this"),
        (lambda told: {"version": told["version"]}, "has no 'made_by'"),
        (lambda told: {**told, "extensions": 7}, "'extensions' is no list of names"),
        (lambda told: {**told, "filled": [{}]}, "'filled' is no list of names"),
        (lambda told: {**told, "made_by": {}}, "'shards' or 'made_by' is no text"),
        (lambda told: {**told, "shards": "!!!"}, "is damaged"),
        (lambda told: {**told, "shards": told["shards"][:200]}, "is damaged"),
        (lambda told: {**told, "shards": base64.b64encode(b"junk" * 100).decode()}, "is damaged"),
        (shards_of(rows=[-5]), "negative size or number of rows"),
        (shards_of(size=[-1]), "negative size or number of rows"),
        (shards_of(rows=[2**62]), "lists 4,611,686,018,427,387,904 rows"),
        (shards_of(rows=["x"]), "column 'rows' of another type"),
        (shards_of(rows=nothing(pa.int64())), "column 'rows' of another type, or with gaps"),
        (shards_of(name=nothing(pa.string())), "column 'name' of another type, or with gaps"),
        (shards_of(name=["../../etc/passwd"]), "a shard '../../etc/passwd', which is no plain file name"),
        (shards_of(name=["/etc/passwd"]), "which is no plain file name"),
        (shards_of(name=[".."]), "which is no plain file name"),
        (shards_of(name=["a\0.tar"]), "which is no plain file name"),
        (shards_of(name=["http://x/a.tar"]), "which is no plain file name"),
        (shards_of(name=["b.tar"]), "a row of another shard than 'b.tar'"),
        (shards_of(name=["a.tar"] * 2, size=[1] * 2, rows=[10, 0], digest=["x"] * 2), "lists a shard twice"),
        (shards_of(name=["a", "b"], size=[1] * 2, rows=[2**62] * 2, digest=["x"] * 2), "lists 9,223,372,036,854,775"),
        (shards_of(more=["x"]), "column 'more' of another type"),
    ],
)
def test_descriptions_that_are_none(tmp_path, change, message):
    path = write(tmp_path / "i.arrow", change)
    with pytest.raises(IndexFileError, match=message) as caught:
        read_all(path)
    assert str(path) in str(caught.value) and len(str(caught.value)) < 1000
    assert "Delete it and run 'ecopipe index' on the tars." in str(caught.value)


@pytest.mark.parametrize(
    "member",
    [
        Member("txt", -5, 3, 1), Member("txt", 512, -3, 1), Member("txt", 512, 2**62, 1),
        Member("txt", 2**62, 2**62, 1), Member("txt", 2**63 - 1, 1, 1), Member("txt", 10239, 2, 1),
    ],
)  # fmt: skip
def test_members_that_do_not_lie_within_their_shard(tmp_path, member):
    path = write(tmp_path / "i.arrow", members=(Member("json", 512, 3, 1), member))
    with pytest.raises(IndexFileError, match="is damaged .*not within the 10,240 bytes of 'a.tar'"):
        read_all(path)


def test_columns_of_other_types(tmp_path, monkeypatch):
    path = tmp_path / "i.arrow"
    write(path, extras={"speaker": "string"})
    assert len(read_all(path)) == 10
    monkeypatch.setitem(index_format.MEASURES, "frames", "string")
    write(path)
    monkeypatch.undo()
    with pytest.raises(IndexFileError, match="its column 'frames' is of type string"):
        read_all(path)


def test_texts_that_are_no_utf8(tmp_path):
    path = write(tmp_path / "i.arrow")
    monkey = index_format.COMPRESSION
    index_format.COMPRESSION = None
    try:
        write(path)
    finally:
        index_format.COMPRESSION = monkey
    data = path.read_bytes()
    at = data.index(b"k0k1k2")
    path.write_bytes(data[:at] + b"\xff\xfe" + data[at + 2 :])
    with pytest.raises(IndexFileError, match="is damaged .*UTF8"):
        read_all(path)


def test_every_truncation_is_seen(tmp_path):
    data = write(tmp_path / "i.arrow").read_bytes()
    for cut in (*range(0, len(data) - 1, 97), len(data) - 1):
        (tmp_path / "t.arrow").write_bytes(data[:cut])
        with pytest.raises(IndexFileError, match="is no readable Arrow file|is damaged"):
            read_all(tmp_path / "t.arrow")


@pytest.mark.parametrize("seed", range(10))
def test_changed_bytes_are_an_error_of_the_index_or_nothing(tmp_path, seed):
    data, draws = write(tmp_path / "i.arrow").read_bytes(), random.Random(seed)
    for _ in range(100):
        changed = bytearray(data)
        for _ in range(draws.choice([1, 1, 2, 8])):
            at = draws.randrange(len(changed))
            changed[at] = draws.choice([0, 255, 127, 128, draws.randrange(256), changed[at] ^ 1 << draws.randrange(8)])
        (tmp_path / "t.arrow").write_bytes(changed)
        with contextlib.suppress(IndexFileError):
            for row in read_all(tmp_path / "t.arrow"):
                assert row["shard"] == "a.tar"
                assert all(0 <= one["offset"] <= 10240 - one["size"] for one in row["members"])

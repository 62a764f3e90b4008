"""What shards hold, against a count of every row."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from ecopipe.datasets.shards import index_folder, open_index
from ecopipe.formats.index import IndexWriter, ShardInfo, schema_for
from ecopipe.formats.tar import TarWriter
from ecopipe.insight.overview import Numbers, overview
from ecopipe.vocabulary.errors import IndexFileError, ShardError


def rows_of(folder):
    index = open_index(str(folder / "index.arrow"))
    rows = [row for n, info in enumerate(index.shards) for row in index.read(n, 0, info.rows).to_pylist()]
    index.close()
    return rows


@pytest.mark.parametrize("corpus", ["librispeech", "imdb", "cifar10"])
def test_counts_are_those_of_every_row(shards, corpus):
    found = overview(str(shards / corpus), samples=2)
    assert found.description["name"] == corpus
    for split in found.splits:
        rows = rows_of(shards / corpus / split.name)
        assert split.samples == len(rows)
        assert split.shards == len({row["shard"] for row in rows})
        assert split.bytes == sum(path.stat().st_size for path in (shards / corpus / split.name).glob("*.tar"))
        assert not split.notes
        for name, numbers in split.numbers.items():
            values = [row[name] for row in rows if row[name] is not None]
            assert (numbers.count, numbers.least, numbers.most) == (len(values), min(values), max(values))
            assert numbers.total == pytest.approx(sum(values))
            assert sum(count for _, _, count in numbers.bars()) == len(values)
            assert numbers.quantile(0.5) == pytest.approx(np.quantile(values, 0.5, method="inverted_cdf"), rel=0.006)
        assert split.labels == Counter(row["label"] for row in rows if row["label"] is not None)
        assert split.sizes == Counter((row["height"], row["width"]) for row in rows if row["height"] is not None)
        for name, members in split.members.items():
            sizes = [one["size"] for row in rows for one in row["members"] if one["extension"] == name]
            assert (members.count, members.bytes) == (len(sizes), sum(sizes))
    assert [shown.split for shown in found.samples] == [split.name for split in found.splits for _ in range(2)]
    json.dumps(found.figures())


def test_texts_and_numbers_of_samples(shards):
    (split,) = overview(str(shards / "imdb" / "train"), samples=1).splits
    (shown,) = overview(str(shards / "imdb" / "train"), samples=1).samples
    row = rows_of(shards / "imdb" / "train")[0]
    assert shown.key == row["key"]
    assert shown.texts["txt"] and len(shown.texts["txt"]) <= shown.columns["chars"]
    assert shown.columns["label"] == row["label"] and shown.members["txt"] > 0
    assert split.name == "train"


def test_bars_begin_at_round_numbers_and_what_is_far_out_is_one_bar():
    numbers = Numbers()
    numbers.add(pa.chunked_array([np.concatenate([np.linspace(0, 10, 1000), [5000.0]])]))
    bars = numbers.bars()
    assert bars[0][0] == 0 and bars[-1][1] is None
    assert all(high - low == pytest.approx(1) for low, high, _ in bars[:-1])
    numbers = Numbers()
    numbers.add(pa.chunked_array([np.full(7, 32)]))
    assert [count for _, _, count in numbers.bars()] == [7]
    numbers = Numbers()
    numbers.add(pa.chunked_array([np.array([-5.0, 0.0, 5.0, np.nan, np.inf])]))
    assert (numbers.count, numbers.least, numbers.most) == (3, -5, 5)
    assert sum(count for _, _, count in numbers.bars()) == 3


def test_payloads_are_read_of_the_shown_samples_alone_and_a_lost_shard_is_told(tmp_path, shards):
    source = shards / "imdb" / "train"
    for path in sorted(source.iterdir())[:-1]:
        (tmp_path / path.name).write_bytes(path.read_bytes())  # all but the last tar
    with open(tmp_path / "other.tar", "wb") as file:
        tar = TarWriter(file)
        tar.add("a", {"txt": b"a"})
        tar.finish()
    found = overview(str(tmp_path), samples=100)
    assert found.splits[0].notes == [
        "1 of its shards is missing", "1 tars are not in its index; run 'ecopipe index' on them",
    ]  # fmt: skip
    last = rows_of(tmp_path)[-1]
    assert {shown.key: shown.texts for shown in found.samples}[last["key"]] == {}


def test_without_shards_or_index(tmp_path):
    with pytest.raises(ShardError, match="holds no shards"):
        overview(str(tmp_path))
    (tmp_path / "a.tar").write_bytes(bytes(10240))
    with pytest.raises(IndexFileError, match="holds tars and no index. Run 'ecopipe index"):
        overview(str(tmp_path))
    index_folder(str(tmp_path), [str(tmp_path / "a.tar")])
    found = overview(str(tmp_path))
    assert found.splits[0].samples == 0 and found.samples == [] and found.length() is None


@pytest.mark.parametrize("data", [b"{", b"[1]", b"[" * 100_000, b'{"classes": "no list"}'])
def test_a_description_that_is_none_is_left_out(tmp_path, shards, data):
    (tmp_path / "train").symlink_to(shards / "imdb" / "train")
    (tmp_path / "dataset.json").write_bytes(data)
    assert overview(str(tmp_path), samples=0).classes == []


def test_a_large_index_is_seen_by_its_rows_in_arrow(tmp_path, monkeypatch):
    rows = 50_000
    writer = IndexWriter(tmp_path / "index.arrow")
    members = [[{"extension": "flac", "offset": 512, "size": number % 7, "crc32": 0}] for number in range(rows)]
    filled = {"key": [f"{n:09d}" for n in range(rows)], "shard": ["a.tar"] * rows, "members": members}
    durations = np.random.default_rng(0).gamma(4, 3, rows)
    table = pa.table(
        [
            pa.array(filled[name] if name in filled else durations if name == "duration_s" else [None] * rows, type_)
            for name, type_ in zip(schema_for({}).names, schema_for({}).types, strict=True)
        ],
        schema=schema_for({}),
    )
    writer.add_table(ShardInfo("a.tar", 10**6, rows, "0" * 32), table)
    writer.finish()
    found = overview(str(tmp_path), samples=1)
    (split,) = found.splits
    assert split.samples == rows and split.members["flac"].bytes == sum(number % 7 for number in range(rows))
    assert split.numbers["duration_s"].quantile(0.95) == pytest.approx(np.quantile(durations, 0.95), rel=0.01)
    assert len(split.numbers["duration_s"].near) < 5000

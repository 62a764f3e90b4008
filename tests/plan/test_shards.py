"""Opened shards: what they hold is a table; a fingerprint tells their contents."""

from __future__ import annotations

from pathlib import Path

import pytest

from ecopipe.formats.index import FILE_NAME, IndexWriter, Row
from ecopipe.formats.tar import Member
from ecopipe.plan.blocks import Slice
from ecopipe.plan.shards import Shards, open_shards
from ecopipe.vocabulary.errors import ConfigError, ShardError


def make(folder: Path, counts: list[int], *, label: int = 0) -> Path:
    """Tars of zeros, and an index that lists samples in them."""
    folder.mkdir(parents=True)
    writer = IndexWriter(folder / FILE_NAME)
    for number, count in enumerate(counts):
        with open(folder / f"{number}.tar", "wb") as tar:
            tar.truncate(512 * (count + 1))
        rows = [Row(f"{number}-{row}", [Member("txt", 512 * row, 5, row)], {"label": label}) for row in range(count)]
        writer.add(f"{number}.tar", 512 * (count + 1), rows)
    writer.finish()
    return folder


def opened(*paths: Path) -> Shards:
    return open_shards([str(path) for path in paths])


def test_rows_of_several_folders_are_read_in_the_order_of_the_slices(tmp_path: Path) -> None:
    shards = opened(make(tmp_path / "b", [2, 3]), make(tmp_path / "a", [4]))
    assert shards.rows_per_shard == [2, 3, 4]
    assert shards.rows == 9
    rows = shards.read([Slice(2, 1, 3), Slice(0, 0, 1), Slice(1, 2, 3)], ("key",))
    assert rows["key"].to_pylist() == ["0-1", "0-2", "0-0", "1-2"]
    places = [str(tmp_path / name) for name in ("a/0.tar", "a/0.tar", "b/0.tar", "b/1.tar")]
    assert rows["path"].to_pylist() == places
    shards.close()


def test_totals_are_of_the_shards_that_were_opened(tmp_path: Path) -> None:
    folder = make(tmp_path / "shards", [2, 3], label=5)
    for path, total in ((folder, 25.0), (folder / "1.tar", 15.0)):
        shards = opened(path)
        assert shards.total("label") == total
        assert shards.total("tokens") == 0
        with pytest.raises(ConfigError, match="'key' does not hold numbers. Name a measure that does"):
            shards.total("key")
        shards.close()


def test_the_fingerprint_is_of_names_rows_and_digests_in_order(tmp_path: Path) -> None:
    first = opened(make(tmp_path / "first", [2, 3]))
    same, measured, turned = (
        opened(make(tmp_path / "same", [2, 3])),
        opened(make(tmp_path / "measured", [2, 3], label=1)),
        opened(tmp_path / "first" / "1.tar", tmp_path / "first" / "0.tar"),
    )
    assert same.fingerprint == first.fingerprint
    assert len({first.fingerprint, measured.fingerprint, turned.fingerprint}) == 3
    for shards in (first, same, measured, turned):
        shards.close()


def test_a_link_to_a_shard_is_that_shard(tmp_path: Path) -> None:
    folder = make(tmp_path / "shards", [2, 3])
    (tmp_path / FILE_NAME).write_bytes((folder / FILE_NAME).read_bytes())
    (tmp_path / "1.tar").symlink_to(folder / "1.tar")
    opened(tmp_path / "1.tar").close()
    with pytest.raises(ConfigError, match="some shard is named twice"):
        opened(folder, tmp_path / "1.tar")


def test_a_tolerant_opening_is_of_all_that_the_index_lists(tmp_path: Path) -> None:
    folder = make(tmp_path / "shards", [2, 3, 1])
    whole = opened(folder)
    (folder / "1.tar").unlink()
    (folder / "2.tar").write_bytes(b"")
    with pytest.raises(ShardError, match=r"2\.tar: holds 0 bytes and held 1,024"):
        opened(folder)
    shards = open_shards([str(folder)], tolerant=True)
    assert (shards.fingerprint, shards.rows_per_shard) == (whole.fingerprint, [2, 3, 1])
    assert shards.read([Slice(1, 0, 1)], ("key",))["path"].to_pylist() == [str(folder / "1.tar")]
    for each in (whole, shards):
        each.close()


def test_shards_without_a_sample_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="the shards hold no samples"):
        opened(make(tmp_path / "shards", [0, 0]))

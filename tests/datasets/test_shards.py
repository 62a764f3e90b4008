"""Any WebDataset tars become first-class; what is missing, changed or damaged is named."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import fsspec
import pytest
import webdataset
from pyarrow import feather

from ecopipe.datasets import shards as shard_files
from ecopipe.plan.blocks import Slice
from ecopipe.plan.shards import open_shards
from ecopipe.vocabulary.errors import ConfigError, IndexFileError, ShardError


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """Three tars as webdataset.ShardWriter makes them."""
    folder = tmp_path / "foreign"
    folder.mkdir()
    with webdataset.ShardWriter(str(folder / "part-%03d.tar"), maxcount=4, verbose=0) as sink:
        for number in range(10):
            sink.write({"__key__": f"sample{number:04d}", "txt": f"text {number}", "cls": number % 3})
    return folder


def keys(path: str | Path, *more: str) -> list[str]:
    opened = open_shards([str(path), *more])
    found = opened.read([Slice(number, 0, rows) for number, rows in enumerate(opened.rows_per_shard)])[
        "key"
    ].to_pylist()
    opened.close()
    return found


ALL = [f"sample{number:04d}" for number in range(10)]


def test_tars_without_an_index_are_indexed_the_first_time_they_are_seen(foreign: Path) -> None:
    done: list[int] = []
    opened = open_shards([str(foreign)], done.append)
    assert sum(done) == sum(path.stat().st_size for path in foreign.glob("*.tar"))
    assert opened.rows_per_shard == [4, 4, 2]
    assert {"txt", "cls", "label", "chars", "tokens"} <= opened.fields
    assert opened.read([Slice(1, 0, 4)], ("key", "label"))["label"].to_pylist() == [1, 2, 0, 1]
    opened.close()
    before = (foreign / "index.arrow").stat().st_mtime_ns
    assert keys(foreign) == ALL
    assert (foreign / "index.arrow").stat().st_mtime_ns == before


def test_indexing_a_corpus_again_keeps_its_own_columns(shards: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(shards / "imdb" / "train", tmp_path / "train")
    before = feather.read_table(copy / "index.arrow")
    shard_files.index_tars(shard_files.find_tars(str(copy)))
    assert feather.read_table(copy / "index.arrow").equals(before)
    assert before["rating"].null_count == 0


def test_a_folder_with_signs_of_patterns_in_its_name(foreign: Path) -> None:
    assert keys(foreign.rename(foreign.parent / "d[1] *x?")) == ALL


def test_a_folder_named_twice_in_two_spellings_is_noticed(foreign: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(foreign.parent)
    with pytest.raises(ConfigError, match="some shard is named twice"):
        keys(foreign, "foreign")
    (foreign.parent / "link").symlink_to(foreign)
    with pytest.raises(ConfigError, match="some shard is named twice"):
        keys(foreign, "link")


def test_an_index_at_a_url_is_read_and_written_anew(foreign: Path) -> None:
    assert keys(foreign) == ALL
    memory = fsspec.filesystem("memory")
    for path in foreign.iterdir():
        memory.pipe(f"/urls/{path.name}", path.read_bytes())
    assert keys("memory://urls") == ALL
    memory.pipe("/urls/part-000.tar", (foreign / "part-002.tar").read_bytes())
    shard_files.index_tars(["memory://urls/part-000.tar"])
    assert keys("memory://urls") == ALL[8:] + ALL[4:]
    with pytest.raises(ShardError):
        memory.pipe("/urls/part-001.tar", b"no tar")
        shard_files.index_tars(["memory://urls/part-001.tar"])
    assert keys("memory://urls/part-000.tar") == ALL[8:]  # it holds what it held


def test_a_pattern_or_a_single_tar_names_some_of_them(foreign: Path) -> None:
    assert keys(foreign / "part-00[01].tar") == ALL[:8]
    assert keys(foreign / "part-002.tar") == ALL[8:]
    assert keys(foreign / "part-002.tar", str(foreign / "part-000.tar")) == ALL[8:] + ALL[:4]
    with pytest.raises(ConfigError, match="some shard is named twice"):
        keys(foreign, str(foreign / "part-002.tar"))


def test_indexing_some_tars_keeps_what_is_known_of_the_others(foreign: Path) -> None:
    shard_files.index_tars([str(foreign / "part-000.tar")])
    assert shard_files.not_indexed([str(foreign)]) == [str(foreign / "part-001.tar"), str(foreign / "part-002.tar")]
    assert keys(foreign) == ALL
    assert shard_files.not_indexed([str(foreign)]) == []


def test_a_folder_that_cannot_be_written_is_indexed_in_the_cache(
    foreign: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ECOPIPE_CACHE", str(tmp_path / "cache"))
    allowed = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != str(foreign) and allowed(path, mode))
    assert keys(foreign) == ALL
    assert not (foreign / "index.arrow").exists()
    assert len(list((tmp_path / "cache" / "index").glob("*.arrow"))) == 1


def test_the_fingerprint_is_of_the_contents_not_of_the_folder(foreign: Path, tmp_path: Path) -> None:
    def fingerprint(path: Path) -> str:
        opened = open_shards([str(path)])
        found = opened.fingerprint
        opened.close()
        return found

    first = fingerprint(foreign)
    assert fingerprint(foreign.rename(tmp_path / "moved")) == first
    (tmp_path / "moved" / "part-002.tar").unlink()
    (tmp_path / "moved" / "index.arrow").unlink()
    assert fingerprint(tmp_path / "moved") != first


def test_a_truncated_or_missing_shard_is_named_and_a_new_one_is_seen(foreign: Path) -> None:
    assert keys(foreign) == ALL
    tar = foreign / "part-001.tar"
    whole = tar.read_bytes()
    tar.write_bytes(whole[:-512])
    with pytest.raises(ShardError, match=r"part-001\.tar: holds .* bytes and held .* it is truncated or was replaced"):
        keys(foreign)
    tar.unlink()
    with pytest.raises(
        ShardError, match=r"part-001\.tar: the index lists this shard and it is missing \(1 missing in all\)"
    ):
        keys(foreign)
    tar.write_bytes(whole)
    (foreign / "part-009.tar").write_bytes(whole)
    assert keys(foreign) == ALL + ALL[4:8]


def test_places_without_shards_are_explained(tmp_path: Path, foreign: Path) -> None:
    with pytest.raises(ShardError, match="nowhere: there is no such file or folder"):
        keys(tmp_path / "nowhere")
    with pytest.raises(ShardError, match=r"\*\.tar: no \.tar file matches"):
        keys(tmp_path / "*.tar")
    with pytest.raises(ShardError, match=r"holds no tars itself, but its folders do. Choose one or more of: .*foreign"):
        keys(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ShardError, match=r"empty: the folder holds no \.tar files"):
        keys(tmp_path / "empty")
    (tmp_path / "x.tar.gz").write_bytes(b"")
    with pytest.raises(ShardError, match=r"x\.tar\.gz: is compressed"):
        keys(tmp_path / "x.tar.gz")


def test_a_truncated_tar_is_not_indexed_and_leaves_no_index(foreign: Path) -> None:
    tar = foreign / "part-001.tar"
    tar.write_bytes(tar.read_bytes()[:2000])
    with pytest.raises(ShardError, match=r"part-001\.tar"):
        shard_files.index_tars(shard_files.find_tars(str(foreign)))
    assert sorted(os.listdir(foreign)) == ["part-000.tar", "part-001.tar", "part-002.tar"]


def test_verify_lists_exactly_the_damaged_members(foreign: Path) -> None:
    shard_files.index_tars(shard_files.find_tars(str(foreign)))
    good = shard_files.verify_folder(str(foreign))
    assert (good.shards, good.samples, good.members, good.problems) == (3, 10, 20, [])
    with shard_files.opened(str(foreign / "index.arrow")) as index:
        member = next(m for m in index.read(1, 2, 3)["members"][0].as_py() if m["extension"] == "txt")
    tar = foreign / "part-001.tar"
    data = bytearray(tar.read_bytes())
    data[member["offset"]] ^= 1
    tar.write_bytes(data)
    (foreign / "part-002.tar").unlink()
    (foreign / "part-777.tar").write_bytes(data)
    problems = shard_files.verify_folder(str(foreign)).problems
    assert [(os.path.basename(problem.shard), problem.key, problem.extension) for problem in problems] == [
        ("part-001.tar", "sample0006", "txt"),
        ("part-002.tar", "", ""),
        ("part-777.tar", "", ""),
    ]
    assert problems[0].what.startswith("has CRC-32 ")
    assert [problem.what for problem in problems[1:]] == ["the shard is missing", "the shard is not in the index"]


def test_verify_names_what_is_not_there(tmp_path: Path, foreign: Path) -> None:
    with pytest.raises(IndexFileError, match="holds tars and no index. Run 'ecopipe index"):
        shard_files.verify_folder(str(foreign))
    assert shard_files.indexed_folders(str(tmp_path)) == [str(foreign)]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ShardError, match="holds no shards"):
        shard_files.indexed_folders(str(tmp_path / "empty"))
    with pytest.raises(ShardError, match="there is no such folder"):
        shard_files.indexed_folders(str(tmp_path / "nowhere"))
    with pytest.raises(ShardError, match="is a file"):
        shard_files.indexed_folders(str(foreign / "part-000.tar"))

import os
import pickle
from pathlib import Path

import fsspec
import pytest

from ecopipe.storage import files
from ecopipe.storage.files import RangeReader
from ecopipe.vocabulary.errors import ShardError


@pytest.fixture
def shard(tmp_path: Path) -> str:
    path = tmp_path / "x.tar"
    path.write_bytes(bytes(range(256)) * 1000)
    return str(path)


@pytest.mark.parametrize("ranges", [[], [(0, 3)], [(5, 2), (0, 1)], [(0, 1), (200_000, 4)], [(7, 0)]])
def test_ranges_are_what_the_file_holds(shard: str, ranges: list[tuple[int, int]]) -> None:
    whole = Path(shard).read_bytes()
    assert RangeReader().read(shard, ranges) == [whole[at : at + size] for at, size in ranges]


def test_urls_are_read_through_fsspec() -> None:
    with fsspec.open("memory://folder/x.tar", "wb") as file:
        file.write(b"0123456789")
    assert RangeReader().read("memory://folder/x.tar", [(2, 3), (0, 1)]) == [b"234", b"0"]
    assert files.exists("memory://folder/x.tar")
    assert files.size_of("memory://folder/x.tar") == 10
    assert files.is_folder("memory://folder")
    assert files.find("memory://folder/*.tar") == ["memory:///folder/x.tar"]


def test_a_short_or_missing_file_is_refused(shard: str) -> None:
    with pytest.raises(ShardError, match=r"wanted 10 bytes at 255,995 and got 5: the shard is truncated"):
        RangeReader().read(shard, [(255_995, 10)])
    with pytest.raises(ShardError, match=r"nowhere\.tar: the shard is missing"):
        RangeReader().read("nowhere.tar", [(0, 1)])


def test_few_files_stay_open_and_a_copy_opens_its_own(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.tar" for number in range(6)]
    for path in paths:
        path.write_bytes(path.name.encode())
    before = len(os.listdir("/proc/self/fd"))
    reader = RangeReader(max_open=2)
    for path in [*paths, *paths]:
        assert reader.read(str(path), [(0, 1)]) == [path.name[:1].encode()]
    assert len(os.listdir("/proc/self/fd")) - before <= 2
    copy = pickle.loads(pickle.dumps(reader))
    assert copy.read(str(paths[0]), [(0, 1)]) == [b"0"]
    copy.close()
    reader.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_paths_and_urls_come_apart_and_together() -> None:
    assert files.parent("a/b/c.tar") == "a/b"
    assert files.parent("c.tar") == "."
    assert files.parent("s3://bucket/x.tar") == "s3://bucket"
    assert files.base_name("s3://bucket/x.tar") == "x.tar"
    assert files.join("a", "b") == "a/b"
    assert files.join(".", "b") == "b"

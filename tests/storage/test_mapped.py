"""Files mapped into memory."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import zlib

import numpy as np
import pytest

from ecopipe.storage.mapped import MappedFiles, ranges_of


def gathered(files, which, offsets, size):
    found = ranges_of(files, np.array(which), np.array(offsets), size)
    return None if found is None else found[0][found[1]]


def test_ranges_and_their_checks(tmp_path):
    path = tmp_path / "file"
    content = np.random.default_rng(0).integers(0, 256, 4000, dtype=np.uint8).tobytes()
    path.write_bytes(content)
    files = MappedFiles()
    file = files.open(str(path))
    offsets = np.array([3000, 0, 512, 3000])
    ranges = gathered({0: file}, [0] * 4, offsets, 1000)
    assert [row.tobytes() for row in ranges] == [content[at : at + 1000] for at in offsets]
    assert gathered({0: file}, [0] * 4, offsets + 1, 1000) is None
    assert gathered({0: file}, [0] * 4, offsets - 1, 1000) is None
    assert gathered({0: file}, [0], [0], 4001) is None
    expected = [zlib.crc32(row) for row in ranges]
    all_of_them = np.arange(4)
    assert file.checks(offsets, ranges, all_of_them).tolist() == expected
    assert file.checks(offsets, np.zeros_like(ranges), all_of_them).tolist() == expected  # known by now
    assert files.open(str(path)) is file
    os.utime(path, ns=(0, 0))
    again = files.open(str(path))
    assert again is not file
    assert again.checks(offsets[:2], ranges, np.array([1, 0])).tolist() == expected[1::-1]
    assert pickle.loads(pickle.dumps(files)).open(str(path)) is not again


def test_ranges_of_several_files_in_any_order(tmp_path):
    rng = np.random.default_rng(1)
    contents = [rng.integers(0, 256, length, dtype=np.uint8).tobytes() for length in (9000, 600, 70000)]
    files = MappedFiles()
    opened = {}
    for number, content in zip((4, 0, 2), contents, strict=True):
        (tmp_path / str(number)).write_bytes(content)
        opened[number] = files.open(str(tmp_path / str(number)))
    which, offsets = [2, 4, 0, 2, 4], [69500, 0, 100, 1, 8500]
    expected = [contents[(4, 0, 2).index(at)][offset : offset + 500] for at, offset in zip(which, offsets, strict=True)]
    ranges = gathered(opened, which, offsets, 500)
    del opened
    files.close()
    assert [row.tobytes() for row in ranges] == expected
    assert gathered({0: MappedFiles().open(str(tmp_path / "0"))}, [0], [101], 500) is None


CUT = """
import os, sys
import numpy as np
from ecopipe.storage.mapped import MappedFiles, ranges_of
file = MappedFiles().open(sys.argv[1])
os.truncate(sys.argv[1], int(sys.argv[2]))
found = ranges_of({0: file}, np.array([0]), np.array([90_000]), 1000)
print("refused" if found is None else found[0][found[1]].sum())
"""


@pytest.mark.parametrize("left", [4096, 90_500, 99_999])  # whole pages are gone, or a part of one: then it reads zeros
def test_a_file_that_was_cut_while_it_was_mapped_is_not_looked_at(tmp_path, left):
    path = tmp_path / "file"
    path.write_bytes(b"1" * 100_000)
    command = [sys.executable, "-c", CUT, str(path), str(left)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "refused\n", "")


def test_what_cannot_be_mapped(tmp_path):
    files = MappedFiles()
    (tmp_path / "empty").touch()
    for path in (tmp_path / "missing", tmp_path / "empty", tmp_path, "memory://somewhere/file"):
        assert files.open(str(path)) is None


def test_only_the_last_are_kept(tmp_path):
    files = MappedFiles(max_open=2)
    paths = [tmp_path / name for name in "abc"]
    for path in paths:
        path.write_bytes(b"12")
    opened = [files.open(str(path)) for path in paths]
    assert files.open(str(paths[2])) is opened[2]
    assert files.open(str(paths[0])) is not opened[0]
    files.close()
    assert files.open(str(paths[2])) is not opened[2]


def test_what_was_written_to_is_another_file_whatever_its_time_says(tmp_path):
    path = tmp_path / "shard"
    path.write_bytes(b"1" * 2000)
    files = MappedFiles()
    file = files.open(str(path))
    before = os.stat(path)
    with open(path, "r+b") as changed:
        changed.write(b"2")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert files.open(str(path)) is not file

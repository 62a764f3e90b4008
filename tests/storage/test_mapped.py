"""Files mapped into memory."""

from __future__ import annotations

import os
import pickle
import zlib

import numpy as np

from ecopipe.storage.mapped import MappedFiles


def test_ranges_and_their_checks(tmp_path):
    path = tmp_path / "file"
    content = np.random.default_rng(0).integers(0, 256, 4000, dtype=np.uint8).tobytes()
    path.write_bytes(content)
    files = MappedFiles()
    file = files.open(str(path))
    offsets = np.array([3000, 0, 512, 3000])
    ranges = file.gather(offsets, 1000)
    assert [row.tobytes() for row in ranges] == [content[at : at + 1000] for at in offsets]
    assert ranges.flags.writeable
    assert file.gather(offsets + 1, 1000) is None
    assert file.gather(offsets - 1, 1000) is None
    assert file.gather(np.array([0]), 4001) is None
    expected = [zlib.crc32(row) for row in ranges]
    assert file.checks(offsets, ranges).tolist() == expected
    assert file.checks(offsets, np.zeros_like(ranges)).tolist() == expected  # known by now
    assert files.open(str(path)) is file
    os.utime(path, ns=(0, 0))
    again = files.open(str(path))
    assert again is not file
    assert again.checks(offsets, np.zeros_like(ranges)).tolist() != expected
    assert pickle.loads(pickle.dumps(files)).open(str(path)) is not again


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

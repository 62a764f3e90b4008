"""One flat sorted list of files, whatever they lie in; and archives that are not what they should be."""

from __future__ import annotations

import bz2
import errno
import gzip
import io
import lzma
import os
import pickle
import re
import stat
import tarfile
import tempfile
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from ecopipe.datasets.tree import Tree
from ecopipe.vocabulary.errors import CorpusError, OutputError, StorageError

FILES = {
    "c/b.txt": b"second",
    "c/a/deep.bin": bytes(range(256)) * 9,
    "c/z.txt": b"",
    "top.txt": b"top",
    "c/aa.txt": b"1",
}


def write_folder(root: Path, files: Mapping[str, bytes]) -> Path:
    for name, payload in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(payload)
    return root


def tar_bytes(files: Mapping[str, bytes], prefix: str = "") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, payload in files.items():
            info = tarfile.TarInfo(prefix + name)
            info.size = len(payload)
            tar.addfile(info, io.BytesIO(payload))
    return buffer.getvalue()


def zip_bytes(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, payload in files.items():
            archive.writestr(name, payload)
    return buffer.getvalue()


PACKERS: dict[str, Callable[[Mapping[str, bytes]], bytes]] = {
    "x.tar": tar_bytes,
    "dots.tar": lambda files: tar_bytes(files, "./"),
    "x.tar.gz": lambda files: gzip.compress(tar_bytes(files)),
    "x.tgz": lambda files: gzip.compress(tar_bytes(files)),
    "x.tar.bz2": lambda files: bz2.compress(tar_bytes(files)),
    "x.tar.xz": lambda files: lzma.compress(tar_bytes(files)),
    "x.zip": zip_bytes,
    "no-ending": lambda files: gzip.compress(tar_bytes(files)),
}


@pytest.fixture(params=["folder", *PACKERS])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if request.param == "folder":
        return write_folder(tmp_path / "folder", FILES)
    path = tmp_path / str(request.param)
    path.write_bytes(PACKERS[str(request.param)](FILES))
    return path


def test_every_form_holds_the_same_files(place: Path) -> None:
    with Tree(place) as tree:
        assert tree.names == ("c/a/deep.bin", "c/aa.txt", "c/b.txt", "c/z.txt", "top.txt")
        assert {name: tree.read(name) for name in tree.names} == FILES
        assert {name: tree.size(name) for name in tree.names} == {name: len(data) for name, data in FILES.items()}
        assert tree.under("c/a") == ("c/a/deep.bin", "c/aa.txt")
        assert "top.txt" in tree and "top" not in tree


def test_an_inner_folder_becomes_the_root(place: Path) -> None:
    with Tree(place, inner="c") as tree:
        assert tree.names == ("a/deep.bin", "aa.txt", "b.txt", "z.txt")
        assert tree.read("b.txt") == b"second"
        assert tree.where("b.txt").endswith("c/b.txt")
    with Tree(place, inner="elsewhere") as tree:
        assert len(tree.names) == len(FILES)


def test_reading_leaves_the_folder_of_the_archive_as_it_was(place: Path) -> None:
    before = sorted(place.parent.rglob("*"))
    with Tree(place) as tree:
        tree.read("c/b.txt")
        assert sorted(place.parent.rglob("*")) == before


def test_a_tree_survives_pickling(place: Path) -> None:
    with Tree(place, inner="c") as tree, pickle.loads(pickle.dumps(tree)) as again:
        assert again.names == tree.names
        assert again.read("b.txt") == b"second"


def test_threads_read_the_same_bytes(place: Path) -> None:
    wrong: list[str] = []
    with Tree(place) as tree:

        def work() -> None:
            wrong.extend(name for _ in range(50) for name in tree.names if tree.read(name) != FILES[name])

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


def test_hidden_files_are_left_out(tmp_path: Path) -> None:
    files = {"a.txt": b"a", "._a.txt": b"", "__MACOSX/a.txt": b"", ".cache/b.txt": b"", "b/.DS_Store": b""}
    (tmp_path / "x.tar").write_bytes(tar_bytes(files))
    for path in (write_folder(tmp_path / "folder", files), tmp_path / "x.tar"):
        with Tree(path) as tree:
            assert tree.names == ("a.txt",)


def test_links_are_followed_in_a_folder_and_a_loop_ends(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "folder", {"real/a.txt": b"a"})
    (root / "again").symlink_to(root / "real")
    (root / "real" / "up").symlink_to(root)
    (root / "broken").symlink_to(root / "nothing")
    assert Tree(root).names == ("again/a.txt", "real/a.txt")


def test_depth_bounds_the_walk(tmp_path: Path) -> None:
    root = write_folder(tmp_path, {"a.txt": b"", "b/c.txt": b"", "b/d/e.txt": b""})
    assert Tree(root, depth=2).names == ("a.txt", "b/c.txt")


def test_links_and_devices_of_an_archive_are_ignored(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for name, kind in (
            ("s", tarfile.SYMTYPE),
            ("h", tarfile.LNKTYPE),
            ("d", tarfile.CHRTYPE),
            ("p", tarfile.FIFOTYPE),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
        info = tarfile.TarInfo("file")
        info.size = 2
        tar.addfile(info, io.BytesIO(b"ok"))
    assert Tree(tmp_path / "x.tar").names == ("file",)
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        entry = zipfile.ZipInfo("link")
        entry.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(entry, "/etc/passwd")
        archive.writestr("file", "ok")
    assert Tree(tmp_path / "x.zip").names == ("file",)


@pytest.mark.parametrize("name", ["/etc/passwd", "../up.txt", "a/../../up.txt"])
@pytest.mark.parametrize("pack", [tar_bytes, zip_bytes])
def test_names_that_point_outside_are_refused(tmp_path: Path, name: str, pack: Any) -> None:
    (tmp_path / "x").write_bytes(pack({"fine.txt": b"", name: b"bad"}))
    with pytest.raises(CorpusError, match=re.escape(repr(name)) + ", which points outside of the archive"):
        Tree(tmp_path / "x")


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(tar_bytes({"a.txt": b"1", "./a.txt": b"2"}))
    with pytest.raises(CorpusError, match=r"two files named 'a\.txt'.*Make the archive anew"):
        Tree(tmp_path / "x.tar")


def test_every_truncation_of_a_compressed_tar_is_found(tmp_path: Path) -> None:
    whole = gzip.compress(tar_bytes(FILES), mtime=0)
    path = tmp_path / "x.tar.gz"
    for length in range(1, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(CorpusError, match="Fetch the file again"):
            Tree(path)


def test_every_truncation_of_a_plain_tar_is_found(tmp_path: Path) -> None:
    whole = tar_bytes(FILES)
    end = len(whole.rstrip(b"\0"))
    path = tmp_path / "x.tar"
    for length in [*range(1, end, 101), *range(512, end + 512, 512)]:
        if length >= -(-end // 512) * 512 + 512:
            continue
        path.write_bytes(whole[:length])
        with pytest.raises(CorpusError, match=r"x\.tar (is damaged or incomplete|is not a readable archive)"):
            Tree(path)


def test_damage_in_mid_archive_is_not_taken_for_the_end(tmp_path: Path) -> None:
    damaged = bytearray(tar_bytes({"a.txt": b"1", "b.txt": b"2"}))
    damaged[1024 + 5] ^= 0xFF  # in the header of the second file
    (tmp_path / "x.tar").write_bytes(damaged)
    with pytest.raises(CorpusError, match=r"at byte 1,024 of the tar there is neither a file nor the end mark"):
        Tree(tmp_path / "x.tar")


def test_a_damaged_gzip_is_found(tmp_path: Path) -> None:
    damaged = bytearray(gzip.compress(os.urandom(5000) + tar_bytes(FILES)))
    damaged[2000] ^= 0xFF
    (tmp_path / "x.tar.gz").write_bytes(damaged)
    with pytest.raises(CorpusError, match=r"decompressing it failed after [\d,]+ bytes .*Fetch the file again"):
        Tree(tmp_path / "x.tar.gz")


def test_a_damaged_zip_is_found(tmp_path: Path) -> None:
    whole = zip_bytes(FILES)
    (tmp_path / "short.zip").write_bytes(whole[:-30])
    with pytest.raises(CorpusError, match="is damaged or incomplete"):
        Tree(tmp_path / "short.zip")
    damaged = bytearray(whole)
    damaged[damaged.index(b"c/b.txt") + 9] ^= 0xFF
    (tmp_path / "x.zip").write_bytes(damaged)
    with Tree(tmp_path / "x.zip") as tree, pytest.raises(CorpusError, match=r"x\.zip: c/b\.txt cannot be read"):
        tree.read("c/b.txt")


def test_an_archive_that_shrinks_while_open_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(tar_bytes({"a.bin": bytes(5000)}))
    with Tree(path) as tree:
        os.truncate(path, 2000)
        with pytest.raises(CorpusError, match=r"a\.bin ends after 1,488 of 5,000 bytes"):
            tree.read("a.bin")


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (b"", r"is empty \(0 bytes\)\. Fetch the file again"),
        (b"<html>not found</html>" * 90, "is not a readable archive"),
        (tar_bytes({}), "is an archive without any file in it"),
    ],
)
def test_what_is_no_archive_is_refused(tmp_path: Path, payload: bytes, message: str) -> None:
    (tmp_path / "x.tar").write_bytes(payload)
    with pytest.raises(CorpusError, match=message):
        Tree(tmp_path / "x.tar")


def test_a_missing_path_says_what_there_is(tmp_path: Path) -> None:
    (tmp_path / "aclImdb").mkdir()
    with pytest.raises(CorpusError, match=r"nope/deeper does not exist\. Check the path; .* holds: aclImdb\."):
        Tree(tmp_path / "nope" / "deeper")


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="is a folder without any file in it"):
        Tree(tmp_path)


@pytest.fixture
def as_nobody() -> Iterator[Path]:
    """A folder that all may reach, with the rights of an ordinary user while the test runs."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        root = write_folder(Path(name), {"open/a.txt": b"a", "shut/b.txt": b"b", "open/shut.txt": b"c"})
        os.chmod(root / "shut", 0)
        os.chmod(root / "open" / "shut.txt", 0)
        was = os.geteuid()
        if was == 0:
            os.seteuid(65534)
        try:
            yield root
        finally:
            os.seteuid(was)
            os.chmod(root / "shut", 0o755)


def test_a_folder_without_permission_is_refused(as_nobody: Path) -> None:
    with pytest.raises(CorpusError, match=r"The folder .*/shut/? cannot be listed: Permission denied\. Give yourself"):
        Tree(as_nobody)


def test_a_file_without_permission_is_refused(as_nobody: Path) -> None:
    with Tree(as_nobody / "open") as tree, pytest.raises(CorpusError, match=r"shut\.txt cannot be read: Permission"):
        tree.read("shut.txt")
    with pytest.raises(CorpusError, match=r"shut\.txt cannot be read: Permission denied"):
        Tree(as_nobody / "open" / "shut.txt")


def test_what_lies_behind_a_folder_without_permission_is_not_said_to_be_missing(as_nobody: Path) -> None:
    for name in ("shut/b.txt", "shut/nothing"):
        with pytest.raises(
            StorageError, match=rf"{name} cannot be reached: Permission denied\. Give yourself .* above"
        ):
            Tree(as_nobody / name)


def test_a_file_that_went_away_is_named(tmp_path: Path) -> None:
    tree = Tree(write_folder(tmp_path, {"a.txt": b"a"}))
    (tmp_path / "a.txt").unlink()
    with pytest.raises(CorpusError, match=r"a\.txt cannot be read: No such file or directory"):
        tree.read("a.txt")
    assert tree.size("a.txt") == 1  # as it was listed


def test_an_unknown_name_and_a_closed_tree(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(tar_bytes(FILES))
    tree = Tree(tmp_path / "x.tar")
    with pytest.raises(CorpusError, match=r"holds no file 'b\.txt'\. It holds: c/, top\.txt\."):
        tree.read("b.txt")
    tree.close()
    with pytest.raises(CorpusError, match="has been closed"):
        tree.read("top.txt")


def test_the_temporary_file_honours_tmpdir_and_a_full_disk_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x.tar.gz").write_bytes(gzip.compress(tar_bytes(FILES)))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with pytest.raises(OutputError, match=r"temporary file in .*missing: No such file.* set TMPDIR"):
        Tree(tmp_path / "x.tar.gz")

    class Full(io.BytesIO):
        def write(self, _: Any) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tempfile, "TemporaryFile", Full)
    with pytest.raises(OutputError, match=r"No space left on device after [\d,]+ bytes\. Free some space"):
        Tree(tmp_path / "x.tar.gz")


def test_stems(tmp_path: Path) -> None:
    for name in ("test-clean.tar.gz", "test-clean.tgz", "test-clean.TAR", "test-clean.x.zip"):
        (tmp_path / name).write_bytes(tar_bytes(FILES))
        assert Tree(tmp_path / name).stem in ("test-clean", "test-clean.x")
    assert Tree(write_folder(tmp_path / "v1.0", FILES)).stem == "v1.0"
    assert Tree(f"{tmp_path}/v1.0/", inner="c").stem == "c"

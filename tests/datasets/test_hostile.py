"""Archives and pickles that lie: about sizes, names, and what they are."""

from __future__ import annotations

import gzip
import io
import pickle
import struct
import tarfile
import zipfile
from pathlib import Path

import pytest

from ecopipe.datasets import original, synthetic
from ecopipe.datasets.cifar10 import Cifar10
from ecopipe.datasets.tree import Tree
from ecopipe.vocabulary.errors import CorpusError


@pytest.fixture
def small_bombs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(original, "MOST_UNPACKED", 1 << 20)


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.usefixtures("small_bombs")
def test_decompression_bombs_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.tar.gz").write_bytes(gzip.compress(header("a", 1 << 26) + bytes(1 << 26)))
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", bytes(1 << 24))
    for name in ("x.tar.gz", "x.zip"):
        with pytest.raises(
            CorpusError, match=r"is refused: its [\d,]+ bytes unpack to [\d,]+ or more, .*unpack it your"
        ):
            Tree(tmp_path / name)
    (tmp_path / "fine.tar.gz").write_bytes(gzip.compress(header("a", 2000) + b"a" * 2048 + bytes(1024)))
    assert Tree(tmp_path / "fine.tar.gz").read("a") == b"a" * 2000


@pytest.mark.parametrize("size", [8**11, 1 << 62, -512, -1])
def test_absurd_sizes_in_a_tar_are_refused(tmp_path: Path, size: int) -> None:
    (tmp_path / "x.tar").write_bytes(header("fine", 0) + header("a", size) + bytes(2048))
    with pytest.raises(
        CorpusError, match=r"x\.tar is damaged or incomplete: 'a' states .* bytes, where 2,048 are left"
    ):
        Tree(tmp_path / "x.tar")


def test_an_absurd_name_in_a_tar_is_refused(tmp_path: Path) -> None:
    long = 2 << 20
    (tmp_path / "x.tar").write_bytes(header("././@LongLink", long, b"L") + b"a" * long + header("a", 0) + bytes(1024))
    with pytest.raises(CorpusError, match=r"is refused: a name at byte 512 of the tar has 2,097,152 bytes"):
        Tree(tmp_path / "x.tar")


def test_a_zip_that_lies_about_a_size_is_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", b"x" * 5000)
    data = buffer.getvalue()
    (tmp_path / "x.zip").write_bytes(data.replace(struct.pack("<I", 5000), struct.pack("<I", 10)))
    with Tree(tmp_path / "x.zip") as tree, pytest.raises(CorpusError, match="it has another size than the zip says"):
        tree.read("a")


@pytest.mark.parametrize(
    "payload",
    [
        b"\x80\x02}r\xff\xff\xff\x7f.",  # the object number 2**31: the unpickler would make a table of so many
        b"\x80\x02cnumpy\nndarray\n(J\xff\xff\xff\x7f\x85tR.",
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nJ\xff\xff\xff\x7f\x85U\x01btR.",
        b"\x80\x02" + b"(" * 100_000 + b"t" * 100_000 + b".",
        pickle.dumps({(1, 2): 3}, 2),
        b"\x80\x04\x96\xff\xff\xff\xff\xff\xff\xff\x7f.",
    ],
    ids=["memo", "ndarray", "reconstruct", "deep", "key", "bytearray"],
)
def test_hostile_pickles_are_refused(tmp_path: Path, payload: bytes) -> None:
    root = synthetic.write_cifar10(tmp_path, rows=2)
    (root / "test_batch").write_bytes(payload)
    with pytest.raises(CorpusError, match=r"test_batch is (damaged|refused): .*Fetch cifar-10-python"):
        Cifar10(root).count("test")
    assert Cifar10(root).count("train") == 10

import hashlib
import io
import tarfile
from pathlib import Path

import pytest
import webdataset
from hypothesis import given
from hypothesis import strategies as st

from ecopipe.formats import tar
from ecopipe.formats.tar import Entry, TarWriter, sample_size, scan, split_name
from ecopipe.vocabulary.errors import ShardError

SAMPLES = [
    ("a/00", {"txt": b"hello", "cls": b"1"}),
    ("a/01", {"txt": b"", "seg.png": b"x" * 700}),
    ("b", {"json": b"{}"}),
]


def write(samples: list[tuple[str, dict[str, bytes]]] = SAMPLES) -> bytes:
    file = io.BytesIO()
    writer = TarWriter(file)
    for key, payloads in samples:
        writer.add(key, payloads)
    writer.finish()
    return file.getvalue()


def read(data: bytes) -> list[Entry]:
    return list(scan(io.BytesIO(data), "x.tar"))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.flac", ("a", "flac")),
        ("d.x/a.Seg.PNG", ("d.x/a", "seg.png")),
        ("noext", ("noext", "")),
        ("./a.txt", ("./a", "txt")),
    ],
)
def test_names_split_as_webdataset_splits_them(name: str, expected: tuple[str, str]) -> None:
    assert split_name(name) == expected
    if expected[1]:
        assert webdataset.tariterators.base_plus_ext(name) == (expected[0], name.rpartition("/")[2].partition(".")[2])


def test_what_is_written_is_read_with_offsets_that_hold_the_payload() -> None:
    data = write()
    entries = read(data)
    assert [(entry.key, entry.payloads) for entry in entries] == SAMPLES
    for entry in entries:
        for member in entry.members:
            assert data[member.offset : member.offset + member.size] == entry.payloads[member.extension]


def test_the_same_samples_give_the_same_bytes_in_any_order_of_members() -> None:
    turned = [(key, dict(reversed(payloads.items()))) for key, payloads in SAMPLES]
    assert write() == write(turned)
    with tarfile.open(fileobj=io.BytesIO(write())) as tar:
        assert {(info.mtime, info.uid, info.gid, info.uname, info.gname) for info in tar} == {(0, 0, 0, "", "")}


def test_long_and_unicode_names_survive() -> None:
    samples = [("ü" * 90 + "/" + "k" * 120, {"txt": b"1"}), ("z", {"txt": b"2"})]
    assert [entry.key for entry in read(write(samples))] == [key for key, _ in samples]


def test_sample_size_is_what_a_sample_takes() -> None:
    file = io.BytesIO()
    writer = TarWriter(file)
    for key, payloads in SAMPLES:
        before = writer.position
        writer.add(key, payloads)
        assert writer.position - before == sample_size(key, payloads)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # webdataset leaves the file open
def test_webdataset_opens_what_is_written(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(write())
    found = [
        (sample["__key__"], {name: value for name, value in sample.items() if not name.startswith("__")})
        for sample in webdataset.WebDataset(str(tmp_path / "x.tar"), shardshuffle=False)
    ]
    assert found == SAMPLES


def test_what_webdataset_writes_is_read(tmp_path: Path) -> None:
    with webdataset.ShardWriter(str(tmp_path / "x-%06d.tar"), maxcount=2, verbose=0) as sink:
        for key, payloads in SAMPLES:
            sink.write(
                {"__key__": key, **{name: value for name, value in payloads.items() if name != "json"}, "json": {}}
            )
    entries = [entry for path in sorted(tmp_path.glob("*.tar")) for entry in read(path.read_bytes())]
    assert [entry.key for entry in entries] == ["a/00", "a/01", "b"]
    assert entries[1].payloads["seg.png"] == b"x" * 700


@pytest.mark.parametrize("cut", range(1, 3))
def test_every_truncation_is_noticed(cut: int) -> None:
    data = write()
    content = len(data.rstrip(b"\0"))
    for length in range(cut, content, 171):
        with pytest.raises(ShardError, match=r"x\.tar: .*(truncated|too few|not a whole|damaged)"):
            read(data[:length])
    end = content + -content % 512
    with pytest.raises(ShardError, match="no end-of-archive mark"):
        read(data[:end])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "holds 0 bytes, too few for a tar"),
        (b"\x1f\x8b" + bytes(2000), "is compressed.*Decompress it to a plain .tar"),
        (b"no tar at all" * 200, "is not a whole tar"),
        (
            write([("a", {"txt": b"1"}), ("b", {"txt": b"2"}), ("a", {"cls": b"3"})]),
            "members of sample 'a' are not together",
        ),
    ],
)
def test_what_is_no_shard_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(ShardError, match=message):
        read(data)


def test_a_damaged_header_in_the_middle_is_refused_not_taken_for_the_end() -> None:
    data = bytearray(write())
    second = read(bytes(data))[1].members[0].offset - 512
    data[second + 10] ^= 0xFF
    with pytest.raises(ShardError, match="damaged header at byte"):
        read(bytes(data))


def test_a_name_that_is_no_utf8_is_refused() -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT, encoding="latin-1") as tar:
        info = tarfile.TarInfo("f\xfcr.txt")
        tar.addfile(info, io.BytesIO(b""))
    with pytest.raises(ShardError, match=r"the name of member .* is no UTF-8. Write the tar again"):
        read(file.getvalue())


def test_an_empty_tar_holds_nothing() -> None:
    assert read(write([])) == []


def test_two_members_of_one_extension_are_refused() -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for _ in range(2):
            info = tarfile.TarInfo("a.txt")
            info.size = 1
            tar.addfile(info, io.BytesIO(b"x"))
    with pytest.raises(ShardError, match="sample 'a' has two members 'txt'"):
        read(file.getvalue())


def test_folders_links_and_meta_members_are_passed_over() -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        folder, link = tarfile.TarInfo("d"), tarfile.TarInfo("d/l.txt")
        folder.type, link.type, link.linkname = tarfile.DIRTYPE, tarfile.SYMTYPE, "/etc/passwd"
        for info in (folder, link):
            tar.addfile(info)
        for name in ("__meta__.json", "README", "._d.txt", ".DS_Store", "d/a.txt", "d/._b.txt"):
            info = tarfile.TarInfo(name)
            info.size = 1
            tar.addfile(info, io.BytesIO(b"x"))
    assert [(entry.key, list(entry.payloads)) for entry in read(file.getvalue())] == [("d/a", ["txt"])]


@given(
    st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"), min_size=1, max_size=120),
    st.one_of(st.integers(0, 2000), st.sampled_from([8**11 - 1, 8**11])),
)
def test_headers_are_those_of_the_standard_library(name: str, size: int) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o444
    assert tar.header(name, size) == info.tobuf(tarfile.PAX_FORMAT)


def test_the_digest_is_told_every_byte(tmp_path: Path) -> None:
    digest = hashlib.sha256()
    with open(tmp_path / "x.tar", "wb") as file:
        writer = tar.TarWriter(file, digest=digest)
        writer.add("small", {"txt": b"some words", "cls": b"1"})
        writer.add("large", {"bin": bytes(tar.SMALL), "txt": b"x"})
        writer.finish()
    data = (tmp_path / "x.tar").read_bytes()
    assert (len(data), digest.digest()) == (writer.position, hashlib.sha256(data).digest())

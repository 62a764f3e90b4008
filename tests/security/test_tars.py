"""Hostile tars: nothing outside is touched, memory stays bounded, and the error names the tar."""

from __future__ import annotations

import contextlib
import io
import os
import random
import struct
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from ecopipe.datasets.shards import index_folder, open_index
from ecopipe.formats.tar import scan
from ecopipe.vocabulary.errors import ShardError

END = bytes(1024)


def member(name, data=b"x", type=tarfile.REGTYPE, size=None, link=""):
    """A member whose header may lie about its size."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = type, link
    info.size = len(data)
    block = info.tobuf(tarfile.GNU_FORMAT)
    if size is not None:
        block = resized(block, size)
    return block + data + bytes(-len(data) % 512)


def resized(block, field):
    """A header with other bytes for its size, and the checksum that fits."""
    coded = field if isinstance(field, bytes) else b"%011o\0" % field
    head = bytearray(block[-512:])
    head[124:136] = coded.ljust(12, b"\0")
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    return block[:-512] + bytes(head)


def base256(number):
    return (b"\xff\xff\xff\xff" if number < 0 else b"\x80\0\0\0") + struct.pack(">q", number)


def pax(records, size=None, type=tarfile.XHDTYPE):
    data = b""
    for name, value in records.items():
        line = f" {name}={value}\n".encode()
        length = len(line) + len(str(len(line) + len(str(len(line)))))
        data += str(length).encode() + line
    return member("././@PaxHeader", data, type, size)


def keys(data):
    return [entry.key for entry in scan(io.BytesIO(data), "bad.tar")]


@pytest.mark.parametrize("name", ["/etc/passwd.txt", "../../up.txt", "a/../../../b.txt", "//x/y.txt", "C:\\w.txt"])
def test_names_that_lead_elsewhere_are_only_names(tmp_path, monkeypatch, name):
    outside, folder = tmp_path / "outside", tmp_path / "outside" / "in" / "side"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    (folder / "a.tar").write_bytes(member(name, b"owned") + END)
    before = Path("/etc/passwd").stat().st_mtime_ns
    index = open_index(index_folder(str(folder), [str(folder / "a.tar")]))
    assert index.read(0, 0, 1)["key"].to_pylist() == [name[:-4]]
    index.close()
    assert sorted(path.name for path in outside.rglob("*") if path.is_file()) == ["a.tar", "index.arrow"]
    assert Path("/etc/passwd").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    "type", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE]
)
def test_links_and_devices_are_no_members(tmp_path, type):
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    os.mkfifo(tmp_path / "fifo.txt")  # to open it would be to wait for ever
    for link in (str(secret), "../secret.txt", str(tmp_path / "fifo.txt"), "a.txt"):
        assert keys(member("x.txt", b"", type, link=link) + member("b.txt", b"good") + END) == ["b"]


@pytest.mark.parametrize("type", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK])
@pytest.mark.parametrize("size", [8**11 - 1, base256(1 << 62), 70_000])
def test_absurd_extended_headers_are_not_read(type, size):
    with pytest.raises(ShardError, match=r"^bad.tar: is not a whole tar \(a header of .* at most 65,536 are read\)"):
        keys(member("h", b"x" * 1000, type, size) + member("b.txt") + END)


@pytest.mark.parametrize("size", [-1, -512, -1024, -(1 << 40)])
@pytest.mark.parametrize("type", [tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.XHDTYPE, b"Z"])
def test_negative_sizes_do_not_go_round_in_circles(size, type):
    data = member("a.txt", b"x") + member("dir", b"", type, base256(size)) + member("b.txt") + END
    with pytest.raises(ShardError, match="is not a whole tar"):
        keys(data)


@pytest.mark.parametrize("size", ["-512", "-1024", "-1536", "-99999999"])
@pytest.mark.parametrize("name", ["b.txt", "noextension"])
def test_negative_sizes_in_pax_records_do_not_either(size, name):
    with pytest.raises(ShardError, match="bytes by its header|is not a whole tar"):
        keys(member("a.txt") + pax({"size": size}) + member(name) + END)


@pytest.mark.parametrize("size", [100_000, 8**11 - 1, base256(1 << 40), base256((1 << 63) - 1)])
def test_members_longer_than_the_tar_are_not_read(size):
    with pytest.raises(ShardError, match="ends inside member 'a.txt'"):
        keys(member("a.txt", b"x", size=size) + END)
    with pytest.raises(ShardError, match="is not a whole tar|ends inside"):
        keys(member("noextension", b"x", size=size) + END)


@pytest.mark.parametrize("records", [{"size": "9" * 4000}, {"size": "1e400"}, {"path": "a\0b.txt"}, {"mtime": "inf"}])
def test_odd_pax_records(records):
    with contextlib.suppress(ShardError):
        assert len(keys(pax(records) + member("b.txt") + END)) <= 1


@pytest.mark.parametrize(
    "records",
    [
        {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "1"},
        {"GNU.sparse.map": "0,1", "GNU.sparse.size": "1"},
        {"GNU.sparse.size": "1", "GNU.sparse.numblocks": "1"},
    ],
)
def test_sparse_members_are_refused(records):
    with pytest.raises(ShardError, match="a sparse member; write the tar again without --sparse"):
        keys(pax(records) + member("b.txt", b"999999999999\n") + END)
    with pytest.raises(ShardError, match="a sparse member"):
        keys(member("b.txt", b"", tarfile.GNUTYPE_SPARSE) + END)


def test_a_chain_of_headers_does_not_exhaust_the_stack():
    with pytest.raises(ShardError, match="bad.tar: is not a whole tar"):
        keys(pax({"comment": "x"}) * 3000 + member("b.txt") + END)
    with pytest.raises(ShardError, match="bad.tar: is not a whole tar"):
        keys(member("././@LongLink", b"name\0", tarfile.GNUTYPE_LONGNAME) * 3000 + member("b.txt") + END)


def test_repeated_names_are_refused():
    with pytest.raises(ShardError, match="sample 'a' has two members 'txt'"):
        keys(member("a.txt") * 2 + END)
    with pytest.raises(ShardError, match="two members 'txt'"):
        keys(member("a.txt") + member("a.TXT") + END)
    with pytest.raises(ShardError, match="sample 'a' are not together"):
        keys(member("a.txt") + member("b.txt") + member("a.json") + END)


def test_a_huge_member_of_holes_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "a.tar"
    with open(path, "wb") as file:
        file.write(member("a.txt", b"", size=base256(1 << 36)))
        file.truncate((1 << 36) + 4096)  # 64 GiB of holes
    with pytest.raises(ShardError, match=r"member 'a.txt' has 68,719,476,736 bytes.*4,294,967,296 at most"):
        index_folder(str(tmp_path), [str(path)])
    assert not (tmp_path / "index.arrow").exists()
    with open(path, "wb") as file:
        file.write(member("pax", b"", tarfile.XHDTYPE, base256(1 << 36)))
        file.truncate((1 << 36) + 4096)
    with pytest.raises(ShardError, match="a header of 68,719,476,736 bytes"):
        index_folder(str(tmp_path), [str(path)])


_MANY = """
import resource, sys
from ecopipe.formats.tar import scan
path = sys.argv[1]
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with open(path, "rb") as file:
    print(sum(1 for _ in scan(file, path)))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_many_tiny_headers_take_little_memory(tmp_path):
    """100,000 members that are no samples, with a PAX record each."""
    path = tmp_path / "a.tar"
    one = pax({"comment": "x" * 400}) + member("directory", b"", tarfile.DIRTYPE)
    path.write_bytes(one * 100_000 + member("a.txt") + END)
    done = subprocess.run([sys.executable, "-c", _MANY, str(path)], capture_output=True, text=True, check=True)
    samples, megabytes = map(int, done.stdout.split())
    assert samples == 1
    assert megabytes < 30, f"of a tar of {path.stat().st_size >> 20} MiB"


@pytest.mark.parametrize("seed", range(40))
def test_changed_headers_are_an_error_or_a_tar(seed):
    draws = random.Random(seed)
    good = b"".join(member(f"{n}.txt", b"x" * (300 * n)) for n in range(5)) + pax({"path": "p.txt"}) + member("q") + END
    for _ in range(50):
        data = bytearray(good)
        head = 512 * draws.randrange(len(data) // 512)
        for _ in range(draws.choice([1, 3, 12])):
            data[head + draws.randrange(512)] = draws.choice([0, 255, 0x80, draws.randrange(256)])
        if draws.random() < 0.7:  # as who means it: the checksum fits
            data[head + 148 : head + 156] = b" " * 8
            data[head + 148 : head + 156] = b"%06o\0 " % sum(data[head : head + 512])
        with contextlib.suppress(ShardError):
            for entry in scan(io.BytesIO(bytes(data)), "bad.tar"):
                for one in entry.members:
                    assert data[one.offset : one.offset + one.size] == entry.payloads[one.extension]

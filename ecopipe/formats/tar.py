"""Tar shards in the WebDataset convention: a sample is a run of neighbouring members that share a key.

The key of ``a/b.c.flac`` is ``a/b`` and its extension ``c.flac``, lower case, as ``webdataset.tariterators`` splits
them. Tars are read with the standard library's parser (ustar, GNU and PAX), which also makes the headers that are
written.
"""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import BinaryIO

from ecopipe.vocabulary.errors import ShardError

BLOCK = tarfile.BLOCKSIZE
END = b"\0" * (2 * BLOCK)


@dataclass(frozen=True)
class Member:
    """One member of a sample: where its payload lies, and the CRC-32 (zlib) of its bytes."""

    extension: str
    offset: int
    size: int
    crc32: int


@dataclass
class Entry:
    """One sample of a tar: its key, its members, and their payloads."""

    key: str
    members: list[Member] = field(default_factory=list)
    payloads: dict[str, bytes] = field(default_factory=dict)


def split_name(name: str) -> tuple[str, str]:
    """A member's name as (key, extension); the extension is empty where the name has none.

    >>> split_name("a/b.seg.flac")
    ('a/b', 'seg.flac')
    """
    folder, slash, base = name.rpartition("/")
    stem, _, extension = base.partition(".")
    return folder + slash + stem, extension.lower()


def scan(file: BinaryIO, path: str) -> Iterator[Entry]:
    """The samples of a tar, in order, each with its payloads. Reads every byte once.

    Args:
        file: The tar, seekable.
        path: Its name for errors.

    Raises:
        ShardError: It is no tar, compressed, truncated or damaged, or repeats a key or an extension.
    """
    file.seek(0, 2)
    size = file.tell()
    file.seek(0)
    start = file.read(262)
    if (
        start[:2] == b"\x1f\x8b"
        or start[:3] == b"BZh"
        or start[:6] == b"\xfd7zXZ\0"
        or start[:4] == b"\x28\xb5\x2f\xfd"
    ):
        raise ShardError(f"{path}: is compressed; its samples cannot be read at random. Decompress it to a plain .tar.")
    if size < 2 * BLOCK:
        raise ShardError(f"{path}: holds {size:,} bytes, too few for a tar. Fetch it again.")
    file.seek(0)
    if file.read(len(END)) == END:
        return  # an empty tar, over which Python 3.10's tarfile stumbles
    file.seek(0)
    seen: set[str] = set()
    entry: Entry | None = None
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            while (info := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # the parser keeps every header otherwise
                if not info.isreg() or info.issparse():
                    continue
                key, extension = split_name(info.name)
                stem = key.rpartition("/")[2]
                if not stem or not extension or (stem.startswith("__") and stem.endswith("__")):
                    continue
                if not _is_utf8(info.name):
                    raise ShardError(f"{path}: the name of member {info.name!r} is no UTF-8. Write the tar again.")
                if info.offset_data + info.size > size:
                    raise ShardError(f"{path}: ends inside member {info.name!r}: the tar is truncated. Fetch it again.")
                if entry is not None and entry.key != key:
                    yield entry
                    entry = None
                if entry is None:
                    if key in seen:
                        raise ShardError(
                            f"{path}: the members of sample {key!r} are not together. Write the tar sorted by name."
                        )
                    seen.add(key)
                    entry = Entry(key)
                if extension in entry.payloads:
                    raise ShardError(f"{path}: sample {key!r} has two members {extension!r}. Write the tar again.")
                stream = tar.extractfile(info)
                payload = stream.read() if stream is not None else b""
                entry.payloads[extension] = payload
                entry.members.append(Member(extension, info.offset_data, info.size, zlib.crc32(payload)))
            end = tar.offset
    except (tarfile.TarError, OSError, ValueError, OverflowError) as error:
        raise ShardError(f"{path}: is not a whole tar ({error}). Fetch it again.") from error
    file.seek(end)
    rest = file.read(2 * BLOCK)
    if len(rest) == len(END) and rest != END:
        raise ShardError(f"{path}: has a damaged header at byte {end:,}. Fetch the tar again.")
    if rest != END:
        raise ShardError(f"{path}: has no end-of-archive mark at byte {end:,}: it is truncated. Fetch it again.")
    if entry is not None:
        yield entry


def _is_utf8(name: str) -> bool:
    try:
        name.encode()  # the parser stands surrogates for bytes that are no UTF-8
    except UnicodeEncodeError:
        return False
    return True


def header_size(block: bytes) -> int | None:
    """The payload's bytes by a member's header; None if the header's checksum is wrong."""
    try:
        return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape").size
    except tarfile.TarError:
        return None


class TarWriter:
    """Writes samples so that the same ones give the same bytes: members sorted, no clock and no owner in a header."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.position = 0
        """Bytes written so far."""

    def add(self, key: str, payloads: Mapping[str, bytes]) -> list[Member]:
        """Appends one sample and says where its members lie."""
        members = []
        for extension in sorted(payloads):
            data = payloads[extension]
            info = tarfile.TarInfo(f"{key}.{extension}")
            info.size = len(data)
            info.mode = 0o444
            header = info.tobuf(tarfile.PAX_FORMAT)
            self._file.write(header)
            self._file.write(data)
            padding = -len(data) % BLOCK
            self._file.write(bytes(padding))
            members.append(Member(extension, self.position + len(header), len(data), zlib.crc32(data)))
            self.position += len(header) + len(data) + padding
        return members

    def finish(self) -> None:
        """Writes the end-of-archive mark."""
        self._file.write(END)
        self.position += len(END)
        padding = -self.position % tarfile.RECORDSIZE
        self._file.write(bytes(padding))
        self.position += padding


def sample_size(key: str, payloads: Mapping[str, bytes]) -> int:
    """Bytes that a sample takes in a tar, but for the extra headers of names over 100 bytes."""
    return sum(BLOCK + len(data) + -len(data) % BLOCK for data in payloads.values())

"""Tar shards in the WebDataset convention: a sample is a run of neighbouring members that share a key.

The key of ``a/b.c.flac`` is ``a/b`` and its extension ``c.flac``, lower case, as ``webdataset.tariterators`` splits
them. Tars are read with the standard library's parser (ustar, GNU and PAX), which also makes the headers that are
written.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO, Protocol

from zlib_ng.zlib_ng import crc32

from ecopipe.vocabulary.errors import ShardError

BLOCK = tarfile.BLOCKSIZE
END = b"\0" * (2 * BLOCK)

MAX_MEMBER = 4 * 2**30
"""Bytes of a member at most: it is read whole."""

MAX_HEADER = 64 * 2**10
"""Bytes of a long name or of PAX records at most."""


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
        with tarfile.open(fileobj=file, mode="r:", tarinfo=_Header) as tar:
            at = -1
            while (info := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # the parser keeps every header otherwise
                if info.size < 0 or tar.offset <= at:
                    raise ValueError(f"member {info.name!r} has {info.size:,} bytes by its header")
                at = tar.offset
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
                if info.size > MAX_MEMBER:
                    raise ShardError(
                        f"{path}: member {info.name!r} has {info.size:,} bytes, and a member is read whole: "
                        f"{MAX_MEMBER:,} at most. Write it in parts."
                    )
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
                entry.members.append(Member(extension, info.offset_data, info.size, crc32(payload)))
            end = tar.offset
    except (tarfile.TarError, OSError, ValueError, OverflowError, RecursionError) as error:
        raise ShardError(f"{path}: is not a whole tar ({error}). Fetch it again.") from error
    file.seek(end)
    rest = file.read(2 * BLOCK)
    if len(rest) == len(END) and rest != END:
        raise ShardError(f"{path}: has a damaged header at byte {end:,}. Fetch the tar again.")
    if rest != END:
        raise ShardError(f"{path}: has no end-of-archive mark at byte {end:,}: it is truncated. Fetch it again.")
    if entry is not None:
        yield entry


class _Header(tarfile.TarInfo):
    """A header that reads no more than a header should be; the parser reads as much as it says."""

    def _proc_member(self, tar: tarfile.TarFile) -> tarfile.TarInfo:
        if self.size < 0:
            raise ValueError(f"a header of {self.size:,} bytes")
        if self.type in _EXTENDED and self.size > MAX_HEADER:
            raise ValueError(f"a header of {self.size:,} bytes, at most {MAX_HEADER:,} are read")
        if self.type == tarfile.GNUTYPE_SPARSE:
            self._refuse_sparse()
        return super()._proc_member(tar)  # type: ignore[misc, no-any-return]  # meant to be overridden, by its comment

    def _refuse_sparse(self, *_args: object) -> None:
        raise ValueError("a sparse member; write the tar again without --sparse")

    _proc_gnusparse_00 = _proc_gnusparse_01 = _proc_gnusparse_10 = _refuse_sparse


_EXTENDED = (
    tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE,
)  # fmt: skip


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


SMALL = 2**16
"""Bytes of a sample below which its headers and payloads are put together before they are written."""

_ZEROS = bytes(BLOCK)


class Digest(Protocol):
    """What :mod:`hashlib` gives."""

    def update(self, data: bytes, /) -> None: ...


class TarWriter:
    """Writes samples so that the same ones give the same bytes: members sorted, no clock and no owner in a header.

    Args:
        file: Where to write.
        digest: Told of every byte, in order.
    """

    def __init__(self, file: BinaryIO, *, digest: Digest | None = None) -> None:
        self._file, self._digest = file, digest
        self.position = 0
        """Bytes written so far."""

    def add(self, key: str, payloads: Mapping[str, bytes]) -> list[Member]:
        """Appends one sample and says where its members lie."""
        members = []
        parts: list[bytes] = []
        end = self.position
        for extension in sorted(payloads):
            data = payloads[extension]
            head = header(f"{key}.{extension}", len(data))
            padding = -len(data) % BLOCK
            members.append(Member(extension, end + len(head), len(data), crc32(data)))
            parts += (head, data, _ZEROS[:padding])
            end += len(head) + len(data) + padding
        self._write(parts, end - self.position)
        return members

    def _write(self, parts: Sequence[bytes], size: int) -> None:
        for part in [b"".join(parts)] if size < SMALL else parts:
            self._file.write(part)
            if self._digest is not None:
                self._digest.update(part)
        self.position += size

    def finish(self) -> None:
        """Writes the end-of-archive mark."""
        size = len(END) + -(self.position + len(END)) % tarfile.RECORDSIZE
        self._write([bytes(size)], size)


def header(name: str, size: int) -> bytes:
    """The header of a member, as :mod:`tarfile` makes it; a plain one is filled in here, at a tenth of the time."""
    if len(name) > tarfile.LENGTH_NAME or size >= 8**11 or not name.isascii():
        return _info(name, size).tobuf(tarfile.PAX_FORMAT)
    named, digits = name.encode(), b"%011o" % size
    checksum = b"%06o" % (_PLAIN_SUM + sum(named) + sum(digits))
    return named + _PLAIN[len(named) : _SIZE.start] + digits + _PLAIN[_SIZE.stop : _SUM.start] + checksum + _PLAIN_END


def _info(name: str, size: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o444
    return info


_SIZE, _SUM = slice(124, 135), slice(148, 154)  # digits of the size and of the checksum in a header, without their ends
_PLAIN = _info("", 0).tobuf(tarfile.PAX_FORMAT)
_PLAIN_END = _PLAIN[_SUM.stop :]
_PLAIN_SUM = int(_PLAIN[_SUM], 8) - sum(_PLAIN[_SIZE])


def sample_size(key: str, payloads: Mapping[str, bytes]) -> int:
    """Bytes that a sample takes in a tar, but for the extra headers of names over 100 bytes."""
    return sum(BLOCK + len(data) + -len(data) % BLOCK for data in payloads.values())

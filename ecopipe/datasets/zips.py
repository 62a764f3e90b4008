"""Zips read at offsets: where their files lie, and each file's bytes, however many processes and threads read."""

from __future__ import annotations

import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator

from zlib_ng.zlib_ng import crc32

from ecopipe.datasets.original import DAMAGED, FETCH_AGAIN, Original, refuse_bomb
from ecopipe.vocabulary.errors import CorpusError

_LOCAL = struct.Struct("<4s22xHH")  # the mark, and the lengths of name and extra field
_ENCRYPTED = 1


def list_zip(file: Original) -> Iterator[zipfile.ZipInfo]:
    """The entry of each regular file.

    Raises:
        CorpusError: It is damaged, or would unpack to absurdly much.
    """
    try:
        with zipfile.ZipFile(file.stream()) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, OSError, EOFError, struct.error, NotImplementedError) as error:
        raise CorpusError(f"{file.name} is damaged or incomplete: {error}. {FETCH_AGAIN}") from error
    refuse_bomb(file.name, sum(entry.file_size for entry in entries), file.size)
    for entry in entries:
        kind = stat.S_IFMT(entry.external_attr >> 16)
        if not entry.is_dir() and kind in (0, stat.S_IFREG):
            yield entry


def read_entry(file: Original, entry: zipfile.ZipInfo) -> bytes:
    """All bytes of one file.

    Raises:
        CorpusError: It is damaged, encrypted, or not as long as the zip says.
    """
    try:
        data = _unpacked(file, entry)
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError, OSError, struct.error, *DAMAGED) as error:
        raise _unreadable(file, entry, str(error)) from error
    if len(data) != entry.file_size or crc32(data) != entry.CRC:
        found = "another checksum" if len(data) == entry.file_size else "another size"
        raise _unreadable(file, entry, f"it has {found} than the zip says")
    return data


def _unpacked(file: Original, entry: zipfile.ZipInfo) -> bytes:
    """At most one byte more than the zip says."""
    if entry.flag_bits & _ENCRYPTED:
        raise RuntimeError("it is encrypted")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        with zipfile.ZipFile(file.stream()) as archive, archive.open(entry) as member:
            return member.read(entry.file_size + 1)
    mark, named, extra = _LOCAL.unpack(file.read(entry.header_offset, _LOCAL.size))
    begin = entry.header_offset + _LOCAL.size
    name = file.read(begin, named)
    if mark != b"PK\x03\x04" or name.decode(_encoding(entry), "replace") != entry.orig_filename:
        raise zipfile.BadZipFile("its header is another file's")
    data = file.read(begin + named + extra, entry.compress_size)
    if entry.compress_type == zipfile.ZIP_STORED:
        return data
    return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, entry.file_size + 1)


def _encoding(entry: zipfile.ZipInfo) -> str:
    return "utf-8" if entry.flag_bits & 0x800 else "cp437"


def _unreadable(file: Original, entry: zipfile.ZipInfo, reason: str) -> CorpusError:
    return CorpusError(f"{file.name}: {entry.filename} cannot be read from the zip: {reason}. {FETCH_AGAIN}")

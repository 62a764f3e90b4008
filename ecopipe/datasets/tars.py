"""Where the files of a tar lie, by its headers alone (ustar, GNU and PAX); what a hostile one says is not believed."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator

from ecopipe.datasets.original import FETCH_AGAIN, Original
from ecopipe.vocabulary.errors import CorpusError

_BLOCK = 512
_END = bytes(_BLOCK)
_MOST_NAMED = 1 << 20  # bytes of a header that names the next file
_WITHOUT_PAYLOAD = (
    tarfile.LNKTYPE,
    tarfile.SYMTYPE,
    tarfile.CHRTYPE,
    tarfile.BLKTYPE,
    tarfile.DIRTYPE,
    tarfile.FIFOTYPE,
)
_LONG_NAME, _LONG_LINK, _PAX, _PAX_FOR_ALL = b"L", b"K", b"x", b"g"


def list_tar(file: Original) -> Iterator[tuple[str, int, int]]:
    """(name, offset, size) of each regular file; links, devices and folders are left out.

    Raises:
        CorpusError: It is no tar, damaged, truncated, holds a sparse file, or states an absurd size.
    """
    at, long_name = 0, ""
    pax: dict[str, str] = {}
    while (block := file.read(at, _BLOCK)) != _END:
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except (tarfile.TarError, ValueError) as error:
            if at == 0:
                raise CorpusError(
                    f"{file.name} is not a readable archive ({error}): a tar (plain, or with gzip, bzip2 or xz) or a "
                    f"zip is wanted. {FETCH_AGAIN}"
                ) from error
            raise CorpusError(
                f"{file.name} is damaged or incomplete: at byte {at:,} of the tar there is neither a file nor the end "
                f"mark. {FETCH_AGAIN}"
            ) from error
        at += _BLOCK
        name = pax.get("path") or long_name or info.name
        size = _whole(pax["size"]) if "size" in pax else info.size
        if info.type in _WITHOUT_PAYLOAD:
            size = 0  # a hard link may state that of its file
        if not 0 <= size <= file.size - at:
            raise CorpusError(
                f"{file.name} is damaged or incomplete: {name!r} states {size:,} bytes, where {file.size - at:,} "
                f"are left of the tar. {FETCH_AGAIN}"
            )
        if info.type in (_LONG_NAME, _LONG_LINK, _PAX, _PAX_FOR_ALL):
            if size > _MOST_NAMED:
                raise CorpusError(f"{file.name} is refused: a name at byte {at:,} of the tar has {size:,} bytes.")
            if info.type == _LONG_NAME:
                long_name = file.read(at, size).partition(b"\0")[0].decode("utf-8", "surrogateescape")
            elif info.type == _PAX:
                pax = _records(file.read(at, size))
        else:
            if info.type == tarfile.GNUTYPE_SPARSE or any(key.startswith("GNU.sparse") for key in pax):
                raise CorpusError(
                    f"{file.name}: {name} is stored as a sparse file, which is not read. Make the archive anew without "
                    f"sparse files."
                )
            if info.isreg():
                yield name, at, size
            long_name, pax = "", {}
        if info.type not in _WITHOUT_PAYLOAD:
            at += -(-size // _BLOCK) * _BLOCK


def _records(data: bytes) -> dict[str, str]:
    """The records of a PAX header, each ``LENGTH KEY=VALUE`` and a line break; those that are no such are left out."""
    found = {}
    at = 0
    while (space := data.find(b" ", at, at + 20)) > 0:
        length = _whole(data[at:space].decode("latin-1"))
        key, equals, value = data[space + 1 : at + max(length, 0) - 1].partition(b"=")
        if length <= space - at or not equals:
            break
        found[key.decode("utf-8", "surrogateescape")] = value.decode("utf-8", "surrogateescape")
        at += length
    return found


def _whole(digits: str) -> int:
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 20 else -1

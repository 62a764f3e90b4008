"""A folder or an archive as one flat, sorted list of files, read in any order.

A folder is listed with its links followed, because they are how people lay out large disks; a plain tar or a zip is
read in place at offsets; a compressed tar is decompressed once into an anonymous temporary file (``TMPDIR`` says
where, and needs room for the unpacked archive) and read from there. Nothing of an archive is ever extracted under a
name, and its links and devices are ignored.
"""

from __future__ import annotations

import bisect
import bz2
import gzip
import lzma
import os
import posixpath
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from typing import IO, Any, cast

from ecopipe.vocabulary.errors import CorpusError, OutputError

_FETCH_AGAIN = "Fetch the archive again, and compare its size or checksum with its publisher's."
_BLOCK = 512
_PIECE = 1 << 20
_OPENERS: tuple[tuple[bytes, Any], ...] = ((b"\x1f\x8b", gzip.open), (b"BZh", bz2.open), (b"\xfd7zXZ\x00", lzma.open))
_DAMAGED = (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError)


class Tree:
    """The files under a folder or in an archive (tar; tar with gzip, bzip2 or xz; zip).

    ``names`` are sorted and relative, with ``/`` between their parts. Hidden files (``.x``, ``__MACOSX``) are left out.
    Where the folder or archive has a folder ``inner`` at its top, the tree is that folder; else it is the whole. Of
    several names the first that is there counts.
    ``depth`` bounds how many folders deep a folder is listed.
    """

    def __init__(self, path: str | os.PathLike[str], *, inner: str | Sequence[str] = (), depth: int = 16) -> None:
        self.path = os.fspath(path)
        self.inner = (inner,) if isinstance(inner, str) else tuple(inner)
        self.depth = depth
        self._file: IO[bytes] | None = None
        self._zip: zipfile.ZipFile | None = None
        self._places: dict[str, tuple[int, int]] = {}  # archive: name -> (offset, size), both in bytes
        self._root = ""
        if not os.path.exists(self.path):
            raise CorpusError(f"{self.path} does not exist. Check the path; {_nearest_folder(self.path)}")
        self.archive = not os.path.isdir(self.path)
        try:
            names = self._open_archive() if self.archive else self._open_folder()
        except BaseException:
            self.close()
            raise
        self.names: tuple[str, ...] = tuple(sorted(names))
        if not self.names:
            what = "archive" if self.archive else "folder"
            raise CorpusError(
                f"{self.where()} is {'an' if self.archive else 'a'} {what} without any file in it. "
                f"Give the folder or the archive that holds the corpus."
            )

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self.path, self.inner, self.depth)

    def __enter__(self) -> Tree:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the open file and of the temporary one, if there are any."""
        opened_zip, opened = getattr(self, "_zip", None), getattr(self, "_file", None)
        self._zip = self._file = None
        if opened_zip is not None:
            opened_zip.close()
        if opened is not None:
            opened.close()

    def where(self, name: str = "") -> str:
        """How an error message names the tree, or one file in it."""
        if not self.archive:
            return os.path.join(self.path, self._root, name) if name or self._root else self.path
        return f"{self.path}: {self._root}{name}" if name else self.path

    @property
    def stem(self) -> str:
        """The name of the folder, or of the archive less its endings: ``test-clean`` for ``test-clean.tar.gz``."""
        base = os.path.basename(os.path.abspath(os.path.join(self.path, "" if self.archive else self._root)))
        if not self.archive:
            return base
        for ending in (".tar.gz", ".tar.bz2", ".tar.xz", ".tgz", ".tar", ".zip"):
            if base.lower().endswith(ending):
                return base[: -len(ending)]
        return base

    def under(self, prefix: str) -> tuple[str, ...]:
        """The names that begin with ``prefix``, sorted."""
        first = bisect.bisect_left(self.names, prefix)
        last = first
        while last < len(self.names) and self.names[last].startswith(prefix):
            last += 1
        return self.names[first:last]

    def __contains__(self, name: str) -> bool:
        at = bisect.bisect_left(self.names, name)
        return at < len(self.names) and self.names[at] == name

    def outline(self, limit: int = 8) -> str:
        """What is at the top of the tree, in words, for an error message."""
        tops: dict[str, None] = {}
        for name in self.names:
            head, slash, _ = name.partition("/")
            tops[head + slash] = None
        shown = ", ".join(list(tops)[:limit])
        return f"{shown}, ... ({len(tops)} entries)" if len(tops) > limit else shown

    def size(self, name: str) -> int:
        """The size of one file in bytes."""
        if self.archive:
            return self._place(name)[1]
        try:
            return os.stat(self.where(name)).st_size
        except OSError as error:
            raise self._unreadable(name, error) from error

    def read(self, name: str) -> bytes:
        """All bytes of one file. Safe from several threads."""
        if not self.archive:
            try:
                with open(self.where(name), "rb", buffering=0) as file:
                    return file.readall()
            except OSError as error:
                raise self._unreadable(name, error) from error
        offset, size = self._place(name)
        if self._zip is not None:
            try:
                return self._zip.read(self._zip.infolist()[offset])
            except (zipfile.BadZipFile, RuntimeError, NotImplementedError, OSError, *_DAMAGED) as error:
                raise CorpusError(f"{self.where(name)} cannot be read from the zip: {error}. {_FETCH_AGAIN}") from error
        if self._file is None:
            raise CorpusError(f"{self.path} has been closed. Open the corpus again to read {name!r}.")
        data = os.pread(self._file.fileno(), size, offset)
        while len(data) < size:  # one call may return less than asked for, and never more than 2 GiB
            more = os.pread(self._file.fileno(), size - len(data), offset + len(data))
            if not more:
                raise CorpusError(
                    f"{self.where(name)} ends after {len(data):,} of {size:,} bytes: the archive has become shorter "
                    f"since it was opened. {_FETCH_AGAIN}"
                )
            data += more
        return data

    def _place(self, name: str) -> tuple[int, int]:
        try:
            return self._places[name]
        except KeyError:
            raise CorpusError(f"{self.path} holds no file {name!r}. It holds: {self.outline()}.") from None

    def _unreadable(self, name: str, error: OSError) -> CorpusError:
        remedy = "Give yourself permission to read it" if isinstance(error, PermissionError) else "Check the disk"
        return CorpusError(f"{self.where(name)} cannot be read: {error.strerror or error}. {remedy}, then try again.")

    def _open_folder(self) -> Iterator[str]:
        self._root = next((name for name in self.inner if os.path.isdir(os.path.join(self.path, name))), "")
        return self._walk("", self.depth, ())

    def _walk(self, prefix: str, depth: int, above: tuple[tuple[int, int], ...]) -> Iterator[str]:
        folder = self.where(prefix) if prefix else self.where()
        folders: list[str] = []
        try:
            status = os.stat(folder)
            here = (status.st_dev, status.st_ino)
            if here in above:  # a link to a folder that it lies in
                return
            with os.scandir(folder) as entries:
                for entry in entries:
                    if _hidden(entry.name):
                        continue
                    if entry.is_dir():
                        folders.append(entry.name)
                    elif entry.is_file():
                        yield prefix + entry.name
        except OSError as error:
            remedy = "Give yourself permission to read it (chmod u+rx), or run as its owner"
            if not isinstance(error, PermissionError):
                remedy = "Check the disk, then try again"
            raise CorpusError(f"The folder {folder} cannot be listed: {error.strerror or error}. {remedy}.") from error
        if depth > 1:
            for name in folders:
                yield from self._walk(f"{prefix}{name}/", depth - 1, (*above, here))

    def _open_archive(self) -> Iterator[str]:
        try:
            self._file = open(self.path, "rb")  # noqa: SIM115 - closed by close()
            head = self._file.read(6)
        except OSError as error:
            raise CorpusError(
                f"{self.path} cannot be read: {error.strerror or error}. Give yourself permission to read it."
            ) from error
        if not head:
            raise CorpusError(f"{self.path} is empty (0 bytes). {_FETCH_AGAIN}")
        if head[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
            found = self._list_zip()
        else:
            self._decompress(head)
            found = self._list_tar()
        places: dict[str, tuple[int, int]] = {}
        for raw, offset, size in found:
            name = self._clean(raw)
            if not name:
                continue
            if name in places:
                raise CorpusError(
                    f"{self.path} holds two files named {name!r}, and it cannot be told which one is meant. "
                    f"Make the archive anew from one copy of the corpus."
                )
            places[name] = (offset, size)
        for inner in self.inner:
            top = f"{inner}/"
            if any(name.startswith(top) for name in places):
                self._root = top
                places = {name[len(top) :]: place for name, place in places.items() if name.startswith(top)}
                break
        self._places = places
        return iter(places)

    def _clean(self, raw: str) -> str:
        """The name in the form of this class; empty if it is to be left out."""
        if raw.startswith("/") or ".." in raw.split("/"):
            raise CorpusError(
                f"{self.path} holds a file named {raw!r}, which points outside of the archive. No corpus needs that: "
                f"fetch the archive from its publisher."
            )
        name = posixpath.normpath(raw)
        return "" if any(_hidden(part) for part in name.split("/")) else name

    def _decompress(self, head: bytes) -> None:
        opener = next((opener for magic, opener in _OPENERS if head.startswith(magic)), None)
        if opener is None:
            return
        written = 0
        try:
            target = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        except OSError as error:
            raise _no_room(self.path, written, error) from error
        try:
            with opener(self.path, "rb") as source:
                while True:
                    try:
                        piece = source.read(_PIECE)
                    except (OSError, *_DAMAGED) as error:
                        raise CorpusError(
                            f"{self.path} is damaged or incomplete: decompressing it failed after {written:,} bytes "
                            f"({error}). {_FETCH_AGAIN}"
                        ) from error
                    if not piece:
                        break
                    written += len(piece)
                    try:
                        target.write(piece)
                        target.flush()
                    except OSError as error:
                        raise _no_room(self.path, written, error) from error
        except BaseException:
            target.close()
            raise
        cast(IO[bytes], self._file).close()
        self._file = target

    def _list_tar(self) -> Iterator[tuple[str, int, int]]:
        """(name, offset, size) of each file; offset and size in bytes."""
        file = cast(IO[bytes], self._file)
        if os.pread(file.fileno(), _BLOCK, 0) == bytes(_BLOCK):
            return  # an empty tar, over which Python 3.10's tarfile stumbles
        file.seek(0)
        try:
            with tarfile.open(fileobj=file, mode="r:") as tar:
                kept: list[Any] = vars(tar)["members"]  # emptied as it grows: every header would stay in memory
                while (member := tar.next()) is not None:
                    del kept[:]
                    if member.isreg() and not member.issparse():
                        yield member.name, member.offset_data, member.size
                    elif member.issparse():
                        raise CorpusError(
                            f"{self.path}: {member.name} is stored as a sparse file, which is not read. Make the "
                            f"archive anew without sparse files."
                        )
                end = tar.offset
        except tarfile.TarError as error:
            raise CorpusError(
                f"{self.path} is not a readable archive ({error}): a tar (plain, or with gzip, bzip2 or xz) or a zip "
                f"is wanted. {_FETCH_AGAIN}"
            ) from error
        # tarfile takes an unreadable header in mid-archive for its end; a real end is a block of zeros.
        if os.pread(file.fileno(), _BLOCK, end) != bytes(_BLOCK):
            raise CorpusError(
                f"{self.path} is damaged or incomplete: at byte {end:,} of the tar there is neither a file nor the "
                f"end mark. {_FETCH_AGAIN}"
            )

    def _list_zip(self) -> Iterator[tuple[str, int, int]]:
        """(name, number in the directory of the zip, size in bytes) of each file."""
        try:
            self._zip = zipfile.ZipFile(cast(IO[bytes], self._file))
        except zipfile.BadZipFile as error:
            raise CorpusError(f"{self.path} is damaged or incomplete: {error}. {_FETCH_AGAIN}") from error
        for number, info in enumerate(self._zip.infolist()):
            kind = stat.S_IFMT(info.external_attr >> 16)
            if not info.is_dir() and kind in (0, stat.S_IFREG):
                yield info.filename, number, info.file_size


def _reopen(path: str, inner: tuple[str, ...], depth: int) -> Tree:
    return Tree(path, inner=inner, depth=depth)


def _hidden(part: str) -> bool:
    return part.startswith(".") or part == "__MACOSX"


def _no_room(path: str, written: int, error: OSError) -> OutputError:
    return OutputError(
        f"{path} cannot be decompressed into a temporary file in {tempfile.gettempdir()}: {error.strerror or error} "
        f"after {written:,} bytes. Free some space, set TMPDIR to a folder with more, or unpack the archive yourself "
        f"and give the folder."
    )


def _nearest_folder(path: str) -> str:
    above = os.path.dirname(os.path.abspath(path))
    while not os.path.isdir(above):
        above = os.path.dirname(above)
    try:
        found = sorted(os.listdir(above))[:8]
    except OSError:
        found = []
    return f"{above} holds: {', '.join(found) or 'nothing'}."

"""A folder or an archive as one flat, sorted list of files, read in any order.

A folder is listed with its links followed, because they are how people lay out large disks; a plain tar or a zip is
read in place at offsets; a compressed tar is decompressed once into an anonymous temporary file and read from there.
Nothing of an archive is ever extracted under a name, and its links and devices are ignored. Folders and archives may
lie at any URL that fsspec opens: an archive is fetched once, and of a folder each file when it is read.
"""

from __future__ import annotations

import bisect
import os
import posixpath
import zipfile
from collections.abc import Iterator, Sequence

from ecopipe.datasets.folders import hidden, is_folder, list_folder
from ecopipe.datasets.original import FETCH_AGAIN, Original
from ecopipe.datasets.tars import list_tar
from ecopipe.datasets.zips import list_zip, read_entry
from ecopipe.storage import files
from ecopipe.storage.retries import without_credentials
from ecopipe.vocabulary.errors import CorpusError, EcopipeError

_READ = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0)


class Tree:
    """The files under a folder or in an archive (tar; tar with gzip, bzip2 or xz; zip), by path or URL.

    ``names`` are sorted and relative, with ``/`` between their parts. Hidden files (``.x``, ``__MACOSX``) are left out.
    Where the folder or archive has a folder ``inner`` at its top, the tree is that folder; else it is the whole. Of
    several names the first that is there counts.
    ``depth`` bounds how many folders deep a folder is listed.

    Threads and forked processes may read at once. A pickled copy holds the listing, and opens the files anew.
    """

    def __init__(self, path: str | os.PathLike[str], *, inner: str | Sequence[str] = (), depth: int = 16) -> None:
        self.path = os.fspath(path)
        self._inner = (inner,) if isinstance(inner, str) else tuple(inner)
        self._remote = files.is_url(self.path)
        self._file: Original | None = None
        self._offsets: dict[str, int] = {}  # of the files of a tar
        self._entries: dict[str, zipfile.ZipInfo] = {}  # of the files of a zip
        self._root = ""
        if not files.exists(self.path):
            hint = "" if self._remote else f"; {_nearest_folder(self.path)}"
            raise CorpusError(f"{without_credentials(self.path)} does not exist. Check the path{hint or '.'}")
        self.archive = not is_folder(self.path)
        try:
            sizes = self._open_archive() if self.archive else self._open_folder(depth)
        except BaseException:
            self.close()
            raise
        self._sizes = {name: sizes[name] for name in sorted(sizes)}
        self.names: tuple[str, ...] = tuple(self._sizes)
        if not self.names:
            what = "archive" if self.archive else "folder"
            raise CorpusError(
                f"{self.where()} is {'an' if self.archive else 'a'} {what} without any file in it. "
                f"Give the folder or the archive that holds the corpus."
            )
        self._above = "" if self.archive else files.join(files.join(self.path, self._root), "x")[:-1]

    def __enter__(self) -> Tree:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the open file and of the temporary one, if there are any."""
        if self._file is not None:
            self._file.close()

    def where(self, name: str = "") -> str:
        """How an error message names the tree, or one file in it."""
        path = without_credentials(self.path) if self._remote else self.path
        if self.archive:
            return f"{path}: {self._root}{name}" if name else path
        for part in (self._root, name):
            path = os.path.join(path, part) if part else path
        return path

    @property
    def stem(self) -> str:
        """The name of the folder, or of the archive less its endings: ``test-clean`` for ``test-clean.tar.gz``."""
        whole = self.path if self.archive or not self._root else files.join(self.path, self._root)
        base = files.base_name(whole if self._remote else os.path.abspath(whole))
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
        return name in self._sizes

    def outline(self, limit: int = 8) -> str:
        """What is at the top of the tree, in words, for an error message."""
        tops: dict[str, None] = {}
        for name in self.names:
            head, slash, _ = name.partition("/")
            tops[head + slash] = None
        shown = ", ".join(list(tops)[:limit])
        return f"{shown}, ... ({len(tops)} entries)" if len(tops) > limit else shown

    def size(self, name: str) -> int:
        """The bytes of one file when the tree was listed."""
        try:
            return self._sizes[name]
        except KeyError:
            raise CorpusError(f"{self.where()} holds no file {name!r}. It holds: {self.outline()}.") from None

    def read(self, name: str) -> bytes:
        """All bytes of one file.

        Raises:
            CorpusError: It is not there, cannot be read, or is damaged.
        """
        size = self.size(name)
        if self._file is None:
            return self._read_remote(name) if self._remote else self._read_local(name, size)
        if name in self._entries:
            return read_entry(self._file, self._entries[name])
        data = self._file.read(self._offsets[name], size)
        if len(data) < size:
            raise CorpusError(
                f"{self.where(name)} ends after {len(data):,} of {size:,} bytes: the archive has become shorter "
                f"since it was opened. {FETCH_AGAIN}"
            )
        return data

    def _read_local(self, name: str, size: int) -> bytes:
        try:
            descriptor = os.open(self._above + name, _READ)
            try:
                data = os.read(descriptor, size + 1)
                if len(data) != size:  # it has changed, or one call does not give it all
                    while more := os.read(descriptor, max(size + 1 - len(data), 1 << 16)):
                        data += more
                return data
            finally:
                os.close(descriptor)
        except OSError as error:
            remedy = "Give yourself permission to read it" if isinstance(error, PermissionError) else "Check the disk"
            raise CorpusError(
                f"{self.where(name)} cannot be read: {error.strerror or error}. {remedy}, then try again."
            ) from error

    def _read_remote(self, name: str) -> bytes:
        try:
            with files.open_binary(self._above + name) as file:
                return file.read()
        except EcopipeError:
            raise
        except Exception as error:  # each protocol has errors of its own
            reason = without_credentials(str(error)) or type(error).__name__
            raise CorpusError(
                f"{self.where(name)} cannot be read: {reason}. Check the server, then try again."
            ) from error

    def _open_folder(self, depth: int) -> dict[str, int]:
        self._root = next((name for name in self._inner if is_folder(files.join(self.path, name))), "")
        return list_folder(files.join(self.path, self._root) if self._root else self.path, depth)

    def _open_archive(self) -> dict[str, int]:
        self._file = Original(self.path)
        if not self._file.size:
            raise CorpusError(f"{self.where()} is empty (0 bytes). {FETCH_AGAIN}")
        sizes: dict[str, int] = {}
        for name, size, place in self._listed(self._file):
            if name in sizes:
                raise CorpusError(
                    f"{self.where()} holds two files named {name!r}, and it cannot be told which one is meant. "
                    f"Make the archive anew from one copy of the corpus."
                )
            sizes[name] = size
            if isinstance(place, int):
                self._offsets[name] = place
            else:
                self._entries[name] = place
        for inner in self._inner:
            top = f"{inner}/"
            if any(name.startswith(top) for name in sizes):
                self._root, cut = top, len(top)
                self._offsets = {name[cut:]: at for name, at in self._offsets.items() if name.startswith(top)}
                self._entries = {name[cut:]: entry for name, entry in self._entries.items() if name.startswith(top)}
                return {name[cut:]: size for name, size in sizes.items() if name.startswith(top)}
        return sizes

    def _listed(self, file: Original) -> Iterator[tuple[str, int, int | zipfile.ZipInfo]]:
        if file.read(0, 4) in (b"PK\x03\x04", b"PK\x05\x06"):
            for entry in list_zip(file):
                if name := self._clean(entry.filename):
                    yield name, entry.file_size, entry
        else:
            for raw, offset, size in list_tar(file):
                if name := self._clean(raw):
                    yield name, size, offset

    def _clean(self, raw: str) -> str:
        """The name in the form of this class; empty if it is to be left out."""
        if raw.startswith("/") or ".." in raw.split("/"):
            raise CorpusError(
                f"{self.where()} holds a file named {raw!r}, which points outside of the archive. None needs that. "
                f"Fetch the archive from its publisher."
            )
        name = posixpath.normpath(raw)
        return "" if any(map(hidden, name.split("/"))) else name


def _nearest_folder(path: str) -> str:
    above = os.path.dirname(os.path.abspath(path))
    while not os.path.isdir(above):
        above = os.path.dirname(above)
    try:
        found = sorted(os.listdir(above))[:8]
    except OSError as error:
        return f"{above} cannot be listed: {error.strerror}."
    return f"{above} holds: {', '.join(found) or 'nothing'}."

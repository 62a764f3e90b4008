"""Files by path or URL: what there is, how large it is, and ranges of its bytes.

A plain path is read with the operating system's own calls; a URL (``s3://``, ``https://``, ``memory://`` ...) by
:mod:`ecopipe.storage.remote`.
"""

from __future__ import annotations

import glob
import os
import sys
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO

from ecopipe.storage import remote
from ecopipe.storage.retries import without_credentials
from ecopipe.vocabulary.errors import ShardError, StorageError

MAX_OPEN = 64
"""Local files that one reader keeps open at once."""

REMOTE_GAP = 1 << 18
"""Bytes between two ranges of a file at a URL that are read for nothing rather than asking twice."""


Held = dict[str, dict[int, bytes]]
"""Parts of files that were read ahead: by path, and by the byte that they begin at."""


def is_url(path: str) -> bool:
    """Whether ``path`` is a URL rather than a plain path."""
    return "://" in path


def base_name(path: str) -> str:
    """The last part of a path or URL."""
    return path.rstrip("/").rsplit("/", 1)[-1]


def parent(path: str) -> str:
    """The folder that holds a path or URL."""
    return path.rstrip("/").rsplit("/", 1)[0] if "/" in path.rstrip("/") else "."


def join(folder: str, name: str) -> str:
    """A name inside a folder, as a path or URL."""
    return f"{folder.rstrip('/')}/{name}" if folder not in ("", ".") else name


def resolved(path: str) -> str:
    """One spelling for a path: absolute, links followed; a URL as fsspec spells it."""
    if not is_url(path):
        return os.path.realpath(path)
    filesystem, name = remote.filesystem(path)
    return str(filesystem.unstrip_protocol(name))


def exists(path: str) -> bool:
    """Whether there is a file or folder.

    Raises:
        StorageError: Nobody can tell: a folder above it may not be entered, or the store does not answer.
    """
    if is_url(path):
        return remote.exists(path)
    try:
        os.stat(path)
    except PermissionError as error:
        raise StorageError(
            f"{path} cannot be reached: {error.strerror}. Give yourself permission to enter the folders above it "
            "(chmod u+x), or run as their owner."
        ) from None
    except (OSError, ValueError):
        return False
    return True


def is_folder(path: str) -> bool:
    """Whether there is a folder."""
    if not is_url(path):
        return os.path.isdir(path)
    return remote.is_folder(path)


def size_of(path: str) -> int:
    """Bytes of a file; FileNotFoundError where there is none."""
    if not is_url(path):
        return os.stat(path).st_size
    return remote.size_of(path)


def find(pattern: str) -> list[str]:
    """Sorted files that match a glob pattern."""
    if not is_url(pattern):
        return sorted(glob.glob(pattern, recursive=True))
    return remote.find(pattern)


def open_binary(path: str) -> BinaryIO:
    """A file opened for reading, with seek."""
    if not is_url(path):
        return open(path, "rb")
    return remote.open_binary(path)


def merged(ranges: Sequence[tuple[int, int]], gap: int) -> list[tuple[int, int]]:
    """Some (offset, size), sorted, those of them as one that are at most ``gap`` bytes apart."""
    found: list[tuple[int, int]] = []
    for offset, size in sorted(ranges):
        if found and offset <= sum(found[-1]) + gap:
            begin, length = found[-1]
            found[-1] = (begin, max(length, offset + size - begin))
        else:
            found.append((offset, size))
    return found


class RangeReader:
    """Reads ranges of files, keeping the most recently used local ones open.

    It may be pickled or used after a fork: every process opens its own files.
    """

    def __init__(self, *, max_open: int = MAX_OPEN) -> None:
        self._max_open = max_open
        self._open: OrderedDict[str, int] = OrderedDict()
        self._process = os.getpid()
        self._held: Held = {}

    def hold(self, held: Held) -> None:
        """Takes what was read ahead, in the place of what it held before; ranges in it are not read again."""
        self._held = held

    def _descriptor(self, path: str) -> int:
        if self._process != os.getpid():  # a forked child shares the parent's descriptors; it must not close them
            self._open, self._process = OrderedDict(), os.getpid()
        if path in self._open:
            self._open.move_to_end(path)
            return self._open[path]
        if len(self._open) >= self._max_open:
            os.close(self._open.popitem(last=False)[1])
        self._open[path] = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        return self._open[path]

    def read(self, path: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """The bytes of each (offset, size) of one file. Neighbouring ranges are read in one call.

        Raises:
            ShardError: The file is missing, cannot be read, or ends before a range does.
        """
        if not ranges:
            return []
        begin = min(offset for offset, _ in ranges)
        end = max(offset + size for offset, size in ranges)
        wanted = sum(size for _, size in ranges)
        try:
            if is_url(path):
                return self._read_remote(path, ranges)
            if end - begin <= 2 * wanted + 65536:
                whole = self._read_one(path, begin, end - begin)
                return [whole[offset - begin : offset - begin + size] for offset, size in ranges]
            return [self._read_one(path, offset, size) for offset, size in ranges]
        except FileNotFoundError:
            name = without_credentials(path)
            raise ShardError(f"{name}: the shard is missing. Put it back, or index the folder again.") from None
        except OSError as error:
            raise ShardError(f"{path}: the shard cannot be read: {error.strerror or error}.") from error

    def _read_remote(self, path: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        pieces = dict(self._held.get(path, {}))
        held = sorted((offset, len(data)) for offset, data in pieces.items())
        for offset, size in merged([piece for piece in ranges if not _holds(held, piece)], REMOTE_GAP):
            data = bytearray()
            remote.read_into(path, offset, offset + size, data.extend)
            pieces[offset] = _whole(path, offset, size, bytes(data))
        starts = sorted(pieces)
        found = []
        for offset, size in ranges:
            begin = starts[bisect_right(starts, offset) - 1]
            found.append(pieces[begin][offset - begin : offset - begin + size])
        return found

    def _read_one(self, path: str, offset: int, size: int) -> bytes:
        descriptor = self._descriptor(path)
        data = os.pread(descriptor, size, offset)
        while 0 < len(data) < size:
            more = os.pread(descriptor, size - len(data), offset + len(data))
            if not more:
                break
            data += more
        return _whole(path, offset, size, data)

    def close(self) -> None:
        """Closes the files that this process opened."""
        if self._process == os.getpid():  # a forked child leaves its parent's files alone
            while self._open:
                os.close(self._open.popitem()[1])

    def __del__(self, finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        if not finalizing():  # then modules are gone, and files are closed by the system
            self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return _fresh_reader, (self._max_open,)


def _holds(held: Sequence[tuple[int, int]], wanted: tuple[int, int]) -> bool:
    """Whether one of some sorted ranges that do not overlap holds all of another."""
    at = bisect_right(held, (wanted[0], sys.maxsize)) - 1
    return at >= 0 and sum(wanted) <= sum(held[at])


def _whole(path: str, offset: int, size: int, data: bytes) -> bytes:
    if len(data) != size:
        raise ShardError(
            f"{without_credentials(path)}: wanted {size:,} bytes at {offset:,} and got {len(data):,}: the shard is "
            "truncated or was replaced since it was indexed. Restore it, or run 'ecopipe index' again."
        )
    return data


def _fresh_reader(max_open: int) -> RangeReader:
    return RangeReader(max_open=max_open)

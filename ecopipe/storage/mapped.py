"""Local files mapped into memory, from which many ranges of one size are gathered at once."""

from __future__ import annotations

import mmap
import os
import zlib
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ecopipe.storage.files import MAX_OPEN, is_url

_BLOCK = 512
"""Bytes: no two members of a tar begin in the same block."""

Bytes = npt.NDArray[np.uint8]


@dataclass
class MappedFile:
    """A file in memory, and the CRC-32 of each range of it that was asked for.

    ``content``: uint8 [bytes], read-only. ``stamp`` tells this file from any that takes its place, or is written to.
    """

    content: Bytes
    stamp: tuple[int, ...]
    _found: npt.NDArray[np.uint32] = field(init=False, repr=False)
    _known: npt.NDArray[np.bool_] = field(init=False, repr=False)
    _ranges: dict[int, Bytes] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        blocks = -(-len(self.content) // _BLOCK)
        self._found = np.zeros(blocks, dtype=np.uint32)
        self._known = np.zeros(blocks, dtype=np.bool_)

    def gather(self, offsets: npt.NDArray[np.int64], size: int) -> Bytes | None:
        """The ranges of ``size`` bytes that begin at ``offsets``, a copy: uint8 [ranges, size]; None if the file ends
        before one of them does."""
        last = len(self.content) - size
        if last < 0 or offsets.min() < 0 or offsets.max() > last:
            return None
        ranges = self._ranges.get(size)
        if ranges is None:
            ranges = np.lib.stride_tricks.as_strided(self.content, (last + 1, size), (1, 1), writeable=False)
            self._ranges = {size: ranges}
        return ranges[offsets]

    def checks(self, offsets: npt.NDArray[np.int64], ranges: Bytes) -> npt.NDArray[np.uint32]:
        """The CRC-32 of each of the ranges that begin at ``offsets``, uint32: worked out the first time it is asked
        for, as long as the file is the same."""
        blocks = offsets // _BLOCK
        known = self._known[blocks]
        if not known.all():
            for at in np.flatnonzero(~known).tolist():
                self._found[blocks[at]] = zlib.crc32(ranges[at])
            self._known[blocks] = True
        checks: npt.NDArray[np.uint32] = self._found[blocks]
        return checks


class MappedFiles:
    """Maps files, keeping the most recently used ones. It may be pickled: every process maps its own."""

    def __init__(self, *, max_open: int = MAX_OPEN) -> None:
        self._max_open = max_open
        self._open: OrderedDict[str, MappedFile] = OrderedDict()

    def open(self, path: str) -> MappedFile | None:
        """The file as it is now; None if it cannot be mapped: it is remote, missing, empty, or no plain file."""
        if is_url(path):
            return None
        try:
            stamp = _stamp(os.stat(path))
            mapped = self._open.pop(path, None)
            if mapped is None or mapped.stamp != stamp:
                mapped = _map(path)
        except (OSError, ValueError):  # ValueError: mmap's word for an empty file
            return None
        self._open[path] = mapped
        if len(self._open) > self._max_open:
            self._open.popitem(last=False)
        return mapped

    def close(self) -> None:
        """Lets go of all files."""
        self._open.clear()

    def __reduce__(self) -> tuple[Any, ...]:
        return _fresh, (self._max_open,)


def _fresh(max_open: int) -> MappedFiles:
    return MappedFiles(max_open=max_open)


def _stamp(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _map(path: str) -> MappedFile:
    with open(path, "rb") as file:
        stamp = _stamp(os.fstat(file.fileno()))
        memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return MappedFile(np.frombuffer(memory, dtype=np.uint8), stamp)

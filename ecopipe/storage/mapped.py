"""Local files mapped into memory, from which many ranges of one size are gathered at once."""

from __future__ import annotations

import mmap
import os
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from zlib_ng.zlib_ng import crc32

from ecopipe.storage.files import MAX_OPEN, is_url

_BLOCK = 512
"""Bytes: no two members of a tar begin in the same block."""

Bytes = npt.NDArray[np.uint8]
Offsets = npt.NDArray[np.int64]


@dataclass
class MappedFile:
    """A file in memory, and the CRC-32 of each range of it that was asked for.

    ``content``: uint8 [bytes], read-only. ``stamp`` tells this file from any that takes its place, or is written to.
    """

    content: Bytes
    stamp: tuple[int, ...]
    _memory: mmap.mmap = field(repr=False)
    _found: npt.NDArray[np.uint32] = field(init=False, repr=False)
    _known: npt.NDArray[np.bool_] = field(init=False, repr=False)
    _head: bytes = field(default=b"", init=False, repr=False)
    _begins: npt.NDArray[np.bool_] = field(init=False, repr=False)
    _address: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._address = int(self.content.ctypes.data)
        blocks = -(-len(self.content) // _BLOCK)
        self._found = np.zeros(blocks, dtype=np.uint32)
        self._known = np.zeros(blocks, dtype=np.bool_)
        self._begins = np.zeros(blocks, dtype=np.bool_)

    @property
    def address(self) -> int:
        """Where its memory begins."""
        return self._address

    def was_cut(self) -> bool:
        """Whether the file is shorter now than its memory."""
        return self._memory.size() < len(self.content)

    def checks(self, offsets: Offsets, ranges: Bytes, at: Offsets) -> npt.NDArray[np.uint32]:
        """The CRC-32 of each of the ranges that begin at ``offsets``, uint32: worked out the first time it is asked
        for, as long as the file is the same. They are ``ranges[at]``."""
        blocks = offsets // _BLOCK
        known = self._known[blocks]
        if not known.all():
            for new in np.flatnonzero(~known).tolist():
                self._found[blocks[new]] = crc32(ranges[at[new]])
            self._known[blocks] = True
        checks: npt.NDArray[np.uint32] = self._found[blocks]
        return checks

    def note_head(self, offsets: Offsets, head: bytes) -> None:
        """Remembers that the ranges that begin at ``offsets`` begin with ``head``, and forgets of any other head."""
        if head != self._head:
            self._head = head
            self._begins[:] = False
        self._begins[offsets // _BLOCK] = True

    def are_known(self, offsets: Offsets, head: bytes, checks: Offsets | None) -> bool:
        """Whether all of some ranges are known to begin with ``head``, and to have these CRC-32, if any are given."""
        if head != self._head:
            return False
        blocks = offsets // _BLOCK
        if not self._begins[blocks].all():
            return False
        return checks is None or bool(self._known[blocks].all() and (self._found[blocks] == checks).all())


class _Window:
    """Memory by its address, as an array that keeps it alive."""

    def __init__(self, address: int, shape: tuple[int, ...], strides: tuple[int, ...], alive: object) -> None:
        self.__array_interface__ = {
            "version": 3, "typestr": "|u1", "data": (address, False), "shape": shape, "strides": strides,
        }  # fmt: skip
        self._alive = alive


def ranges_of(
    files: Mapping[int, MappedFile], which: npt.NDArray[Any], offsets: Offsets, size: int
) -> tuple[Bytes, Offsets] | None:
    """Ranges of several files, as rows of one array that lies over the memory of all: uint8 [places, size], of which
    only the rows that are named may be looked at; and the row of each range, int64 [ranges]. None if a file ends before
    one of its ranges does, or has become shorter.

    Who looks at memory behind the new end of a file that was cut is ended by the system (SIGBUS). So the files are
    asked for their lengths here, and the rows are to be copied at once; a cut within the tenth of a millisecond that
    this takes is not seen.

    Args:
        files: Files by number.
        which: The number of each range's file, [ranges].
        offsets: Where each begins, int64 [ranges].
        size: Bytes of each.
    """
    last, address = np.full(max(files) + 1, -1), np.zeros(max(files) + 1, dtype=np.int64)
    for number, file in files.items():
        if file.was_cut():
            return None
        last[number], address[number] = len(file.content) - size, file.address
    if (offsets < 0).any() or (offsets > last[which]).any():
        return None
    lowest = min(file.address for file in files.values())
    end = int((address + last).max())
    rows = np.asarray(_Window(lowest, (end - lowest + 1, size), (1, 1), list(files.values())))
    return rows, (address - lowest)[which] + offsets


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
    return MappedFile(np.frombuffer(memory, dtype=np.uint8), stamp, memory)

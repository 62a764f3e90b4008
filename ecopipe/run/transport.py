"""Values from process to process: each in one anonymous file, whose descriptor goes over a socket.

A file holds the sizes of the buffers (tensors, arrays, Arrow columns), the pickle of everything else, and the buffers,
each at a multiple of 64 bytes, but for those that are in slots (:mod:`ecopipe.run.slots`)::

    count | bytes of the pickle | count x (size, slot or 0) | pickle | buffer | ...     (numbers: uint64, little endian)

The receiver maps the file: what it gets shares that memory, and the memory lives as long as some tensor of it. No file
has a name, so nothing is left behind by a process that is killed. A message on the socket is 16 bytes and a descriptor
whatever the value, so neither side can block on a value that the other does not read.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import pickle
import socket
import struct
import tempfile
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import wait
from multiprocessing.reduction import DupFd
from typing import Any, NamedTuple

import numpy as np
import torch

from ecopipe.run.slots import Borrower, Lender, mapped
from ecopipe.vocabulary.errors import WorkerError

ALIGNMENT = 64
"""Bytes: each buffer begins at a multiple of it, as torch's own tensors do."""

MAPPED = 2**20
"""Bytes of a file from which on it is mapped. A smaller one is read, which costs less than the page faults of a map."""

_MOST_PARTS = 1024
"""Buffers that one call of the system takes (IOV_MAX)."""

_HEAD = struct.Struct("<QQ")
_MESSAGE = struct.Struct("<QQ")
_CLOSE_ON_EXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)


class Message(NamedTuple):
    """What comes over a channel: two numbers, and the descriptor of a packed value, or None for none."""

    number: int
    floor: int
    descriptor: int | None


class _Pickler(pickle.Pickler):
    """Pickle protocol 5 that leaves every plain tensor and array to the buffers."""

    def reducer_override(self, value: Any) -> Any:
        if type(value) is torch.Tensor and _is_plain(value):
            order = sorted(range(value.dim()), key=value.stride, reverse=True)  # channels_last stays channels_last
            dense = value.permute(order).resolve_conj().resolve_neg().contiguous()
            raw: Any = dense.reshape(-1).view(torch.uint8).numpy() if dense.numel() else np.empty(0, np.uint8)
            back = [order.index(dimension) for dimension in range(value.dim())]
            return _tensor, (pickle.PickleBuffer(raw), value.dtype, tuple(dense.shape), back)
        if (
            type(value) is np.ndarray
            and not value.dtype.hasobject
            and not (value.flags.c_contiguous or value.flags.fnc)
        ):
            return np.ascontiguousarray(value).__reduce_ex__(5)
        return NotImplemented


def _is_plain(value: torch.Tensor) -> bool:
    """Whether a tensor is no more than its elements; any other is pickled as torch does it."""
    strided = value.layout is torch.strided and value.device.type == "cpu"
    return strided and not value.is_quantized and not value.requires_grad and not value.__dict__


def _tensor(buffer: Any, dtype: torch.dtype, shape: tuple[int, ...], back: list[int]) -> torch.Tensor:
    if not memoryview(buffer).nbytes:
        return torch.empty(shape, dtype=dtype).permute(back)
    return torch.frombuffer(buffer, dtype=dtype).view(shape).permute(back)


def pack(value: Any, slots: Lender | None = None) -> int:
    """Writes a value to an anonymous file, and returns its descriptor, which is the caller's to close. Large buffers go
    to slots, if there are any; the receiver has to have their news first.

    Raises:
        Exception: The value cannot be pickled (whatever pickle says then), or there is no room for it (OSError).
    """
    stream = io.BytesIO()
    buffers: list[pickle.PickleBuffer] = []
    _Pickler(stream, protocol=5, buffer_callback=buffers.append).dump(value)
    raw = [buffer.raw() for buffer in buffers]
    places = [0 if slots is None else slots.put(view) for view in raw]
    pickled = stream.getbuffer()
    table = np.array([(len(view), place) for view, place in zip(raw, places, strict=True)], dtype="<u8")
    parts: list[bytes | memoryview] = [_HEAD.pack(len(raw), len(pickled)), table.tobytes(), pickled]
    end = sum(map(len, parts))
    for view, place in zip(raw, places, strict=True):
        if not place:
            parts += [bytes(_aligned(end) - end), view]
            end = _aligned(end) + len(view)
    descriptor = -1
    try:
        descriptor = _anonymous_file()
        _write(descriptor, parts)
    except BaseException:
        _close([descriptor])
        for place in filter(None, places):
            slots.take_back(place)  # type: ignore[union-attr]
        raise
    return descriptor


def unpack(descriptor: int, slots: Borrower | None = None) -> Any:
    """The value of a packed file. Tensors and arrays are writable, and share the file's memory, or that of their slots,
    which is theirs as long as they live. Closes the descriptor.

    Raises:
        Exception: The value cannot be made here (whatever pickle says then).
    """
    try:
        memory = _memory(descriptor, os.fstat(descriptor).st_size)
    finally:
        os.close(descriptor)
    count, pickled = _HEAD.unpack_from(memory)
    table = np.frombuffer(memory, dtype="<u8", count=2 * count, offset=_HEAD.size).reshape(count, 2)
    begin = _HEAD.size + table.nbytes
    end = begin + pickled
    buffers = []
    for size, place in table.tolist():
        if place and slots is not None:
            buffers.append(slots.held(place, size))
            continue
        at = _aligned(end)
        end = at + size
        buffers.append(memory[at:end])
    return pickle.loads(memory[begin : begin + pickled], buffers=buffers)


def _aligned(at: int) -> int:
    return -(-at // ALIGNMENT) * ALIGNMENT


def _anonymous_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("ecopipe")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _write(descriptor: int, parts: list[bytes | memoryview]) -> None:
    """Writes one after the other; faster than into a map, whose pages would be cleared first."""
    at = 0
    while parts:
        written = os.pwritev(descriptor, parts[:_MOST_PARTS], at)
        at += written
        begun = 0
        while begun < len(parts) and written >= len(parts[begun]):
            written -= len(parts[begun])
            begun += 1
        parts = parts[begun:]
        if written:
            parts[0] = memoryview(parts[0])[written:]


def _memory(descriptor: int, size: int) -> memoryview:
    """The bytes of a file, writable; they need no descriptor, and last as long as anything that looks at them."""
    if size >= MAPPED:
        return memoryview(mapped(descriptor, size))  # type: ignore[arg-type]
    view = memoryview(torch.empty(size, dtype=torch.uint8).numpy())  # type: ignore[arg-type]  # aligned, as no bytearray
    at = 0
    while at < size and (count := os.preadv(descriptor, [view[at:]], at)):
        at += count
    return view


class Channel:
    """One end of a socket that carries messages.

    Args:
        end: The socket; the channel's from now on.
        patience_s: Seconds that the other side may take in the midst of a message; None for ever.
    """

    def __init__(self, end: socket.socket, patience_s: float | None = None) -> None:
        self._socket = end
        self._patience_s = patience_s
        end.settimeout(patience_s)

    def __reduce__(self) -> tuple[Any, ...]:
        """A channel goes to a process that is being started, and nowhere else."""
        return _rebuild, (DupFd(self._socket.fileno()), self._patience_s)

    def fileno(self) -> int:
        """The socket's descriptor; -1 once closed."""
        return self._socket.fileno()

    def has_come(self, timeout_s: float = 0) -> bool:
        """Whether there is something to receive, be it the end, after so many seconds at most."""
        return bool(wait([self._socket], timeout_s))

    def send(self, number: int, floor: int = 0, descriptor: int | None = None) -> None:
        """Sends two numbers from 0 on, and a descriptor, which stays the caller's to close.

        Raises:
            OSError: The other side is gone (ConnectionError), or took nothing for ``patience_s`` (TimeoutError).
        """
        data = _MESSAGE.pack(number, floor)
        if descriptor is None:
            self._socket.sendall(data)
            return
        sent = self._until_sent(lambda: socket.send_fds(self._socket, [data], [descriptor]))
        if sent < len(data):
            self._socket.sendall(data[sent:])

    def _until_sent(self, send: Callable[[], int]) -> int:
        """Tries again while the system carries too many descriptors of this user: others are being received."""
        give_up = None if self._patience_s is None else time.monotonic() + self._patience_s
        while True:
            try:
                return send()
            except OSError as error:
                if error.errno != errno.ETOOMANYREFS or (give_up is not None and time.monotonic() > give_up):
                    raise
            time.sleep(0.01)

    def receive(self) -> Message:
        """The next message.

        Raises:
            EOFError: The other side has closed.
            OSError: It is gone (ConnectionError), or stopped in the midst of a message (TimeoutError).
            WorkerError: This process may open no more files.
        """
        data, descriptors, flags, _ = socket.recv_fds(self._socket, _MESSAGE.size, 1, _CLOSE_ON_EXEC)
        try:
            while data and len(data) < _MESSAGE.size:
                more = self._socket.recv(_MESSAGE.size - len(data))
                data = data + more if more else b""
            if flags & socket.MSG_CTRUNC:
                raise WorkerError(
                    "loader: this process may open no more files. Raise the limit (ulimit -n), or use fewer workers."
                )
            if not data:
                raise EOFError
        except BaseException:
            _close(descriptors)
            raise
        number, floor = _MESSAGE.unpack(data)
        return Message(number, floor, descriptors[0] if len(descriptors) else None)

    def close(self) -> None:
        """Closes the socket."""
        self._socket.close()


def _rebuild(handle: Any, patience_s: float | None) -> Channel:
    return Channel(socket.socket(fileno=handle.detach()), patience_s)


def _close(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            os.close(descriptor)


def channel_pair(patience_s: float) -> tuple[Channel, Channel]:
    """Two connected channels: the first is as patient as said, the second waits for ever."""
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    return Channel(near, patience_s), Channel(far)

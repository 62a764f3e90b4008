"""Timing around stages, while a loader is profiled; and next to nothing while it is not.

Whoever issues a task stamps it (``task.issued_ns``). :func:`timed` makes the batch of a stamped task under a
:class:`StageMeter`, which the maker asks for, and sends the times with the batch. All times are ns on the monotonic
clock, which the processes of a host share.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from ecopipe.vocabulary.meters import Histogram, Tally

if TYPE_CHECKING:
    from ecopipe.run.maker import Failure, Task
    from ecopipe.vocabulary.sample import Batch

Made = TypeVar("Made")

CLOSELY = 8
"""Of so many calls of a stage one is measured closely: its time on a core, and its bytes."""

READ = "read"
FETCH = "fetch"

clock_ns = time.monotonic_ns
_here = threading.local()


@dataclass
class BatchTimes:
    """How one batch was made, and how it travelled.

    ``starved_ns`` is what its thread waited for a core; ``pack_ns`` is what packing the answer before took in that
    process; ``unpack_ns`` and ``received_ns`` are entered by the process that receives it.
    """

    pid: int
    issued_ns: int
    began_ns: int
    ended_ns: int
    cpu_ns: int
    starved_ns: int
    process_cpu_ns: int
    rss_bytes: int
    pack_ns: int
    stages: dict[str, Tally] = field(default_factory=dict)
    unpack_ns: int = 0
    received_ns: int = 0

    @property
    def wall_ns(self) -> int:
        """From the beginning to the end of making it."""
        return self.ended_ns - self.began_ns


@dataclass(frozen=True)
class Timed:
    """An answer and its times, on their way to the process that asked."""

    answer: Batch | Failure
    times: BatchTimes


class StageMeter:
    """Times calls by the name of the stage."""

    def __init__(self) -> None:
        self._walls: dict[str, list[int]] = {}
        self._close: dict[str, list[int]] = {}

    def around(self, name: str, make: Callable[..., Made], *given: Any) -> Made:
        """``make(*given)``, timed; the bytes of the first thing given are what goes in."""
        walls = self._walls.get(name)
        if walls is None:
            walls = self._walls[name] = []
            self._close[name] = [0, 0, 0, 0, 0]
        if len(walls) % CLOSELY:
            began = clock_ns()
            made = make(*given)
            walls.append(clock_ns() - began)
            return made
        on_core, began = time.thread_time_ns(), clock_ns()
        made = make(*given)
        took = clock_ns() - began
        walls.append(took)
        on_core = time.thread_time_ns() - on_core
        out = size_of(made)
        found = (1, took, on_core, out if name == READ else size_of(given[0]), out)
        self._close[name] = [before + more for before, more in zip(self._close[name], found, strict=True)]
        return made

    def tallies(self) -> dict[str, Tally]:
        """What each stage took, in the order of their first calls."""
        found = {}
        for name, walls in self._walls.items():
            wall = Histogram()
            wall.add_all(walls)
            calls, took, on_core, bytes_in, bytes_out = self._close[name]
            more = len(walls) / max(calls, 1)
            cpu = wall.total_ns * min(on_core / max(took, 1), 1.0)
            found[name] = Tally(wall, cpu, bytes_in * more, bytes_out * more)
        return found


def current() -> StageMeter | None:
    """The meter of the batch that this thread is making; None if it is not timed."""
    return getattr(_here, "meter", None)


def timed(maker: Callable[[Task], Batch | Failure], task: Task) -> Batch | Failure | Timed:
    """The batch of a task, with its times if the task is stamped."""
    if not task.issued_ns:
        return maker(task)
    meter = _here.meter = StageMeter()
    try:
        starved, cpu, began = starved_ns(), time.thread_time_ns(), clock_ns()
        answer = maker(task)
        ended, cpu = clock_ns(), time.thread_time_ns() - cpu
    finally:
        _here.meter = None
    packed, _here.pack_ns = getattr(_here, "pack_ns", 0), 0
    times = BatchTimes(
        os.getpid(), task.issued_ns, began, ended, cpu, starved_ns() - starved, time.process_time_ns(), rss_bytes(),
        packed, meter.tallies(),
    )  # fmt: skip
    return Timed(answer, times)


def packed(pack: Callable[..., Made], answer: Any, *given: Any) -> Made:
    """``pack(answer, *given)``; what it took goes with the next times of this thread."""
    if not isinstance(answer, Timed):
        return pack(answer, *given)
    began = clock_ns()
    made = pack(answer, *given)
    _here.pack_ns = clock_ns() - began
    return made


def unpacked(unpack: Callable[..., Any], *given: Any) -> Any:
    """``unpack(*given)``; if times came with it, what it took is entered there."""
    began = clock_ns()
    answer = unpack(*given)
    if isinstance(answer, Timed):
        answer.times.received_ns = clock_ns()
        answer.times.unpack_ns = answer.times.received_ns - began
    return answer


def size_of(value: Any) -> int:
    """The bytes of a value: of arrays, tensors, bytes and texts, and of those in a mapping or a list."""
    if isinstance(value, bytes | bytearray | str):
        return len(value)
    size = getattr(value, "nbytes", None)
    if isinstance(size, int):
        return size
    if isinstance(value, Mapping):
        return sum(map(size_of, value.values()))
    if isinstance(value, list | tuple):
        if len(value) > CLOSELY and not isinstance(value[0], Mapping):  # numbers or texts: all alike
            return size_of(value[0]) * len(value) if not isinstance(value[0], int | float) else 8 * len(value)
        return sum(map(size_of, value))
    return 8 if isinstance(value, int | float) else 0


def starved_ns() -> int:
    """What this thread has waited for a core, though it could have run, in ns; 0 where the system does not say."""
    try:
        return int(_told("/proc/thread-self/schedstat").split()[1])
    except (OSError, IndexError, ValueError):
        return 0


def rss_bytes() -> int:
    """The memory of this process that is in use, shared pages included; 0 where the system does not say."""
    try:
        return int(_told("/proc/self/statm").split()[1]) * mmap.PAGESIZE
    except (OSError, IndexError, ValueError):
        return 0


class _Open:
    """A file of the system's that is read again and again, by one thread of one process."""

    def __init__(self, path: str) -> None:
        self.pid = os.getpid()
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        with contextlib.suppress(OSError, AttributeError):
            os.close(self.descriptor)


def _told(path: str) -> bytes:
    files: dict[str, _Open] | None = getattr(_here, "files", None)
    if files is None:
        files = _here.files = {}
    if path not in files or files[path].pid != os.getpid():  # a fork would read of its parent
        files[path] = _Open(path)
    return os.pread(files[path].descriptor, 256, 0)

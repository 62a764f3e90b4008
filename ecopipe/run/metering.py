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
from array import array
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import cycle, repeat
from typing import TYPE_CHECKING, Any, TypeVar

from ecopipe.stages.columns import Columns
from ecopipe.vocabulary.meters import Histogram, Tally

if TYPE_CHECKING:
    from ecopipe.run.maker import Failure, Task
    from ecopipe.vocabulary.sample import Batch

Made = TypeVar("Made")

CLOSELY = 8
"""Of so many calls of a stage, the time that one spends on a core is measured."""

WEIGHED = 64
"""Of so many calls of a stage, the bytes of one are counted."""

SELDOM = 16
"""Of so many batches of a thread, after one the memory of its process is looked at."""

SAMPLES = 8
"""Of a batch of many samples so many, or up to twice as many, are timed, and stand for the others."""

ALIKE = 8
"""Items from which on a list is taken to hold items of one size."""

READ = "read"

clock_ns = time.monotonic_ns
_here = threading.local()
_packs_ns: list[int] = []


@dataclass(frozen=True)
class Calls:
    """The calls of a stage for one batch that were timed: the ns that each took. Each stands for ``each`` calls, the
    last for ``last``; ``on_core`` is the share of the time on a core, and the bytes are those of one call."""

    walls_ns: array[int]
    each: int
    last: int
    on_core: float
    bytes_in: float = 0.0
    bytes_out: float = 0.0

    def tally(self) -> Tally:
        """All calls, by those that were timed."""
        wall, walls = Histogram(), self.walls_ns.tolist()
        wall.add_all(walls[:-1], self.each)
        wall.add_all(walls[-1:], self.last)
        return Tally(wall, wall.total_ns * self.on_core, self.bytes_in * wall.count, self.bytes_out * wall.count)


@dataclass
class BatchTimes:
    """How one batch was made, and how it travelled.

    ``calls`` are those of each stage, in the order of their first. ``thread`` is the system's number of the thread in
    process ``pid`` that made it. ``cpu_ns`` and ``starved_ns`` are what that thread computed, and waited for a core;
    ``between_cpu_ns`` and ``between_starved_ns`` the same since its batch before. ``rss_bytes`` is the memory of the
    process, then or a few batches before. ``pack_ns`` is what packing the answer before took in that process;
    ``unpack_ns`` and ``received_ns`` are entered by the process that receives it.
    """

    pid: int
    issued_ns: int
    began_ns: int
    ended_ns: int
    cpu_ns: int
    starved_ns: int
    rss_bytes: int
    pack_ns: int
    calls: dict[str, Calls] = field(default_factory=dict)
    unpack_ns: int = 0
    received_ns: int = 0
    thread: int = 0
    between_cpu_ns: int = 0
    between_starved_ns: int = 0

    @cached_property
    def stages(self) -> dict[str, Tally]:
        """What each stage took: made when it is asked for, which is not while batches are."""
        return {name: calls.tally() for name, calls in self.calls.items()}

    @property
    def is_sampled(self) -> bool:
        """Whether some calls stand for others."""
        return any(calls.each > 1 for calls in self.calls.values())

    @property
    def wall_ns(self) -> int:
        """From the beginning to the end of making it."""
        return self.ended_ns - self.began_ns


@dataclass(frozen=True)
class Timed:
    """An answer and its times, on their way to the process that asked."""

    answer: Batch | Failure
    times: BatchTimes


@dataclass
class _Close:
    """What was found of a stage in this thread: how many calls there were; of some that were looked at closely, their
    time and that on a core; and the bytes of a few."""

    calls: int = 0
    took_ns: int = 1
    on_core_ns: int = 0
    weighed: int = 0
    bytes_in: int = 0
    bytes_out: int = 0


class StageMeter:
    """Times calls by the name of the stage."""

    def __init__(self) -> None:
        self._stages: dict[str, tuple[array[int], _Close]] = {}
        self._each, self._samples, self._of_samples = 1, 0, frozenset[str]()
        self._turns: Iterator[bool] = repeat(True)
        self._known: dict[str, _Close] = _here.__dict__.setdefault("known", {})

    def expect(self, samples: int, names: frozenset[str]) -> None:
        """So many samples are coming, and these stages work on each."""
        self._each, self._samples, self._of_samples = max(samples // SAMPLES, 1), samples, names
        self._turns = cycle([True, *repeat(False, self._each - 1)])

    def is_next_timed(self) -> bool:
        """Whether the sample that comes now is one of those to be timed."""
        return next(self._turns)

    def around(self, name: str, make: Callable[..., Made], *given: Any) -> Made:
        """``make(*given)``, timed; the bytes of the first thing given are what goes in."""
        stage = self._stages.get(name)
        if stage is None:
            stage = self._stages[name] = array("q"), self._known.setdefault(name, _Close())
        walls, close = stage
        close.calls += 1
        if close.calls % CLOSELY != 1:
            began = clock_ns()
            made = make(*given)
            walls.append(clock_ns() - began)
            return made
        on_core, began = time.thread_time_ns(), clock_ns()
        made = make(*given)
        took = clock_ns() - began
        walls.append(took)
        close.on_core_ns += time.thread_time_ns() - on_core
        close.took_ns += took
        if close.calls % WEIGHED == 1:
            out = size_of(made)
            close.weighed += 1
            close.bytes_out += out
            close.bytes_in += out if name == READ else size_of(given[0])
        return made

    def calls(self) -> dict[str, Calls]:
        """Those of each stage, in the order of their first calls."""
        found = {}
        for name, (walls, close) in self._stages.items():
            each = self._each if name in self._of_samples else 1
            left = self._samples - each * (len(walls) - 1) if each > 1 else each
            weighed = max(close.weighed, 1)
            on_core = min(close.on_core_ns / close.took_ns, 1.0)
            found[name] = Calls(
                walls, each, min(max(left, 1), each), on_core, close.bytes_in / weighed, close.bytes_out / weighed
            )
        return found


def forget() -> None:
    """Begins anew with what is known of stages in this thread: those of another loader may have the same names."""
    _here.__dict__.pop("known", None)


def current() -> StageMeter | None:
    """The meter of the batch that this thread is making; None if it is not timed."""
    return getattr(_here, "meter", None)


def timed(maker: Callable[[Task], Batch | Failure], task: Task) -> Batch | Failure | Timed:
    """The batch of a task, with its times if the task is stamped."""
    if not task.issued_ns:
        return maker(task)
    meter = _here.meter = StageMeter()
    try:
        starved, cpu_began, began = starved_ns(), time.thread_time_ns(), clock_ns()
        answer = maker(task)
        ended = clock_ns()
    finally:
        _here.meter = None
    packed = _packs_ns.pop() if _packs_ns else 0
    starved_before, cpu_before = getattr(_here, "ended", (starved, cpu_began))
    _here.ended = starved_ended, cpu_ended = starved_ns(), time.thread_time_ns()
    times = BatchTimes(
        os.getpid(), task.issued_ns, began, ended, cpu_ended - cpu_began, starved_ended - starved,
        _recent_memory(), packed, meter.calls(), 0, 0, threading.get_native_id(),
        cpu_began - cpu_before, starved - starved_before,
    )  # fmt: skip
    return Timed(answer, times)


def _recent_memory() -> int:
    """The memory of this process, as it was when a thread last looked: at every so many calls."""
    count, found = getattr(_here, "memory", (0, 0))
    if count % SELDOM == 0:
        found = rss_bytes()
    _here.memory = count + 1, found
    return found


def packed(pack: Callable[..., Made], answer: Any, *given: Any) -> Made:
    """``pack(answer, *given)``; what it took goes with the next times of this process."""
    if not isinstance(answer, Timed):
        return pack(answer, *given)
    began = clock_ns()
    made = pack(answer, *given)
    _packs_ns[:] = [clock_ns() - began]
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
    if isinstance(value, Columns):  # members that are still in their shards are nowhere else yet
        return size_of(value.fields)
    if isinstance(value, list | tuple):
        if len(value) > ALIKE and not isinstance(value[0], Mapping):  # numbers or texts: all alike
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

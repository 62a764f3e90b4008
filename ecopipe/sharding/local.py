"""Tasks in processes of this machine."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from types import FrameType
from typing import Any, TypeVar

from ecopipe.vocabulary.errors import WorkerError

T = TypeVar("T")
R = TypeVar("R")

Note = Callable[[int, int, int], None]
"""Called with (samples, bytes, bad samples) done since the last call. May raise to stop a task."""

TOLD_S = 0.1
"""Seconds after which a task tells of its progress again."""

WATCH_S = 1.0
"""Seconds after which a worker looks whether its parent is still there."""


class Stopped(Exception):
    """The run is being ended: a task leaves off."""


def run_local(
    function: Callable[[T, Note], R], tasks: Sequence[T], note: Note, workers: int
) -> Generator[R, None, None]:
    """A function of each task: in this process one after another, or in worker processes, as they end.

    Workers are forked where that can be, so that an archive that was unpacked for a corpus serves them all. They end
    with this process, however it ends.

    Args:
        function: Called with a task and what it tells of its progress.
        tasks: The tasks.
        note: Told of the progress of them all.
        workers: Processes; 0 works in this one.

    Raises:
        WorkerError: A worker died.
    """
    if workers and tasks:
        yield from _in_processes(function, tasks, note, workers)
        return
    for task in tasks:
        with _interruptible(note) as told:
            done = function(task, told)
        yield done


@contextlib.contextmanager
def _interruptible(note: Note) -> Iterator[Note]:
    """Keeps Ctrl-C and SIGTERM until the sample in work is done; a second one acts at once. What a handler raises
    while C code calls back into Python (libsndfile reads so) is printed and lost, and the run would go on.
    """
    if threading.current_thread() is not threading.main_thread():
        yield note
        return
    kept: list[int] = []
    found = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    before: dict[int, Any] = {number: handler for number, handler in found.items() if callable(handler)}

    def keep(number: int, frame: FrameType | None) -> None:
        kept.append(number)
        if len(kept) > 1:
            before[number](number, frame)

    def told(samples: int, size: int, bad: int) -> None:
        note(samples, size, bad)
        if kept:
            before[kept[0]](kept[0], None)

    for number in before:
        signal.signal(number, keep)
    try:
        yield told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if kept:
        before[kept[0]](kept[0], None)


def _in_processes(function: Callable[[T, Note], R], tasks: Sequence[T], note: Note, workers: int) -> Iterator[R]:
    context = multiprocessing.get_context("fork" if "fork" in multiprocessing.get_all_start_methods() else None)
    told, stop = context.SimpleQueue(), context.RawValue(ctypes.c_bool, False)
    pool = ProcessPoolExecutor(
        min(workers, len(tasks)),
        mp_context=context,
        initializer=_enter,
        initargs=(function, told, stop, os.getpid()),
    )
    try:
        left: set[Future[R]] = {pool.submit(_run, task) for task in tasks}
        while left:
            ended, left = wait(left, timeout=TOLD_S, return_when=FIRST_COMPLETED)
            _tell(told, note)
            for future in ended:
                yield future.result()
    except BrokenProcessPool as error:
        raise WorkerError(
            "a worker process died (killed, or out of memory?). What is finished is kept: run the same "
            "command again, with fewer --workers if memory is short."
        ) from error
    finally:
        stop.value = True
        pool.shutdown(cancel_futures=True)
        _tell(told, note)
        told.close()


def _tell(told: Any, note: Note) -> None:
    while not told.empty():
        note(*told.get())


def _enter(function: Any, told: Any, stop: Any, parent: int) -> None:
    """The beginning of a worker. It leaves Ctrl-C to its parent."""
    global _state
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    _state = (function, told, stop)
    threading.Thread(target=_watch, args=(parent,), name="ecopipe watch", daemon=True).start()


_state: tuple[Any, Any, Any]
"""What the tasks of a worker share: the function, the queue of progress, and whether to stop."""


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(WATCH_S)
    os._exit(1)


def _run(task: Any) -> Any:
    function, told, stop = _state
    progress = _Progress(told, stop)
    result = function(task, progress)
    progress.tell()
    return result


class _Progress:
    """Adds up what a task tells, and hands it on now and then."""

    def __init__(self, told: Any, stop: Any) -> None:
        self._told, self._stop = told, stop
        self._sums = [0, 0, 0]
        self._next = 0.0

    def __call__(self, samples: int, size: int, bad: int) -> None:
        if self._stop.value:
            raise Stopped
        for number, one in enumerate((samples, size, bad)):
            self._sums[number] += one
        if (now := time.monotonic()) >= self._next:
            self._next = now + TOLD_S
            self.tell()

    def tell(self) -> None:
        """Hands on what has been added up."""
        if any(self._sums):
            self._told.put(tuple(self._sums))
            self._sums = [0, 0, 0]

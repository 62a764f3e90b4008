"""Threads that make batches: in the consumer's process, or in a worker.

They share what the process has, and nothing else: each has a maker of its own. A thread cannot be ended from outside,
so one that hangs, or takes the process with it, is not replaced as a worker is.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, TimeoutError
from queue import SimpleQueue
from typing import Any, Protocol

from ecopipe.run.maker import Failure, Task, failure
from ecopipe.run.metering import timed
from ecopipe.vocabulary.errors import WorkerError

END_S = 1.0
"""Seconds that a thread may take to end; the process goes on, or ends, without it."""

_Job = tuple[Task, "Future[Any]"] | None


class ThreadMaker(Protocol):
    """Makes the batch of a task."""

    def __call__(self, task: Task, /) -> Any:
        """The batch, or a Failure."""

    def another(self) -> ThreadMaker:
        """One for another thread."""

    def close(self) -> None:
        """Lets go of what it opened."""


class Threads:
    """Some threads, which answer what they are asked in its order.

    Args:
        maker: Makes the batch of a task.
        count: Number of threads, at least 1. They start with the first task.
    """

    def __init__(self, maker: ThreadMaker, count: int) -> None:
        self._maker, self._count = maker, count
        self._begin()

    def _begin(self) -> None:
        self._owner = os.getpid()
        self._jobs: SimpleQueue[_Job] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._end = weakref.finalize(self, _end_all, self._jobs, self._threads, self._owner)

    def ask(self, task: Task) -> Future[Any]:
        """The batch or Failure that will have been made of a task, and its times if the task is stamped."""
        if self._owner != os.getpid():  # this process was forked, and has none of them
            self._end.detach()
            self._begin()
        while len(self._threads) < self._count:
            makes = (self._jobs, self._maker.another())
            self._threads.append(threading.Thread(target=_serve, args=makes, name="ecopipe maker", daemon=True))
            self._threads[-1].start()
        answer: Future[Any] = Future()
        self._jobs.put((task, answer))
        return answer

    def close(self) -> None:
        """Ends the threads, each when it has made what it is making. A later task starts others."""
        self._end()
        self._begin()


def made(maker: Callable[[Task], Any], task: Task) -> Any:
    """The batch of a task, with its times if the task is stamped; a Failure whatever goes wrong."""
    try:
        return timed(maker, task)
    except Exception as error:
        return failure(task, error)


def _serve(jobs: SimpleQueue[_Job], maker: ThreadMaker) -> None:
    while (job := jobs.get()) is not None:
        task, answer = job
        if answer.set_running_or_notify_cancel():
            answer.set_result(made(maker, task))
        del job, task, answer  # what was made is the consumer's alone
    maker.close()


def _end_all(jobs: SimpleQueue[_Job], threads: list[threading.Thread], owner: int) -> None:
    if owner != os.getpid():
        return
    for _ in threads:
        jobs.put(None)
    for thread in threads:
        thread.join(END_S)


def fill(tasks: Iterator[Task], has_room: Callable[[], bool], put: Callable[[Task], None]) -> Exception | None:
    """Puts tasks as long as there is room; gives what ended them, to be raised after the batches before it."""
    while has_room():
        try:
            task = next(tasks)
        except StopIteration:
            return StopIteration()  # the one that was caught holds this frame, and by it the last batch
        except Exception as error:
            return error
        put(task)
    return None


class ThreadPool:
    """Threads of this process, used as a :class:`ecopipe.run.pool.Pool` is.

    Args:
        maker: Makes the batch of a task.
        threads: Number of threads, at least 1.
        prefetch: Batches per thread that are made ahead.
        timeout_s: Seconds that are waited for a batch; 0 is without end.
    """

    pids: tuple[int, ...] = ()

    def __init__(self, maker: ThreadMaker, *, threads: int, prefetch: int, timeout_s: float) -> None:
        self._threads, self._limit, self._timeout_s = Threads(maker, threads), threads * prefetch, timeout_s
        self._orders: deque[tuple[Task, Future[Any]]] = deque()

    def run(self, tasks: Iterator[Task]) -> Iterator[Any]:
        """The batches of some tasks, in their order; what an earlier run left undone is dropped.

        A batch that is late is a Failure with a WorkerError.
        """
        self._drop()
        orders = self._orders = deque()

        def fill_up() -> Exception | None:
            return fill(
                tasks,
                lambda: len(orders) < self._limit,
                lambda task: orders.append((task, self._threads.ask(task))),
            )

        stopped = fill_up()
        while orders:
            answer = self._answer(*orders.popleft())
            if stopped is None:
                stopped = fill_up()
            yield answer
            del answer  # its memory is the consumer's alone
            if orders is not self._orders:
                raise RuntimeError("pool: this run is over, because another one began or the pool was closed.")
        if stopped is not None and not isinstance(stopped, StopIteration):
            raise stopped

    def _answer(self, task: Task, answer: Future[Any]) -> Any:
        try:
            return answer.result(self._timeout_s or None)
        except TimeoutError:
            reason = (
                f"loader: {task} was not made in {self._timeout_s:g} s by a thread, which cannot be ended. Raise "
                "timeout_s, or use workers instead of threads: a worker that hangs is replaced."
            )
            return Failure(WorkerError(reason))

    def _drop(self) -> None:
        for _, answer in self._orders:
            answer.cancel()
        self._orders = deque()

    def close(self) -> None:
        """Ends the threads."""
        self._drop()
        self._threads.close()

"""Threads that make batches: in the consumer's process, or in a worker.

They share what the process has, and nothing else: each has a maker of its own. A thread cannot be ended from outside,
so one that hangs, or takes the process with it, is not replaced as a worker is.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, TimeoutError
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from ecopipe.run.dropped import Dropped, unless
from ecopipe.run.maker import Failure, Task, failure
from ecopipe.run.metering import timed
from ecopipe.vocabulary.errors import WorkerError

END_S = 1.0
"""Seconds that a thread may take to end, which is a sample's time; the process goes on without it."""

EXIT_S = 10.0
"""The same as the process ends: a thread that is then within torch would abort it."""


class ThreadMaker(Protocol):
    """Makes the batch of a task."""

    def __call__(self, task: Task, /) -> Any:
        """The batch, or a Failure."""

    def another(self) -> ThreadMaker:
        """One for another thread."""

    def close(self) -> None:
        """Lets go of what it opened."""


class Answer(Future[Any]):
    """The batch or Failure that will have been made of a task, and its times if the task is stamped.

    ``began_s`` says when a thread began with it, on the clock of time.monotonic; 0 is not yet.
    """

    began_s = 0.0
    is_dropped = False

    def drop(self) -> None:
        """It is not wanted any more: it is not begun, or ends after the sample that is being made."""
        self.is_dropped = True
        self.cancel()


class _Jobs:
    """What the threads are to make; they hold this, and not who asks them."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        self.queue: SimpleQueue[tuple[Task, Answer] | None] = SimpleQueue()
        self.threads: list[threading.Thread] = []
        self.are_over = False
        _begun.add(self)

    def end(self, within_s: float) -> None:
        """Nothing further is begun, and the threads end, each after the sample that it is making."""
        if self.owner != os.getpid():  # this process was forked, and has none of them
            return
        self.are_over = True
        try:
            while (job := self.queue.get_nowait()) is None or job[1].cancel():
                pass
        except Empty:
            pass
        give_up = time.monotonic() + within_s
        for _ in self.threads:
            self.queue.put(None)
        for thread in self.threads:
            if thread is not threading.current_thread():  # in which garbage was collected, and among it who asked
                thread.join(max(0.0, give_up - time.monotonic()))


_begun: weakref.WeakSet[_Jobs] = weakref.WeakSet()


@atexit.register
def _end_all() -> None:
    for jobs in list(_begun):
        jobs.end(EXIT_S)


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
        self._jobs = _Jobs()
        self._end = weakref.finalize(self, self._jobs.end, END_S)
        self._end.atexit = False  # then they are given longer

    def ask(self, task: Task) -> Answer:
        """Has a batch made."""
        jobs = self._jobs
        if jobs.owner != os.getpid():  # this process was forked, and has none of them
            self._end.detach()
            self._begin()
            jobs = self._jobs
        while len(jobs.threads) < self._count:
            makes = (jobs, self._maker.another())
            jobs.threads.append(threading.Thread(target=_serve, args=makes, name="ecopipe maker", daemon=True))
            jobs.threads[-1].start()
        answer = Answer()
        jobs.queue.put((task, answer))
        return answer

    def close(self) -> None:
        """Ends the threads, each after the sample that it is making. A later task starts others."""
        self._end()
        self._begin()


def made(maker: Callable[[Task], Any], task: Task) -> Any:
    """The batch of a task, with its times if the task is stamped; a Failure whatever goes wrong."""
    try:
        return timed(maker, task)
    except Exception as error:
        return failure(task, error)


def _serve(jobs: _Jobs, maker: ThreadMaker) -> None:
    while (job := jobs.queue.get()) is not None:
        task, answer = job
        if answer.set_running_or_notify_cancel():
            answer.began_s = time.monotonic()
            answer.set_result(_made(jobs, maker, task, answer))
        del job, task, answer  # what was made is the consumer's alone
    maker.close()


def _made(jobs: _Jobs, maker: ThreadMaker, task: Task, answer: Answer) -> Any:
    try:
        with unless(lambda: answer.is_dropped or jobs.are_over):
            return made(maker, task)
    except Dropped:
        return Failure(WorkerError(f"loader: {task} was not made: the loader was closed, or iterated anew."))
    except BaseException as error:  # such as SystemExit: it would end the thread, and nobody would know
        return failure(task, error)


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
        timeout_s: Seconds that are waited for a batch, once a thread has begun with it; 0 is without end.
    """

    pids: tuple[int, ...] = ()

    def __init__(self, maker: ThreadMaker, *, threads: int, prefetch: int, timeout_s: float) -> None:
        self._threads, self._limit, self._timeout_s = Threads(maker, threads), threads * prefetch, timeout_s
        self._orders: deque[tuple[Task, Answer]] = deque()

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

    def _answer(self, task: Task, answer: Answer) -> Any:
        late_s = time.monotonic() + self._timeout_s
        while True:
            try:
                return answer.result(max(0.0, late_s - time.monotonic()) if self._timeout_s else None)
            except TimeoutError:
                if answer.began_s + self._timeout_s <= late_s:
                    break
                late_s = answer.began_s + self._timeout_s  # a thread was free for it only meanwhile
        reason = (
            f"loader: {task} was not made in {self._timeout_s:g} s by a thread, which cannot be ended. Raise "
            "timeout_s, or use workers instead of threads: a worker that hangs is replaced."
        )
        return Failure(WorkerError(reason))

    def _drop(self) -> None:
        for _, answer in self._orders:
            answer.drop()
        self._orders = deque()

    def close(self) -> None:
        """Ends the threads."""
        self._drop()
        self._threads.close()

"""The one file about workers: processes that make batches, and are replaced when they die or hang.

A worker owns nothing, so what it had not answered is asked of another one, and the stream does not change. Each has a
socket of its own: nothing is shared, and a process that is killed leaves nothing locked. The pool looks at its workers
only while a batch is waited for; nothing is ever raised between two batches.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import time
import weakref
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from typing import Any

from ecopipe.run.maker import Failure, Task, failure
from ecopipe.run.metering import unpacked
from ecopipe.run.slots import Borrower
from ecopipe.run.threads import fill
from ecopipe.run.transport import channel_pair, pack, unpack
from ecopipe.run.worker import serve
from ecopipe.vocabulary.errors import WorkerError
from ecopipe.vocabulary.sample import Batch

Maker = Callable[[Task], Batch | Failure]

LOOK_S = 1.0
"""Seconds after which workers are looked at though none has given a sign."""

PATIENCE_S = 5.0
"""Seconds that a worker may take in the midst of a message of 16 bytes."""

START_S = 60.0
"""Seconds that a worker may take to start, at least; it may have to import the user's program."""

END_S = 1.0
"""Seconds between asking a worker to end and killing it."""

_log = logging.getLogger("ecopipe")
_started: weakref.WeakSet[_Worker] = weakref.WeakSet()
"""The workers of this process, and after a fork those of its parent."""


def _let_go() -> None:
    """In a process that was just forked: the workers are its parent's, which must see them end, and end them itself."""
    for worker in list(_started):
        worker.channel.close()
        multiprocessing.process._children.discard(worker.process)  # type: ignore[attr-defined]
    _started.clear()


os.register_at_fork(after_in_child=_let_go)


@dataclass(eq=False)
class _Order:
    """A task that was issued; ``deaths`` says what became of the workers that were on it.

    ``alone`` says that a worker had it among others when it died: nobody knows which of them did it, so it is made with
    nothing beside it.
    """

    number: int
    task: Task
    deaths: list[str] = field(default_factory=list)
    answer: Any = None
    alone: bool = False

    def __str__(self) -> str:
        return str(self.task)


class _Worker:
    """A worker as the consumer's process sees it: the process, and what it was sent and has not answered."""

    def __init__(self, context: Any, maker: Maker, threads: int) -> None:
        self.channel, far = channel_pair(PATIENCE_S)
        self.process = context.Process(target=serve, args=(far, maker, threads), name="ecopipe worker", daemon=True)
        _started.add(self)
        try:
            self.process.start()
        except BaseException:
            self.channel.close()
            raise
        finally:
            far.close()
        self.owner, self.pid = os.getpid(), self.process.pid
        self.orders: deque[_Order] = deque()
        self.kept: deque[_Order] = deque()  # until what is made alone is answered
        self.slots = Borrower()
        self.ready = False
        self.broken = False
        self.since = time.monotonic()  # when it could have begun on the first of its orders

    def ask(self, order: _Order, floor: int) -> None:
        """Asks for a batch, when its turn comes; orders below ``floor`` are not wanted any more."""
        self.kept = deque(kept for kept in self.kept if kept.number >= floor)
        self.kept.append(order)
        self.send_kept(floor)

    def send_kept(self, floor: int) -> None:
        """Asks for what may be made beside what it is making."""
        while self.kept and not (self.orders and (self.kept[0].alone or self.orders[-1].alone)):
            self._send(self.kept.popleft(), floor)

    def _send(self, order: _Order, floor: int) -> None:
        descriptor = pack(order.task)
        if not self.orders and self.ready:
            self.since = time.monotonic()
        self.orders.append(order)
        try:
            self.channel.send(order.number, floor, descriptor)
        except OSError:
            self.broken = True
        finally:
            os.close(descriptor)

    def receive(self) -> None:
        """Takes one message that has come: that it has started, news of a slot, or an answer."""
        try:
            number, about_slot, descriptor = self.channel.receive()
            if about_slot:
                self.slots.learn(number, descriptor)
                return
        except (EOFError, OSError):
            self.broken = True
            return
        self.ready, self.since = True, time.monotonic()
        while self.orders and self.orders[0].number < number:  # it passed over what was not wanted any more
            self.orders.popleft()
        if descriptor is None:
            return
        order = self.orders.popleft()
        try:
            order.answer = unpacked(unpack, descriptor, self.slots)
        except Exception as error:
            order.answer = failure(order.task, error)

    def receive_rest(self) -> None:
        """Takes what it had sent before it died."""
        while not self.broken and self.channel.has_come():
            self.receive()

    def deadline(self, timeout_s: float) -> float:
        """When it has to have answered, on the clock of time.monotonic."""
        if not self.orders or not timeout_s:
            return float("inf")
        return self.since + (timeout_s if self.ready else max(timeout_s, START_S))

    def end(self) -> str:
        """Ends the process, if it has not ended by itself, and says in words how it did."""
        self.process.join(END_S if self.broken else 0)
        self.process.kill()
        self.process.join(PATIENCE_S)
        told = _ending(self.process.exitcode)
        self.close()
        return told

    def close(self) -> None:
        """Gives back the descriptors of a process that has ended."""
        self.channel.close()
        with contextlib.suppress(ValueError):  # it cannot be killed, or somebody else has waited for it
            self.process.close()


def _ending(code: int | None) -> str:
    if code is None:
        return "is gone"
    if code >= 0:
        return f"ended with exit code {code}"
    names = {int(known): known.name for known in signal.Signals}
    return f"was killed by {names.get(-code, f'signal {-code}')}"


def _end_all(workers: list[_Worker]) -> None:
    """Ends workers; those of a process that this one was forked from are only let go."""
    mine = [worker for worker in workers if worker.owner == os.getpid()]
    for worker in workers:
        worker.channel.close()
    for worker in mine:
        worker.process.terminate()
    give_up = time.monotonic() + END_S
    for worker in mine:
        worker.process.join(max(0.0, give_up - time.monotonic()))
    for worker in mine:
        worker.end()
    workers.clear()


class Pool:
    """Worker processes that make the batches of tasks, in the order of the tasks.

    Args:
        maker: Makes the batch of a task; picklable, unless workers are forked.
        workers: Number of processes, at least 1. They start with the first run, and stay for the next ones.
        prefetch: Batches per worker and thread that are made ahead.
        timeout_s: Seconds that a batch may take in a worker, once that could have begun on it; 0 is without end.
        retries: How often a batch is given to another worker after its worker died or was late.
        context: How processes start: ``"fork"``, ``"forkserver"``, ``"spawn"``; None is Python's default.
        threads: Threads that make batches in each worker, at least 1.
    """

    def __init__(
        self,
        maker: Maker,
        *,
        workers: int,
        prefetch: int,
        timeout_s: float,
        retries: int,
        context: str | None,
        threads: int = 1,
    ) -> None:
        self._maker, self._threads = maker, threads
        self._count, self._limit = workers, workers * threads * prefetch
        self._timeout_s, self._retries = timeout_s, retries
        self._context = multiprocessing.get_context(context)
        self._workers: list[_Worker] = []
        self._issued = 0
        self._floor = 1  # orders below it are of a run that is over
        self._failed_starts = 0
        weakref.finalize(self, _end_all, self._workers)

    @property
    def pids(self) -> list[int]:
        """The process ids of the workers."""
        return [worker.pid for worker in self._workers]

    def run(self, tasks: Iterator[Task]) -> Iterator[Batch | Failure]:
        """The batches of some tasks, in their order; what an earlier run left undone is dropped.

        A batch whose workers died or hung more than ``retries`` times is a Failure with a WorkerError.

        Raises:
            WorkerError: Workers end as they start, again and again.
            RuntimeError: Another run has begun, or the pool was closed.
        """
        floor = self._begin()
        orders: deque[_Order] = deque()
        stopped = self._fill(orders, tasks)
        while orders:
            self._look(0)
            while orders[0].answer is None:
                self._look(LOOK_S)
            answer = orders.popleft().answer
            if stopped is None:
                stopped = self._fill(orders, tasks)
            yield answer
            del answer  # its memory is the consumer's alone
            if floor != self._floor:
                raise RuntimeError("pool: this run is over, because another one began or the pool was closed.")
        if stopped is not None and not isinstance(stopped, StopIteration):
            raise stopped

    def _begin(self) -> int:
        if any(worker.owner != os.getpid() for worker in self._workers):  # this process was forked
            _end_all(self._workers)
        while len(self._workers) < self._count:
            self._workers.append(_Worker(self._context, self._maker, self._threads))
        self._floor = self._issued + 1
        return self._floor

    def _fill(self, orders: deque[_Order], tasks: Iterator[Task]) -> Exception | None:
        """Issues tasks up to the limit; gives what ended them."""

        def issue(task: Task) -> None:
            self._issued += 1
            orders.append(_Order(self._issued, task))
            min(self._workers, key=lambda worker: len(worker.orders) + len(worker.kept)).ask(orders[-1], self._floor)

        return fill(tasks, lambda: len(orders) < self._limit, issue)

    def _look(self, timeout_s: float) -> None:
        """Waits for a sign of the workers, takes what has come, and replaces those that are gone or late."""
        nearest = min(worker.deadline(self._timeout_s) for worker in self._workers) - time.monotonic()
        signs = [sign for worker in self._workers for sign in (worker.channel.fileno(), worker.process.sentinel)]
        seen = wait(signs, max(0.0, min(timeout_s, nearest)))
        for worker in list(self._workers):
            was_ready = worker.ready
            if worker.channel.fileno() in seen:
                worker.receive()
            gone = worker.broken or worker.process.sentinel in seen or not (seen or worker.process.is_alive())
            late = time.monotonic() > worker.deadline(self._timeout_s)
            if gone or late:
                worker.receive_rest()
            if worker.ready and not was_ready:
                self._failed_starts = 0
            if gone or worker.broken:
                worker.broken = True
                self._replace(worker, worker.end())
            elif late and time.monotonic() > worker.deadline(self._timeout_s):
                worker.end()
                self._replace(worker, f"did not answer in {self._timeout_s:g} s", late=True)
            else:
                worker.send_kept(self._floor)

    def _replace(self, worker: _Worker, ending: str, *, late: bool = False) -> None:
        """Gives what a worker did not answer to a new one; the batch that it was on, and no other, is counted. With
        threads it was on several: a late one is the first of them, else each is made alone then."""
        self._workers.remove(worker)
        left = [order for order in (*worker.orders, *worker.kept) if order.number >= self._floor]
        taken = [*worker.orders][: self._threads + 1 if self._threads > 1 and not late else 1] if worker.ready else []
        on = taken[0] if len(taken) == 1 else None
        doing = f"on {on}" if on else "as it started" if not worker.ready else "without a batch"
        if len(taken) > 1:
            doing = f"on one of {len(taken)} batches, from {taken[0]} on"
            for order in taken:
                order.alone = True
        _log.warning("loader: worker %d %s %s. Another one takes over.", worker.pid, ending, doing)
        if not worker.ready:
            self._failed_starts += 1
            if self._failed_starts > self._retries * self._count:
                raise WorkerError(
                    f"loader: workers end as they start: {self._failed_starts} in a row, and the last {ending}. What "
                    "they say is above; 'spawn' and 'forkserver' want the program under if __name__ == '__main__'."
                )
        elif on in left:
            on.deaths.append(ending)
            if len(on.deaths) > self._retries:
                on.answer = Failure(_too_often(on))
                left.remove(on)
        self._workers.append(_Worker(self._context, self._maker, self._threads))
        for order in left:
            self._workers[-1].ask(order, self._floor)

    def close(self) -> None:
        """Ends the workers. A later run starts others."""
        self._floor = self._issued + 1
        _end_all(self._workers)


def _too_often(order: _Order) -> WorkerError:
    counts = Counter(order.deaths)
    told = ", ".join(f"{ending} ({count} times)" if count > 1 else ending for ending, count in counts.items())
    remedies = []
    if any("SIGKILL" in ending for ending in counts):
        remedies.append("SIGKILL is what a system without memory sends: use fewer workers, or give them more memory.")
    if any("SIGBUS" in ending for ending in counts):
        remedies.append("SIGBUS comes when a file is cut while it is read: see who writes to the shards.")
    if any("did not answer" in ending for ending in counts):
        remedies.append("If it is only slow, raise timeout_s.")
    remedies.append("If one of its samples does it, leave that out with Where.")
    return WorkerError(
        f"loader: {order} cannot be made: its worker {told}. The state after the last batch is good: continue from it. "
        + " ".join(remedies)
    )

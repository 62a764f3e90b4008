"""A worker process: tasks in, batches out. It owns nothing and remembers nothing but open files."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any, cast

import torch

from ecopipe.run.maker import Failure, Task, failure
from ecopipe.run.metering import packed
from ecopipe.run.slots import Lender, News
from ecopipe.run.threads import Answer, ThreadMaker, Threads, made
from ecopipe.run.transport import Channel, pack, unpack
from ecopipe.stages.memory import BatchMemory
from ecopipe.vocabulary.sample import Batch

WATCH_S = 1.0
"""Seconds after which a worker looks whether its parent is still there, though the channel did not close."""


def serve(channel: Channel, maker: Callable[[Task], Batch | Failure], threads: int = 1) -> None:
    """The life of a worker process: answers each task with its batch, until its parent closes the channel or is gone.

    It leaves Ctrl-C to its parent, ends at once when terminated, and says nothing about a parent that went away.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)
    slots = BatchMemory.shared = Lender()
    inbox = _Inbox(channel)
    with contextlib.suppress(ConnectionError):
        channel.send(0)
        if threads > 1:
            _serve_by_threads(inbox, channel, slots, Threads(cast("ThreadMaker", maker), threads), threads + 1)
        while True:
            number, task = inbox.next()
            _send(channel, slots, number, task, made(maker, task))


def _serve_by_threads(inbox: _Inbox, channel: Channel, slots: Lender, threads: Threads, most: int) -> None:
    """Answers in the order of the tasks; at most so many are taken before they are answered."""
    room = threading.Semaphore(most)
    taken: queue.SimpleQueue[tuple[int, Task, Answer]] = queue.SimpleQueue()

    def send_all() -> None:
        try:
            while True:
                number, task, answer = taken.get()
                _send(channel, slots, number, task, answer.result())
                del answer
                room.release()
        except ConnectionError:  # there is no parent: the inbox ends this process
            pass
        except BaseException:
            traceback.print_exc()
            os._exit(1)

    threading.Thread(target=send_all, name="ecopipe outbox", daemon=True).start()
    while True:
        room.acquire()
        number, task = inbox.next()
        taken.put((number, task, threads.ask(task)))


def _send(channel: Channel, slots: Lender, number: int, task: Task, answer: Any) -> None:
    try:
        descriptor = packed(pack, answer, slots)
    except Exception as error:
        descriptor = pack(failure(task, error))
    for news in slots.news():
        _tell(channel, news)
    try:
        channel.send(number, 0, descriptor)
    finally:
        os.close(descriptor)
    for stream in (sys.stdout, sys.stderr):  # a worker is not asked before it is ended
        with contextlib.suppress(AttributeError, OSError, ValueError):
            stream.flush()


def _tell(channel: Channel, news: News) -> None:
    """A message about a slot is told from an answer by its second number."""
    try:
        channel.send(news.number, 1, news.descriptor)
    finally:
        if news.descriptor is not None:
            os.close(news.descriptor)


class _Inbox:
    """The tasks that have come, taken off the channel by a thread, which ends the process when there is no parent."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._come: queue.SimpleQueue[tuple[int, int]] = queue.SimpleQueue()
        self._floor = 0
        threading.Thread(target=self._listen, name="ecopipe inbox", daemon=True).start()

    def _listen(self) -> None:
        parent = os.getppid()
        try:
            while os.getppid() == parent:
                if self._channel.has_come(WATCH_S):
                    number, self._floor, descriptor = self._channel.receive()
                    if descriptor is not None:
                        self._come.put((number, descriptor))
        except (EOFError, OSError):
            pass
        finally:
            os._exit(0)

    def next(self) -> tuple[int, Task]:
        """The number of the next task that is still wanted, and the task."""
        while True:
            number, descriptor = self._come.get()
            if number >= self._floor:
                return number, unpack(descriptor)
            os.close(descriptor)

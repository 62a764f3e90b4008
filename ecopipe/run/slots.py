"""Memory that a worker fills and the consumer reads, allocated once and used again.

A slot is an anonymous file that both have mapped. Its first byte says whether the consumer holds what the worker last
sent in it: the worker sets it before it sends, and the consumer clears it when no tensor of it is left. So nothing is
written to while somebody holds it, and neither ever waits for the other. When all slots are held a new one is made, and
beyond ``MOST`` the oldest is given up to whoever holds it: a consumer that keeps all batches has each in memory of its
own, as without slots. No file has a name, so nothing is left behind by a process that is killed.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from ecopipe.stages.memory import LEAST

MOST = 32
"""Slots of one worker."""

_IDLE = 6
"""Slots that are kept though nobody holds them."""

_BEGIN = 64
"""Where the content begins, behind the byte that says whether it is held: aligned as torch's own tensors are."""

_BY_DESCRIPTOR = "/proc/self/fd" if sys.platform == "linux" else "/dev/fd"

Bytes = npt.NDArray[np.uint8]

_forks = 0
"""How often this process was about to fork: a child may hold what its parent lets go."""


def _count_forks() -> None:
    global _forks
    _forks += 1


os.register_at_fork(before=_count_forks)


def mapped(descriptor: int, size: int) -> Bytes:
    """A file's memory, writable and shared; it needs no descriptor, and lasts as long as anything that looks at it."""
    memory = torch.from_file(f"{_BY_DESCRIPTOR}/{descriptor}", shared=True, size=size, dtype=torch.uint8)
    return memory.numpy()


class News(NamedTuple):
    """What a worker tells of a slot: the descriptor of a new one, to be closed when told; None: it was given up."""

    number: int
    descriptor: int | None


@dataclass(eq=False)
class _Slot:
    """A slot as the worker sees it. ``own``: an array of it is alive here; ``unsent``: and was not sent yet;
    ``going``: it is about to be sent."""

    number: int
    memory: Bytes
    descriptor: int | None
    own: bool = False
    unsent: bool = False
    going: bool = False

    @property
    def is_idle(self) -> bool:
        return not self.own and not self.memory[0]

    def let_go(self) -> None:
        """The array is no more."""
        self.own = self.unsent = False


class Lender:
    """The slots of a worker, on its side. Several threads may ask for memory; one sends."""

    def __init__(self) -> None:
        self._slots: dict[int, _Slot] = {}  # those used last come last
        self._by_address: dict[int, _Slot] = {}
        self._given_up: list[int] = []
        self._made = 0
        self._lock = threading.Lock()

    def empty(self, size: int) -> Bytes | None:
        """An array whose content is not set, uint8 [size]; None if it is small, or there is no slot to be had.

        Its memory is used again when neither it, nor a view of it, nor what was received of it is left.
        """
        slot = self._taken(size)
        if slot is None:
            return None
        # through a memoryview, so that views of the array keep the array, and not only its memory, alive
        memory: Any = slot.memory
        array = np.frombuffer(memoryview(memory), np.uint8, size, _BEGIN)
        weakref.finalize(array, slot.let_go).atexit = False
        return array

    def put(self, content: memoryview) -> int:
        """The number of a slot that holds these bytes from now on for the consumer: the one that they lie in, if they
        are an array of :meth:`empty` that is sent for the first time, else one that they are copied to. 0 if there is
        none to be had."""
        size = len(content)
        if size < LEAST:
            return 0
        data: Bytes = np.frombuffer(content, np.uint8)
        slot = self._by_address.get(data.ctypes.data)
        if slot is None or not slot.unsent:
            slot = self._taken(size)
            if slot is None:
                return 0
            slot.memory[_BEGIN : _BEGIN + size] = data
            slot.own = False
        slot.unsent, slot.going = False, True
        slot.memory[0] = 1
        return slot.number

    def take_back(self, number: int) -> None:
        """What was put into a slot will not be sent."""
        slot = self._slots[number]
        slot.memory[0], slot.going = 0, False

    def news(self) -> Iterator[News]:
        """What the consumer has to be told before it is sent what was put into slots, which is to be sent then."""
        with self._lock:
            given_up, self._given_up = self._given_up, []
            new = [slot for slot in self._slots.values() if slot.going and slot.descriptor is not None]
            for slot in self._slots.values():
                slot.going = False
        for number in given_up:
            yield News(number, None)
        for slot in new:
            descriptor, slot.descriptor = slot.descriptor, None
            yield News(slot.number, descriptor)

    def _taken(self, size: int) -> _Slot | None:
        if size < LEAST:
            return None
        with self._lock:
            wanted = _BEGIN + size
            idle = [slot for slot in self._slots.values() if slot.is_idle]
            slot = next((slot for slot in reversed(idle) if wanted <= len(slot.memory) <= 4 * wanted), None)
            for old in idle[:-_IDLE]:
                if old is not slot:
                    self._give_up(old)
            if slot is None:
                if len(self._slots) >= MOST:
                    oldest = next((slot for slot in self._slots.values() if not slot.own and not slot.going), None)
                    if oldest is None:
                        return None
                    self._give_up(oldest)
                slot = self._new(1 << (wanted - 1).bit_length())  # what is never written to takes no memory
                if slot is None:
                    return None
            self._slots[slot.number] = self._slots.pop(slot.number, slot)
            slot.own = slot.unsent = True
            return slot

    def _new(self, size: int) -> _Slot | None:
        try:
            descriptor = os.memfd_create("ecopipe")
        except (AttributeError, OSError):  # not on this system, or no more files: there are other ways to send
            return None
        try:
            os.ftruncate(descriptor, size)
            memory = mapped(descriptor, size)
        except (OSError, RuntimeError):
            os.close(descriptor)
            return None
        self._made += 1
        slot = _Slot(self._made, memory, descriptor)
        self._by_address[memory.ctypes.data + _BEGIN] = slot
        return slot

    def _give_up(self, slot: _Slot) -> None:
        del self._slots[slot.number], self._by_address[slot.memory.ctypes.data + _BEGIN]
        if slot.descriptor is None:
            self._given_up.append(slot.number)
        else:
            os.close(slot.descriptor)


class Borrower:
    """The slots of a worker, on the consumer's side."""

    def __init__(self) -> None:
        self._slots: dict[int, Bytes] = {}

    def learn(self, number: int, descriptor: int | None) -> None:
        """Takes news of a slot, and closes the descriptor.

        Raises:
            Exception: It cannot be mapped.
        """
        if descriptor is None:
            self._slots.pop(number, None)  # whoever holds it keeps its memory
            return
        try:
            self._slots[number] = mapped(descriptor, os.fstat(descriptor).st_size)
        finally:
            with contextlib.suppress(OSError):
                os.close(descriptor)

    def held(self, number: int, size: int) -> memoryview:
        """The content of a slot, writable: nobody writes to it before the last that looks at it is gone."""
        memory: Any = self._slots[number]
        array = np.frombuffer(memoryview(memory), np.uint8, size, _BEGIN)
        weakref.finalize(array, _give_back, memory, _forks).atexit = False
        return memoryview(array)  # type: ignore[arg-type]


def _give_back(memory: Bytes, forks: int) -> None:
    if forks == _forks:
        memory[0] = 0

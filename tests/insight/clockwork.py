"""A loader on a clock of its own: every thread of it step by step, on cores that are dealt out in slices.

It knows nothing of the model that it tests: threads are generators that sleep, compute or wait, and a scheduler gives
the cores to those that have had least. What it ran is a recording as a real loader makes it, with every moment known.
"""

from __future__ import annotations

import random
from array import array
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import torch

from ecopipe.run.gauge import Delivery, Recording
from ecopipe.run.metering import BatchTimes, Calls
from ecopipe.vocabulary.meters import Histogram, Tally

from .waiting import Times

TICK_NS = 50_000

SLICE = 10
"""Ticks for which a thread that computes holds a core at most, while others want it."""

MAIN = 1
"""The process and the thread of the consumer."""

READ_TICKS, PACK_TICKS, RECEIVE_TICKS, PLAN_TICKS = 1, 2, 3, 2
"""What a loader computes itself, for each batch."""


@dataclass
class Thread:
    """What a thread does now: ticks that are left of sleeping or computing, or what it waits for."""

    life: Iterator[tuple[str, int] | Callable[[], bool]]
    sleeps: int = 0
    computes: int = 0
    until: Callable[[], bool] | None = None
    on_core: int = 0
    starved: int = 0

    def go_on(self) -> bool:
        """Whether it found something new to do, since what it did is over."""
        if self.sleeps or self.computes or (self.until is not None and not self.until()):
            return False
        found = next(self.life, None)
        if found is None:
            self.until = lambda: False
        elif callable(found):
            self.until = found
        else:
            self.until = None
            kind, ticks = found
            self.sleeps, self.computes = (ticks, 0) if kind == "sleep" else (0, ticks)
        return found is not None


@dataclass
class Clockwork:
    """A loader of so many workers on so many cores. Stages whose names are in ``computing`` hold a core; the others
    sleep. Each time varies by ``spread`` of itself at most, and a message wakes who waits for it after
    ``message_ticks``."""

    times: Times
    cores: int = 64
    computing: frozenset[str] = frozenset()
    spread: float = 0.2
    seed: int = 0
    message_ticks: int = 0
    now: int = 0
    threads: list[Thread] = field(default_factory=list)

    def run(self, batches: int) -> Recording:
        """The recording of so many batches."""
        chance = random.Random(self.seed)
        taken = []
        for _ in range(batches):
            worker = {
                f"sample{at}": [self._ticks(ms, chance) for _ in range(self.times.size)]
                for at, ms in enumerate(self.times.sample_ms)
            }
            main = {f"device{at}": self._ticks(ms, chance) for at, ms in enumerate(self.times.device_ms)}
            taken.append((worker, main | {"consumer": self._ticks(self.times.consumer_ms, chance)}))
        self._taken = taken
        self._queues: list[deque[tuple[int, int]]] = [deque() for _ in range(self.times.workers)]
        self._loads = [0] * self.times.workers
        self._made: dict[int, tuple[int, BatchTimes]] = {}
        self._recording = Recording(
            self.times.workers, self.times.prefetch, torch.device("cpu"), pid=MAIN, thread=MAIN, cores=self.cores
        )
        self.threads = [Thread(iter(())) for _ in range(self.times.workers + 1)]
        for number in range(self.times.workers):
            self.threads[number + 1].life = self._work(number)
        self.threads[0].life = self._consume(self.threads[0])
        while len(self._recording.deliveries) < batches or not self._recording.deliveries[-1].released_ns:
            self._step()
        self._recording.ended_ns = self.now * TICK_NS
        return self._recording

    def _ticks(self, ms: float, chance: random.Random) -> int:
        return round(ms * 1e6 / TICK_NS * (1 + self.spread * chance.uniform(-1, 1)))

    def _step(self) -> None:
        while sum(thread.go_on() for thread in self.threads):
            pass
        ready = [thread for thread in self.threads if thread.computes]
        if len(ready) > self.cores:
            ready.sort(key=lambda thread: thread.on_core)
            after = min([SLICE, *(thread.sleeps for thread in self.threads if thread.sleeps),
                         *(thread.computes for thread in ready[: self.cores])])  # fmt: skip
        else:
            left = (thread.sleeps or thread.computes for thread in self.threads)
            after = min((ticks for ticks in left if ticks), default=0)
        for thread in self.threads:
            thread.sleeps -= min(after, thread.sleeps)
        for place, thread in enumerate(ready):
            if place < self.cores:
                thread.computes -= after
                thread.on_core += after
            else:
                thread.starved += after
        self.now += after

    def _stage(self, name: str, ticks: int) -> tuple[str, int]:
        return ("compute" if name in self.computing else "sleep"), ticks

    def _issue(self, number: int) -> None:
        if number < len(self._taken) and self._loads:
            chosen = self._loads.index(min(self._loads))
            self._queues[chosen].append((number, self.now))
            self._loads[chosen] += 1

    def _make(self, number: int, issued: int, thread: Thread, pid: int) -> Iterator[tuple[str, int]]:
        began, cpu, starved = self.now, thread.on_core, thread.starved
        yield "compute", READ_TICKS
        calls = {}
        for name, all_ticks in self._taken[number][0].items():
            walls, computed = array("q"), thread.on_core
            for ticks in all_ticks:
                begin = self.now
                yield self._stage(name, ticks)
                walls.append((self.now - begin) * TICK_NS)
            on_core = (thread.on_core - computed) * TICK_NS / max(sum(walls), 1)
            calls[name] = Calls(walls, 1, 1, on_core)
        times = BatchTimes(
            pid, issued * TICK_NS, began * TICK_NS, self.now * TICK_NS, (thread.on_core - cpu) * TICK_NS,
            (thread.starved - starved) * TICK_NS, 0, PACK_TICKS * TICK_NS if pid != MAIN else 0, calls, thread=pid,
        )  # fmt: skip
        self._made[number] = -1, times

    def _work(self, at: int) -> Iterator[tuple[str, int] | Callable[[], bool]]:
        thread, queue = self.threads[at + 1], self._queues[at]
        while True:
            cpu, starved = thread.on_core, thread.starved
            if not queue:
                yield partial(bool, queue)
                yield "sleep", self.message_ticks
            number, issued = queue.popleft()
            between = (thread.on_core - cpu) * TICK_NS, (thread.starved - starved) * TICK_NS
            yield from self._make(number, issued, thread, MAIN + 1 + at)
            times = self._made.pop(number)[1]
            times.between_cpu_ns, times.between_starved_ns = between
            yield "compute", PACK_TICKS
            self._loads[at] -= 1
            self._made[number] = self.now, times

    def _consume(self, thread: Thread) -> Iterator[tuple[str, int] | Callable[[], bool]]:
        times = self.times
        for number in range(times.workers * times.prefetch):
            yield "compute", PLAN_TICKS
            self._issue(number)
        asked = self.now
        for number, (_, behind) in enumerate(self._taken):
            cpu, starved, began, plan = thread.on_core, thread.starved, self.now, Tally()
            if times.workers:
                if number not in self._made:
                    yield partial(self._made.__contains__, number)
                    yield "sleep", self.message_ticks
                yield "compute", RECEIVE_TICKS
            planned = self.now
            yield "compute", PLAN_TICKS
            plan.wall.add((self.now - planned) * TICK_NS)
            plan.cpu_ns = PLAN_TICKS * TICK_NS
            self._issue(number + times.workers * times.prefetch)
            if not times.workers:
                yield from self._make(number, self.now, thread, MAIN)
            got, device = self.now, {}
            for name, ticks in behind.items():
                if name != "consumer":
                    begin, computed = self.now, thread.on_core
                    yield self._stage(name, ticks)
                    wall = Histogram()
                    wall.add((self.now - begin) * TICK_NS)
                    device[name] = Tally(wall, (thread.on_core - computed) * TICK_NS)
            one = Delivery(
                0, number, times.size, 0, None, 0, self._made.pop(number)[1], got * TICK_NS, device, plan,
                (got - began) * TICK_NS - plan.wall.total_ns, asked * TICK_NS, self.now * TICK_NS, 0,
                (thread.on_core - cpu) * TICK_NS, (thread.starved - starved) * TICK_NS,
            )  # fmt: skip
            self._recording.deliveries.append(one)
            cpu, starved = thread.on_core, thread.starved
            yield self._stage("consumer", behind["consumer"])
            one.consumer_cpu_ns = (thread.on_core - cpu) * TICK_NS
            one.consumer_starved_ns = (thread.starved - starved) * TICK_NS
            asked = self.now
            one.released_ns = max(asked * TICK_NS, 1)
        yield lambda: False

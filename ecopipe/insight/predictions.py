"""What another setting would give, from measured times: a simulation of tasks, workers, delivery in order and consumer.

The loader is a closed queue: so many batches are on their way for each that makes them, and a task is issued when a
batch is taken. The consumer's process receives, plans, runs the device stages and the consumer, one after the other;
each worker, or thread, makes its own batches, one after the other; and all that compute share the cores. Every batch
keeps its measured times, so what varies in them is in the prediction, which is a pure function of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

CONSUMER = "consumer"
TRANSFER = "transfer"
PLAN = "plan"
DELIVER = "deliver"

LEAST_BATCHES = 64
"""Batches over which a simulated rate is taken at least; measured ones come again and again."""

ROUNDS = 8
"""Times that all batches on their way are replaced meanwhile: they come in bursts."""

WARM = 4
"""Times that they are replaced before, when the start is forgotten."""

AHEAD = 256
"""Batches on their way in a simulation at most, unless they are fewer than :data:`EACH_AHEAD` for each that makes
them. More than all that were measured change nothing: they even out what varies in these already."""

EACH_AHEAD = 8


@dataclass(frozen=True)
class Cost:
    """Seconds that a part of the way takes: computing, and waiting for something else than a core.

    ``cores`` is how many it computes on at once.
    """

    cpu_s: float = 0.0
    blocked_s: float = 0.0
    cores: float = 1.0

    @classmethod
    def measured(cls, wall_s: float, cpu_s: float, starved_s: float = 0.0) -> Cost:
        """Of wall time, the time that cores computed, and the time in which it waited for a core."""
        busy = max(wall_s - starved_s, 0.0)
        if cpu_s > busy > 0:
            return cls(busy, 0.0, cpu_s / busy)
        return cls(cpu_s, max(busy - cpu_s, 0.0))

    @property
    def wall_s(self) -> float:
        """Seconds on a machine of enough cores."""
        return self.cpu_s + self.blocked_s

    def times(self, factor: float) -> Cost:
        """So many times as much."""
        return replace(self, cpu_s=self.cpu_s * factor, blocked_s=self.blocked_s * factor)


@dataclass(frozen=True)
class Step:
    """One batch: its samples, and what each part of its way costs, in workers and in the consumer's process."""

    samples: int
    worker: Mapping[str, Cost]
    main: Mapping[str, Cost]


class Outcome(NamedTuple):
    """What a simulated run came to: samples per second, and the seconds a batch for which threads waited for a core."""

    samples_per_s: float
    starved_s: float


@dataclass(frozen=True)
class Model:
    """Measured batches, and the cores that there are.

    ``sending`` and ``receiving`` are what workers cost more than making a batch in the consumer's process: what a
    worker does between two batches, and what that process does to receive one. ``asking_s`` and ``answering_s`` are
    the seconds until a task reaches a worker that waits for it, and a batch a consumer that does.
    """

    steps: tuple[Step, ...]
    cores: float
    sending: Cost = Cost()
    receiving: Cost = Cost()
    asking_s: float = 0.0
    answering_s: float = 0.0

    def rate(self, workers: int, prefetch: int = 2, *, threads: int = 0, consumer_s: float | None = None) -> float:
        """Samples per second; ``consumer_s`` replaces what the consumer did by waiting so long for each batch.

        Of several threads in one process it is the most that they could reach: as if no stage held the interpreter's
        lock. How much of the time a stage does is not measured by a profile.
        """
        return self.run(workers, prefetch, threads=threads, consumer_s=consumer_s).samples_per_s

    def run(self, workers: int, prefetch: int = 2, *, threads: int = 0, consumer_s: float | None = None) -> Outcome:
        """The simulated run: its rate, and how long each batch waited for a core; see :meth:`rate`."""
        model = self._with_consumer(consumer_s)
        steps = model.steps
        if not steps:
            return Outcome(0.0, 0.0)
        if not workers and not threads:
            costs = (cost for step in steps for cost in (*step.worker.values(), *step.main.values()))
            seconds = sum(cost.cpu_s * max(1.0, cost.cores / self.cores) + cost.blocked_s for cost in costs)
            return Outcome(sum(step.samples for step in steps) / max(seconds, 1e-9), 0.0)
        processes, each = max(workers, 1), max(threads, 1)
        ahead = max(min(AHEAD, len(steps)) // (processes * each), EACH_AHEAD)
        model = model if workers else replace(model, sending=Cost(), receiving=Cost())
        return simulate(model, processes, each, min(prefetch, ahead))

    def _with_consumer(self, seconds: float | None) -> Model:
        if seconds is None:
            return self
        cost = Cost(blocked_s=seconds)
        return replace(self, steps=tuple(replace(step, main={**step.main, CONSUMER: cost}) for step in self.steps))

    def parts(self) -> list[str]:
        """The names of all parts, in the order of the way."""
        found: dict[str, None] = {}
        for step in self.steps:
            found |= dict.fromkeys(step.worker)
        if self.sending.wall_s or self.receiving.wall_s:
            found[TRANSFER] = None
        for step in self.steps:
            found |= dict.fromkeys(step.main)
        return list(found)

    def scaled(self, factors: Mapping[str, float]) -> Model:
        """The model in which parts cost so many times as much: 0 is a part that costs nothing."""

        def changed(costs: Mapping[str, Cost]) -> dict[str, Cost]:
            return {name: cost.times(factors.get(name, 1.0)) for name, cost in costs.items()}

        steps = tuple(replace(step, worker=changed(step.worker), main=changed(step.main)) for step in self.steps)
        way = factors.get(TRANSFER, 1.0)
        return replace(self, steps=steps, sending=self.sending.times(way), receiving=self.receiving.times(way))

    def headroom(self, workers: int, prefetch: int = 2, threads: int = 0) -> dict[str, float]:
        """Samples per second if a part cost nothing, for each part."""
        return {name: self.scaled({name: 0.0}).rate(workers, prefetch, threads=threads) for name in self.parts()}

    def limiting(self, workers: int, prefetch: int = 2, threads: int = 0) -> tuple[str, float]:
        """The part whose absence would bring most, and the samples per second without it."""
        found = self.headroom(workers, prefetch, threads)
        if not found:
            return "", 0.0
        best = max(found, key=lambda name: found[name])
        return best, found[best]


def slope(moments_s: Sequence[float], samples: Sequence[int]) -> float:
    """Samples per second, from the moments in which batches came: the slope of a line through all of them, since they
    may come in bursts."""
    moments = np.asarray(moments_s, dtype=np.float64) - moments_s[0]
    counts = np.cumsum(samples, dtype=np.float64)
    moments -= moments.mean()
    spread = float((moments**2).sum())
    return float((moments * counts).sum()) / spread if spread > 1e-18 else float(counts[-1]) / 1e-9


LEAST_S = 1e-12
"""Seconds below which a phase is over: what rounding leaves."""

Phase = tuple[float, float]
"""Cores that are used, and seconds."""


@dataclass
class _Actor:
    """A thread: what it is doing, in phases that are left, the last one first."""

    phases: list[Phase] = field(default_factory=list)


def _phases(costs: Iterable[Cost]) -> list[Phase]:
    """What a thread does one after the other, the last one first."""
    found = [phase for cost in costs for phase in ((0.0, cost.blocked_s), (cost.cores, cost.cpu_s))]
    return [phase for phase in found if phase[1] > LEAST_S][::-1]


def simulate(model: Model, processes: int, threads: int, prefetch: int) -> Outcome:
    """Batches that the threads of some processes make, and one consumer takes; ``prefetch`` a thread are on their way.

    The measured batches come again and again. The rate is that of whole rounds of them, so that it is the same
    batches' under every setting; and the mean of several such stretches, since batches come in bursts.
    """
    steps = model.steps
    making = [_phases([*step.worker.values(), model.sending]) for step in steps]
    coming = [_phases([model.receiving, step.main.get(PLAN, Cost())]) for step in steps]
    taking = [_phases(cost for name, cost in step.main.items() if name != PLAN) for step in steps]
    main, makers = _Actor(), [_Actor() for _ in range(processes * threads)]
    ahead = len(makers) * prefetch
    rounds = -(-max(LEAST_BATCHES, ROUNDS * ahead) // len(steps))
    begin_at, stretch = WARM * ahead, rounds * len(steps)
    count = begin_at + stretch + ahead
    queues: list[deque[int]] = [deque() for _ in range(processes)]  # what was issued and is not begun
    doing: list[int | None] = [None] * len(makers)
    loads = [0] * processes
    made: set[int] = set()
    delivered: list[float] = []
    issued = taken = 0
    waits = planned = False  # whether the consumer waits for a batch, and whether it has planned the next one
    now = starved = 0.0

    def issue() -> None:
        nonlocal issued
        process = loads.index(min(loads))
        loads[process] += 1
        queues[process].append(issued)
        issued += 1
        free = (number for number in range(process * threads, (process + 1) * threads) if doing[number] is None)
        if (number := next(free, None)) is not None:
            begin(number)
            makers[number].phases.append((0.0, model.asking_s))

    def begin(number: int) -> None:
        at = doing[number] = queues[number // threads].popleft()
        makers[number].phases = making[at % len(steps)].copy()

    for _ in range(ahead):
        issue()
    while True:
        for number, actor in enumerate(makers):
            while not actor.phases and (at := doing[number]) is not None:
                made.add(at)
                doing[number] = None
                loads[number // threads] -= 1
                if queues[number // threads]:
                    begin(number)
        if not main.phases and planned:
            issue()
            main.phases = taking[(taken - 1) % len(steps)].copy()
            planned = False
        elif not main.phases:
            if len(delivered) < taken:
                delivered.append(now)
                if len(delivered) == count:
                    break
            if taken in made:
                made.remove(taken)
                main.phases = coming[taken % len(steps)].copy()
                if waits:
                    main.phases.append((0.0, model.answering_s))
                taken, planned = taken + 1, True
            waits = not planned
        active = [actor for actor in (main, *makers) if actor.phases]
        if not active or (not main.phases and not waits):
            continue  # something takes no time
        wanted = sum(actor.phases[-1][0] for actor in active)
        speed = min(1.0, model.cores / wanted) if wanted else 1.0
        after = min(left / (speed if used else 1.0) for used, left in (actor.phases[-1] for actor in active))
        now += after
        for actor in active:
            used, left = actor.phases.pop()
            starved += after * (1.0 - speed) if used else 0.0
            left -= after * (speed if used else 1.0)
            if left > LEAST_S:
                actor.phases.append((used, left))
    ends, begins = delivered[begin_at + stretch :], delivered[begin_at : begin_at + ahead]
    seconds = (sum(ends) - sum(begins)) / ahead
    samples = rounds * sum(step.samples for step in steps)
    return Outcome(samples / max(seconds, 1e-9), starved / count)

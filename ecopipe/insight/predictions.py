"""What another setting would give, from measured times: a simulation of tasks, workers, delivery in order and consumer.

The loader is a closed queue: ``workers * prefetch`` batches are on their way, and a task is issued when a batch is
taken. The consumer's process plans, receives, runs the device stages and the consumer, one after the other; each worker
makes its own batches, one after the other; and all that compute share the cores. Every batch keeps its measured times,
so what varies in them is in the prediction, which is a pure function of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

CONSUMER = "consumer"
TRANSFER = "transfer"
PLAN = "plan"

LEAST_BATCHES = 64
"""Batches that are simulated at least; measured ones come again and again."""


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


@dataclass(frozen=True)
class Model:
    """Measured batches, and the cores that there are.

    ``sending`` and ``receiving`` are what workers cost more than making a batch in the consumer's process: what a
    worker does for each batch to send it, and what that process does to receive it. ``reached`` is how much of the
    modelled rate was measured under the settings of the measurement: what else the machine does costs all of them.
    """

    steps: tuple[Step, ...]
    cores: float
    sending: Cost = Cost()
    receiving: Cost = Cost()
    reached: float = 1.0

    def rate(self, workers: int, prefetch: int = 2, *, consumer_s: float | None = None) -> float:
        """Samples per second; ``consumer_s`` replaces what the consumer did by waiting so long for each batch."""
        steps = self._with_consumer(consumer_s).steps
        if not steps:
            return 0.0
        count = max(LEAST_BATCHES, len(steps), 16 * workers * prefetch)
        taken = [steps[number % len(steps)] for number in range(count)]
        if not workers:
            main = (list(step.worker.values()) + list(step.main.values()) for step in taken)
            seconds = sum(
                cost.cpu_s * max(1.0, cost.cores / self.cores) + cost.blocked_s for row in main for cost in row
            )
            return self.reached * sum(step.samples for step in taken) / max(seconds, 1e-9)
        return self.reached * _simulate(taken, workers, prefetch, self.cores, self.sending, self.receiving)

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

    def headroom(self, workers: int, prefetch: int = 2) -> dict[str, float]:
        """Samples per second if a part cost nothing, for each part."""
        return {name: self.scaled({name: 0.0}).rate(workers, prefetch) for name in self.parts()}

    def limiting(self, workers: int, prefetch: int = 2) -> tuple[str, float]:
        """The part whose absence would bring most, and the samples per second without it.

        The parts that cost next to nothing of their side are left out: they differ by rounding.
        """
        found = self.headroom(workers, prefetch)
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


@dataclass
class _Actor:
    """A process: what it is doing, in phases (cores, seconds left), the last one first."""

    phases: list[tuple[float, float]] = field(default_factory=list)

    def begin(self, costs: Iterable[Cost]) -> None:
        for cost in costs:
            self.phases += [(0.0, cost.blocked_s), (cost.cores, cost.cpu_s)]
        self.phases = [phase for phase in reversed(self.phases) if phase[1] > 0]


def _simulate(steps: list[Step], workers: int, prefetch: int, cores: float, sending: Cost, receiving: Cost) -> float:
    """Samples per second from the middle of the way on, when the start is forgotten."""
    main, crew = _Actor(), [_Actor() for _ in range(workers)]
    queues: list[deque[int]] = [deque() for _ in crew]
    doing: list[int | None] = [None] * workers
    done = [False] * len(steps)
    delivered: list[float] = []
    issued = taken = 0
    now = 0.0

    def issue() -> None:
        nonlocal issued
        if issued < len(steps):
            loads = [len(queue) + (doing[number] is not None) for number, queue in enumerate(queues)]
            queues[loads.index(min(loads))].append(issued)
            issued += 1

    for _ in range(min(workers * prefetch, len(steps))):
        issue()
    while True:
        for number, actor in enumerate(crew):
            if not actor.phases and (at := doing[number]) is not None:
                done[at], doing[number] = True, None
            while not actor.phases and doing[number] is None and queues[number]:
                at = queues[number].popleft()
                actor.begin([*steps[at].worker.values(), sending])
                if actor.phases:
                    doing[number] = at
                else:
                    done[at] = True
        progress = False
        if not main.phases:
            if len(delivered) < taken:
                delivered.append(now)
                if len(delivered) == len(steps):
                    break
            if taken < len(steps) and done[taken]:
                issue()
                main.begin([receiving, *steps[taken].main.values()])
                taken += 1
                progress = True
        active = [actor for actor in (main, *crew) if actor.phases]
        if progress and any(queues[number] and doing[number] is None for number in range(workers)):
            continue  # a worker that had nothing to do begins at the same moment
        if not active:
            continue
        wanted = sum(actor.phases[-1][0] for actor in active)
        speed = min(1.0, cores / wanted) if wanted else 1.0
        after = min(left / (speed if used else 1.0) for used, left in (actor.phases[-1] for actor in active))
        now += after
        for actor in active:
            used, left = actor.phases.pop()
            left -= after * (speed if used else 1.0)
            if left > 1e-12:
                actor.phases.append((used, left))
    half = len(steps) // 2
    return slope(delivered[half:], [step.samples for step in steps[half:]])

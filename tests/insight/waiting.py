"""Pipelines whose stages take known times, by sleeping: whatever else the machine does, they take as long."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from ecopipe.pipeline.pipeline import Pipeline
from ecopipe.stages.collate import Collate
from ecopipe.stages.foreign import Map, OnDevice
from ecopipe.stages.plan import Batch
from ecopipe.stages.source import Items


def items(count: int) -> Iterator[dict[str, Any]]:
    return ({"value": [number]} for number in range(count))


def sleep(value: Any, *, seconds: float = 0.0) -> Any:
    time.sleep(seconds)
    return value


def compute(value: Any, *, seconds: float = 0.0) -> Any:
    begin = time.thread_time()
    while time.thread_time() - begin < seconds:
        pass
    return value


def sleep_whole(sample: Mapping[str, Any], *, seconds: float) -> dict[str, Any]:
    time.sleep(seconds)
    return {"value": torch.tensor(sample["value"])}


@dataclass(frozen=True, repr=False)
class _Undrawn(Map):
    """A Map of a function that draws nothing, so that threads of this process may run it."""

    seeds_process = False


@dataclass(frozen=True)
class Times:
    """What each part of a pipeline takes: ms per sample in the workers, ms per batch behind them."""

    workers: int
    prefetch: int
    size: int
    sample_ms: tuple[float, ...]
    device_ms: tuple[float, ...]
    consumer_ms: float

    def pipeline(self, batches: int) -> Pipeline:
        count = batches * self.size
        samples = [
            _Undrawn(sleep, field="value", kwargs={"seconds": ms / 1e3}, name=f"sample{number}")
            for number, ms in enumerate(self.sample_ms)
        ]
        devices = [
            OnDevice(sleep, field="value", kwargs={"seconds": ms / 1e3}, name=f"device{number}")
            for number, ms in enumerate(self.device_ms)
        ]
        source = Items(_Make(count), window=4096 // self.size * self.size)
        return Pipeline(source, Batch(self.size), *samples, Collate("value"), *devices)

    def stretched(self, factor: float) -> Times:
        """All times so many times as long."""
        sample_ms, device_ms = (tuple(ms * factor for ms in all_ms) for all_ms in (self.sample_ms, self.device_ms))
        return replace(self, sample_ms=sample_ms, device_ms=device_ms, consumer_ms=self.consumer_ms * factor)

    def without(self, name: str) -> Times:
        """The same pipeline, with a part that takes no time."""
        sample_ms = tuple(0.0 if name == f"sample{at}" else ms for at, ms in enumerate(self.sample_ms))
        device_ms = tuple(0.0 if name == f"device{at}" else ms for at, ms in enumerate(self.device_ms))
        consumer_ms = 0.0 if name == "consumer" else self.consumer_ms
        return replace(self, sample_ms=sample_ms, device_ms=device_ms, consumer_ms=consumer_ms)

    def limiting(self) -> str:
        """By arithmetic: the largest part of the side that takes longest for a batch."""
        made = sum(self.sample_ms) * self.size / max(self.workers, 1)
        taken = sum(self.device_ms) + self.consumer_ms
        worker_side = {f"sample{number}": ms * self.size for number, ms in enumerate(self.sample_ms)}
        main_side = {f"device{number}": ms for number, ms in enumerate(self.device_ms)}
        main_side["consumer"] = self.consumer_ms
        slower = worker_side if made > taken else main_side
        side = slower if self.workers else worker_side | main_side
        return max(side, key=lambda name: side[name])


@dataclass(frozen=True)
class _Make:
    count: int

    def __call__(self) -> Iterator[dict[str, Any]]:
        return items(self.count)


def drawn(number: int, slower: float = 1.0) -> Times:
    """A random pipeline of which one part is slower than the others, and one side takes a quarter longer: so that only
    one answer is right. ``slower`` stretches all its times."""
    chance = random.Random(number)
    while True:
        times = _drawn(chance)
        made = sum(times.sample_ms) * times.size / max(times.workers, 1)
        taken = sum(times.device_ms) + times.consumer_ms
        if not times.workers or max(made, taken) >= 1.25 * min(made, taken):
            return times.stretched(slower)


def _drawn(chance: random.Random) -> Times:
    size = chance.choice([1, 2, 4])
    workers = chance.choice([0, 1, 2, 3])
    sample_ms = tuple(chance.uniform(1, 4) for _ in range(chance.choice([1, 2, 3])))
    device_ms = tuple(chance.uniform(1, 6) for _ in range(chance.choice([0, 1, 2])))
    times = Times(workers, chance.choice([1, 2, 3]), size, sample_ms, device_ms, chance.uniform(1, 6))
    slow = chance.choice([*range(len(sample_ms) + len(device_ms) + 1)])
    factor = chance.uniform(2, 4)
    parts = [*sample_ms, *device_ms, times.consumer_ms]
    parts[slow] = parts[slow] * factor + (10 if slow >= len(sample_ms) else 10 / size)
    samples, devices = parts[: len(sample_ms)], parts[len(sample_ms) : -1]
    return Times(workers, times.prefetch, size, tuple(samples), tuple(devices), parts[-1])

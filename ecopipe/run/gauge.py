"""What a loader counts in its own process, and what it records of every batch while somebody listens."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch

from ecopipe.pipeline.tuning import makers
from ecopipe.run.fetching import Made as MadeNear
from ecopipe.run.metering import BatchTimes, Timed, clock_ns, forget, rss_bytes, size_of, starved_ns
from ecopipe.run.slots import Borrower, Lender
from ecopipe.run.transport import pack, unpack
from ecopipe.vocabulary.errors import ConfigError
from ecopipe.vocabulary.meters import Tally, cores
from ecopipe.vocabulary.sample import Batch

if TYPE_CHECKING:
    from ecopipe.run.maker import Failure, Task

Made = TypeVar("Made")

MOST = 20_000
"""Batches that a recording holds; further ones are only counted."""

TRIED = 2
"""Batches that are packed and unpacked once for their times where no worker does so."""


@dataclass
class Delivery:
    """One batch on its way through the consumer's process. Times are ns; moments are on the monotonic clock.

    ``asked_ns``, ``delivered_ns``, ``released_ns``: when the consumer wanted it, had it, and wanted the next one.
    ``plan`` is the planning of tasks in between, ``wait_ns`` the rest of what it took to come, ``got_ns`` when it had
    come from the workers (or was made here), and ``cpu_ns`` and ``starved_ns`` what this thread computed, and waited
    for a core, from asking to having; ``consumer_cpu_ns`` and ``consumer_starved_ns`` from having to wanting the next.
    """

    epoch: int
    number: int
    samples: int
    bytes: int
    lengths: Any
    padded_length: int
    times: BatchTimes | None
    got_ns: int
    device: dict[str, Tally] = field(default_factory=dict)
    plan: Tally = field(default_factory=Tally)
    wait_ns: int = 0
    asked_ns: int = 0
    delivered_ns: int = 0
    released_ns: int = 0
    cpu_ns: int = 0
    starved_ns: int = 0
    consumer_cpu_ns: int = 0
    consumer_starved_ns: int = 0
    gpu_idle: bool | None = None


@dataclass
class Recording:
    """What was recorded, batch by batch, from ``began_ns`` to ``ended_ns`` (0 while it goes on).

    ``threads`` is how many threads make batches, as the loader was told. ``pid`` and
    ``thread`` are those of the consumer; ``cores`` is how many there are.
    """

    workers: int
    prefetch: int
    device: torch.device
    began_ns: int = field(default_factory=clock_ns)
    ended_ns: int = 0
    deliveries: list[Delivery] = field(default_factory=list)
    tried: list[tuple[int, int]] = field(default_factory=list)
    rss_bytes: int = 0
    process_cpu_ns: int = field(default_factory=time.process_time_ns)
    first_ask_ns: int = 0
    threads: int = 0
    pid: int = field(default_factory=os.getpid)
    thread: int = field(default_factory=threading.get_native_id)
    cores: int = field(default_factory=cores)

    @property
    def beside(self) -> int:
        """Threads that make batches beside the consumer's, in all processes together; 0 if it makes them itself."""
        return makers(self.workers, self.threads)

    def is_beside(self, times: BatchTimes) -> bool:
        """Whether another thread than the consumer's made a batch."""
        return (times.pid, times.thread) != (self.pid, self.thread)


class Gauge:
    """Counts batches, samples, and the consumer's waiting; with a recording, everything about them.

    Args:
        device: Where device stages run. On CUDA they are timed by events.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.recording: Recording | None = None
        self.batches = self.samples = 0
        self.wait_ns = self.busy_ns = 0
        self._asked = clock_ns()
        self._delivered = 0
        self._coming: dict[tuple[int, int], Delivery] = {}
        self._plan = Tally()
        self._stages: dict[str, Tally] = {}
        self._events: list[tuple[Tally, torch.cuda.Event, torch.cuda.Event]] = []
        self._size = 0
        self._waited_ns = 0
        self._idle: bool | None = None
        self._cpu = self._starved = 0

    def start(self, recording: Recording) -> Recording:
        """Begins to record.

        Raises:
            ConfigError: A recording goes on already.
        """
        if self.recording is not None:
            raise ConfigError("loader: a profile goes on already. Leave its 'with', or call its stop(), first.")
        self.recording = recording
        forget()
        self._coming.clear()
        self._reset()
        self._cpu, self._starved = time.thread_time_ns(), starved_ns()
        return recording

    def metrics(self, state: Mapping[str, int], cache: Mapping[str, int]) -> dict[str, float]:
        """Counters (their names end in ``_total``): batches and samples that were handed out, the seconds that the
        consumer waited for them and worked between them, and what the cache did; and what is as it is now."""
        seconds = {"wait_seconds": self.wait_ns / 1e9, "consumer_seconds": self.busy_ns / 1e9}
        counted = {"batches": self.batches, "samples": self.samples, **seconds}
        counted |= {f"cache_{name}": count for name, count in cache.items()}
        now = {name: float(value) for name, value in state.items()}
        return {f"{name}_total": float(count) for name, count in counted.items()} | now

    def stop(self) -> None:
        """Ends the recording, if there is one; times on the GPU are entered now."""
        recording, self.recording = self.recording, None
        if recording is None:
            return
        recording.ended_ns = clock_ns()
        recording.rss_bytes = rss_bytes()
        recording.process_cpu_ns = time.process_time_ns() - recording.process_cpu_ns
        if recording.deliveries and not recording.deliveries[-1].released_ns:
            recording.deliveries[-1].released_ns = recording.ended_ns
        for tally, begin, end in self._events:
            end.synchronize()
            tally.wall.add(round(begin.elapsed_time(end) * 1e6))
        self._events.clear()

    def _reset(self) -> None:
        self._plan, self._waited_ns, self._idle = Tally(), 0, None

    def tasks(self, tasks: Iterator[Task]) -> Iterator[Task]:
        """The tasks, stamped while there is a recording."""
        while True:
            if self.recording is None:
                task = next(tasks, None)
            else:
                began, cpu = clock_ns(), time.thread_time_ns()
                task = next(tasks, None)
                self._plan.wall.add(clock_ns() - began)
                self._plan.cpu_ns += time.thread_time_ns() - cpu
            if task is None:
                return
            yield task if self.recording is None else replace(task, issued_ns=clock_ns())

    def made(self, answers: Iterator[Any]) -> Iterator[Batch | Failure | MadeNear]:
        """The answers, less their times, which are kept while there is a recording."""
        while True:
            began, planned = clock_ns(), self._plan.wall.total_ns
            answer: Any = next(answers, None)
            if answer is None:
                return
            got = clock_ns()
            times = answer.times if isinstance(answer, Timed) else None
            answer = answer.answer if isinstance(answer, Timed) else answer
            batch = answer.answer if isinstance(answer, MadeNear) else answer
            if self.recording is not None and isinstance(batch, Batch) and batch.place is not None:
                self._waited_ns += got - began - (self._plan.wall.total_ns - planned)
                if self.recording.workers == 0 and len(self.recording.tried) < TRIED:
                    self._try(batch)
                self._stages, self._size = {}, size_of(batch)
                place = batch.place.epoch, batch.place.number
                self._coming[place] = Delivery(
                    *place, len(batch["keys"]), self._size, *_lengths(batch), times, got, self._stages
                )
            yield answer

    def _try(self, batch: Batch) -> None:
        """Sends a batch to this process, from memory of slots, in which a worker makes it."""
        lender, borrower = Lender(), Borrower()
        with contextlib.suppress(Exception):  # then it could not be sent, and no worker is to be advised
            made = Batch({name: _in_slot(value, lender) for name, value in batch.items()})
            began = clock_ns()
            descriptor = pack(made, lender)
            packed = clock_ns()
            for news in lender.news():
                borrower.learn(*news)
            known = clock_ns()
            unpack(descriptor, borrower)
            cast("Recording", self.recording).tried.append((packed - began, clock_ns() - known))

    def around(self, name: str, make: Callable[..., Made], *given: Any) -> Made:
        """``make(*given)``, of a device stage; timed while there is a recording."""
        if self.recording is None:
            return make(*given)
        tally = self._stages.setdefault(name, Tally())
        if self._device.type == "cuda":
            begin, end = (cast("Any", torch.cuda.Event)(enable_timing=True) for _ in range(2))
            begin.record()
            made = make(*given)
            end.record()
            self._events.append((tally, begin, end))
        else:
            cpu_ns = time.process_time_ns  # what a stage computes on threads of its own counts as well
            if self.recording.beside and not self.recording.workers:  # but not what those do that make batches
                cpu_ns = time.thread_time_ns
            began, cpu = clock_ns(), cpu_ns()
            made = make(*given)
            tally.wall.add(clock_ns() - began)
            tally.cpu_ns += cpu_ns() - cpu
        tally.bytes_in += self._size
        self._size = size_of(made)
        tally.bytes_out += self._size
        return made

    def ready(self) -> None:
        """Called when a batch is about to be handed over on CUDA: whether the consumer's stream has run dry."""
        if self.recording is not None:
            self._idle = bool(torch.cuda.current_stream(self._device).query())

    def ask(self) -> None:
        """Called when the consumer wants a batch."""
        now = clock_ns()
        if self._delivered:
            self.busy_ns += now - self._delivered
        self._asked = now
        if self.recording is None:
            return
        self.recording.first_ask_ns = self.recording.first_ask_ns or now
        cpu, starved = time.thread_time_ns(), starved_ns()
        if self.recording.deliveries and self._delivered:
            last = self.recording.deliveries[-1]
            last.released_ns, last.consumer_cpu_ns = now, cpu - self._cpu
            last.consumer_starved_ns = starved - self._starved
        self._cpu, self._starved = cpu, starved
        self._reset()

    def begin(self) -> None:
        """Called when an epoch begins: what the consumer did before is not its work on a batch."""
        self._delivered = 0
        self._coming.clear()
        self.ask()

    def hand_over(self, batch: Batch) -> None:
        """Called when the consumer is given a batch."""
        now = clock_ns()
        self.batches += 1
        self.samples += len(batch["keys"])
        self.wait_ns += now - self._asked
        self._delivered = now
        recording = self.recording
        if recording is None or batch.place is None:
            return
        found = self._coming.pop((batch.place.epoch, batch.place.number), None)
        if found is None or len(recording.deliveries) >= MOST or self._asked < recording.began_ns:
            return
        found.plan, found.wait_ns, found.gpu_idle = self._plan, self._waited_ns, self._idle
        found.asked_ns, found.delivered_ns = self._asked, now
        cpu = time.thread_time_ns()
        starved = starved_ns()
        found.cpu_ns, found.starved_ns = cpu - self._cpu, starved - self._starved
        self._cpu, self._starved = cpu, starved
        recording.deliveries.append(found)


def _lengths(batch: Batch) -> tuple[Any, int]:
    """The true lengths of the samples, as an array, and the padded length of the whole batch; None and 0 if they have
    none."""
    lengths = batch.get("lengths")
    if not isinstance(lengths, torch.Tensor) or lengths.device.type != "cpu":
        return None, 0
    found = lengths.numpy().copy()
    inputs = [batch.get(name) for name in ("features", "tokens", "audio")]
    shapes = [value.shape for value in inputs if isinstance(value, torch.Tensor)]
    padded = "offsets" not in batch and bool(shapes) and len(shapes[0]) > 1
    return found, int(shapes[0][0] * shapes[0][1]) if padded else int(found.sum())


def _in_slot(value: Any, lender: Lender) -> Any:
    """A tensor of some size in memory of a slot; anything else as it is."""
    memory = lender.empty(value.nbytes) if type(value) is torch.Tensor and value.device.type == "cpu" else None
    if memory is None:
        return value
    return torch.from_numpy(memory).view(value.dtype).view(value.shape).copy_(value)

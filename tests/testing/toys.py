"""Small loaders for the kit's own tests: a sound one, and one for each law that it breaks and that law only.

The sound one deals batches of a permutation to ranks as ecopipe does, from stateless worker processes over pipes.
"""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

from ecopipe.testing import Contract

SAMPLES = [f"s{number:02d}" for number in range(23)]
BATCH = 2
BAD = SAMPLES[9]
KILLED = "the worker is gone"
SEGMENTS = "ECOPIPE_TESTS_SEGMENTS"
"""The variable of the environment that says how names of shared memory begin."""

multiprocessing.set_start_method("fork", force=True)


def _answer(pipe: Connection, damaged: bool) -> None:
    """A worker: batches in, batches out."""
    with contextlib.suppress(EOFError, OSError):
        while True:
            pipe.send(_decode(pipe.recv(), damaged))


def _decode(keys: list[str], damaged: bool) -> list[str] | ValueError:
    return ValueError(f"sample {BAD!r} does not decode") if damaged and BAD in keys else keys


class Toy:
    """A loader in which all is well. Its flaws are methods of its subclasses."""

    def __init__(self, *, rank: int, world_size: int, workers: int, seed: int, damaged: bool = False) -> None:
        self.rank, self.world_size, self.seed, self.damaged = rank, world_size, seed, damaged
        self.count = workers
        self.number, self.taken, self.start = 0, 0, 0
        self.workers: list[tuple[Any, Connection]] = []

    def order(self) -> list[str]:
        return random.Random(f"{self.seed} {self.number}").sample(SAMPLES, len(SAMPLES))

    def cut(self, order: list[str]) -> list[list[str]]:
        """The batches of all ranks; the last step is filled up with empty ones."""
        batches = [order[i : i + BATCH] for i in range(0, len(order), BATCH)]
        return batches + [[]] * (-len(batches) % self.world_size)

    def mine(self, batches: list[list[str]]) -> list[list[str]]:
        return batches[self.rank :: self.world_size]

    def epoch(self, number: int) -> Iterator[list[str]]:
        self.number, self.taken, self.start = number, self.start, 0
        batches = self.cut(self.order())[self.taken :]
        for batch in self.deliver(self.mine(batches)):
            self.taken += self.world_size
            yield batch
        self.taken = 0

    def deliver(self, batches: list[list[str]]) -> Iterator[list[str]]:
        while len(self.workers) < self.count:
            self.workers.append(self.begin())
        for step, batch in enumerate(batches):
            made = self.ask(step, batch) if self.workers else _decode(batch, self.damaged)
            if isinstance(made, ValueError):
                raise made
            yield made

    def begin(self) -> tuple[Any, Connection]:
        near, far = multiprocessing.Pipe()
        process = multiprocessing.Process(target=self.work, args=(far, near), daemon=True)
        process.start()
        far.close()
        return process, near

    def work(self, far: Connection, near: Connection) -> None:
        for pipe in (near, *(pipe for _process, pipe in self.workers)):  # else no worker sees the trainer's end
            pipe.close()
        _answer(far, self.damaged)

    def ask(self, step: int, batch: list[str]) -> Any:
        _process, pipe = self.workers[step % len(self.workers)]
        try:
            pipe.send(batch)
            return pipe.recv()
        except (EOFError, OSError):
            raise RuntimeError(KILLED) from None

    def save(self) -> Any:
        return {"number": self.number, "taken": self.taken}

    def load(self, state: Any) -> None:
        self.start = state["taken"]

    def length(self) -> int:
        return len(self.mine(self.cut(SAMPLES)))

    def close(self) -> None:
        for process, pipe in self.workers:
            pipe.close()
            process.join()


def contract(toy: Callable[..., Toy]) -> Contract:
    return Contract(
        make=toy,
        samples=lambda: SAMPLES,
        keys=list,
        epoch=lambda loader, number: loader.epoch(number),
        save=lambda loader: loader.save(),
        load=lambda loader, state: loader.load(state),
        length=lambda loader: loader.length(),
        damaged=partial(toy, damaged=True),
        damaged_names=(BAD,),
    )


FLAWED: dict[str, frozenset[str]] = {}
"""Name of a contract here -> the laws that it breaks, and no others."""


def breaks(*laws: str) -> Callable[[type[Toy]], type[Toy]]:
    def register(toy: type[Toy]) -> type[Toy]:
        FLAWED[toy.__name__.lower()] = frozenset(laws)
        globals()[toy.__name__.lower()] = contract(toy)
        return toy

    return register


sound = contract(Toy)


@breaks("exactly_once", "exactly_once_over_ranks", "elastic_exactly_once")
class NeverDelivers(Toy):
    def order(self) -> list[str]:
        return [key for key in super().order() if key != SAMPLES[3]]

    def length(self) -> int:
        return super().length() - (self.world_size == 1)


@breaks("exactly_once_over_ranks", "elastic_exactly_once", "elastic_order")
class PadsUnmarked(Toy):
    def cut(self, order: list[str]) -> list[list[str]]:
        batches = super().cut(order)
        return [batch or batches[0] for batch in batches + [[]] * self.world_size * (self.world_size == 2)]


@breaks("equal_steps")
class UnequalSteps(Toy):
    def mine(self, batches: list[list[str]]) -> list[list[str]]:
        return super().mine(batches) + [[]] * (self.world_size == 3 and self.rank == 1)


@breaks("workers_have_no_say", "resume_with_other_workers")
class WorkersHaveASay(Toy):
    def order(self) -> list[str]:
        return super().order()[:: -1 if self.count == 1 else 1]


@breaks(
    "same_seed_same_order", "workers_have_no_say", "exactly_once_over_ranks", "elastic_exactly_once", "elastic_order"
)
class DrawsFromTheClock(Toy):
    """Its states hold what it drew, so that it goes on with that."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.seed = time.monotonic_ns()

    def save(self) -> Any:
        return {**super().save(), "seed": self.seed}

    def load(self, state: Any) -> None:
        super().load(state)
        self.seed = state["seed"]


@breaks("epochs_differ")
class SameOrderEachEpoch(Toy):
    def order(self) -> list[str]:
        return random.Random(self.seed).sample(SAMPLES, len(SAMPLES))


@breaks("length_is_true")
class LiesAboutItsLength(Toy):
    def length(self) -> int:
        return len(SAMPLES) // BATCH


@breaks("resume_at_every_step")
class LosesABatchAtOneStep(Toy):
    def load(self, state: Any) -> None:
        self.start = state["taken"] + (state["taken"] == 9)


@breaks("second_resume")
class CountsFromTheResume(Toy):
    """What it saves after a resume is counted from there."""

    loaded = 0

    def load(self, state: Any) -> None:
        super().load(state)
        self.loaded = state["taken"]

    def save(self) -> Any:
        return {"number": self.number, "taken": self.taken - self.loaded}


@breaks("resume_in_second_epoch")
class ResumesWithTheFirstShuffle(Toy):
    def epoch(self, number: int) -> Iterator[list[str]]:
        return super().epoch(0 if self.start else number)


@breaks("epoch_after_resume")
class ShortAfterResume(Toy):
    loaded = 0

    def load(self, state: Any) -> None:
        super().load(state)
        self.loaded = state["taken"]

    def epoch(self, number: int) -> Iterator[list[str]]:
        first = self.start
        self.start = self.start or self.loaded
        yield from super().epoch(number)
        self.loaded = self.loaded if first else 0


@breaks("resume_with_other_workers")
class RefusesOtherWorkers(Toy):
    def save(self) -> Any:
        return {**super().save(), "workers": self.count}

    def load(self, state: Any) -> None:
        if state["workers"] != self.count:
            raise ValueError(f"a state of {state['workers']} workers")
        super().load(state)


@breaks("elastic_exactly_once", "elastic_order")
class CountsInSteps(Toy):
    """Its place is in its own steps, which mean another place on another number of ranks."""

    def save(self) -> Any:
        return {"number": self.number, "taken": self.taken // self.world_size}

    def load(self, state: Any) -> None:
        self.start = state["taken"] * self.world_size


@breaks("elastic_order")
class ReordersWhenRanksChange(Toy):
    def save(self) -> Any:
        return {**super().save(), "world_size": self.world_size}

    def load(self, state: Any) -> None:
        super().load(state)
        self.other = state["world_size"] != self.world_size

    def mine(self, batches: list[list[str]]) -> list[list[str]]:
        return super().mine(batches[::-1] if getattr(self, "other", False) else batches)


class TalksOfDamage(Toy):
    """Leaves the damaged sample out."""

    left_out = 0

    def deliver(self, batches: list[list[str]]) -> Iterator[list[str]]:
        damaged, self.damaged = self.damaged, False
        for batch in super().deliver(batches):
            if damaged and BAD in batch:
                self.left_out += 1
                self.tell()
                batch = [key for key in batch if key != BAD]
            yield batch

    def tell(self) -> None:
        print(f"left out {BAD}", file=sys.stderr)


warns_of_damage = contract(TalksOfDamage)


@breaks("damaged_sample")
class SilentAboutDamage(TalksOfDamage):
    def tell(self) -> None:
        pass


counts_damage = replace(contract(SilentAboutDamage), skipped=lambda loader: loader.left_out)


@breaks("damaged_sample")
class LeavesOutWholeBatches(TalksOfDamage):
    def deliver(self, batches: list[list[str]]) -> Iterator[list[str]]:
        for batch in super().deliver(batches):
            yield batch if len(batch) == BATCH or not self.left_out else []


@breaks("damaged_sample")
class NamelessError(Toy):
    def deliver(self, batches: list[list[str]]) -> Iterator[list[str]]:
        try:
            yield from super().deliver(batches)
        except ValueError:
            raise ValueError("a sample does not decode") from None


@breaks("damaged_sample")
class DeliversDamage(Toy):
    def deliver(self, batches: list[list[str]]) -> Iterator[list[str]]:
        self.damaged = False
        return super().deliver(batches)


@breaks("nothing_grows")
class LeaksADescriptor(Toy):
    def epoch(self, number: int) -> Iterator[list[str]]:
        os.open(os.devnull, os.O_RDONLY)
        return super().epoch(number)


@breaks("nothing_grows", "killed_leaves_nothing")
class LeavesSharedMemoryToItsEnd(Toy):
    """A segment an epoch, all of them removed by ``close``."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.segments: list[str] = []

    def epoch(self, number: int) -> Iterator[list[str]]:
        self.segments.append(f"{os.environ[SEGMENTS]}-{os.getpid()}-{number}")
        os.close(os.open(self.segments[-1], os.O_CREAT | os.O_WRONLY))
        return super().epoch(number)

    def close(self) -> None:
        super().close()
        for name in self.segments:
            os.unlink(name)


@breaks("finished_leaves_nothing", "killed_leaves_nothing")
class LeavesSharedMemory(Toy):
    def epoch(self, number: int) -> Iterator[list[str]]:
        os.close(os.open(f"{os.environ[SEGMENTS]}-{os.getpid()}", os.O_CREAT | os.O_WRONLY))
        return super().epoch(number)


@breaks("finished_leaves_nothing", "killed_leaves_nothing")
class LeavesAProcess(Toy):
    def deliver(self, batches: list[list[str]]) -> Iterator[list[str]]:
        if not self.number:
            subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
        return super().deliver(batches)


@breaks("killed_leaves_nothing")
class WorkersOutliveTheirTrainer(Toy):
    def work(self, far: Connection, near: Connection) -> None:
        super().work(far, near)
        time.sleep(60)

    def close(self) -> None:
        for process, _pipe in self.workers:
            process.kill()
        super().close()


@breaks("worker_killed")
class HangsWhenAWorkerDies(Toy):
    def ask(self, step: int, batch: list[str]) -> Any:
        try:
            return super().ask(step, batch)
        except RuntimeError:
            time.sleep(60)


@breaks("worker_killed")
class EndsWhenAWorkerDies(Toy):
    def deliver(self, batches: list[list[str]]) -> Iterator[list[str]]:
        with contextlib.suppress(RuntimeError):
            yield from super().deliver(batches)


class ReplacesWorkers(Toy):
    def ask(self, step: int, batch: list[str]) -> Any:
        try:
            return super().ask(step, batch)
        except RuntimeError:
            self.workers[step % len(self.workers)] = self.begin()
            return super().ask(step, batch)


replaces_workers = contract(ReplacesWorkers)


@breaks("killed_then_run_again", "killed_leaves_nothing")
class LeavesALock(Toy):
    """Which stands in the way of the next run of this rank."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.lock = os.path.join(os.environ["TMPDIR"], f"lock-{self.rank}")
        os.close(os.open(self.lock, os.O_CREAT | os.O_EXCL))

    def close(self) -> None:
        super().close()
        os.unlink(self.lock)


class Endless(Toy):
    def deliver(self, batches: list[list[str]]) -> Iterator[list[str]]:
        while True:
            yield from batches


class Dies(Toy):
    def close(self) -> None:
        os.kill(os.getpid(), signal.SIGSEGV)


class Exits(Toy):
    def close(self) -> None:
        os._exit(3)


class NeverExits(Toy):
    def close(self) -> None:
        time.sleep(60)


endless, dies, exits, neverexits = contract(Endless), contract(Dies), contract(Exits), contract(NeverExits)
hasty = replace(sound, epoch=lambda loader, number: itertools.islice(loader.epoch(number), 5))
undeclared = Contract(make=Toy, keys=list, epoch=lambda loader, number: loader.epoch(number), length=None)
bare = replace(sound, save=None, load=None, redeal=None, length=None, damaged=None, workers=False, ranks=False)
not_a_loader = 3

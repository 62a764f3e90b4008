"""One trial: a loader is made, iterated, saved, restored or killed, in a process of its own that tells what it sees."""

from __future__ import annotations

import base64
import gc
import json
import os
import pickle
import signal
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ecopipe.testing import processes
from ecopipe.testing.contract import Contract

SEED = 7
MOST_BATCHES = 10_000
Emit = Callable[..., None]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What one process does.

    Attributes:
        workers, rank, world_size: Settings of the loader.
        states: The states to load, one of each rank that saved (as :func:`freeze` gives them); none for a fresh start.
        epoch, epochs: The first epoch, and how many.
        after: After so many batches of the first epoch ...
        then: ... this happens.
        save: Save the state after every batch, and after each epoch.
        damaged: Use the data set with the damaged sample.
        linger: Wait for what the process leaves behind to vanish by itself.
        attempt: Tells apart trials that are otherwise equal.
    """

    workers: int = 0
    rank: int = 0
    world_size: int = 1
    states: tuple[str, ...] = ()
    epoch: int = 0
    epochs: int = 1
    after: int = 0
    then: Literal["", "stop", "kill a worker", "kill the trainer"] = ""
    save: bool = False
    damaged: bool = False
    linger: bool = False
    attempt: int = 0

    def __str__(self) -> str:
        place = f", rank {self.rank} of {self.world_size}" if self.world_size > 1 else ""
        return f"{self.workers} workers{place}{', resumed' if self.states else ''}"


class _Stopped(Exception):
    """The trial is over before its epochs are."""


def freeze(state: Any) -> str:
    """A state as text, as it is now."""
    return base64.b64encode(pickle.dumps(state)).decode()


def thaw(text: str) -> Any:
    """The state that was frozen."""
    return pickle.loads(base64.b64decode(text))


def perform(contract: Contract, trial: Trial, events: Path, mark: str) -> None:
    """Does the trial and writes what happens, a line of JSON each, so that the lines before a kill or a hang stay."""
    descriptor = os.open(events, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    before = processes.shared_memory()

    def emit(**event: Any) -> None:
        os.write(descriptor, json.dumps(event).encode() + b"\n")

    def shared() -> list[str]:
        new = processes.shared_memory() - before
        return sorted(new - processes.held_by_others(new, mark))

    try:
        loader = _make(contract, trial)
        try:
            _iterate(contract, trial, loader, emit, shared)
        finally:
            emit(shared=shared())
            contract.close(loader)
            emit(shared=shared())
    except Exception as error:
        emit(error=_one_line(error), detail=traceback.format_exc())
    else:
        emit(done=True)


def describe(contract: Contract, events: Path) -> None:
    """Writes what a contract offers, and the keys of all samples."""
    samples = None if contract.samples is None else [str(key) for key in contract.samples()]
    described = {"offers": contract.offers(), "samples": samples, "damaged_names": contract.damaged_names}
    events.write_text(json.dumps(described))


def _make(contract: Contract, trial: Trial) -> Any:
    make = contract.damaged if trial.damaged and contract.damaged else contract.make
    loader = make(rank=trial.rank, world_size=trial.world_size, workers=trial.workers, seed=SEED)
    if trial.states and contract.load is not None:
        states = [thaw(text) for text in trial.states]
        if len(states) != trial.world_size and contract.redeal is not None:
            contract.load(loader, contract.redeal(states, trial.rank, trial.world_size))
        else:
            contract.load(loader, states[trial.rank])
    return loader


def _iterate(contract: Contract, trial: Trial, loader: Any, emit: Emit, shared: Callable[[], list[str]]) -> None:
    for number in range(trial.epoch, trial.epoch + trial.epochs):
        emit(epoch=number, length=_length(contract, loader))
        batches: Iterator[Any] = iter(contract.epoch(loader, number))
        for taken, batch in enumerate(batches, 1):
            emit(batch=[str(key) for key in contract.keys(batch)])
            if trial.save and contract.save is not None:
                emit(state=freeze(contract.save(loader)))
            if taken == trial.after and number == trial.epoch and trial.then:
                emit(shared=shared())
                try:
                    _act(trial, emit)
                except _Stopped:
                    return
            if taken > MOST_BATCHES:
                raise RuntimeError(f"epoch {number} does not end: {taken} batches came")
        del batches
        gc.collect()
        if trial.save and contract.save is not None:
            emit(boundary=freeze(contract.save(loader)))
        family = {os.getpid(), *processes.descendants(os.getpid())}
        emit(descriptors=processes.descriptors(family), segments=len(shared()))
    if contract.skipped is not None:
        emit(skipped=contract.skipped(loader))


def _act(trial: Trial, emit: Emit) -> None:
    if trial.then == "stop":
        raise _Stopped
    if trial.then == "kill the trainer":
        os.kill(os.getpid(), signal.SIGKILL)
    victims = processes.workers(os.getpid())[:1]
    emit(killed=victims)
    processes.kill(victims)


def _length(contract: Contract, loader: Any) -> int | None:
    """The length that a loader gives; None if it has none, as Python's ``len`` tells by a TypeError."""
    if contract.length is None:
        return None
    try:
        return int(contract.length(loader))
    except (TypeError, NotImplementedError):
        return None


def _one_line(error: BaseException) -> str:
    """An error's type, and the first and the last line of its message, where a worker's own error stands."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    ends = lines[:1] + lines[-1:] if len(lines) > 1 else lines
    return f"{type(error).__name__}: {' ... '.join(line[:160] for line in ends)}"

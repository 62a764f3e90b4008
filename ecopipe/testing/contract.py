"""The contract: how the laws make, iterate, save and restore a loader that they know nothing else about."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

from ecopipe.vocabulary.errors import ConfigError, nearest


def batch_keys(batch: Any) -> Iterable[object]:
    """The sample keys of a batch that is a mapping: ``batch["keys"]``."""
    keys: Iterable[object] = batch["keys"]
    return keys


def start_epoch(loader: Any, number: int) -> Iterable[Any]:
    """The loader itself, after ``set_epoch(number)`` where it has one."""
    if hasattr(loader, "set_epoch"):
        loader.set_epoch(number)
    batches: Iterable[Any] = loader
    return batches


def state_dict(loader: Any) -> Any:
    """``loader.state_dict()``."""
    return loader.state_dict()


def load_state_dict(loader: Any, state: Any) -> None:
    """``loader.load_state_dict(state)``."""
    loader.load_state_dict(state)


def state_of_rank_0(states: Sequence[Any], _rank: int, _world_size: int) -> Any:
    """The state that rank 0 saved."""
    return states[0]


def close(loader: Any) -> None:
    """``loader.close()`` where it has one."""
    if hasattr(loader, "close"):
        loader.close()


@dataclass(frozen=True, kw_only=True)
class Contract:
    """How to use a loader. What it does not offer is None, and the laws about it are "not offered" instead of failed.

    Each function is called in a fresh process, with what ``make`` returned where it takes a loader. Keys are compared
    as ``str(key)``; states are pickled at once, and loaded in another process.

    Attributes:
        make: ``make(*, rank, world_size, workers, seed)`` gives a loader of a shuffled, finite data set, the same one
            for equal settings. Every process also has the environment that torchrun would give it (``RANK``,
            ``WORLD_SIZE``, ``MASTER_ADDR`` and so on), so that it can join a process group here.
        samples: The keys of all samples. None: what one rank delivers in its first epoch is taken for all, and the
            laws cannot see what is never delivered.
        keys: The keys of a batch; none for a batch that the loader itself marks as a mere filling of the last step.
        epoch: ``epoch(loader, number)`` gives the batches of epoch 0, 1, ...; after ``load``, those that are left.
        save: The state after the last batch that was handed out.
        load: Continues where a state was saved, in a loader that has delivered nothing yet.
        redeal: ``redeal(states, rank, world_size)`` gives the state to load from those that all ranks of *another*
            world size saved at one step.
        length: The number of batches of this rank in an epoch.
        close: Called at the end of each run.
        damaged: Like ``make``, over a data set with one sample that cannot be decoded.
        damaged_names: Words of which an error or a warning must hold one to have named that sample: its key, its shard.
        skipped: How many samples the loader says it has left out.
        workers: Whether ``make`` heeds ``workers``.
        ranks: Whether ``make`` heeds ``rank`` and ``world_size``.
    """

    make: Callable[..., Any]
    samples: Callable[[], Iterable[object]] | None = None
    keys: Callable[[Any], Iterable[object]] = batch_keys
    epoch: Callable[[Any, int], Iterable[Any]] = start_epoch
    save: Callable[[Any], Any] | None = state_dict
    load: Callable[[Any, Any], Any] | None = load_state_dict
    redeal: Callable[[Sequence[Any], int, int], Any] | None = state_of_rank_0
    length: Callable[[Any], int] | None = len
    close: Callable[[Any], Any] = close
    damaged: Callable[..., Any] | None = None
    damaged_names: tuple[str, ...] = ()
    skipped: Callable[[Any], int] | None = None
    workers: bool = True
    ranks: bool = True

    def offers(self) -> list[str]:
        """The names of the fields that are there."""
        return [field.name for field in fields(self) if getattr(self, field.name)]


def resolve(target: str) -> Contract:
    """The contract that ``"module:name"`` names: a :class:`Contract`, or a function that is one's ``make``.

    Raises:
        ConfigError: There is no such module or name, or it is something else.
    """
    module_name, colon, name = target.partition(":")
    if not colon or not module_name or not name:
        raise ConfigError(f"testing: {target!r} names no loader. Write 'module:name', such as 'my_loaders:train'.")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise ConfigError(
            f"testing: {target!r}: {module_name} cannot be imported: {type(error).__name__}: {error}. "
            "Run from the folder that holds it, or install it."
        ) from error
    if not hasattr(module, name):
        raise ConfigError(f"testing: {module_name} has no {name!r}. {nearest(name, _loaders(module.__name__))}")
    found = getattr(module, name)
    if isinstance(found, Contract):
        return found
    if callable(found):
        return Contract(make=found)
    raise ConfigError(f"testing: {target!r} is {type(found).__name__}. A Contract, or a function, is wanted.")


def _loaders(module_name: str) -> list[str]:
    """The contracts and functions that a module itself defines."""
    members = vars(sys.modules[module_name]).items()
    return [
        name
        for name, value in members
        if isinstance(value, Contract) or (callable(value) and getattr(value, "__module__", None) == module_name)
    ]

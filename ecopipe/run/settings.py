"""Whether the settings of a loader can work, before anything is opened."""

from __future__ import annotations

import multiprocessing
import os
from typing import Any, get_args

import numpy as np
import torch

from ecopipe.pipeline.pipeline import Pipeline
from ecopipe.pipeline.tuning import Tuning
from ecopipe.run.maker import Verify
from ecopipe.run.ranks import Tail
from ecopipe.vocabulary.errors import ConfigError, nearest

_WHOLE: dict[str, int | None] = {
    "workers": 0,
    "threads": 0,
    "rank": None,
    "world_size": None,
    "seed": None,
    "epoch": 0,
    "prefetch": 1,
    "worker_retries": 0,
}
"""Settings that are whole numbers, and the least of each; None if it has none, or one that depends on others."""

_KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    "pipeline": ((Pipeline,), "a Pipeline"),
    "device": ((str, torch.device), "the name of a device, such as 'cuda', or a torch.device"),
    "ledger": ((str, os.PathLike, type(None)), "a folder"),
    "quarantine": ((str, os.PathLike, type(None)), "a file"),
}


def check(**settings: Any) -> None:
    """Refuses the first setting that is not of its type, out of its range, or none of its choices.

    Raises:
        ConfigError: Names the setting, what it is, and what it takes.
    """
    for name, value in settings.items():
        if name in _WHOLE and not (value is None and name in ("rank", "world_size", "workers", "threads", "prefetch")):
            _check_whole(name, value)
        elif name in _KINDS and not isinstance(value, _KINDS[name][0]):
            raise ConfigError(f"loader: {name} must be {_KINDS[name][1]}, got {value!r}.")
        elif name in ("tail", "verify", "multiprocessing_context"):
            _check_choice(name, value)
        elif name == "timeout_s":
            if not isinstance(value, int | float | np.number) or isinstance(value, bool) or not value == value:
                raise ConfigError(f"loader: timeout_s must be a number of seconds, got {value!r}.")
            _check_least(name, value, 0)


def tuned(tuning: Tuning, workers: int | None, threads: int | None, prefetch: int | None) -> tuple[int, int, int]:
    """Workers, threads and prefetch: as given, else as the pipeline's tuning says, else 0, 0 and 2.

    Threads that were tuned for other workers are not taken over.
    """
    if threads is None and workers in (None, tuning.workers):
        threads = tuning.threads
    given = (workers, tuning.workers, 0), (threads, 0), (prefetch, tuning.prefetch, 2)
    found = [int(next(value for value in values if value is not None)) for values in given]
    return found[0], found[1], found[2]


def check_makers(pipeline: Pipeline, workers: int, threads: int) -> None:
    """Refuses threads of this process for a stage that seeds what the consumer's thread draws from.

    Raises:
        ConfigError: Names the stage.
    """
    seeding = next((stage.label for stage in pipeline.sample_stages if stage.seeds_process), None)
    if threads and not workers and seeding is not None:
        raise ConfigError(
            f"loader: threads without workers make batches in this process, where {seeding} seeds the generators of "
            "torch, numpy and Python, and your program draws from them at the same time. Take workers=N instead, or "
            f"workers=1, threads={threads}."
        )


def _check_whole(name: str, value: Any) -> None:
    if not isinstance(value, int | np.integer) or isinstance(value, bool):
        raise ConfigError(f"loader: {name} must be a whole number, got {value!r}.")
    least = _WHOLE[name]
    if least is not None:
        _check_least(name, value, least)


def _check_least(name: str, value: Any, least: int) -> None:
    if value < least:
        raise ConfigError(f"loader: {name} must be at least {least}, got {value}.")


def _check_choice(name: str, value: Any) -> None:
    choices = {"tail": get_args(Tail), "verify": get_args(Verify)}
    known = choices.get(name) or tuple(multiprocessing.get_all_start_methods())
    if value not in known and not (value is None and name == "multiprocessing_context"):
        raise ConfigError(f"loader: unknown {name} {value!r}. {nearest(str(value), known)}")

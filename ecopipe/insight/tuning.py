"""Which workers, threads and prefetch are fastest within a memory limit: predicted from a profile, then measured."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import tomli_w

from ecopipe.insight.predictions import Model
from ecopipe.insight.profile import Profile
from ecopipe.insight.profile_model import steady
from ecopipe.pipeline.pipeline import Pipeline
from ecopipe.pipeline.toml import loads
from ecopipe.pipeline.tuning import Tuning, makers
from ecopipe.plan.mixed import Opened
from ecopipe.run.loader import Loader
from ecopipe.run.metering import rss_bytes
from ecopipe.vocabulary.errors import ConfigError, DataError
from ecopipe.vocabulary.meters import cores
from ecopipe.vocabulary.sample import Batch

PREFETCHES = (1, 2, 4)
THREADS = (0, 1, 2, 4)

TRIALS = 6
"""Settings that are measured at most."""

TURNS = 2
"""Times that each setting is measured, in turn with the others."""

ROUNDS = 4
"""Times that all batches on their way are replaced while a setting is measured once: they come in bursts."""

AS_GOOD = 0.97
"""A setting of fewer processes and threads, or of less prefetch, is preferred if it gives so much of the best."""


@dataclass(frozen=True)
class Trial:
    """A setting: the samples per second that were predicted and measured, and the memory of all its processes.

    ``turns_per_s`` are the rates of each time that it was measured, and ``samples_per_s`` is their median, None before
    the first; ``fits`` says whether it kept to the limit. With threads the prediction is the most that they could
    reach: see :meth:`ecopipe.insight.predictions.Model.rate`.
    """

    workers: int
    threads: int
    prefetch: int
    predicted_per_s: float
    samples_per_s: float | None = None
    turns_per_s: tuple[float, ...] = ()
    memory_bytes: int = 0
    fits: bool = True

    @property
    def makers(self) -> int:
        """Threads of all processes together that make batches beside the consumer's."""
        return makers(self.workers, self.threads)

    @property
    def mode(self) -> tuple[bool, bool]:
        """Whether there are workers, and whether there are threads."""
        return self.workers > 0, self.threads > 0

    @property
    def effort(self) -> tuple[int, int, int]:
        """What is less is simpler."""
        return self.makers, self.threads, self.prefetch

    @property
    def range_per_s(self) -> tuple[float, float]:
        """The least and the most that was measured."""
        return min(self.turns_per_s), max(self.turns_per_s)

    def measured(self, samples_per_s: float, memory_bytes: int, limit_bytes: int | None) -> Trial:
        """The setting after it was measured once more."""
        turns = (*self.turns_per_s, round(samples_per_s, 2))
        memory = max(self.memory_bytes, memory_bytes)
        fits = limit_bytes is None or memory <= limit_bytes
        return replace(self, samples_per_s=round(median(turns), 2), turns_per_s=turns, memory_bytes=memory, fits=fits)


def taken(
    loader: Loader, seconds: float, consumer_s: float = 0.0, least: int = 12, only: int | None = None
) -> Iterator[Batch]:
    """Batches for so many seconds, over as many epochs as it takes; at least ``least``, but for no more than ten times
    as long. The consumer waits for ``consumer_s`` after each. ``only`` so many of the epoch are taken, again and
    again."""
    began, count = time.monotonic(), 0
    while True:
        for batch in islice(loader, only):
            yield batch
            if consumer_s:
                time.sleep(consumer_s)
            count += 1
            spent = time.monotonic() - began
            if (spent >= seconds and count >= least) or spent >= 10 * seconds:
                return


def tune(
    pipeline: Pipeline,
    shards: Opened,
    *,
    memory_bytes: int | None = None,
    seconds: float = 20.0,
    consumer_s: float = 0.0,
    device: str = "cpu",
    told: Callable[[Trial], None] = lambda trial: None,
) -> list[Trial]:
    """Measures the settings that a first profile promises most of; the best first, as :func:`best_of` finds it.

    Each is measured several times, in turn with the others and every other time in reverse, so that a machine that
    becomes slower or faster meanwhile favours none.

    Args:
        pipeline: What to run.
        shards: Its shards.
        memory_bytes: What all processes together may take; None is no limit.
        seconds: To spend, about.
        consumer_s: A training step that is imitated, by waiting.
        device: Where device stages run.
        told: Called with a setting whenever it was measured.

    Raises:
        ConfigError: Not even without workers does it keep to the limit.
        DataError: The pipeline gives too few batches to measure.
    """
    each = measured_s(seconds)
    profile, memory = _measured(pipeline, shards, Trial(0, 0, 2, 0.0), TURNS * each, consumer_s, device)
    if memory_bytes is not None and memory > memory_bytes:
        raise ConfigError(
            f"tune: without workers it takes {memory:,} bytes, more than the limit of {memory_bytes:,}. Raise it, or "
            "make batches smaller."
        )
    found = promising(profile.model, threads_alone=pipeline.threads_alone)
    for turn in range(TURNS):
        for at in range(len(found))[:: -1 if turn % 2 else 1]:
            profile, memory = _measured(pipeline, shards, found[at], each, consumer_s, device)
            found[at] = found[at].measured(_rate(profile), memory, memory_bytes)
            told(found[at])
    best, _ = best_of(found)
    return [best, *(trial for trial in found if trial is not best)]


def measured_s(seconds: float) -> float:
    """Seconds that each setting is measured for, each time, of those that all of it may take."""
    return seconds / (TRIALS + 1) / TURNS


def best_of(trials: Sequence[Trial]) -> tuple[Trial, bool]:
    """The simplest of those that are nearly as fast as the fastest; and whether they could be told apart.

    They cannot where a simpler one was slower, but once as fast as the fastest was another time: then it is taken.
    Where nothing keeps to the limit any more it is the one that takes least memory.
    """
    fitting = [trial for trial in trials if trial.fits] or [min(trials, key=lambda trial: trial.memory_bytes)]
    fastest = max(fitting, key=lambda trial: trial.samples_per_s or 0.0)
    as_good = [trial for trial in fitting if (trial.samples_per_s or 0.0) >= AS_GOOD * (fastest.samples_per_s or 0.0)]
    perhaps = [trial for trial in fitting if trial.range_per_s[1] >= fastest.range_per_s[0]]
    best = min([*as_good, *perhaps], key=lambda trial: trial.effort)
    return best, best in as_good


def promising(model: Model, most: int = 0, *, threads_alone: bool = True) -> list[Trial]:
    """What is to be measured: neither workers nor threads, and then what is predicted to be fastest, the best of each
    mode before the second of any, since threads are predicted as if they never waited for one another.

    Args:
        model: What predicts.
        most: Threads of all processes together at most; 0 is twice the cores.
        threads_alone: Whether there may be threads without workers: stages that seed the process refuse them.
    """
    most = most or 2 * cores()
    settings = [
        Trial(workers, threads, prefetch, round(model.rate(workers, prefetch, threads=threads), 2))
        for workers in range(most + 1)
        for threads in THREADS
        if workers * max(threads, 1) <= most and threads <= most and not (workers and threads == 1)
        if workers or not threads or threads_alone
        for prefetch in (PREFETCHES if workers or threads else (2,))
    ]
    settings.sort(key=lambda trial: (-trial.predicted_per_s, trial.effort))
    seen: dict[tuple[bool, bool], int] = {}
    turns = []
    for trial in settings:
        turn = seen[trial.mode] = seen.get(trial.mode, -1) + 1
        turns.append((trial.makers > 0, turn, trial))
    turns.sort(key=lambda found: found[:2])  # what is of one turn stays in the order of the predictions
    return [trial for _, _, trial in turns[:TRIALS]]


def _rate(profile: Profile) -> float:
    """Samples per second, from the first batch of the steady ones to the last."""
    first, *rest = steady(profile.recording)
    return sum(one.samples for one in rest) / max((rest[-1].delivered_ns - first.delivered_ns) / 1e9, 1e-9)


def _measured(
    pipeline: Pipeline, shards: Opened, trial: Trial, seconds: float, consumer_s: float, device: str
) -> tuple[Profile, int]:
    """A profile under some settings, and the most memory that its processes took together."""
    memory = count = 0
    settings: dict[str, Any] = {"workers": trial.workers, "threads": trial.threads, "prefetch": trial.prefetch}
    with Loader(pipeline, **settings, shards=shards, device=device) as loader:
        with loader.profile() as profile:
            for _ in taken(loader, seconds, consumer_s, least=12 + ROUNDS * trial.makers * trial.prefetch):
                count += 1
                if count & (count - 1) == 0:  # 1, 2, 4, 8, ...: it is slow to ask
                    memory = max(memory, sum(map(memory_of, [os.getpid(), *loader.worker_pids])))
        memory = max(memory, sum(map(memory_of, [os.getpid(), *loader.worker_pids])))
    if len(profile.recording.deliveries) < 4:
        raise DataError(
            f"tune: only {len(profile.recording.deliveries)} batches came in {10 * seconds:.0f} s. Give it more "
            "--seconds, or make batches smaller."
        )
    return profile, memory


def memory_of(pid: int) -> int:
    """Bytes that a process takes; of what it shares with others, its part. 0 where the system does not say."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return rss_bytes() if pid == os.getpid() else 0
    found = re.search(r"^Pss:\s+(\d+) kB", text, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def tuned_text(text: str, tuning: Tuning, where: str) -> str:
    """The text of a pipeline file with this ``[loader]`` table in place of its own; all else stays as it is.

    Raises:
        ConfigError: It sets them in a way that is not understood here, such as ``loader = {...}``.
    """
    kept, inside = [], False
    for line in text.splitlines():
        if line.lstrip().startswith("["):
            inside = re.fullmatch(r"\s*\[\s*loader\s*\]\s*(#.*)?", line) is not None
        if not inside:
            kept.append(line)
    table = {name: value for name, value in vars(tuning).items() if value is not None}
    made = "\n".join(kept).rstrip() + "\n\n" + tomli_w.dumps({"loader": table})
    try:
        new = loads(made, where=where)
    except ConfigError as error:
        raise ConfigError(
            f"{where}: its settings of the loader stand where they cannot be replaced. Write them as a table [loader]."
        ) from error
    if new.identity != loads(text, where=where).identity or new.tuning != tuning:
        raise ConfigError(f"{where}: the tuned file would be another pipeline. Write [loader] by hand.")
    return made

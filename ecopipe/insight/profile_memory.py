"""What the system keeps in memory of shards on disk: a cold run of a profile begins without it, a warm one with it."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Generator, Iterator

from ecopipe.pipeline.pipeline import Pipeline
from ecopipe.plan.items import OpenedItems
from ecopipe.plan.mixed import Opened
from ecopipe.plan.sequence import sequence
from ecopipe.run.maker import BatchMaker, make_task
from ecopipe.storage.files import is_url
from ecopipe.vocabulary.errors import DataError
from ecopipe.vocabulary.sample import Place, Sample

ENOUGH = 40
"""Batches from which on a run may take the same ones again and again: of fewer it would mostly begin."""


def drop_from_memory(shards: Opened) -> int:
    """Asks the system to forget what it keeps in memory of shards on disk; the number of those it was asked for."""
    count = 0
    for path in _paths(shards):
        with contextlib.suppress(OSError, AttributeError):
            if not is_url(path):
                descriptor = os.open(path, os.O_RDONLY)
                try:
                    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
                    count += 1
                finally:
                    os.close(descriptor)
    return count


def bring_into_memory(pipeline: Pipeline, shards: Opened, seconds: float) -> int | None:
    """Reads what the first batches of an epoch are made of, one after the other, for so many seconds at most.

    Gives their number; None if those are all or fewer than :data:`ENOUGH`, or if the shards are not on disk, where the
    system would keep them.
    """
    if any(map(is_url, _paths(shards))):
        return None
    began = time.monotonic()
    with contextlib.closing(raw_batches(pipeline, shards)) as batches:
        for count, batch in enumerate(batches):
            with contextlib.suppress(DataError):  # it is said when the batch is made
                for _ in batch:
                    pass
            if time.monotonic() - began > seconds:
                return count + 1 if count + 1 >= ENOUGH else None
    return None


def raw_batches(pipeline: Pipeline, shards: Opened) -> Generator[Iterator[Sample], None, None]:
    """The samples of each batch of an epoch as they lie in the shards, before any stage: none of an iterable."""
    if isinstance(shards, OpenedItems):
        return
    maker = BatchMaker(pipeline, verify="off")
    try:
        for planned in sequence(pipeline.plan(shards, 0, 0), shards.read):
            task = make_task(planned.rows(None), Place(0, planned.number), 0, None)
            yield map(maker.raw, task.rows.to_pylist())
    finally:
        maker.close()


def _paths(shards: Opened) -> list[str]:
    return [
        path for part in getattr(shards, "parts", {}).values() if hasattr(part, "shards")
        for path in part.shards["path"].to_pylist()
    ]  # fmt: skip

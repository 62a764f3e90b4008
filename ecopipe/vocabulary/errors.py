"""Every error that ecopipe raises on purpose.

::

    EcopipeError
    ├── ConfigError          a setting, a TOML key, a stage or an order of stages that cannot work
    ├── MissingDependency    an optional package is needed here and is not installed
    ├── OutputError          a place to write that is taken, or cannot be written
    ├── StateError           a saved state that does not belong to this loader
    ├── StorageError         a place by URL that cannot be reached, or that refuses
    ├── WorkerError          a worker process that died, or did not answer in time
    └── DataError            the data is not what it should be
        ├── CorpusError      a raw corpus: missing, empty or damaged
        ├── ShardError       a tar shard: missing, truncated, damaged or changed
        ├── IndexFileError   an index: missing, damaged or of another version
        └── SampleError      one sample that a stage could not process

Messages are whole sentences that say what, where, what was found, and what to do about it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class EcopipeError(Exception):
    """Base of all errors that ecopipe raises on purpose."""


class ConfigError(EcopipeError):
    """A setting, a TOML key, a stage or an order of stages that cannot work."""


class MissingDependency(EcopipeError):
    """An optional package is needed here and is not installed."""


class OutputError(EcopipeError):
    """A place to write to that is already taken, or that cannot be written."""


class StateError(EcopipeError):
    """A saved state that does not belong to this loader."""


class StorageError(EcopipeError):
    """A place, by URL or path, that cannot be reached, or that refuses. It is no DataError: no sample is bad for it."""


class WorkerError(EcopipeError):
    """A worker process that died, or did not answer in time."""


class DataError(EcopipeError):
    """The data is not what it should be."""


class CorpusError(DataError):
    """A raw corpus that is missing, empty or damaged."""


class ShardError(DataError):
    """A tar shard that is missing, truncated, damaged or changed since it was indexed."""


class IndexFileError(DataError):
    """An index that is missing, damaged, or of another version."""


class SampleError(DataError):
    """One sample that a stage could not process.

    Attributes: ``stage``, ``key`` and ``shard`` name the place; ``reason`` is the cause in words; ``details`` is the
    traceback of the cause as text where it was raised in a worker process, else empty.
    """

    def __init__(self, stage: str, key: str, shard: str, reason: str, details: str = "") -> None:
        super().__init__(stage, key, shard, reason, details)
        self.stage, self.key, self.shard, self.reason, self.details = stage, key, shard, reason, details

    def __str__(self) -> str:
        where = f" in {self.shard}" if self.shard else ""
        return f"{self.stage}: sample {self.key!r}{where}: {self.reason}"


MOST_NAMES = 24
"""Names that :func:`nearest` lists at most."""


def nearest(wrong: str, known: Iterable[str]) -> str:
    """A remedy for a misspelt name: the nearest known one if there is one, and the known ones; of many, the nearest.

    >>> nearest("widht", ["width", "height"])
    "Did you mean 'width'? Known: height, width."
    """
    names = sorted(set(known))
    close = difflib.get_close_matches(wrong, names, n=1, cutoff=0.5)
    hint = f"Did you mean {close[0]!r}? " if close else ""
    if len(names) > MOST_NAMES:
        more = f"and {len(names) - MOST_NAMES} more"
        names.sort(key=lambda name: -difflib.SequenceMatcher(None, name, wrong).ratio())
        names[MOST_NAMES:] = [more]
    return f"{hint}Known: {', '.join(names) or 'none'}."

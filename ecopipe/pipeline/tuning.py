"""What a pipeline's loader uses where it is not told: found by measurement, and no part of the identity."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

from ecopipe.vocabulary.errors import ConfigError


def makers(workers: int, threads: int) -> int:
    """Threads of all processes together that make batches beside the consumer's; 0 if that makes them itself."""
    return max(workers, 1 if threads else 0) * max(threads, 1)


@dataclass(frozen=True)
class Tuning:
    """The settings of a loader that never change what it delivers.

    Args:
        workers: Worker processes, from 0 on; None leaves it to the loader.
        threads: Threads in each worker, or without workers in the consumer's process, from 0 on; None leaves it to the
            loader.
        prefetch: Batches per worker and thread that are made ahead, at least 1; None leaves it to the loader.

    Raises:
        ConfigError: A setting is out of its range.
    """

    _: KW_ONLY
    workers: int | None = None
    threads: int | None = None
    prefetch: int | None = None

    def __post_init__(self) -> None:
        limits = ("workers", self.workers, 0), ("threads", self.threads, 0), ("prefetch", self.prefetch, 1)
        for name, value, least in limits:
            if value is not None and value < least:
                raise ConfigError(f"Tuning: {name} must be at least {least}, got {value}.")

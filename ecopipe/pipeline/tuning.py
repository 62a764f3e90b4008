"""What a pipeline's loader uses where it is not told: found by measurement, and no part of the identity."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

from ecopipe.vocabulary.errors import ConfigError


@dataclass(frozen=True)
class Tuning:
    """The settings of a loader that never change what it delivers.

    Args:
        workers: Worker processes, from 0 on; None leaves it to the loader.
        prefetch: Batches per worker that are made ahead, at least 1; None leaves it to the loader.

    Raises:
        ConfigError: A setting is out of its range.
    """

    _: KW_ONLY
    workers: int | None = None
    prefetch: int | None = None

    def __post_init__(self) -> None:
        for name, value, least in (("workers", self.workers, 0), ("prefetch", self.prefetch, 1)):
            if value is not None and value < least:
                raise ConfigError(f"Tuning: {name} must be at least {least}, got {value}.")

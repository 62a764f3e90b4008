"""How large shards are planned to be."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from ecopipe.vocabulary.errors import ConfigError

MAX_BYTES = 256 * 2**20
"""Bytes of a shard, by default: large enough for sequential reading, small enough to move and to shuffle."""


@dataclass(frozen=True)
class Limits:
    """How large shards may become. Shards are planned before samples are made, as few of nearly equal size as keep
    the limits; the count is kept exactly, bytes and seconds as well as they can be told beforehand.

    One sample that is over a limit by itself makes a shard of its own.

    Args:
        max_bytes: Bytes of a tar at most.
        max_count: Samples at most; None is no limit.
        max_duration_s: Seconds of audio at most; None is no limit.
        shards: So many shards, whatever the other limits; None is as many as they need.
    """

    max_bytes: int = MAX_BYTES
    max_count: int | None = None
    max_duration_s: float | None = None
    shards: int | None = None

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if value is None and item.name != "max_bytes":
                continue
            whole = item.name != "max_duration_s"
            good = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
            if not good or not math.isfinite(value) or value <= 0:
                raise ConfigError(
                    f"shard: {item.name} must be {'at least 1' if whole else 'over 0'}, got {item.name}={value!r}."
                )

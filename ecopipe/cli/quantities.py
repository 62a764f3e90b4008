"""Rates, counts and times as people write them."""

from __future__ import annotations

import math
import re

from ecopipe.vocabulary.errors import ConfigError

_NUMBER = r"\s*(\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)\s*"
_PREFIX = r"([kKMGTP]i?)?"


def rate(option: str, text: str) -> float:
    """``"10GBps"``, ``"800MB/s"`` or ``"100Gbps"`` (bits) as bytes per second, more than 0.

    >>> rate("--network", "10GBps"), rate("--network", "100Gbit/s")
    (10000000000.0, 12500000000.0)

    Raises:
        ConfigError: It is no rate, or does not say whether it counts bits or bytes.
    """
    match = re.fullmatch(_NUMBER + _PREFIX + r"(B|b|bit)(?:ps|/s)\s*", text)
    found = float(match[1]) * _factor(match[2]) / (1 if match[3] == "B" else 8) if match else 0.0
    if not 0 < found < math.inf:
        raise ConfigError(
            f"{option} {text!r}: write a number and a unit, such as 10GBps or 800MB/s (bytes), or 100Gbps (bits)."
        )
    return found


def count(option: str, text: str) -> int:
    """``"1e8"`` or ``"100000000"`` as a whole number, at least 1.

    >>> count("--samples", "1e8")
    100000000

    Raises:
        ConfigError: It is no whole number, or less than 1.
    """
    match = re.fullmatch(_NUMBER, text.replace("_", ""))
    value = float(match[1]) if match else 0.0
    if not 1 <= value < 1e18 or value != int(value):
        raise ConfigError(f"{option} {text!r}: write a whole number of at least 1, such as 100000000 or 1e8.")
    return int(value)


def spoken_time(seconds: float) -> str:
    """A time for people.

    >>> spoken_time(0.02), spoken_time(192), spoken_time(7200)
    ('0.02 s', '3.2 min', '2.0 h')
    """
    if seconds < 120:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _factor(prefix: str | None) -> int:
    power = " kmgtp".index((prefix or " ")[0].lower())
    return int((1024 if (prefix or "").endswith("i") else 1000) ** power)

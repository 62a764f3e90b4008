"""Numbers of bytes as people write them."""

from __future__ import annotations

import re

from ecopipe.vocabulary.errors import ConfigError


def parse_bytes(text: str, what: str) -> int:
    """A size such as ``20GB`` or ``256MiB`` in bytes; ``what`` names it in errors.

    >>> parse_bytes("1.5 MiB", "--cache"), parse_bytes("2TB", "--cache")
    (1572864, 2000000000000)

    Raises:
        ConfigError: It is no size.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?", text.strip().lower())
    if found is None or (found[3] and not found[2]):
        raise ConfigError(f"{what}: {text!r} is no size in bytes. Write it as 20GB, 256MiB or 1000000.")
    return int(float(found[1]) * (1024 if found[3] else 1000) ** " kmgt".index(found[2] or " "))

"""Versions of what makes the bytes of shards."""

from __future__ import annotations

import importlib.metadata

LIBRARIES = (
    "ecopipe", "numpy", "pyarrow", "torch", "soundfile", "miniaudio", "soxr", "pillow", "tokenizers", "sentencepiece",
)  # fmt: skip
"""ecopipe, and what decodes, encodes or cuts for it."""


def library_versions() -> dict[str, str]:
    """The version of each, as far as it is installed."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found

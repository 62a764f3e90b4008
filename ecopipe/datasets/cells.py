"""What a cell of a table becomes: a label, the bytes of a member, or a value of the index."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from ecopipe.vocabulary.errors import ConfigError, CorpusError

_WHOLE = re.compile(r"-?[0-9]+")
_DECIMAL = re.compile(r"-?[0-9]+(\.[0-9]+)?")
_DIGITS = 18  # of a label that is a number: all such fit into 64 bits


def label_text(where: object, column: str, value: Any) -> str | None:
    """The text of a label, of a whole number without a point; None if it is missing (empty or NaN).

    Raises:
        CorpusError: It is neither a text nor a number, so the column may not be that of a label.
    """
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, (bytes, list, Mapping)):
        raise CorpusError(
            f"label={column!r}: {where} has a {type(value).__name__} in it, {value!r:.60}. Choose a column of texts or "
            f"numbers."
        )
    return (
        str(int(value)) if isinstance(value, bool) or (isinstance(value, float) and value.is_integer()) else str(value)
    )


def too_long(label: str) -> bool:
    """Whether the label is a whole number that may not fit into 64 bits."""
    return _WHOLE.fullmatch(label) is not None and len(label.lstrip("-")) > _DIGITS


def are_numbers(labels: Iterable[str]) -> bool:
    """Whether all labels are whole numbers."""
    return all(map(_WHOLE.fullmatch, labels))


def in_order(labels: Iterable[str]) -> tuple[str, ...]:
    """The labels by their value if all are numbers, such as 2.5 and 10.0; else by their text."""
    labels = sorted(labels)
    return tuple(sorted(labels, key=float) if all(map(_DECIMAL.fullmatch, labels)) else labels)


def as_bytes(value: Any) -> bytes:
    """Bytes as they are, text in UTF-8, or else JSON."""
    if isinstance(value, Mapping) and isinstance(value.get("bytes"), bytes):
        return bytes(value["bytes"])  # an image or audio as the datasets library stores it
    if isinstance(value, bytes):
        return value
    return value.encode() if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str).encode()


def as_json(where: object, row: Mapping[str, Any]) -> bytes:
    """The whole row.

    Raises:
        ConfigError: There are bytes in it.
    """
    for column, value in row.items():
        if isinstance(value, bytes) or (isinstance(value, Mapping) and isinstance(value.get("bytes"), bytes)):
            raise ConfigError(f"{where}: {column!r} holds bytes, which JSON cannot. Name it: members=EXT={column}.")
    return json.dumps(dict(row), ensure_ascii=False, separators=(",", ":"), default=str).encode()


def typed(where: object, column: str, value: Any, kind: str) -> int | float | str | None:
    """The value as ``string``, ``int64`` or ``float64``; None if it is missing.

    Raises:
        CorpusError: It is none, such as 1.7 or 10**20 for int64.
    """
    if value is None or (value == "" and kind != "string"):
        return None
    try:
        if kind == "string":
            return str(value)
        if kind == "float64":
            return float(value)
        if isinstance(value, float) and math.isnan(value):
            return None
        number = int(value)
        if (not isinstance(value, str) and number != value) or not -(1 << 63) <= number < 1 << 63:
            raise ValueError("not whole, or beyond 64 bits")
        return number
    except (TypeError, ValueError, OverflowError) as error:
        raise CorpusError(
            f"{where}: {column!r} is {value!r:.60}, no {kind}. Mend it, or keep it as a string."
        ) from error

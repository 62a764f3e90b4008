"""JSON that others may have written: whatever is wrong with it is a ValueError."""

from __future__ import annotations

import json
from typing import Any


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: It is none, or is nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def parse_json_object(text: str | bytes) -> dict[str, Any]:
    """The same of an object.

    Raises:
        ValueError: As :func:`parse_json`, or it is something else.
    """
    found = parse_json(text)
    if not isinstance(found, dict):
        raise ValueError(f"it is no JSON object, but {type(found).__name__}")
    return found

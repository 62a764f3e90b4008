"""What a source or a stage is, as plain data: for TOML, for the identity of a pipeline, and for naming a difference."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

from ecopipe.pipeline.bad_samples import BadSamples
from ecopipe.pipeline.tuning import Tuning
from ecopipe.stages import foreign
from ecopipe.stages.source import Mix, Source
from ecopipe.stages.stage import Stage
from ecopipe.vocabulary.errors import ConfigError


def _content(path: str, thing: object) -> str:
    try:
        return "blake2b:" + hashlib.blake2b(Path(path).read_bytes(), digest_size=16).hexdigest()
    except OSError as error:
        name = type(thing).__name__
        raise ConfigError(f"{name}: {path}: cannot be read ({error.strerror or error}). Check the path.") from error


def plain(value: Any) -> Any:
    """A setting as JSON holds it; a function or module in words."""
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    return foreign.identity(value) if callable(value) else value


def settings(thing: Source | Stage | BadSamples | Tuning, *, identity: bool) -> dict[str, Any]:
    """The fields of a source or a stage.

    Args:
        thing: The source or stage.
        identity: All fields that decide what is delivered; otherwise every field that is not at its default.
    """
    found: dict[str, Any] = {}
    for item in dataclasses.fields(thing):
        value = getattr(thing, item.name)
        if item.name == "sources" and isinstance(thing, Mix):
            found[item.name] = [settings(source, identity=identity) for source in thing.sources]
        elif identity:
            kind = item.metadata.get("identity", True)
            if kind is True:
                found[item.name] = plain(value)
            elif kind and value is not None:
                found[item.name] = kind(thing) if callable(kind) else _content(value, thing)
        elif value != (item.default_factory() if item.default_factory is not dataclasses.MISSING else item.default):
            found[item.name] = value if callable(value) else plain(value)
    return found


def describe(thing: Source | Stage) -> dict[str, Any]:
    """The identity of a source or a stage, as JSON."""
    kind = "stage" if isinstance(thing, Stage) else "source"
    return {kind: type(thing).__name__, **settings(thing, identity=True)}


def less_weights(identity: dict[str, Any]) -> dict[str, Any]:
    """An identity without the weights of its mixture, which may change between two epochs."""
    source = {name: value for name, value in identity["source"].items() if name != "weights"}
    return {**identity, "source": source}


def first_difference(saved: Any, now: Any, where: str = "") -> str | None:
    """The first place where two identities differ, in words; None if they are equal.

    >>> first_difference({"stages": [{"bins": 80}]}, {"stages": [{"bins": 64}]})
    'stages[0].bins was 80 and is 64'
    """
    if isinstance(saved, dict) and isinstance(now, dict):
        for name in [*saved, *(name for name in now if name not in saved)]:
            inner = f"{where}.{name}" if where else str(name)
            if name not in saved or name not in now:
                return f"{inner} {'was not there' if name not in saved else 'is gone'}"
            if found := first_difference(saved[name], now[name], inner):
                return found
        return None
    if isinstance(saved, list) and isinstance(now, list):
        for number, (before, after) in enumerate(zip(saved, now, strict=False)):
            if found := first_difference(before, after, f"{where}[{number}]"):
                return found
        return None if len(saved) == len(now) else f"{where} had {len(saved)} entries and has {len(now)}"
    return None if saved == now else f"{where} was {saved!r} and is {now!r}"

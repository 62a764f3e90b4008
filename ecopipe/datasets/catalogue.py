"""What the readers of corpora say of themselves, and their settings as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

from ecopipe.datasets.corpus import CORPORA, Corpus, reader_of, settings_of
from ecopipe.vocabulary.errors import ConfigError, nearest

_TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


@dataclass(frozen=True)
class Option:
    """A setting of a reader; ``takes`` is ``text``, ``list``, ``true|false`` or the choices with ``|`` between them."""

    name: str
    takes: str
    default: str
    meaning: str


@dataclass(frozen=True)
class Entry:
    """What a reader says of itself; ``members`` and ``columns`` by name."""

    name: str
    title: str
    expects: str
    members: Mapping[str, str]
    columns: Mapping[str, str]
    options: tuple[Option, ...]
    licence: str


def entry(name: str) -> Entry:
    """What the reader of one corpus says of itself.

    Raises:
        ConfigError: There is no such reader.
    """
    reader = reader_of(name)
    hints = _hints(reader)
    options = tuple(
        Option(setting, _takes(hints[setting]), _shown(parameter.default), reader.options[setting])
        for setting, parameter in settings_of(reader).items()
    )
    return Entry(name, reader.title, reader.expects, reader.members, reader.columns, options, reader.licence)


def entries() -> list[Entry]:
    """Of all readers, by name."""
    return [entry(name) for name in sorted(CORPORA)]


def parse_options(name: str, texts: Sequence[str]) -> dict[str, Any]:
    """The settings of a reader from texts of the form ``KEY=VALUE``.

    A list's values are separated by commas, and it may be given several times.

    Raises:
        ConfigError: Not of that form, or there is no such setting, or no such value of it.
    """
    hints = _hints(reader_of(name))
    settings: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--option {text!r} is not of the form KEY=VALUE.")
        if key not in hints:
            raise ConfigError(f"The {name} corpus has no option {key!r}. {nearest(key, hints)}")
        if _takes(hints[key]) == "list":
            settings[key] = (*settings.get(key, ()), *(item for item in value.split(",") if item))
        elif key in settings:
            raise ConfigError(f"--option {key} is given twice, and takes one value.")
        else:
            settings[key] = _value(key, value, hints[key])
    return settings


def _hints(reader: type[Corpus]) -> dict[str, Any]:
    """The types of the settings, by name."""
    found = get_type_hints(reader.__init__)
    return {name: found[name] for name in settings_of(reader)}


def _takes(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return "|".join(get_args(hint))
    return {str: "text", bool: "true|false"}.get(hint, "list")


def _value(key: str, value: str, hint: Any) -> str | bool:
    if get_origin(hint) is Literal and value not in get_args(hint):
        raise ConfigError(f"--option {key}={value} is not known. {nearest(value, get_args(hint))}")
    if hint is not bool:
        return value
    if value.lower() not in _TRUTH:
        raise ConfigError(f"--option {key}={value}: write true or false.")
    return _TRUTH[value.lower()]


def _shown(default: Any) -> str:
    if isinstance(default, tuple):
        return ",".join(default)
    return str(default).lower() if isinstance(default, bool) else str(default)

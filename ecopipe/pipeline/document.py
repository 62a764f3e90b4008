"""The text of a pipeline file. Nothing of what runs a pipeline is imported here: a wrong file is told at once."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from ecopipe.vocabulary.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def read_text(path: str | Path, what: str = "a pipeline file, such as pipelines/librispeech.toml") -> str:
    """The text of a pipeline file, or of ``what`` is wanted.

    Raises:
        ConfigError: It is missing, cannot be read, or is no UTF-8.
    """
    try:
        return Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file. Name {what}.") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no UTF-8 text"
        raise ConfigError(f"{path}: cannot be read: {reason}. Name {what}.") from error


def parse_text(text: str, where: str) -> dict[str, Any]:
    """The tables of TOML text; ``where`` names it in errors.

    Raises:
        ConfigError: It is no TOML.
    """
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{where}: is no TOML: {error}.") from error


def check_file(path: Path) -> Path:
    """The path, if it is that of a TOML file, or of a pipe, which can be read only once.

    Raises:
        ConfigError: It is missing, cannot be read, or is no TOML.
    """
    if not path.is_fifo():
        parse_text(read_text(path), str(path))
    return path

"""A loader's state on disk: one small JSON file, written whole or not at all, that every rank reads."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ecopipe.storage.files import is_url
from ecopipe.storage.publish import explained, publish_file
from ecopipe.vocabulary.errors import ConfigError, OutputError, StateError
from ecopipe.vocabulary.json_text import parse_json_object

if TYPE_CHECKING:
    from ecopipe.run.loader import Loader

VERSION = 1
_KIND = "checkpoint"
_BEGINNING = json.dumps({"ecopipe": _KIND})[:-1].encode()
"""The first bytes of every file that :func:`save_state` writes, whole or cut off."""


class Checkpoint:
    """Where a training job keeps the state of its loader: one file for all ranks.

    ::

        checkpoint = Checkpoint("run7/loader.json", loader)
        extra = checkpoint.load()  # on every rank; None if there is no file yet
        step = extra["step"] if extra is not None else 0
        for batch in loader:
            ...
            step += 1
            if step % 1000 == 0:
                checkpoint.save(step=step)  # on every rank; rank 0 writes

    Args:
        path: The file, in a folder that all ranks see.
        loader: The loader whose state it is.

    Raises:
        ConfigError: The path is a URL.
    """

    def __init__(self, path: str | os.PathLike[str], loader: Loader) -> None:
        if is_url(os.fspath(path)):
            raise ConfigError(
                f"checkpoint: {os.fspath(path)} is a URL, and a file there cannot be replaced as a whole. "
                "Give a path in a folder that all ranks see."
            )
        self.path = Path(path)
        self._loader = loader

    def save(self, **extra: Any) -> None:
        """Writes what the trainer has taken up to now; the last good file stays until the new one stands.

        Every rank may call it; only rank 0 writes, and the others return at once, without waiting. The state of rank 0
        stands for all, so all ranks must have taken the same number of steps when it is called.

        Args:
            extra: What :meth:`load` gives back beside the state: numbers, text, lists, dicts, as JSON holds them (a
                tuple comes back as a list). Weights belong in a file of their own.

        Raises:
            ConfigError: An extra cannot be written as JSON; on every rank.
            OutputError: The place cannot be written, the disk is full, or another file stands there.
        """
        for name, value in extra.items():
            _check_extra(name, value)
        if self._loader.rank == 0:
            save_state(self.path, {"loader": self._loader.state_dict(), "extra": extra})

    def load(self) -> dict[str, Any] | None:
        """Puts the loader where the file says; the next ``for`` begins with the batch after it.

        To be called on every rank. The number of ranks and workers may differ from those that saved.

        Returns:
            The extra of :meth:`save` (``{}`` if it had none), or None if there is no file; then the loader stays where
            it is.

        Raises:
            StateError: The file is damaged or no checkpoint; its state is of other shards, another pipeline or seed.
        """
        saved = load_state(self.path)
        if saved is None:
            return None
        if not {"loader", "extra"} <= saved.keys():
            raise StateError(f"{self.path}: holds no loader's state. Give the file that Checkpoint.save wrote.")
        try:
            self._loader.load_state_dict(saved["loader"])
        except StateError as error:
            raise StateError(f"{self.path}: {error}") from error
        extra: dict[str, Any] = saved["extra"]
        return extra


def save_state(path: str | os.PathLike[str], state: Mapping[str, Any]) -> None:
    """Writes a state as one JSON file. A process that is killed at any moment leaves the old file or the new one.

    Args:
        path: The file; its folder is made. A file that stands there is replaced if an earlier call wrote it.
        state: JSON-ready values.

    Raises:
        OutputError: The place cannot be written, the disk is full, or another file stands there.
    """
    path = Path(path)
    content = json.loads(json.dumps(dict(state)))  # as it will be read: the digest is of that
    document = {"ecopipe": _KIND, "version": VERSION, "check": _digest(content), "content": content}
    _refuse_to_replace(path)
    with publish_file(path) as temporary:
        temporary.write_text(json.dumps(document) + "\n", encoding="utf-8")


def load_state(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Reads what :func:`save_state` wrote; None if there is no such file.

    Raises:
        StateError: The file is damaged, cannot be read, or was not written by :func:`save_state`.
    """
    path = Path(path)
    remedy = "Restore it from a copy, or remove it to begin anew."
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StateError(f"{path}: cannot be read: {error.strerror or error}. {remedy}") from error
    if not data.startswith(_BEGINNING):
        found = "is empty" if not data else f"begins with {data[:16]!r}"
        raise StateError(f"{path}: is no checkpoint of ecopipe: it {found}. Give another path, or remove the file.")
    try:
        document = parse_json_object(data)
    except ValueError as error:
        raise StateError(f"{path}: is damaged: {error}. {remedy}") from error
    if document.get("version") != VERSION:
        raise StateError(
            f"{path}: has version {document.get('version')}; this ecopipe reads {VERSION}. "
            "Read it with the ecopipe that wrote it."
        )
    if document.get("check") != _digest(document.get("content")):
        raise StateError(f"{path}: is damaged: it does not agree with its own checksum. {remedy}")
    state = document["content"]
    if not isinstance(state, dict):
        raise StateError(f"{path}: holds {type(state).__name__}, not a state. {remedy}")
    return state


def _digest(content: Any) -> str:
    return hashlib.blake2b(json.dumps(content).encode(), digest_size=16).hexdigest()


def _refuse_to_replace(path: Path) -> None:
    """Refuses a file that somebody else wrote; an empty one holds nothing to lose."""
    with explained(path):
        if path.is_file():
            with open(path, "rb") as file:
                beginning = file.read(len(_BEGINNING))
            if beginning not in (_BEGINNING, b""):
                raise OutputError(
                    f"{path}: is no checkpoint of ecopipe (it begins with {beginning!r}), and is not replaced. "
                    "Choose another place, or remove it."
                )


def _check_extra(name: str, value: Any) -> None:
    try:
        json.dumps(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"checkpoint: extra {name!r} ({type(value).__name__}) cannot be written as JSON: {error}. Give numbers, "
            "text, lists or dicts (a tensor's value is tensor.item()), and keep weights in a file of their own."
        ) from error

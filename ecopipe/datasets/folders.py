"""The files below a folder, with their sizes: of a local one, or of one at a URL."""

from __future__ import annotations

import os

from ecopipe.storage import files
from ecopipe.storage.remote import filesystem
from ecopipe.storage.retries import without_credentials
from ecopipe.vocabulary.errors import CorpusError, EcopipeError


def list_folder(folder: str, depth: int) -> dict[str, int]:
    """Name -> bytes of each file that is not hidden, the names relative with ``/`` between their parts.

    Links are followed, but one to a folder that it lies in; ``depth`` bounds how many folders deep files are sought.

    Raises:
        CorpusError: A folder cannot be listed.
    """
    found: dict[str, int] = {}
    if files.is_url(folder):
        _list_remote(folder, depth, found)
    else:
        _list_local(folder, "", depth, (), found)
    return found


def is_folder(path: str) -> bool:
    """Whether there is a folder.

    Over HTTP nothing tells folders from files but their listing, which of an archive would be the whole of it. So what
    is there is taken for a folder if its URL ends in a slash, or has no dot in its last part.
    """
    if files.is_folder(path):
        return True
    like_one = path.endswith("/") or "." not in files.base_name(path)
    return path.lower().startswith(("http://", "https://")) and like_one and files.exists(path)


def hidden(part: str) -> bool:
    """Whether a part of a name says that the file belongs to no corpus."""
    return part.startswith(".") or part == "__MACOSX"


def _list_local(root: str, prefix: str, depth: int, above: tuple[tuple[int, int], ...], found: dict[str, int]) -> None:
    folder = os.path.join(root, prefix) if prefix else root
    folders: list[str] = []
    try:
        status = os.stat(folder)
        here = (status.st_dev, status.st_ino)
        if here in above:  # a link to a folder that it lies in
            return
        with os.scandir(folder) as entries:
            for entry in entries:
                if hidden(entry.name):
                    continue
                if entry.is_dir():
                    folders.append(entry.name)
                elif entry.is_file():
                    found[prefix + entry.name] = entry.stat().st_size
    except OSError as error:
        remedy = "Give yourself permission to read it (chmod u+rx), or run as its owner"
        if not isinstance(error, PermissionError):
            remedy = "Check the disk, then try again"
        raise CorpusError(f"The folder {folder} cannot be listed: {error.strerror or error}. {remedy}.") from error
    if depth > 1:
        for name in folders:
            _list_local(root, f"{prefix}{name}/", depth - 1, (*above, here), found)


def _list_remote(folder: str, depth: int, found: dict[str, int]) -> None:
    try:
        system, place = filesystem(folder)
        top = place.rstrip("/") + "/"
        listed = system.find(place, maxdepth=depth, detail=True)
        unknown = []
        for path, about in listed.items():
            name = path[len(top) :] if path.startswith(top) else path.lstrip("/")
            if name and not any(map(hidden, name.split("/"))):
                found[name] = -1 if about.get("size") is None else int(about["size"])
                if found[name] < 0:
                    unknown.append(name)
        for name, size in zip(unknown, system.sizes([top + name for name in unknown]), strict=True):
            found[name] = int(size or 0)  # a listing over HTTP states no sizes
    except EcopipeError:
        raise
    except Exception as error:  # each protocol has errors of its own
        reason = str(error) or type(error).__name__
        raise CorpusError(
            without_credentials(f"The folder {folder} cannot be listed: {reason}. Check the address, then try again.")
        ) from error

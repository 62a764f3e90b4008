"""Writing so that a name holds the finished thing or nothing.

What is being written lies beside its final place under a name that begins with ``.ecopipe-`` and is renamed when it is
whole and on disk. An interruption leaves at most such a leftover, which the next run of the same kind removes.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ecopipe.vocabulary.errors import OutputError

PREFIX = ".ecopipe-"


def _explain(error: OSError, path: Path) -> OutputError:
    if error.errno == errno.ENOSPC:
        return OutputError(
            f"{path}: no space left on the device. Free some, or write somewhere else; nothing was left."
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return OutputError(f"{path}: cannot be written: {error.strerror}. Choose a folder that you may write to.")
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        return OutputError(f"{path}: a file stands where a folder is needed. Choose another place to write to.")
    return OutputError(f"{path}: cannot be written: {error.strerror or error}.")


def sync_folder(folder: Path) -> None:
    """Makes a rename inside ``folder`` last."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def publish_file(path: Path) -> Iterator[Path]:
    """A temporary path to write to; it becomes ``path`` when the block ends well, and is removed otherwise.

    Raises:
        OutputError: The place cannot be written; the disk is full.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=PREFIX, suffix="-" + path.name, dir=path.parent)
        os.close(handle)
    except OSError as error:
        raise _explain(error, path) from error
    temporary = Path(name)
    try:
        yield temporary
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        raise _explain(error, path) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def publish_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """A temporary folder to fill; it becomes ``path`` when the block ends well, and is removed otherwise.

    Args:
        path: The final place. It must not exist, unless ``replace``.
        replace: Put it in the place of an existing folder, which is removed once the new one stands.

    Raises:
        OutputError: The place is taken or cannot be written; the disk is full.
    """
    if path.exists() and not replace:
        raise OutputError(f"{path}: already exists. Choose another place, or replace it with --overwrite.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path)
        temporary = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{path.name}-{os.getpid()}-", dir=path.parent))
    except OSError as error:
        raise _explain(error, path) from error
    try:
        yield temporary
        os.chmod(temporary, 0o755)
        old = None
        if path.exists():
            if not replace:
                raise OutputError(
                    f"{path}: appeared while it was being written; another run made it. Nothing was changed."
                )
            old = temporary.with_name(temporary.name + "-old")
            os.rename(path, old)
        os.rename(temporary, path)
        sync_folder(path.parent)
        if old is not None:
            shutil.rmtree(old)
    except OSError as error:
        raise _explain(error, path) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def sweep(path: Path) -> None:
    """Removes what interrupted runs that were writing ``path`` left beside it, if those runs are no more."""
    for left in path.parent.glob(f"{PREFIX}{path.name}-*"):
        owner = left.name[len(PREFIX) + len(path.name) + 1 :].split("-", 1)[0]
        if not owner.isdigit() or _alive(int(owner)):
            continue
        if left.name.endswith("-old") and not path.exists():  # died between the two renames: the old one still counts
            os.rename(left, path)
            continue
        shutil.rmtree(left, ignore_errors=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True

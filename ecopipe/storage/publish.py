"""Writing so that a name holds the finished thing or nothing.

What is being written lies beside its final place as ``.ecopipe-RANDOM-NAME``, locked (``flock``) by the process that
writes it, and is renamed when it is whole and on disk. A lock ends with its process: what a killed run left is free,
and is removed by the next run that writes the same name.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from ecopipe.vocabulary.errors import OutputError

PREFIX = ".ecopipe-"
_RANDOM = 8  # characters that tempfile puts between prefix and suffix
OLD_PREFIX = ".ecopipe-old-"
_NO_LOCK = -1  # the file system has none: nothing is swept there
_KINDS = {
    stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFBLK: "a disk",
}  # fmt: skip


def _explain(error: OSError, path: Path) -> OutputError:
    if error.errno == errno.ENOSPC:
        return OutputError(f"{path}: no space left on the device. Free some, or write somewhere else.")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return OutputError(f"{path}: cannot be written: {error.strerror}. Choose a folder that you may write to.")
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        return OutputError(f"{path}: a file stands where a folder is needed. Choose another place to write to.")
    return OutputError(f"{path}: cannot be written: {error.strerror or error}.")


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turns an OSError of the block into an OutputError about ``path``."""
    try:
        yield
    except OSError as error:
        raise _explain(error, path) from error


def _sync_folder(folder: Path) -> None:
    """Makes a rename inside ``folder`` last."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _lock(path: Path) -> int | None:
    """A descriptor that holds the lock of a file or folder; None if another process holds it, or it is gone.

    Raises:
        OSError: This file system has no locks.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(descriptor).st_ino == os.stat(path).st_ino:  # not one that was removed meanwhile
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    except OSError:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


@contextlib.contextmanager
def _temporary(path: Path, *, folder: bool) -> Iterator[Path]:
    """A locked temporary file or folder beside ``path``; removed at the end if it is still there."""
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path)
        lock = None
        while lock is None:  # a sweep may take a new one before it is locked
            if folder:
                temporary = Path(tempfile.mkdtemp(prefix=PREFIX, suffix="-" + path.name, dir=path.parent))
            else:
                handle, name = tempfile.mkstemp(prefix=PREFIX, suffix="-" + path.name, dir=path.parent)
                os.close(handle)
                temporary = Path(name)
            try:
                lock = _lock(temporary)
            except OSError:
                lock = _NO_LOCK
        try:
            yield temporary
        finally:
            _remove(temporary)
            if lock != _NO_LOCK:
                os.close(lock)


def final_place(path: Path) -> Path:
    """Where what is published as ``path`` comes to stand: where its symbolic links lead; a character device itself.

    Raises:
        OutputError: A folder, a pipe or something else stands there that a file must not replace.
    """
    with explained(path):
        try:
            mode = os.stat(path).st_mode
        except FileNotFoundError:
            mode = stat.S_IFREG  # it will be one, also where a link leads to nothing
        if stat.S_ISCHR(mode):
            return path
        if not stat.S_ISREG(mode):
            raise OutputError(f"{path}: is {_KINDS.get(stat.S_IFMT(mode), 'no regular file')}. Name a file.")
        return Path(os.path.realpath(path))


@contextlib.contextmanager
def publish_file(path: Path) -> Iterator[Path]:
    """A temporary path to write to; it becomes ``path`` when the block ends well, and is removed otherwise.

    Symbolic links stay: the file that they lead to is replaced. A character device, such as ``/dev/null``, cannot be:
    then its own path is given, and what is written goes to it at once.

    Raises:
        OutputError: The place cannot be written, or what stands there is no file; the disk is full. Every OSError of
            the block is taken for one.
    """
    path = final_place(path)
    if path.is_char_device():
        with explained(path):
            yield path
        return
    with _temporary(path, folder=False) as temporary:
        yield temporary
        os.chmod(temporary, 0o666 & ~umask())
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)


@contextlib.contextmanager
def publish_folder(path: Path, *, replace: bool = False, check: Callable[[Path], None] | None = None) -> Iterator[Path]:
    """A temporary folder to fill; it becomes ``path`` when the block ends well, and is removed otherwise.

    Args:
        path: The final place. It must not exist, unless ``replace``.
        replace: Put it in the place of an existing folder, which is removed once the new one stands.
        check: Called with the existing folder when it is about to be replaced; may refuse by raising.

    Raises:
        OutputError: The place is taken or cannot be written; the disk is full. Every OSError of the block is taken for
            one.
    """
    if path.exists() and not replace:
        raise OutputError(f"{path}: already exists. Choose another place, or replace it with --overwrite.")
    with _temporary(path, folder=True) as temporary:
        yield temporary
        put_in_place(temporary, path, replace=replace, check=check)


def put_in_place(
    folder: Path, path: Path, *, replace: bool = False, check: Callable[[Path], None] | None = None
) -> None:
    """Renames a folder that is whole to its final place on the same file system, as :func:`publish_folder` does.

    Raises:
        OSError, OutputError: The place is taken or cannot be written.
    """
    os.chmod(folder, 0o777 & ~umask())
    for file in folder.rglob("*"):
        if file.is_file():
            with open(file, "rb") as written:
                os.fsync(written.fileno())
    if path.exists() and not replace:
        raise OutputError(f"{path}: appeared while it was being written; another run made it. It was not changed.")
    random = secrets.token_hex(_RANDOM // 2)
    old = path.with_name(f"{OLD_PREFIX}{random}-{path.name}")
    try:
        if path.exists():
            os.rename(path, old)
            if check is not None:
                check(old)
        os.rename(folder, path)
    except BaseException:
        if old.exists() and not path.exists():
            os.rename(old, path)
        raise
    _sync_folder(path.parent)
    _remove(old)


def sweep(path: Path) -> None:
    """Removes what interrupted runs that were writing ``path`` left beside it; what a living run writes is locked."""
    for left in list(path.parent.iterdir()):
        new = left.name.startswith(PREFIX) and left.name[len(PREFIX) + _RANDOM :] == f"-{path.name}"
        old = left.name.startswith(OLD_PREFIX) and left.name[len(OLD_PREFIX) + _RANDOM :] == f"-{path.name}"
        if not new and not old:
            continue
        try:
            lock = _lock(left)
        except OSError:
            continue
        if lock is None:
            continue
        if old and not path.exists():  # ended between the two renames: the old one still counts
            os.rename(left, path)
        else:
            _remove(left)
        os.close(lock)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def umask() -> int:
    """The file mode bits that new files of this process do not get."""
    mask = os.umask(0)
    os.umask(mask)
    return mask

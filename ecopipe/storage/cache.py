"""A folder in which all processes of a host keep whole shards that lie at URLs, the most recently used ones.

There is no process behind it and no list: the files are the state. An entry is a file whose name begins with a digest
of its URL, size and content; while it is fetched it is called ``part-...`` and locked (``flock``) by its fetcher, and
is renamed once its checksum is right. A lock ends with its process, and the next one goes on at the byte where a killed
one stopped. Who reads an entry holds a shared lock, so it is not removed meanwhile. Its modification time says when it
was used last. Whatever cannot be done (no room, no permission, a read-only disk) means that the shard is not kept, and
its bytes are read from the URL.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ecopipe.storage import remote
from ecopipe.storage.files import base_name
from ecopipe.storage.retries import Policy, without_credentials
from ecopipe.storage.sizes import parse_bytes
from ecopipe.vocabulary.errors import ConfigError, EcopipeError, ShardError

LOCK = "lock"
_PART = "part-"
_NAME = re.compile(r"(part-)?([0-9a-f]{24})-(\d+)-.*")
_POLL_S = 0.05
_TRIES = 20
_NO_ROOM = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOLCK,
    errno.ENOTSUP,
    errno.ENOSYS,
)
"""What means that nothing can be kept: no room, no permission, a file system without locks."""

Check = Callable[[Path], str]
"""Compares a fetched shard with its index; what is wrong, in words, or an empty text."""


@dataclass(frozen=True)
class Wanted:
    """A shard that may be kept: where it lies, its bytes, and a digest of what the index says of it."""

    url: str
    size: int
    digest: str

    @property
    def name(self) -> str:
        """The name of its entry."""
        bare = without_credentials(self.url)  # a new signature is no new shard
        state = hashlib.blake2b(f"{bare}\n{self.size}\n{self.digest}".encode(), digest_size=12)
        last = re.sub(r"[^\w.-]", "_", base_name(bare))[-100:]
        return f"{state.hexdigest()}-{self.size}-{last}"


@dataclass
class Counters:
    """What one process did with a cache; bytes are those that came over the network."""

    hits: int = 0
    misses: int = 0
    evictions: int = 0
    bytes_fetched: int = 0
    bytes_read_through: int = 0

    def figures(self) -> dict[str, int]:
        """The counts by name."""
        return asdict(self)


@dataclass
class Cache:
    """Whole shards in a folder, at most ``limit_bytes`` of them. Copies in other processes count for themselves.

    Args:
        folder: Is made if it is missing. Several users may share one that they all may write to; who may not, reads.
        limit_bytes: What all entries hold together at most, those being fetched included.
        read_only: Add and remove nothing.
    """

    folder: Path
    limit_bytes: int
    read_only: bool = False
    counters: Counters = field(default_factory=Counters, repr=False, compare=False)

    def __post_init__(self) -> None:
        self.folder = Path(self.folder)
        if self.limit_bytes < 0:
            raise ConfigError(f"cache: the limit must be at least 0 bytes, got {self.limit_bytes}.")
        if not self.read_only:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
            except OSError:
                self.read_only = True

    def lease(self, wanted: Wanted) -> Lease | None:
        """The entry of a shard, which stays until the lease is given back; None if there is none."""
        path = self.folder / wanted.name
        for _ in range(_TRIES):  # it may be locked for a moment: it is being published, or about to be removed
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                return None
            try:
                fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
                if os.fstat(descriptor).st_nlink and os.fstat(descriptor).st_size == wanted.size:
                    with contextlib.suppress(OSError):  # another user's: it cannot be said that it was used
                        os.utime(path)
                    return Lease(path, descriptor)
            except BlockingIOError:
                time.sleep(_POLL_S)
            except OSError:
                os.close(descriptor)
                return None
            os.close(descriptor)
        return None

    def touch(self, names: Iterable[str]) -> None:
        """Says of entries, by their names, that they are in use."""
        for name in names:
            with contextlib.suppress(OSError):  # it is not here yet, or another user's
                os.utime(self.folder / name)

    def fetch(
        self,
        wanted: Wanted,
        check: Check,
        stopped: Callable[[], bool] = lambda: False,
        kept: Collection[str] = (),
    ) -> bool:
        """Makes sure that a shard is here; whether it is. Of all who want it, one fetches it and the others wait.

        Args:
            wanted: The shard.
            check: Compares it with its index.
            stopped: Whether nobody wants it any more.
            kept: Names of entries that are not removed to make room for it.

        Raises:
            StorageError: It cannot be reached.
            ShardError: It is missing, or is not what was indexed.
        """
        entry = self.folder / wanted.name
        waited = _Waited(entry.with_name(_PART + wanted.name))
        while not stopped():
            if entry.exists():
                self.counters.hits += 1
                with contextlib.suppress(OSError):
                    os.utime(entry)
                return True
            if self.read_only or wanted.size > self.limit_bytes:
                break
            try:
                part = self._reserve(wanted, kept)
                if part is None:
                    break
                if part >= 0:
                    filled = self._fill(part, wanted, check, stopped)
                    self.counters.misses += 1
                    return filled
            except OSError as error:
                if error.errno in _NO_ROOM:
                    break
                raise
            if waited.for_nothing():
                break
            time.sleep(_POLL_S)
        self.counters.misses += 1
        return False

    def _reserve(self, wanted: Wanted, kept: Collection[str]) -> int | None:
        """The descriptor of the locked part, for which there is room; -1 if another process has it; None if there is
        no room."""
        part = self.folder / (_PART + wanted.name)
        with self._locked():
            if (self.folder / wanted.name).exists():
                return -1
            try:
                if not part.exists() and not self._make_room(wanted.size, kept):
                    return None
                descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, self._mode())
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                return -1
            if self._is_published(descriptor, part, wanted):  # since it was looked for
                fcntl.flock(descriptor, fcntl.LOCK_UN)
                os.close(descriptor)
                return -1
            with contextlib.suppress(OSError):
                os.fchmod(descriptor, self._mode())
            return descriptor

    def _is_published(self, descriptor: int, part: Path, wanted: Wanted) -> bool:
        """Whether a part that was just locked is an entry by now, or needless beside one."""
        try:
            mine = os.fstat(descriptor).st_ino == part.stat().st_ino
        except FileNotFoundError:
            return True
        if mine and not (self.folder / wanted.name).exists():
            return False
        if mine:
            part.unlink()
        return True

    def _fill(self, part: int, wanted: Wanted, check: Check, stopped: Callable[[], bool]) -> bool:
        """Fetches what is missing of a part, and publishes it. What is there is not lost when that fails."""
        path = self.folder / (_PART + wanted.name)
        try:
            for fresh in (False, True):
                begun = 0 if fresh else min(os.fstat(part).st_size, wanted.size)
                os.ftruncate(part, begun)
                self._download(part, wanted, begun, stopped)
                if stopped():
                    return False
                wrong = check(path) if os.fstat(part).st_size == wanted.size else "it ends too early"
                if not wrong:
                    os.fsync(part)
                    os.rename(path, self.folder / wanted.name)
                    return True
                if begun == 0:
                    break
            path.unlink()
            raise ShardError(
                f"{without_credentials(wanted.url)}: is not what was indexed: {wrong}. It was damaged or replaced: "
                "restore it, or run 'ecopipe index' on it."
            )
        except OSError as error:
            if error.errno in _NO_ROOM and not isinstance(error, FileNotFoundError):
                with contextlib.suppress(OSError):
                    path.unlink()
            raise
        finally:
            fcntl.flock(part, fcntl.LOCK_UN)  # a process that was forked meanwhile holds it too
            os.close(part)

    def _download(self, part: int, wanted: Wanted, begun: int, stopped: Callable[[], bool]) -> None:
        os.lseek(part, begun, os.SEEK_SET)

        def write(chunk: bytes) -> None:
            if stopped():
                raise _Abandoned
            view = memoryview(chunk)
            try:
                while view:
                    view = view[os.write(part, view) :]
            except OSError as error:  # of this disk: nothing that the network could mend
                raise _Abandoned from error
            self.counters.bytes_fetched += len(chunk)

        try:
            remote.read_into(wanted.url, begun, wanted.size, write)
        except _Abandoned as error:
            if error.__cause__ is not None:
                raise error.__cause__ from None
        except FileNotFoundError as error:
            raise ShardError(
                f"{error.filename}: the shard is missing. Put it back, or index the folder again."
            ) from None

    def _make_room(self, size: int, kept: Collection[str]) -> bool:
        """Removes entries, those first that were not used for longest, until ``size`` bytes have room within the limit
        and on the disk."""
        disk = os.statvfs(self.folder)
        most = disk.f_bavail * disk.f_frsize if disk.f_blocks else size  # some file systems do not tell
        entries: list[tuple[float, int, Path]] = []
        used = 0
        for path in self.folder.iterdir():
            if (named := _NAME.fullmatch(path.name)) is None:
                continue
            with contextlib.suppress(FileNotFoundError):
                entries.append((path.stat().st_mtime, int(named[3]), path))
                used += int(named[3])
        most = min(self.limit_bytes, used + most)
        for _, freed, path in sorted(entries):
            if used + size <= most:
                break
            if path.name.removeprefix(_PART) not in kept and self._evict(path):
                used -= freed
        return used + size <= most

    def _evict(self, path: Path) -> bool:
        """Removes an entry, or a part that nobody fetches any more; not one that is being read."""
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            return isinstance(error, FileNotFoundError)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
        except OSError:
            return False
        finally:
            os.close(descriptor)
        self.counters.evictions += 1
        return True

    def drop(self, wanted: Wanted) -> None:
        """Removes an entry that turned out to be damaged."""
        if not self.read_only:
            with contextlib.suppress(OSError):
                (self.folder / wanted.name).unlink()

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Nobody else adds or removes; for as long as it takes to look through the folder."""
        descriptor = os.open(self.folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, self._mode())
        try:
            with contextlib.suppress(OSError):
                os.fchmod(descriptor, self._mode())
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        finally:
            os.close(descriptor)

    def _mode(self) -> int:
        """Who may write to the folder may write to its files."""
        return self.folder.stat().st_mode & 0o666


class _Abandoned(EcopipeError):
    """Nobody wants it any more, or it cannot be written."""


def cache_folder() -> Path:
    """Where shards are kept unless a folder is named: ``shards`` in ``$ECOPIPE_CACHE``, or in the user's cache."""
    base = os.environ.get("ECOPIPE_CACHE")
    if base:
        return Path(base) / "shards"
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "ecopipe" / "shards"


def cache_limit() -> int:
    """Bytes that are kept unless another limit is given: ``ECOPIPE_CACHE_LIMIT``, or 20 GB."""
    return parse_bytes(os.environ.get("ECOPIPE_CACHE_LIMIT") or "20GB", "ECOPIPE_CACHE_LIMIT")


class _Waited:
    """How long another process has been fetching without a byte coming."""

    def __init__(self, part: Path) -> None:
        policy = Policy.of_environment()
        self._part, self._patience_s = part, 2 * (policy.stall_s + policy.most_wait_s)
        self._seen, self._since = -1, time.monotonic()

    def for_nothing(self) -> bool:
        """Whether it is in vain to wait longer."""
        try:
            size = self._part.stat().st_size
        except OSError:
            size = -1
        if size != self._seen:
            self._seen, self._since = size, time.monotonic()
        return time.monotonic() - self._since > self._patience_s


class Lease:
    """An entry that stays until this is given back, or the process ends."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path, self._descriptor = path, descriptor

    def give_back(self) -> bool:
        """Lets the entry be removed; whether it is gone already."""
        gone = os.fstat(self._descriptor).st_nlink == 0
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        os.close(self._descriptor)
        return gone

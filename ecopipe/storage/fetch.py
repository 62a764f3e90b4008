"""Fetching a file: resumed where it broke, compared with its checksum, and under its final name only when it is whole.

What has come so far lies beside the final place as ``.NAME.ecopipe-part``, locked (``flock``) by the process that
fetches it, and ``.NAME.ecopipe-part.json`` says which file of which server that is of. Both outlive the process: the
next one goes on from there, whatever ended the first.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

from ecopipe.storage.publish import explained
from ecopipe.storage.reply import Origin, Reply, ask, connect
from ecopipe.storage.retries import Policy, ShortRead, retrying, without_credentials
from ecopipe.vocabulary.errors import ConfigError, OutputError, StorageError
from ecopipe.vocabulary.json_text import parse_json_object

PART = ".ecopipe-part"
_PIECE = 1 << 20
_ALGORITHMS = ("md5", "sha1", "sha256", "sha512")

Progress = Callable[[int, "int | None"], None]
"""Called with the bytes that are there, and those of the whole file (None: unknown). It may go back to 0."""

Say = Callable[[str], None]
"""Called with a sentence about something that went otherwise than planned."""


def fetch(
    url: str,
    target: Path,
    *,
    size: int | None = None,
    checksum: str | None = None,
    progress: Progress = lambda done, total: None,
    say: Say = lambda sentence: None,
    policy: Policy | None = None,
) -> bool:
    """Fetches a file, unless it is there. While another process fetches it, this one waits for it.

    Args:
        url: ``http(s)://``, anything that fsspec opens, or a plain path.
        target: Its final place; what is there is taken for whole, since nothing else is put there.
        size: Bytes that it must have.
        checksum: ``ALGORITHM:HEX`` that it must have, such as ``md5:7c2a...``. Without one, only the size is compared.
        policy: How often a broken connection is tried again. That of the environment unless given.

    Returns:
        False if it was there already, or came to be there by another process.

    Raises:
        ConfigError: The checksum is of no known kind.
        StorageError: The server has no such file, refuses it, breaks too often, or has another file than expected.
        OutputError: It cannot be written; the final place holds something of another size.
    """
    if checksum is not None:
        hashing(checksum)
    policy = policy or Policy.of_environment()
    if is_fetched(target, size) and not part_of(target).exists() and not _about(target).exists():
        return False
    with explained(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    for _ in range(2):
        with _claimed(target, say) as descriptor:
            part = _Part(target, descriptor, checksum)
            if is_fetched(target, size):  # by the process that had claimed it
                part.remove()
                return False
            _transfer(url, part, size, progress, say, policy)
            found = part.checksum()
            if checksum is None or found == checksum.lower():
                part.publish()
                return True
            part.remove()
        if not part.continued:
            break
        say(
            f"{target.name}: what an earlier run had left is not of the published file; fetching it from the beginning."
        )
    raise StorageError(
        f"{without_credentials(url)}: the file that came is not the published one: its checksum is {found}, where "
        f"{checksum} was expected. It was removed. Try again later, or another server."
    )


def is_fetched(target: Path, size: int | None) -> bool:
    """Whether the file is there.

    Raises:
        OutputError: What is there has another size.
    """
    try:
        found = target.stat().st_size
    except FileNotFoundError:
        return False
    if size is not None and found != size:
        raise OutputError(
            f"{target}: is there already and has {found:,} bytes, where the published file has {size:,}. It was not "
            "changed. Move it away, or fetch to another folder."
        )
    return True


def part_of(target: Path) -> Path:
    """Where what has come of a file lies until it is whole."""
    return target.with_name(f".{target.name}{PART}")


def _about(target: Path) -> Path:
    """Where it is said which file that is of: an :class:`Origin`."""
    return target.with_name(f".{target.name}{PART}.json")


def hashing(checksum: str) -> hashlib._Hash:
    """The hash function that a checksum like ``md5:7c2a...`` is of.

    Raises:
        ConfigError: It is not of that form.
    """
    algorithm, _, digits = checksum.partition(":")
    if algorithm in _ALGORITHMS:
        digest = hashlib.new(algorithm, usedforsecurity=False)
        if len(digits) == 2 * digest.digest_size:
            return digest
    raise ConfigError(
        f"The checksum {checksum!r} is not one of {', '.join(_ALGORITHMS)}, a colon and its hexadecimal digits."
    )


def checksum_of(path: Path, kind: str, progress: Progress = lambda done, total: None) -> str:
    """The checksum of a file, of the same kind as the checksum ``kind``."""
    digest = hashing(kind)
    with explained(path), open(path, "rb") as file:
        total, done = os.fstat(file.fileno()).st_size, 0
        while piece := file.read(_PIECE):
            digest.update(piece)
            done += len(piece)
            progress(done, total)
    return f"{digest.name}:{digest.hexdigest()}"


def remote_size(url: str, *, policy: Policy | None = None) -> int | None:
    """The bytes of a file as its server tells them; None if it does not.

    Raises:
        StorageError: The server has no such file, refuses, or cannot be reached.
    """
    policy = policy or Policy.of_environment()
    with _named(url):
        return retrying(lambda: ask(url, policy.stall_s), url, doing="asking for the size", policy=policy)


@contextlib.contextmanager
def _named(url: str) -> Iterator[None]:
    """Tells of a file that is not there as of an address, not of a path."""
    try:
        yield
    except FileNotFoundError:
        raise StorageError(
            f"{without_credentials(url)}: there is no such file (in HTTP: 404 or 410). It may have moved: look at what "
            "the address gives, or fetch it from another server."
        ) from None


@contextlib.contextmanager
def _claimed(target: Path, say: Say) -> Iterator[int]:
    """A descriptor of the part file, which is locked; made if it is not there."""
    path = part_of(target)
    while True:
        with explained(target):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            _lock(descriptor, lambda: say(f"{target.name}: another process is fetching it; waiting for that one."))
            with contextlib.suppress(FileNotFoundError):
                if os.fstat(descriptor).st_ino == os.stat(path).st_ino:  # not one that was published meanwhile
                    yield descriptor
                    return
        finally:
            os.close(descriptor)


def _lock(descriptor: int, waiting: Callable[[], None]) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        waiting()
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError:  # a file system without locks
        return


class _Part:
    """What has come of a file, and its hash. ``continued``: some of it is of an earlier process."""

    def __init__(self, target: Path, descriptor: int, checksum: str | None) -> None:
        self.target, self.path = target, part_of(target)
        self._kind, self._descriptor = checksum, descriptor
        self._digest = hashing(checksum) if checksum is not None else None
        self._about = _about(target)
        self.origin = self._read_origin()
        self.size = os.fstat(descriptor).st_size if self.origin is not None and self.origin.size is not None else 0
        with explained(target):
            os.ftruncate(descriptor, self.size)
            while self._digest is not None and (piece := os.read(descriptor, _PIECE)):
                self._digest.update(piece)
            os.lseek(descriptor, 0, os.SEEK_END)
        self.continued = self.size > 0
        self.most = self.size
        """Bytes that were there at most."""

    def _read_origin(self) -> Origin | None:
        try:
            return Origin(**parse_json_object(self._about.read_text(encoding="utf-8")))
        except (FileNotFoundError, ValueError, TypeError):  # one that was cut off: nothing has come yet
            return None

    def begin(self, origin: Origin) -> None:
        """Forgets what has come, to take in a file from its beginning."""
        with explained(self.target):
            os.ftruncate(self._descriptor, 0)
            os.lseek(self._descriptor, 0, os.SEEK_SET)
            self._about.write_text(json.dumps(asdict(origin)), encoding="utf-8")
        self.origin, self.size, self.continued = origin, 0, False
        self._digest = hashing(self._kind) if self._kind is not None else None

    def write(self, piece: bytes) -> None:
        rest = memoryview(piece)
        while rest:
            with explained(self.target):
                done = os.write(self._descriptor, rest)
            if self._digest is not None:
                self._digest.update(rest[:done])
            self.size += done
            rest = rest[done:]
        self.most = max(self.most, self.size)

    def checksum(self) -> str | None:
        return f"{self._digest.name}:{self._digest.hexdigest()}" if self._digest is not None else None

    def publish(self) -> None:
        with explained(self.target):
            os.fsync(self._descriptor)
            os.replace(self.path, self.target)
            self._about.unlink(missing_ok=True)
            folder = os.open(self.target.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def remove(self) -> None:
        with explained(self.target):
            self._about.unlink(missing_ok=True)
            self.path.unlink(missing_ok=True)


def _transfer(url: str, part: _Part, size: int | None, progress: Progress, say: Say, policy: Policy) -> None:
    """Brings in what is missing of a file, over as many connections as it takes."""
    name, tries = part.target.name, 0

    def attempt() -> None:
        nonlocal tries
        tries += 1
        if tries > 1:
            say(f"{name}: interrupted at {part.size:,} bytes; trying again.")
        if part.origin is not None and part.size == part.origin.size:  # ended between the last byte and the rename
            return
        reply = _reply(url, part, size, say, policy.stall_s)
        try:
            progress(part.size, reply.origin.size)
            while piece := reply.read(_PIECE):
                part.write(piece)
                progress(part.size, reply.origin.size)
                if size is not None and part.size > size:
                    raise _other_size(url, part.size, size)
        finally:
            reply.close()
        total = size if reply.origin.size is None else reply.origin.size
        if total is not None and part.size < total:
            raise ShortRead(f"the answer ended after {part.size:,} of {total:,} bytes")

    with _named(url):
        retrying(attempt, url, doing="fetching", progress=lambda: part.most, policy=policy)


def _reply(url: str, part: _Part, size: int | None, say: Say, stall_s: float) -> Reply:
    """A reply that goes on where the part ends; the part begins anew if that cannot be."""
    reply = connect(url, part.size, stall_s)
    try:
        if size is not None and reply.origin.size not in (None, size):
            raise _other_size(url, reply.origin.size, size)
        if part.size and part.origin is not None:
            reason = _why_anew(part, part.origin, reply)
            if not reason:
                return reply
            say(f"{part.target.name}: {reason}; fetching it from the beginning.")
            if reply.start:
                reply.close()
                reply = connect(url, 0, stall_s)
        part.begin(reply.origin)
    except BaseException:
        reply.close()
        raise
    return reply


def _why_anew(part: _Part, had: Origin, reply: Reply) -> str:
    """Why what has come of a file cannot be continued by a reply; empty if it can."""
    has = reply.origin
    if had.size != has.size or (had.url == has.url and had.version != has.version):
        return "the file on the server has changed"
    if had.url != has.url and part.checksum() is None:  # with one, it will show whether both had the same file
        return "it comes from another server now"
    return "" if reply.start == part.size else "this server cannot continue a file"


def _other_size(url: str, found: int | None, size: int) -> StorageError:
    return StorageError(
        f"{without_credentials(url)}: is not the published file: it has {found or 0:,} bytes, where {size:,} were "
        "expected. Look at what the address gives, or fetch from another server."
    )

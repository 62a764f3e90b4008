"""What lies at a URL, through fsspec: read in ranges that go on at the byte where they broke, listed, written, removed.

Every call follows the policy of :mod:`ecopipe.storage.retries`, and what the protocols' own libraries try again by
themselves is switched off. Credentials come from where each protocol takes them (environment, configuration files).
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import secrets
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

import fsspec

from ecopipe.storage.publish import PREFIX, publish_file
from ecopipe.storage.retries import Policy, ShortRead, retrying, without_credentials
from ecopipe.vocabulary.errors import MissingDependency, OutputError

Answer = TypeVar("Answer")
Write = Callable[[bytes], object]

PIECE = 8 << 20
"""Bytes that are asked for at once where a protocol's library gives only whole answers."""

BUFFER = 4 << 20
"""Bytes that a file at a URL reads ahead."""

_CHUNK = 1 << 18

_EXTRAS = {
    "s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs", "hf": "hf", "http": "http", "https": "http",
}  # fmt: skip
"""The extra of ecopipe that brings what a protocol needs."""

_WHOLE_OBJECTS = frozenset({"s3", "s3a", "gs", "gcs", "hf", "memory", "abfs", "az"})
"""Protocols under which a name holds the old object until the new one is whole."""

_used: dict[tuple[int, str], Any] = {}
"""File systems by process and protocol. A forked worker makes its own; its parent's are kept, for taking one apart in a
process that has not the thread that serves it would wait for that thread."""


def protocol_of(url: str) -> str:
    """The protocol of a URL: ``s3``, ``https``, ..."""
    return url.partition("://")[0].lower()


def filesystem(url: str) -> tuple[Any, str]:
    """The fsspec file system of a URL, and the URL's name in it.

    Raises:
        MissingDependency: The package that speaks the protocol is not installed.
        OutputError: The protocol is unknown.
    """
    protocol = protocol_of(url)
    try:
        place = (os.getpid(), protocol)
        if place not in _used or "::" in protocol:
            found, name = fsspec.core.url_to_fs(url, **_tuned(protocol))
            if protocol in ("s3", "s3a"):
                found.retries = 1
            _used[place] = found
            return found, str(name)
        return _used[place], str(_used[place]._strip_protocol(url))
    except ImportError as error:
        remedy = f"Install it: pip install 'ecopipe[{_EXTRAS[protocol]}]'" if protocol in _EXTRAS else "Install it"
        raise MissingDependency(
            f"{without_credentials(url)}: {protocol}:// needs a package that is not installed "
            f"({without_credentials(str(error))}). {remedy}."
        ) from None
    except ValueError as error:
        reason = without_credentials(str(error)).rstrip(".")
        raise OutputError(f"{without_credentials(url)}: {reason}. Use a path, or a URL that fsspec knows.") from None


def _tuned(protocol: str) -> dict[str, Any]:
    """The settings of a file system that make a stalled connection fail in time, under those of the user."""
    stall_s = Policy.of_environment().stall_s
    if protocol in ("http", "https"):
        import aiohttp

        given = fsspec.config.conf.get(protocol, {}).get("client_kwargs", {})
        limits = aiohttp.ClientTimeout(total=None, sock_connect=stall_s, sock_read=stall_s)
        return {"client_kwargs": {"timeout": limits, "trust_env": True, **given}}
    if protocol in ("s3", "s3a"):
        given = fsspec.config.conf.get("s3", {}).get("config_kwargs", {})
        once = {"connect_timeout": stall_s, "read_timeout": stall_s, "retries": {"max_attempts": 0}}
        return {"config_kwargs": once | given}
    return {}


def _asked(url: str, doing: str, ask: Callable[[Any, str], Answer]) -> Answer:
    found, name = filesystem(url)
    return retrying(lambda: ask(found, name), url, doing=doing)


def exists(url: str) -> bool:
    """Whether there is a file or folder."""
    return _kind(url) is not None


def is_folder(url: str) -> bool:
    """Whether there is a folder."""
    return _kind(url) == "directory"


def _kind(url: str) -> str | None:
    """``"file"`` or ``"directory"``; None if there is neither."""

    def ask(found: Any, name: str) -> str:
        found.invalidate_cache()
        told = found.info(name)  # its exists() takes any failure for an absence
        if protocol_of(url) in ("http", "https") and str(told.get("mimetype", "")).startswith("text/html"):
            return "file" if url.endswith((".html", ".htm")) else "directory"  # a page of links lists a folder
        return str(told["type"])

    try:
        return _asked(url, "looking", ask)
    except FileNotFoundError:
        return None


def size_of(url: str) -> int:
    """Bytes of a file; FileNotFoundError where there is none."""

    def ask(found: Any, name: str) -> int:
        try:
            size = found.size(name)
        except FileNotFoundError:  # by a listing from before another process put it there, perhaps
            found.invalidate_cache()
            size = found.size(name)
        if size is None:
            raise OSError("the server does not tell its size")
        return int(size)

    return _asked(url, "looking", ask)


def find(pattern: str) -> list[str]:
    """Sorted URLs of the files that match a glob pattern; none if their folder is missing."""

    def ask(found: Any, name: str) -> list[str]:
        found.invalidate_cache()
        return sorted(str(found.unstrip_protocol(path)) for path in found.glob(name))

    try:
        return _asked(pattern, "listing", ask)
    except FileNotFoundError:
        return []


def remove(url: str) -> None:
    """Removes one file; it may be gone already."""

    def ask(found: Any, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            found.rm_file(name)

    _asked(url, "removing", ask)


@contextlib.contextmanager
def published(target: str) -> Iterator[Path]:
    """A local file to write to, which becomes ``target``, a path or URL, when the block ends well."""
    if "://" not in target:
        with publish_file(Path(target)) as temporary:
            yield temporary
        return
    with tempfile.TemporaryDirectory(prefix="ecopipe-") as folder:
        temporary = Path(folder, target.rpartition("/")[2])
        yield temporary
        put_file(temporary, target)


def put_file(local: Path, url: str) -> None:
    """Writes a local file to a URL: under the name lies the whole file, or what lay there before.

    Raises:
        OutputError: The protocol cannot be written.
        StorageError: It was refused, or failed too often.
    """
    if protocol_of(url) in ("http", "https"):
        raise OutputError(f"{without_credentials(url)}: HTTP is only read from. Write to a folder or a bucket.")
    size = local.stat().st_size
    whole = protocol_of(url) in _WHOLE_OBJECTS

    def ask(found: Any, name: str) -> None:
        folder, _, last = name.rpartition("/")
        target = name if whole else f"{folder}/{PREFIX}{secrets.token_hex(4)}-{last}"
        try:
            if not whole:
                found.makedirs(folder, exist_ok=True)
            found.put_file(str(local), target)
            found.invalidate_cache()
            if (arrived := found.size(target)) != size:
                raise ShortRead(f"{arrived} of {size} bytes arrived")
            if not whole:
                found.mv(target, name)
        except NotImplementedError:
            raise OutputError(
                f"{without_credentials(url)}: {protocol_of(url)}:// cannot be written. Write to a folder or a bucket."
            ) from None
        except BaseException:
            if not whole:
                with contextlib.suppress(Exception):
                    found.rm_file(target)
            raise

    _asked(url, "writing", ask)


def read_into(url: str, start: int, stop: int, write: Write) -> int:
    """Hands the bytes [start, stop) of a file to ``write``, in order, each once, however often the connection breaks.

    Returns:
        The number of bytes; fewer than asked for only where the file ends.

    Raises:
        FileNotFoundError: There is no such file.
        StorageError: It was refused, or failed too often in a row without a byte coming.
    """
    found, name = filesystem(url)
    at = start

    def take(chunk: bytes) -> None:
        nonlocal at
        chunk = chunk[: stop - at]
        write(chunk)
        at += len(chunk)

    def attempt() -> None:
        if at >= stop:
            return
        end = _read_once(found, name, at, stop, take)
        if at < (stop if end is None else min(stop, end)):
            raise ShortRead(f"the answer ended at byte {at:,}, {stop - at:,} too early")

    retrying(attempt, url, progress=lambda: at)
    return at - start


def _read_once(found: Any, name: str, start: int, stop: int, take: Write) -> int | None:
    """Reads until the answer ends; the size of the file, if it was told."""
    kind = type(found).__name__
    if kind == "HTTPFileSystem":
        return cast("int | None", fsspec.asyn.sync(found.loop, _over_http, found, name, start, stop, take))
    if kind == "S3FileSystem":
        return cast("int | None", fsspec.asyn.sync(found.loop, _from_s3, found, name, start, stop, take))
    while start < stop:
        data = found.cat_file(name, start=start, end=min(start + PIECE, stop))
        take(data)
        if len(data) < min(PIECE, stop - start):
            return int(found.size(name))
        start += len(data)
    return None


async def _over_http(found: Any, name: str, start: int, stop: int, take: Write) -> int | None:
    settings = dict(found.kwargs)
    asked = {"Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
    headers = {**settings.pop("headers", {}), **asked}
    session = await found.set_session()
    async with session.get(found.encode_url(name), headers=headers, **settings) as answer:
        if answer.status != 416:
            found._raise_not_found_for_status(answer, name)
            skip = start if answer.status == 200 else 0  # a server without ranges sends all
            left = stop - start
            async for chunk in answer.content.iter_any():
                part = chunk[skip : skip + left]
                skip -= min(skip, len(chunk))
                left -= len(part)
                take(part)
                if not left:
                    break
        return _total(answer.headers.get("Content-Range", ""), answer.headers.get("Content-Length"))


async def _from_s3(found: Any, name: str, start: int, stop: int, take: Write) -> int | None:
    bucket, key, version = found.split_path(name)
    wanted = {"Bucket": bucket, "Key": key, "Range": f"bytes={start}-{stop - 1}"}
    try:
        answer = await found._call_s3("get_object", **wanted, **({"VersionId": version} if version else {}))
    except OSError as error:
        if "InvalidRange" in str(error) or "416" in str(error) or "InvalidRange" in str(error.__cause__):
            return start
        raise
    async with answer["Body"] as body:
        while chunk := await body.read(_CHUNK):
            take(chunk)
    return _total(answer.get("ContentRange", ""), None)


def _total(content_range: str, length: str | None) -> int | None:
    """The size of the whole file, as an answer's headers tell it."""
    if told := re.search(r"/(\d+)$", content_range):
        return int(told[1])
    return int(length) if length is not None and not content_range and length.isdigit() else None


class _Raw(io.RawIOBase):
    """A file at a URL, from which any range is read anew."""

    def __init__(self, url: str) -> None:
        self._url, self._size, self._at = url, size_of(url), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        came = 0

        def write(chunk: bytes) -> None:
            nonlocal came
            view[came : came + len(chunk)] = chunk
            came += len(chunk)

        read_into(self._url, self._at, min(self._at + len(view), self._size), write)
        self._at += came
        return came


def open_binary(url: str) -> BinaryIO:
    """A file opened for reading, with seek; what breaks is tried again."""
    return cast("BinaryIO", io.BufferedReader(_Raw(url), BUFFER))

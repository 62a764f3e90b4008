"""What a server answers when it is asked for a file from some byte on: over HTTP, or by fsspec for all else.

HTTP goes through the standard library, which takes proxies from the environment (``https_proxy``, ``no_proxy``) and
needs nothing installed. A user and password in the URL are sent to its host alone, and not to where that redirects.
"""

from __future__ import annotations

import base64
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPMessage
from typing import Any, cast

from fsspec.implementations.local import LocalFileSystem

from ecopipe.storage import remote
from ecopipe.storage.files import is_url
from ecopipe.storage.retries import without_credentials
from ecopipe.vocabulary.errors import StorageError

_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")
_NO_HEAD = (400, 403, 405, 501)
"""Statuses of servers that give a file and yet do not answer HEAD."""


@dataclass(frozen=True)
class Origin:
    """Which file a server has.

    Attributes:
        url: Where it lies, after redirects, without credentials.
        size: Its bytes; None if the server does not tell.
        version: What changes with its content: its ETag, else when it was modified; None if the server tells neither.
    """

    url: str
    size: int | None
    version: str | None


@dataclass(frozen=True)
class Reply:
    """A file that is being read, from the byte ``start`` on: where one asked for, or 0 if the server cannot do that."""

    origin: Origin
    start: int
    read: Callable[[int], bytes]
    close: Callable[[], None]


def connect(url: str, start: int, stall_s: float) -> Reply:
    """Begins to read a file from a byte on.

    Args:
        url: ``http(s)://``, anything that fsspec opens, or a plain path.
        start: The first byte wanted.
        stall_s: Seconds without a byte after which reading raises TimeoutError.

    Raises:
        OSError: As the transport says it; ``urllib.error.HTTPError`` holds a status.
    """
    if not _is_http(url):
        return _connect_other(url, start)
    try:
        response = _open(url, stall_s, {"Range": f"bytes={start}-"} if start else {})
    except urllib.error.HTTPError as error:
        error.close()
        if error.code != 416 or not start:  # 416: the file is shorter now
            raise
        response = _open(url, stall_s, {})
    begin, size = 0, _length(response.headers)
    if response.status == 206:
        told = _RANGE.fullmatch(response.headers.get("Content-Range", "").strip())
        if told is None or int(told[1]) != start:
            response.close()
            raise StorageError(
                f"{without_credentials(url)}: asked for the bytes from {start:,} on, and the server sends "
                f"{response.headers.get('Content-Range')!r}. Fetch it from another server."
            )
        begin, size = start, int(told[2])
    version = response.headers.get("ETag") or response.headers.get("Last-Modified")
    origin = Origin(without_credentials(response.url), size, version)
    return Reply(origin, begin, response.read1, response.close)


def ask(url: str, stall_s: float) -> int | None:
    """The bytes of a file as its server tells them; None if it does not."""
    if not _is_http(url):
        filesystem, name = _filesystem(url)
        size = filesystem.info(name)["size"]
        return None if size is None else int(size)
    try:
        with _open(url, stall_s, {}, method="HEAD") as response:
            return _length(response.headers)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code in _NO_HEAD:
            return None
        raise


def _is_http(url: str) -> bool:
    return url.startswith(("http://", "https://"))


def _open(url: str, stall_s: float, headers: dict[str, str], method: str = "GET") -> Any:
    bare, authorization = _without_user(url)
    # identity: a Content-Encoding would count other bytes than those of the file
    headers = {"User-Agent": "ecopipe", "Accept-Encoding": "identity", **headers}
    request = urllib.request.Request(bare, headers=headers, method=method)
    if authorization:
        request.add_unredirected_header("Authorization", authorization)
    return urllib.request.build_opener().open(request, timeout=stall_s)


def _without_user(url: str) -> tuple[str, str]:
    """A URL without user and password, and the header that says them."""
    parts = urllib.parse.urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    if not at:
        return url, ""
    token = base64.b64encode(urllib.parse.unquote(user).encode()).decode()
    return urllib.parse.urlunsplit(parts._replace(netloc=host)), f"Basic {token}"


def _length(headers: HTTPMessage) -> int | None:
    text = headers.get("Content-Length", "")
    return int(text) if text.isdigit() else None


def _filesystem(url: str) -> tuple[Any, str]:
    return remote.filesystem(url) if is_url(url) else (LocalFileSystem(), url)


def _connect_other(url: str, start: int) -> Reply:
    filesystem, name = _filesystem(url)
    about = filesystem.info(name)
    size = None if about["size"] is None else int(about["size"])
    begin = start if size is not None and start <= size else 0
    file = filesystem.open(name, "rb")
    file.seek(begin)
    origin = Origin(without_credentials(str(filesystem.unstrip_protocol(name))), size, str(filesystem.ukey(name)))
    return Reply(origin, begin, cast("Callable[[int], bytes]", file.read), cast("Callable[[], None]", file.close))

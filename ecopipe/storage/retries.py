"""One policy for all that goes over a network: what is tried again, how often, after how long, and what is said then.

Tried again is what may pass by itself: timeouts, connections that break, answers that end early, HTTP 408, 425, 429 and
5xx. What will not pass (404, 403, a wrong name) is said at once. No message holds credentials: neither those of a URL
(``user:password@``, a signed query) nor those that a library's own message repeats.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import tenacity

from ecopipe.vocabulary.errors import ConfigError, EcopipeError, StorageError

Answer = TypeVar("Answer")

_PASSING_STATUS = (408, 425, 429)
_PASSING_ERRNO = frozenset(
    getattr(errno, name)
    for name in (
        "EIO", "EBUSY", "EAGAIN", "EPIPE", "ETIMEDOUT", "ECONNRESET", "ECONNREFUSED", "ECONNABORTED", "EHOSTUNREACH",
        "ENETUNREACH", "ENETDOWN", "ENETRESET", "EHOSTDOWN",
    )
)  # fmt: skip
_PASSING_NAMES = frozenset({
    "ClientConnectionError", "ClientPayloadError",  # aiohttp
    "HTTPClientError", "ConnectionError", "ResponseStreamingError", "IncompleteReadError",  # botocore
    "TransportError",  # httpx
    "ChunkedEncodingError", "Timeout",  # requests
    "RemoteDisconnected", "IncompleteRead", "BadStatusLine",  # http.client
})  # fmt: skip
"""Errors of libraries that need not be installed, by the names of their classes."""


_LASTING = FileNotFoundError | PermissionError | IsADirectoryError | NotADirectoryError


class ShortRead(OSError):
    """An answer that ended before all bytes had come."""


@dataclass(frozen=True)
class Policy:
    """How often and after how long something is tried again. Tuning: it never changes what is delivered.

    Args:
        attempts: Tries in all, at least 1. Where something came before it broke, it is counted from 1 again.
        wait_s: Seconds before the second try at most; doubled before each further one. The wait itself is drawn from
            between half of it and all of it, so that many processes do not come back at once.
        most_wait_s: Seconds between two tries at most. A server's ``Retry-After`` is kept up to here.
        stall_s: Seconds without a byte after which a connection counts as broken.

    The default of each is taken from the environment: ``ECOPIPE_RETRY_ATTEMPTS``, ``ECOPIPE_RETRY_WAIT_S``,
    ``ECOPIPE_RETRY_MOST_WAIT_S``, ``ECOPIPE_STALL_S``.
    """

    attempts: int = 6
    wait_s: float = 0.5
    most_wait_s: float = 30.0
    stall_s: float = 30.0

    @classmethod
    def of_environment(cls) -> Policy:
        """The policy that the environment asks for.

        Raises:
            ConfigError: A variable is no positive number.
        """
        return cls(
            int(_number("ECOPIPE_RETRY_ATTEMPTS", cls.attempts)),
            _number("ECOPIPE_RETRY_WAIT_S", cls.wait_s),
            _number("ECOPIPE_RETRY_MOST_WAIT_S", cls.most_wait_s),
            _number("ECOPIPE_STALL_S", cls.stall_s),
        )


def _number(name: str, default: float) -> float:
    text = os.environ.get(name, "")
    try:
        value = float(text) if text else float(default)
        if isinstance(default, int):
            value = int(text) if text else default
    except ValueError:
        value = 0
    if value <= 0:
        kind = "a whole number of at least 1" if isinstance(default, int) else "a number above 0"
        raise ConfigError(f"{name}={text!r} in the environment: it takes {kind}. Change it, or unset it.")
    return value


def retrying(
    action: Callable[[], Answer],
    url: str,
    *,
    doing: str = "reading",
    progress: Callable[[], int] | None = None,
    policy: Policy | None = None,
) -> Answer:
    """What ``action`` gives, once it comes through.

    Args:
        action: Is called again after an error that may pass. It should go on where it broke.
        url: What the errors name, without credentials.
        doing: What the errors call it: ``"reading"``, ``"writing"``, ``"listing"``.
        progress: A number that grows with what has come, such as the bytes. Attempts are counted anew when it grew.
        policy: That of the environment unless given.

    Raises:
        FileNotFoundError: There is no such thing (404).
        StorageError: It was refused, or failed too often; says the URL, the number of tries and the last cause.
    """
    policy = policy or Policy.of_environment()
    count = _Count(policy, progress)
    retry = tenacity.Retrying(
        retry=tenacity.retry_if_exception(may_pass), wait=count.wait, stop=count.is_enough, reraise=True
    )
    try:
        return retry(action)
    except EcopipeError:
        raise
    except Exception as error:
        told = _told(error, url, doing, count.failed)
    raise told  # outside of the handler: an error that it were chained to might show what must not be shown


class _Count:
    """The failures since something came, and the wait that follows from them."""

    def __init__(self, policy: Policy, progress: Callable[[], int] | None) -> None:
        self._policy, self._progress = policy, progress
        self._reached = progress() if progress is not None else 0
        self.failed = 0
        self._draw = tenacity.wait_random(0.5, 1.0)

    def is_enough(self, state: tenacity.RetryCallState) -> bool:
        reached = self._progress() if self._progress is not None else 0
        if reached > self._reached:
            self._reached, self.failed = reached, 0
        self.failed += 1
        return self.failed >= self._policy.attempts

    def wait(self, state: tenacity.RetryCallState) -> float:
        most = self._policy.most_wait_s
        # tenacity asks for the wait before it asks whether to stop, when this failure is not counted yet
        drawn = min(self._policy.wait_s * 2.0 ** min(self.failed, 60), most) * self._draw(state)
        error = state.outcome.exception() if state.outcome is not None else None
        return max(drawn, min(_retry_after(error), most))


def may_pass(error: BaseException) -> bool:
    """Whether an error may be gone when the same is tried again."""
    chain = list(_chain(error))
    if isinstance(error, FileNotFoundError) and len(chain) > 1:
        chain = chain[1:]  # fsspec calls any failure over HTTP by that name
    for one in chain:
        if isinstance(one, ShortRead):
            return True
        if isinstance(one, EcopipeError | ssl.SSLCertVerificationError | _LASTING):
            return False
        if isinstance(one, TimeoutError | ConnectionError | ssl.SSLError | EOFError):
            return True
        if not _PASSING_NAMES.isdisjoint(kind.__name__ for kind in type(one).__mro__):
            return True
        if (status := _status(one)) is not None:
            return status in _PASSING_STATUS or status >= 500
    for one in chain:
        if isinstance(one, socket.gaierror):
            return one.errno == socket.EAI_AGAIN
        if isinstance(one, OSError) and one.errno in _PASSING_ERRNO:
            return True
    return False


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and its causes, the outermost first."""
    for _ in range(8):
        if error is None:
            return
        yield error
        reason = getattr(error, "reason", None)  # that of urllib's URLError
        error = error.__cause__ or (reason if isinstance(reason, BaseException) else None)


def _status(error: BaseException) -> int | None:
    """The HTTP status that an error of urllib, aiohttp, requests, httpx, botocore or gcsfs tells."""
    response: Any = getattr(error, "response", None)
    if isinstance(response, dict):
        found = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:
        places = ((response, "status_code"), (error, "status"), (error, "code"))
        found = next((value for at, name in places if isinstance(value := getattr(at, name, None), int)), None)
    return found if isinstance(found, int) and found >= 100 else None


def _retry_after(error: BaseException | None) -> float:
    """Seconds that a server asks to wait; 0 if it does not."""
    for one in _chain(error):
        headers = getattr(one, "headers", None) or getattr(getattr(one, "response", None), "headers", None)
        try:
            return max(0.0, float(headers["Retry-After"])) if headers else 0.0
        except (KeyError, TypeError, ValueError):  # absent, or a date
            continue
    return 0.0


_URL = re.compile(r"[A-Za-z][\w+.-]*://[^\s'\"<>()]+")
_USER = re.compile(r"(?<=://)[^/\s]*@")
_HEADER = re.compile(r"(?i)\b(authorization|x-amz-security-token|cookie)(['\"]?\s*[:=]\s*)[^,;}\n]+")


def without_credentials(text: str) -> str:
    """A text, such as a URL or the message of a library, without what credentials the URLs in it hold.

    The user and password before the host are left out, and the whole query, which is where signatures and tokens are.
    """
    return _HEADER.sub(r"\1\2...", _URL.sub(_bare, text))


def _bare(found: re.Match[str]) -> str:
    name, mark, query = _USER.sub("", found[0]).partition("?")
    if mark and (name.lower().startswith("http") or "=" in query):
        return f"{name}?..."
    return name + mark + query  # the mark of a pattern


def _told(error: Exception, url: str, doing: str, tries: int) -> Exception:
    """The error to raise instead of a library's."""
    name = without_credentials(url)
    passing = may_pass(error)
    if (isinstance(error, FileNotFoundError) and not passing) or _status(error) in (404, 410):
        return FileNotFoundError(errno.ENOENT, "There is no such file", name)
    statuses = [status for one in _chain(error) if (status := _status(one)) is not None]
    reason = " ".join(without_credentials(f"{type(error).__name__}: {error}").split()).rstrip(". :")
    if passing:
        times = "once" if tries == 1 else f"{tries} times in a row"
        return StorageError(
            f"{name}: {doing} failed {times}, the last time with {reason}. Check the network and the server, then run "
            "it again; ECOPIPE_RETRY_ATTEMPTS sets how often it is tried."
        )
    if isinstance(error, PermissionError) or {401, 403} & set(statuses) or "Credentials" in type(error).__name__:
        return StorageError(
            f"{name}: {doing} was refused ({reason}). Check the credentials where this protocol takes them from (its "
            "environment variables or configuration file), and what they allow."
        )
    return StorageError(f"{name}: {doing} failed: {reason}. Check the address, and what the server says.")

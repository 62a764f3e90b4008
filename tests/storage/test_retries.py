"""What is tried again, how often, and what is said at last."""

from __future__ import annotations

import socket
import ssl

import pytest

from ecopipe.storage.retries import Policy, ShortRead, may_pass, retrying, without_credentials
from ecopipe.vocabulary.errors import ConfigError, OutputError, StorageError

QUICK = Policy(attempts=3, wait_s=0.001, most_wait_s=0.01)


class Told(Exception):
    """An error of a library, with the status of an answer."""

    def __init__(self, status: int) -> None:
        super().__init__(f"the server said {status}")
        self.status = status


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (TimeoutError(), True),
        (ConnectionResetError(104, "reset"), True),
        (ShortRead("5 of 6 bytes"), True),
        (EOFError(), True),
        (ssl.SSLEOFError(), True),
        (ssl.SSLCertVerificationError("who are you"), False),
        (socket.gaierror(socket.EAI_AGAIN, "later"), True),
        (socket.gaierror(socket.EAI_NONAME, "no such host"), False),
        (OSError(5, "input/output"), True),
        (OSError(28, "no space"), False),
        (PermissionError(13, "no"), False),
        (FileNotFoundError(2, "no"), False),
        (ValueError("no"), False),
        *(
            (Told(status), status in (408, 425, 429, 500, 503))
            for status in (400, 403, 404, 408, 416, 425, 429, 500, 503)
        ),
    ],
    ids=repr,
)
def test_what_may_pass(error: Exception, passes: bool) -> None:
    assert may_pass(error) is passes
    tries = []

    def act() -> None:
        tries.append(1)
        raise error

    with pytest.raises((StorageError, FileNotFoundError)):
        retrying(act, "s3://b/x", policy=QUICK)
    assert len(tries) == (3 if passes else 1)


def test_it_comes_through_at_last_and_progress_counts_anew() -> None:
    came = 0

    def act() -> int:
        nonlocal came
        came += 1
        if came < 8:
            raise ConnectionResetError
        return came

    assert retrying(act, "s3://b/x", policy=QUICK, progress=lambda: came) == 8
    came = 0
    with pytest.raises(StorageError, match="3 times in a row"):
        retrying(act, "s3://b/x", policy=QUICK)


def test_ecopipes_own_errors_are_passed_on_at_once() -> None:
    def act() -> None:
        raise OutputError("is taken")

    with pytest.raises(OutputError, match="is taken"):
        retrying(act, "s3://b/x", policy=QUICK)


def test_waits_are_doubled_drawn_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr("tenacity.nap.time.sleep", waited.append)

    def act() -> None:
        raise TimeoutError

    with pytest.raises(StorageError):
        retrying(act, "s3://b/x", policy=Policy(attempts=6, wait_s=1, most_wait_s=5))
    for wait, most in zip(waited, (1, 2, 4, 5, 5), strict=True):
        assert most / 2 <= wait <= most
    assert len(set(waited)) == 5


def test_a_server_that_says_when_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr("tenacity.nap.time.sleep", waited.append)
    error = Told(429)
    error.headers = {"Retry-After": "3"}  # type: ignore[attr-defined]

    def act() -> None:
        raise error

    with pytest.raises(StorageError, match=r"^s3://b/x: reading failed 2 times in a row, the last time with Told: the"):
        retrying(act, "s3://b/x", policy=Policy(attempts=2, wait_s=0.001))
    assert waited == [3.0]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("s3://key:secret@bucket/a.tar", "s3://bucket/a.tar"),
        ("https://h/a.tar?X-Amz-Signature=s&x=y", "https://h/a.tar?..."),
        ("https://h/a.tar?token", "https://h/a.tar?..."),
        ("403, url='http://u:p@h/a?sig=s' at h", "403, url='http://h/a?...' at h"),
        ("s3://bucket/part-?.tar", "s3://bucket/part-?.tar"),
        ("Authorization: Bearer abc, x", "Authorization: ..., x"),
    ],
)
def test_credentials_are_left_out(text: str, shown: str) -> None:
    assert without_credentials(text) == shown


def test_the_environment_sets_the_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECOPIPE_RETRY_ATTEMPTS", "2")
    monkeypatch.setenv("ECOPIPE_RETRY_WAIT_S", "0.5")
    assert Policy.of_environment() == Policy(attempts=2, wait_s=0.5)
    for text in ("0", "2.5", "many"):
        monkeypatch.setenv("ECOPIPE_RETRY_ATTEMPTS", text)
        with pytest.raises(ConfigError, match=f"ECOPIPE_RETRY_ATTEMPTS='{text}'.*whole number of at least 1"):
            Policy.of_environment()

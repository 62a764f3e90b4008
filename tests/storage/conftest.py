"""Servers that the tests of storage share, and a policy that does not wait long."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from ecopipe.storage import remote
from tests.servers import ACCESS, SECRET, FaultProxy, http_server, s3_server


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Waits of milliseconds between tries, and a second for a stalled connection."""
    monkeypatch.setenv("ECOPIPE_RETRY_WAIT_S", "0.01")
    monkeypatch.setenv("ECOPIPE_STALL_S", "1")
    remote._used.clear()
    fsspec.get_filesystem_class("http").clear_instance_cache()
    yield
    remote._used.clear()


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A folder, and the URL under which a real HTTP server shows its files."""
    folder = tmp_path_factory.mktemp("served")
    with http_server(folder, folder.parent / "http.log") as url:
        yield folder, url


@pytest.fixture
def proxy(served: tuple[Path, str]) -> Iterator[FaultProxy]:
    """A proxy before that server that breaks what it is told to."""
    with FaultProxy(served[1]) as between:
        yield between


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a real S3 server with an empty bucket ``corpora``."""
    with s3_server(tmp_path_factory.mktemp("s3")) as url:
        yield url


@pytest.fixture
def bucket(s3: str, monkeypatch: pytest.MonkeyPatch, impatient: None) -> str:
    """``s3://corpora``, with address and keys in the environment, where S3's own tools look for them."""
    at_s3(s3, monkeypatch)
    s3fs, _ = remote.filesystem("s3://corpora")
    if not s3fs.exists("corpora"):
        s3fs.mkdir("corpora")
    return "s3://corpora"


def at_s3(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Says in the environment where S3 is, and who is asking."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    remote._used.clear()
    fsspec.get_filesystem_class("s3").clear_instance_cache()

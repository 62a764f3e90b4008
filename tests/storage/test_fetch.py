"""Files come whole and once from servers that break in every way (law 8), or an error says which way it was."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import pytest

from ecopipe.storage.fetch import fetch, hashing, part_of, remote_size
from ecopipe.storage.retries import Policy
from ecopipe.vocabulary.errors import ConfigError, OutputError, StorageError

CONTENT = random.Random(0).randbytes(300_000)
CHECKSUM = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"
FAST = Policy(attempts=3, wait_s=0.01, most_wait_s=0.02, stall_s=30.0)


@dataclass
class Site:
    """A real server whose faults a test chooses. ``asked``: method and first byte of each request; ``sent``: bytes."""

    files: dict[str, bytes]
    version: str | None = '"1"'
    modified: str | None = None
    ranges: bool = True
    length: bool = True
    head: bool = True
    statuses: list[int] = field(default_factory=list)  # answered first
    cuts: list[int] = field(default_factory=list)  # bytes after which the first answers break off
    gate: threading.Event | None = None  # waited for in the middle of each file
    moved: dict[str, str] = field(default_factory=dict)
    asked: list[tuple[str, int]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    sent: int = 0
    url: str = ""

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        told = re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range", ""))
        start = int(told[1]) if told and self.ranges else 0
        self.asked.append((request.command, int(told[1]) if told else 0))
        self.headers.append(dict(request.headers))
        self.paths.append(request.path)
        name = request.path.rsplit("/", 1)[1]
        if self.statuses or name not in self.files or (request.command == "HEAD" and not self.head):
            status = 405 if request.command == "HEAD" and not self.head else (self.statuses or [404]).pop(0)
            request.send_response(status)
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        if request.path in self.moved:
            request.send_response(302)
            request.send_header("Location", self.moved[request.path])
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        content = self.files[name]
        if start >= len(content) > 0 and start:
            request.send_response(416)
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        request.send_response(206 if start else 200)
        if start:
            request.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if self.length:
            request.send_header("Content-Length", str(len(content) - start))
        for header, value in (("ETag", self.version), ("Last-Modified", self.modified)):
            if value is not None:
                request.send_header(header, value)
        request.end_headers()
        if request.command == "HEAD":
            return
        body = content[start:]
        if self.cuts:
            body = body[: self.cuts.pop(0)]
            request.close_connection = True
        half = len(body) // 2 if self.gate is not None else len(body)
        self._send(request, body[:half])
        if self.gate is not None:
            self.gate.wait(60)
            self._send(request, body[half:])

    def _send(self, request: BaseHTTPRequestHandler, body: bytes) -> None:
        try:
            request.wfile.write(body)
            request.wfile.flush()
            self.sent += len(body)
        except OSError:  # the client has gone
            request.close_connection = True


@pytest.fixture
def serve() -> Iterator[Callable[..., Site]]:
    """Starts servers of files, on loopback; they end with the test."""
    servers: list[tuple[ThreadingHTTPServer, Site]] = []

    def start(**settings: object) -> Site:
        site = Site(**{"files": {"x.tar": CONTENT}, **settings})

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1" if site.length else "HTTP/1.0"

            def do_GET(self) -> None:
                site.answer(self)

            do_HEAD = do_GET

            def log_message(self, format: str, *args: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        site.url = f"http://127.0.0.1:{server.server_address[1]}/x.tar"
        servers.append((server, site))
        return site

    yield start
    for server, site in servers:
        if site.gate is not None:
            site.gate.set()
        server.shutdown()
        server.server_close()


class Stop(BaseException):
    """What ends a fetch from outside, as Ctrl-C does."""


def stop_at(bytes_: int) -> Callable[[int, int | None], None]:
    def progress(done: int, total: int | None) -> None:
        if done >= bytes_:
            raise Stop

    return progress


def left(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def test_a_file_comes_whole_and_once(serve: Callable[..., Site], tmp_path: Path) -> None:
    site, target, seen = serve(), tmp_path / "deep" / "x.tar", []

    def progress(done: int, total: int | None) -> None:
        assert not target.exists()
        seen.append((done, total))

    assert fetch(
        site.url, target, size=len(CONTENT), checksum=CHECKSUM.upper().replace("SHA", "sha"), progress=progress
    )
    assert target.read_bytes() == CONTENT
    assert left(target.parent) == ["x.tar"]
    assert target.stat().st_mode & 0o444 == 0o444
    assert seen[0] == (0, len(CONTENT)) and seen[-1] == (len(CONTENT), len(CONTENT)) and seen == sorted(seen)
    assert not fetch(site.url, target, size=len(CONTENT), checksum=CHECKSUM)
    assert site.asked == [("GET", 0)]  # the second time there is nothing to ask


@pytest.mark.parametrize("known", [True, False])
def test_a_connection_that_breaks_is_continued_at_its_byte(
    serve: Callable[..., Site], tmp_path: Path, known: bool
) -> None:
    cuts = [1, 100_000, 0, 50_000, 7]  # more than FAST has attempts: those are counted anew when something came
    site, said = serve(cuts=list(cuts)), []
    size = len(CONTENT) if known else None
    assert fetch(site.url, tmp_path / "x", size=size, checksum=CHECKSUM, policy=FAST, say=said.append)
    assert (tmp_path / "x").read_bytes() == CONTENT
    assert [start for _, start in site.asked] == [0, 1, 100_001, 100_001, 150_001, 150_008]
    assert site.sent == len(CONTENT)  # no byte twice
    assert said[1] == "x: interrupted at 100,001 bytes; trying again."


def test_errors_of_the_server_that_pass(serve: Callable[..., Site], tmp_path: Path) -> None:
    site = serve(statuses=[503, 429])
    assert fetch(site.url, tmp_path / "x", checksum=CHECKSUM, policy=FAST)
    assert (tmp_path / "x").read_bytes() == CONTENT
    assert len(site.asked) == 3


def test_a_server_that_stalls(serve: Callable[..., Site], tmp_path: Path) -> None:
    site = serve(gate=threading.Event())
    policy = Policy(attempts=2, wait_s=0.01, most_wait_s=0.02, stall_s=0.3)
    with pytest.raises(StorageError, match=rf"{site.url}: fetching failed 2 times in a row.*timed out"):
        # each try brings half of what is missing, so that they end only when nothing comes any more
        site.files["x.tar"] = CONTENT[:2]
        fetch(site.url, tmp_path / "x", checksum=CHECKSUM, policy=policy)
    assert left(tmp_path) == [".x.ecopipe-part", ".x.ecopipe-part.json"]
    site.files["x.tar"], site.version = CONTENT, '"2"'
    site.gate.set()
    assert fetch(site.url, tmp_path / "x", checksum=CHECKSUM, policy=policy)
    assert (tmp_path / "x").read_bytes() == CONTENT


def test_a_server_that_always_breaks_at_the_same_byte(serve: Callable[..., Site], tmp_path: Path) -> None:
    site = serve(cuts=[1000] * 9, ranges=False)
    with pytest.raises(StorageError, match="fetching failed 3 times in a row.*ended after 1,000 of 300,000 bytes"):
        fetch(site.url, tmp_path / "x", checksum=CHECKSUM, policy=FAST)
    assert part_of(tmp_path / "x").stat().st_size == 1000
    assert not (tmp_path / "x").exists()


def test_a_wrong_checksum_names_both_and_nothing_is_kept(serve: Callable[..., Site], tmp_path: Path) -> None:
    other = CONTENT[:-1] + bytes([CONTENT[-1] ^ 1])
    site = serve(files={"x.tar": other})
    found = f"sha256:{hashlib.sha256(other).hexdigest()}"
    with pytest.raises(StorageError, match=f"not the published one: its checksum is {found}, where {CHECKSUM} was exp"):
        fetch(site.url, tmp_path / "x", size=len(CONTENT), checksum=CHECKSUM, policy=FAST)
    assert left(tmp_path) == []
    assert len(site.asked) == 1


@pytest.mark.parametrize(("status", "message"), [(404, "there is no such file.*404"), (403, "was refused.*403")])
def test_what_does_not_pass_is_said_at_once(
    serve: Callable[..., Site], tmp_path: Path, status: int, message: str
) -> None:
    site = serve(statuses=[status] * 5)
    with pytest.raises(StorageError, match=f"{site.url}: .*{message}"):
        fetch(site.url, tmp_path / "x", checksum=CHECKSUM, policy=FAST)
    assert len(site.asked) == 1
    assert not (tmp_path / "x").exists()


def test_another_size_is_refused_before_anything_is_written(serve: Callable[..., Site], tmp_path: Path) -> None:
    site = serve()
    with pytest.raises(Stop):
        fetch(site.url, tmp_path / "x", checksum=CHECKSUM, progress=stop_at(1))
    kept = part_of(tmp_path / "x").stat().st_size
    site.files["x.tar"] = b"<html>Please log in</html>"
    with pytest.raises(StorageError, match="is not the published file: it has 26 bytes, where 300,000 were expected"):
        fetch(site.url, tmp_path / "x", size=len(CONTENT), checksum=CHECKSUM, policy=FAST)
    assert part_of(tmp_path / "x").stat().st_size == kept > 0
    site.files["x.tar"] = CONTENT
    assert fetch(site.url, tmp_path / "x", size=len(CONTENT), checksum=CHECKSUM, policy=FAST)
    assert site.asked[-1] == ("GET", kept)


def test_more_bytes_than_announced(serve: Callable[..., Site], tmp_path: Path) -> None:
    site = serve(length=False)
    with pytest.raises(StorageError, match="where 1,000 were expected"):
        fetch(site.url, tmp_path / "x", size=1000, policy=FAST)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("length", [True, False])
def test_a_server_without_ranges_begins_again_and_it_is_said(
    serve: Callable[..., Site], tmp_path: Path, length: bool
) -> None:
    site, said = serve(ranges=False, length=length, cuts=[200_000]), []
    size = None if length else len(CONTENT)
    assert fetch(site.url, tmp_path / "x", size=size, checksum=CHECKSUM, policy=FAST, say=said.append)
    assert (tmp_path / "x").read_bytes() == CONTENT
    assert said[1] == "x: this server cannot continue a file; fetching it from the beginning."
    assert site.asked == [("GET", 0), ("GET", 200_000)]


@pytest.mark.parametrize(
    "change",
    [{"version": '"2"'}, {"version": None, "modified": "Tue, 01 Jan 2030 00:00:00 GMT"}, {"content": CONTENT[:-5]}],
    ids=["etag", "date", "size"],
)
@pytest.mark.parametrize("ranges", [True, False])
def test_a_file_that_changed_meanwhile_begins_again(
    serve: Callable[..., Site], tmp_path: Path, change: dict[str, object], ranges: bool
) -> None:
    old = bytes(len(CONTENT))
    date = "Mon, 01 Jan 2029 00:00:00 GMT"
    site = serve(files={"x.tar": old}, version='"1"' if change.get("version") else None, modified=date)
    with pytest.raises(Stop):
        fetch(site.url, tmp_path / "x", progress=stop_at(1))
    site.ranges = ranges
    new = change.get("content", CONTENT)
    assert isinstance(new, bytes)
    site.files["x.tar"], site.version = new, change.get("version", site.version)  # type: ignore[assignment]
    site.modified = change.get("modified", site.modified)  # type: ignore[assignment]
    said: list[str] = []
    assert fetch(site.url, tmp_path / "x", policy=FAST, say=said.append)
    assert (tmp_path / "x").read_bytes() == new
    assert said == ["x: the file on the server has changed; fetching it from the beginning."]


def test_a_file_that_became_shorter_than_what_came(serve: Callable[..., Site], tmp_path: Path) -> None:
    site = serve()
    with pytest.raises(Stop):
        fetch(site.url, tmp_path / "x", progress=stop_at(1))
    site.files["x.tar"] = b"short"
    assert fetch(site.url, tmp_path / "x", policy=FAST)
    assert (tmp_path / "x").read_bytes() == b"short"


def test_what_was_left_damaged_is_fetched_again(serve: Callable[..., Site], tmp_path: Path) -> None:
    site, said = serve(cuts=[200_000] + [0] * 3), []
    with pytest.raises(StorageError):
        fetch(site.url, tmp_path / "x", checksum=CHECKSUM, policy=FAST)
    with open(part_of(tmp_path / "x"), "r+b") as part:
        part.write(b"\0\0\0\0")
    assert fetch(site.url, tmp_path / "x", checksum=CHECKSUM, policy=FAST, say=said.append)
    assert (tmp_path / "x").read_bytes() == CONTENT
    assert any("is not of the published file; fetching it from the beginning" in sentence for sentence in said)
    (tmp_path / "x").unlink()
    part_of(tmp_path / "x").write_bytes(CONTENT[:100])
    part_of(tmp_path / "x").with_name(".x.ecopipe-part.json").write_text('{"url": "http')  # cut off by a crash
    assert fetch(site.url, tmp_path / "x", checksum=CHECKSUM, policy=FAST)
    assert site.asked[-1] == ("GET", 0)
    assert left(tmp_path) == ["x"]


def test_ended_between_the_last_byte_and_the_name(serve: Callable[..., Site], tmp_path: Path) -> None:
    site = serve()
    with pytest.raises(Stop):
        fetch(site.url, tmp_path / "x", checksum=CHECKSUM, progress=stop_at(len(CONTENT)))
    assert not (tmp_path / "x").exists()
    assert fetch(site.url, tmp_path / "x", checksum=CHECKSUM)
    assert (tmp_path / "x").read_bytes() == CONTENT
    assert len(site.asked) == 1
    about = part_of(tmp_path / "x").with_name(".x.ecopipe-part.json")
    about.write_text("{}")  # ended between the rename and this file's removal
    assert not fetch(site.url, tmp_path / "x", checksum=CHECKSUM)
    assert left(tmp_path) == ["x"]


def test_another_server_goes_on_if_a_checksum_will_tell(serve: Callable[..., Site], tmp_path: Path) -> None:
    one, two, said = serve(), serve(version='"other"'), []
    for name, checksum, start in (("x", CHECKSUM, True), ("y", None, False)):
        with pytest.raises(Stop):
            fetch(one.url, tmp_path / name, checksum=checksum, progress=stop_at(1))
        kept = part_of(tmp_path / name).stat().st_size
        assert fetch(two.url, tmp_path / name, checksum=checksum, policy=FAST, say=said.append)
        assert (tmp_path / name).read_bytes() == CONTENT
        assert two.asked[-1] == ("GET", kept if start else 0)
    assert said == ["y: it comes from another server now; fetching it from the beginning."]


@pytest.mark.parametrize("kind", ["memory", "path"])
def test_other_places_than_http(tmp_path: Path, kind: str) -> None:
    url = "memory://fetch/x.tar" if kind == "memory" else str(tmp_path / "source.tar")
    content = CONTENT * 10  # several pieces
    with fsspec.open(url, "wb") as file:
        file.write(content)
    checksum, seen = f"md5:{hashlib.md5(content).hexdigest()}", []
    assert remote_size(url) == len(content)
    with pytest.raises(Stop):
        fetch(url, tmp_path / "x", checksum=checksum, progress=stop_at(1))
    kept = part_of(tmp_path / "x").stat().st_size
    assert fetch(url, tmp_path / "x", checksum=checksum, progress=lambda done, total: seen.append(done))
    assert (tmp_path / "x").read_bytes() == content
    assert seen[0] == kept > 0
    missing = url.replace("x.tar", "y.tar").replace("source", "none")
    with pytest.raises(StorageError, match="y.tar: there is no such file|none.tar: there is no such file"):
        fetch(missing, tmp_path / "y")


def test_credentials_reach_their_host_and_nothing_else(serve: Callable[..., Site], tmp_path: Path) -> None:
    other = serve()
    site = serve(moved={"/x.tar": other.url})
    url = site.url.replace("http://", "http://ann:s%40cret@") + "?signature=hidden"
    site.moved["/x.tar?signature=hidden"] = other.url
    site.files["x.tar?signature=hidden"] = b""
    with pytest.raises(Stop):
        fetch(url, tmp_path / "x", progress=stop_at(1))
    assert site.headers[0]["Authorization"] == "Basic YW5uOnNAY3JldA=="
    assert "Authorization" not in other.headers[0]
    about = json.loads((tmp_path / ".x.ecopipe-part.json").read_text())
    assert about["url"] == other.url
    site.moved.clear()
    site.statuses[:] = [403]
    with pytest.raises(StorageError) as told:
        fetch(url, tmp_path / "y", policy=FAST)
    for secret in ("ann", "s%40cret", "s@cret", "hidden"):
        assert secret not in str(told.value)


def test_a_proxy_of_the_environment(
    serve: Callable[..., Site], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = serve()
    monkeypatch.setenv("http_proxy", proxy.url.removesuffix("/x.tar"))
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert fetch("http://corpora.invalid/x.tar", tmp_path / "x", checksum=CHECKSUM)
    assert proxy.paths == ["http://corpora.invalid/x.tar"]


def test_sizes_are_asked(serve: Callable[..., Site]) -> None:
    assert remote_size(serve().url) == len(CONTENT)
    assert remote_size(serve(head=False).url) is None
    assert remote_size(serve(length=False).url) is None
    assert remote_size(serve(statuses=[503]).url, policy=FAST) == len(CONTENT)
    with pytest.raises(StorageError, match="x.tar: there is no such file.*404"):
        remote_size(serve(statuses=[404]).url, policy=FAST)


def test_what_is_there_is_never_changed(serve: Callable[..., Site], tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"mine")
    with pytest.raises(OutputError, match="x: is there already and has 4 bytes, where the published file has 300,000"):
        fetch(serve().url, tmp_path / "x", size=len(CONTENT), checksum=CHECKSUM)
    assert (tmp_path / "x").read_bytes() == b"mine"


@pytest.mark.parametrize("checksum", ["7c2ac02c03563afcf9b574c7e56c153a", "md5:7c2a", "crc32:01234567", ""])
def test_checksums_of_no_kind(tmp_path: Path, checksum: str) -> None:
    with pytest.raises(ConfigError, match="is not one of md5, sha1, sha256, sha512"):
        fetch("http://127.0.0.1:9/x", tmp_path / "x", checksum=checksum)
    assert hashing("md5:7c2ac02c03563afcf9b574c7e56c153a").name == "md5"


FETCH = """
import resource, sys
from pathlib import Path
from ecopipe.storage.fetch import fetch
if len(sys.argv) > 4:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[4]),) * 2)
print(fetch(sys.argv[1], Path(sys.argv[2]), checksum=sys.argv[3], say=lambda sentence: print(sentence, flush=True)))
"""


def test_two_processes_fetch_one_file_once(serve: Callable[..., Site], tmp_path: Path) -> None:
    gate = threading.Event()
    site = serve(gate=gate)
    command = [sys.executable, "-c", FETCH, site.url, str(tmp_path / "x"), CHECKSUM]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    # one of the two says that it waits, and only then does the other get its second half
    lines: list[str] = []
    readers = [threading.Thread(target=lambda run=run: lines.append(run.stdout.readline())) for run in both]
    for reader in readers:
        reader.start()
    while not lines and any(run.poll() is None for run in both):
        readers[0].join(0.05)
        readers[1].join(0.05)
    gate.set()
    rest = [run.communicate(timeout=60)[0] for run in both]
    assert [run.returncode for run in both] == [0, 0]
    for reader in readers:
        reader.join()
    printed = "".join([*lines, *rest])
    assert lines[0] == "x: another process is fetching it; waiting for that one.\n"
    assert printed.count("True") == 1 and printed.count("False") == 1
    assert (tmp_path / "x").read_bytes() == CONTENT
    assert left(tmp_path) == ["x"]
    assert site.asked == [("GET", 0)]


def test_a_full_disk_keeps_what_came(serve: Callable[..., Site], tmp_path: Path) -> None:
    site = serve()
    command = [sys.executable, "-c", FETCH, site.url, str(tmp_path / "x"), CHECKSUM]
    done = subprocess.run([*command, "100000"], capture_output=True, text=True, check=False, timeout=60)
    assert re.search(r"OutputError: .*x: cannot be written: File too large", done.stderr)
    assert len(site.asked) == 1  # a disk is not tried again
    assert part_of(tmp_path / "x").stat().st_size == 100_000
    assert fetch(site.url, tmp_path / "x", checksum=CHECKSUM)
    assert site.asked[-1] == ("GET", 100_000)
    assert (tmp_path / "x").read_bytes() == CONTENT

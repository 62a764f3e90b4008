"""What the kernel knows of the processes of a check: who is there, what they hold open, and what they left behind.

All processes of a check carry its mark in their environment, so that even one that was orphaned is recognised.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path

MARK = "ECOPIPE_TESTING_MARK"
SHARED_MEMORY = Path("/dev/shm")
_PROC = Path("/proc")
_HOUSEKEEPERS = (b"resource_tracker",)  # they end by themselves, and no sample passes through them


def visible() -> bool:
    """Whether the kernel tells of processes here, as Linux does."""
    return (_PROC / "self" / "environ").exists()


def marked(mark: str) -> set[int]:
    """The processes of a check that are alive."""
    wanted = f"{MARK}={mark}".encode()
    found = set()
    for pid in _pids():
        with contextlib.suppress(OSError):
            if wanted in (_PROC / str(pid) / "environ").read_bytes().split(b"\0") and _state(pid) not in "ZX":
                found.add(pid)
    return found


def kill(pids: Iterable[int]) -> None:
    """SIGKILL to each that is still there."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def descendants(pid: int) -> set[int]:
    """The children of a process, their children, and so on, without those that only keep house."""
    children: dict[int, list[int]] = {}
    for other in _pids():
        with contextlib.suppress(OSError):
            children.setdefault(_parent(other), []).append(other)
    found: set[int] = set()
    waiting = [pid]
    while waiting:
        for child in children.get(waiting.pop(), []):
            if not any(word in _command(child) for word in _HOUSEKEEPERS):
                found.add(child)
                waiting.append(child)
    return found


def workers(pid: int) -> list[int]:
    """The descendants of a process that have no children of their own (a fork server has), oldest first."""
    family = descendants(pid)
    return sorted(child for child in family if not descendants(child))


def descriptors(pids: Iterable[int]) -> int:
    """The open file descriptors of some processes."""
    count = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            count += len(os.listdir(_PROC / str(pid) / "fd"))
    return count


def shared_memory() -> set[str]:
    """The names in shared memory."""
    return set(os.listdir(SHARED_MEMORY)) if SHARED_MEMORY.is_dir() else set()


def held_by_others(names: set[str], mark: str) -> set[str]:
    """Those names in shared memory that processes of no such mark have mapped or open: other programs' own."""
    if not names:
        return set()
    ours = marked(mark)
    return {name for pid in _pids() if pid not in ours for name in _held(pid) if name in names}


def _held(pid: int) -> Iterator[str]:
    prefix = f"{SHARED_MEMORY}/"
    with contextlib.suppress(OSError, UnicodeDecodeError):
        for line in (_PROC / str(pid) / "maps").read_text().splitlines():
            if prefix in line:
                yield line.partition(prefix)[2].removesuffix(" (deleted)").partition("/")[0]
    with contextlib.suppress(OSError):
        for link in os.listdir(_PROC / str(pid) / "fd"):
            target = os.readlink(_PROC / str(pid) / "fd" / link)
            if target.startswith(prefix):
                yield target.removeprefix(prefix).removesuffix(" (deleted)").partition("/")[0]


def _pids() -> list[int]:
    return [int(name) for name in os.listdir(_PROC) if name.isdigit()]


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the name, which may hold anything: state, parent, ..."""
    return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()


def _state(pid: int) -> str:
    return _stat(pid)[0]


def _parent(pid: int) -> int:
    return int(_stat(pid)[1])


def _command(pid: int) -> bytes:
    try:
        return (_PROC / str(pid) / "cmdline").read_bytes()
    except OSError:
        return b""

"""What this process and those it began use: CPU time, memory of their own, open files. Read from /proc; Linux only."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def descendants() -> list[int]:
    """The ids of this process and of all that came of it and live."""
    parents: dict[int, int] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError, IndexError):
                parents[int(name)] = int(_stat(int(name))[1])
    found = [os.getpid()]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def cpu_s(pids: Iterable[int] | None = None) -> float:
    """CPU seconds of some processes, by default this one and all that came of it, those included that ended and were
    waited for."""
    ticks = 0
    for pid in descendants() if pids is None else pids:
        with contextlib.suppress(OSError, IndexError):
            ticks += sum(map(int, _stat(pid)[11:15]))
    return ticks * _TICK_S


def own_bytes(pid: int) -> int:
    """Memory that a process has made: anonymous and shared memory, of what several processes hold its share. Pages of
    mapped files are no part of it: the system takes them back as it likes."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(("Pss_Anon:", "Pss_Shmem:"))) * 1024


def open_files(pid: int) -> int:
    """Descriptors that a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))

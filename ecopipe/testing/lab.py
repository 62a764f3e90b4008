"""The lab: runs trials of a loader in processes of their own, waits for a while, and clears away what they leave."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, Literal, cast

from ecopipe.testing import processes
from ecopipe.testing.report import Stop
from ecopipe.testing.trial import Trial
from ecopipe.vocabulary.errors import ConfigError

Start = Literal["fork", "fresh"]
IMPORT_S = 300.0
"""How long the modules of a loader may take to import."""
Keys = list[str]


@dataclass
class Trace:
    """What was seen of one trial.

    ``batches[e][t]`` are the keys of batch t of the e-th epoch, ``states[e][t]`` the state after it, ``boundaries[e]``
    that after the epoch; ``descriptors[e]`` and ``segments[e]`` count what is open, and in shared memory, then.
    ``shared`` are the names that stay in shared memory. ``end`` is how it ended; ``error`` and ``detail`` tell of it in
    a line and in full.
    """

    trial: Trial
    batches: list[list[Keys]] = field(default_factory=list)
    states: list[list[str]] = field(default_factory=list)
    boundaries: list[str] = field(default_factory=list)
    lengths: list[int | None] = field(default_factory=list)
    descriptors: list[int] = field(default_factory=list)
    segments: list[int] = field(default_factory=list)
    shared: set[str] = field(default_factory=set)
    killed: list[int] = field(default_factory=list)
    skipped: int | None = None
    end: Literal["done", "raised", "hung", "died"] = "died"
    error: str = ""
    detail: str = ""
    strays: int = 0

    def flat(self, epoch: int = 0) -> Keys:
        """All keys of the e-th epoch, in order."""
        return [key for batch in self.batches[epoch] for key in batch]

    def expect_done(self) -> Trace:
        """This trace, if the trial ended as it should.

        Raises:
            Stop: It hung, raised or died.
        """
        if self.end == "done":
            return self
        where = f"({self.trial})"
        if self.end == "hung":
            raise Stop("hangs", f"{self.error} {where}")
        raise Stop("raises" if self.end == "raised" else "fails", f"{self.error} {where}")


class Lab:
    """Trials of one loader. Equal trials are run once.

    Args:
        target: ``"module:name"`` of a contract or a factory, importable from where the check is started.
        timeout_s: Seconds that a trial may take; then it hangs.
        grace_s: Seconds that processes and shared memory may outlive the process that made them.
        start: ``"fork"`` imports the loader's modules once and forks; ``"fresh"`` starts an interpreter per trial.
    """

    def __init__(self, target: str, *, timeout_s: float, grace_s: float, start: Start = "fork") -> None:
        if not processes.visible():
            raise ConfigError("testing: what processes leave behind is read from /proc. Run it on Linux.")
        self._target, self._timeout_s, self.grace_s, self._start = target, timeout_s, grace_s, start
        self._mark = uuid.uuid4().hex
        self._folder = Path(tempfile.mkdtemp(prefix="eco-"))  # short: paths of sockets are at most 107 bytes
        (self._folder / "t").mkdir()
        self._count = 0
        self._seen: dict[tuple[Trial, ...], list[Trace]] = {}
        self._nursery: _Nursery | None = None
        try:
            described = self._describe()
        except BaseException:
            self.close()
            raise
        self.offers = set(described["offers"])
        self.samples: list[str] | None = described["samples"]
        self.damaged_names: list[str] = described["damaged_names"]

    def __enter__(self) -> Lab:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends all processes of the check, and removes their temporary folder."""
        if self._nursery is not None:
            self._nursery.close()
        processes.kill(processes.marked(self._mark))
        shutil.rmtree(self._folder, ignore_errors=True)

    def one(self, **settings: Any) -> Trace:
        """The trace of a trial that is expected to end well."""
        return self.run(Trial(**settings))[0].expect_done()

    def ranks(self, world_size: int, **settings: Any) -> list[Trace]:
        """The traces of all ranks, side by side; each is expected to end well."""
        trials = [Trial(rank=rank, world_size=world_size, **settings) for rank in range(world_size)]
        return [trace.expect_done() for trace in self.run(*trials)]

    def run(self, *trials: Trial) -> list[Trace]:
        """The traces of trials that run side by side, however they end."""
        if trials not in self._seen:
            self._seen[trials] = self._run(trials)
        return self._seen[trials]

    def _run(self, trials: Sequence[Trial]) -> list[Trace]:
        begun = [self._begin(trial, port) for port in [_free_port()] for trial in trials]
        deadline = time.monotonic() + self._timeout_s
        late = [not _ends(pid, deadline) for pid, _nursery, _base in begun]
        traces = []
        for trial, (pid, nursery, base), hung in zip(trials, begun, late, strict=True):
            if hung:
                processes.kill([pid, *processes.descendants(pid)])
            status = nursery.reap(pid)
            traces.append(self._read(trial, base, status, hung=hung))
            if nursery is not self._nursery:
                nursery.close()
        self._clear_away(traces)
        return traces

    def _begin(self, trial: Trial | None, port: int) -> tuple[int, _Nursery, Path]:
        self._count += 1
        base = self._folder / f"{self._count:04d}"
        rank, world_size = (0, 1) if trial is None else (trial.rank, trial.world_size)
        request = {
            "trial": None if trial is None else asdict(trial),
            "events": str(base.with_suffix(".events")),
            "output": str(base.with_suffix(".output")),
            "mark": self._mark,
            "environment": {
                **dict.fromkeys(("RANK", "LOCAL_RANK"), str(rank)),
                **dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), str(world_size)),
                "GROUP_RANK": "0",
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
            },
        }
        nursery = self._open_nursery()
        return nursery.begin(request), nursery, base

    def _open_nursery(self) -> _Nursery:
        environment = {
            **os.environ,
            processes.MARK: self._mark,
            "TMPDIR": str(self._folder / "t"),
            "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
        }
        if self._start == "fresh":
            return _Nursery(self._target, environment, self._folder, forks=False)
        self._nursery = self._nursery or _Nursery(self._target, environment, self._folder, forks=True)
        return self._nursery

    def _describe(self) -> dict[str, Any]:
        pid, nursery, base = self._begin(None, 0)
        ended = _ends(pid, time.monotonic() + IMPORT_S)
        processes.kill([] if ended else [pid])
        nursery.reap(pid)
        if nursery is not self._nursery:
            nursery.close()
        try:
            described: dict[str, Any] = json.loads(base.with_suffix(".events").read_text())
        except (OSError, ValueError):
            said = base.with_suffix(".output").read_text(errors="replace").strip().splitlines()[-1:]
            raise ConfigError(
                f"testing: {self._target!r}: its samples cannot be listed: {''.join(said) or 'no answer'}. "
                "Mend the contract's `samples`."
            ) from None
        return described

    def _read(self, trial: Trial, base: Path, status: int, *, hung: bool) -> Trace:
        trace = Trace(trial)
        events = base.with_suffix(".events")
        for line in events.read_text().splitlines() if events.exists() else []:
            _note(trace, json.loads(line))
        output = base.with_suffix(".output").read_text(errors="replace")
        trace.detail += output
        where = f"after {len(trace.batches[-1])} batches" if trace.batches else "before the first batch"
        if len(trace.descriptors) == trace.trial.epochs:
            where = "after its last epoch"
        if hung:
            trace.end, trace.error = "hung", f"no answer in {self._timeout_s:g} s {where}"
        elif status != 0 and trace.end != "raised":
            name = signal.Signals(-status).name if status < 0 else f"exit code {status}"
            trace.end, trace.error = "died", f"the process died of {name} {where}"
        return trace

    def _clear_away(self, traces: Sequence[Trace]) -> None:
        """Notes which processes and shared memory stay behind, and ends those processes."""
        deadline = time.monotonic() + (self.grace_s if any(trace.trial.linger for trace in traces) else 0)
        nursery = {self._nursery.pid} if self._nursery else set()
        while True:
            strays = processes.marked(self._mark) - nursery
            left = {name for trace in traces for name in trace.shared} & processes.shared_memory()
            if not (strays or left) or time.monotonic() > deadline:
                break
            time.sleep(0.05)
        for trace in traces:
            trace.strays, trace.shared = len(strays), trace.shared & left
        processes.kill(strays)


class _Nursery:
    """A process of :mod:`ecopipe.testing.nursery`, as its parent sees it."""

    def __init__(self, target: str, environment: dict[str, str], folder: Path, *, forks: bool) -> None:
        self._forks, self._log = forks, folder / "imports.output"
        arguments = [target, str(folder), *([] if forks else ["--once"])]
        with self._log.open("ab") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "ecopipe.testing.nursery", *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment,
                text=True,
                start_new_session=True,
            )
        self.pid = self._process.pid
        self._requests, self._replies = cast("IO[str]", self._process.stdin), cast("IO[str]", self._process.stdout)
        try:
            reply = self._reply()
            if "refused" in reply:
                raise ConfigError(reply["refused"])
        except BaseException:
            self.close()
            raise

    def begin(self, request: dict[str, Any]) -> int:
        self._ask(request)
        return int(self._reply()["pid"]) if self._forks else self.pid

    def reap(self, pid: int) -> int:
        if not self._forks:
            return self._process.wait()
        self._ask({"reap": pid})
        return int(self._reply()["status"])

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._requests.close()
        self._replies.close()

    def _ask(self, request: dict[str, Any]) -> None:
        self._requests.write(json.dumps(request) + "\n")
        self._requests.flush()

    def _reply(self) -> dict[str, Any]:
        line = self._replies.readline()
        if not line:
            said = self._log.read_text(errors="replace").strip().splitlines()[-1:]
            raise ConfigError(f"testing: the process that imported the loader's modules ended: {''.join(said)}")
        reply: dict[str, Any] = json.loads(line)
        return reply


def _note(trace: Trace, event: dict[str, Any]) -> None:
    """Adds an event of a trial to its trace."""
    if "epoch" in event:
        trace.batches.append([])
        trace.states.append([])
        trace.lengths.append(event["length"])
    elif "batch" in event:
        trace.batches[-1].append(event["batch"])
    elif "state" in event:
        trace.states[-1].append(event["state"])
    elif "boundary" in event:
        trace.boundaries.append(event["boundary"])
    elif "descriptors" in event:
        trace.descriptors.append(event["descriptors"])
        trace.segments.append(event["segments"])
    elif "shared" in event:
        trace.shared |= set(event["shared"])
    elif "killed" in event:
        trace.killed = event["killed"]
    elif "skipped" in event:
        trace.skipped = event["skipped"]
    elif "error" in event:
        trace.end, trace.error, trace.detail = "raised", event["error"], event["detail"]
    elif "done" in event:
        trace.end = "done"


def _ends(pid: int, deadline: float) -> bool:
    """Whether a process ends before the deadline. It need not be a child of this one, and is not reaped."""
    try:
        watch = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        left = max(0.0, deadline - time.monotonic())
        return bool(select.select([watch], [], [], left)[0])
    finally:
        os.close(watch)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

"""The process that imports a loader once, and then forks a fresh process for each trial. ``python -m`` starts it.

Importing torch takes seconds; a fork of a process that has done nothing but import takes milliseconds. With ``--once``
it forks nothing and does its one trial itself, for loaders that do not survive a fork.

It reads a request a line, as JSON: a trial to begin, answered with the pid of its process; or a pid to reap, answered
with its exit status. If its input ends, its parent was killed: it kills what it began, removes the check's temporary
folder, and ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any, TextIO

from ecopipe.testing.contract import Contract, resolve
from ecopipe.testing.trial import Trial, describe, perform
from ecopipe.vocabulary.errors import ConfigError


def serve(requests: TextIO, replies: TextIO, *, forks: bool) -> dict[str, Any] | None:
    """Answers requests until the input ends; gives the request that this process, freshly forked, is to perform."""
    running: set[int] = set()
    for line in requests:
        request = json.loads(line)
        if "reap" in request:
            status = os.waitpid(request["reap"], 0)[1]
            running.discard(request["reap"])
            _say(replies, status=os.waitstatus_to_exitcode(status))
            continue
        pid = os.fork() if forks else 0
        if pid == 0:
            replies.close()
            return dict(request)
        running.add(pid)
        _say(replies, pid=pid)
    for pid in running:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return None


def _say(replies: TextIO, **reply: Any) -> None:
    replies.write(json.dumps(reply) + "\n")
    replies.flush()


def _begin(contract: Contract, request: dict[str, Any]) -> None:
    """Makes this process the trial's: its own session, output and environment."""
    if os.getsid(0) != os.getpid():
        os.setsid()
    output = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for descriptor, place in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(descriptor, place)
    os.close(output)
    os.close(nothing)
    os.environ.update(request["environment"])
    if request["trial"] is None:
        describe(contract, Path(request["events"]))
        return
    states = tuple(request["trial"].pop("states"))
    trial = Trial(states=states, **request["trial"])
    perform(contract, trial, Path(request["events"]), request["mark"])


def main() -> None:
    target, folder, *flags = sys.argv[1:]
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the loader's modules print is not a reply
    try:
        contract = resolve(target)
    except ConfigError as error:
        _say(replies, refused=str(error))
        return
    _say(replies, ready=True)
    request = serve(sys.stdin, replies, forks="--once" not in flags)
    if request is None:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        _begin(contract, request)


if __name__ == "__main__":
    main()

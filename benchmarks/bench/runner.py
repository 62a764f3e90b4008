"""Runs measurements, each in a process of its own, with a temporary folder of its own and a limit of time."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "RAY_DEDUP_LOGS": "0", "TQDM_DISABLE": "1"}


@dataclass(frozen=True)
class Outcome:
    """The figures of a measurement; or, if there are none, the reason."""

    figures: dict[str, Any] | None
    reason: str = ""


def run(task: dict[str, Any], work: Path, timeout_s: float) -> Outcome:
    """Runs one measurement, and ends whatever is left of it.

    Args:
        task: What :mod:`benchmarks.bench.cell` is to do; JSON.
        work: A folder for the task and for its temporary folder, which is deleted.
        timeout_s: Seconds after which its processes are killed.
    """
    folder = Path(tempfile.mkdtemp(prefix="r", dir=work))
    out, told = folder / "figures.json", folder / "stderr"
    (folder / "t").mkdir()
    (folder / "task.json").write_text(json.dumps({**task, "out": str(out)}))
    environment = os.environ | ENVIRONMENT
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # what is installed has its bytecode, and so has a checkout in use
    environment |= {"TMPDIR": str(folder / "t"), "HF_HOME": str(folder / "t"), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "benchmarks.bench.cell", str(folder / "task.json")]
    try:
        with open(told, "wb") as errors:
            process = subprocess.Popen(
                command, stdout=errors, stderr=errors, env=environment, cwd=ROOT, start_new_session=True
            )
            ended = _ended(process, out, timeout_s)
        if out.exists() and out.stat().st_size:
            return Outcome(json.loads(out.read_text()))
        if not ended:
            return Outcome(None, f"no result within {timeout_s:g} s")
        return Outcome(None, _last_line(told, process.returncode))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


GRACE_S = 20.0
"""Seconds in which a process that has written its figures may end by itself."""


def _ended(process: subprocess.Popen[bytes], out: Path, timeout_s: float) -> bool:
    """Waits until the process ended, and kills its group if it does not; whether it ended by itself."""
    begun = time.monotonic()
    written = None
    while process.poll() is None:
        now = time.monotonic()
        if written is None and out.exists():
            written = now
        if now - begun > timeout_s or (written is not None and now - written > GRACE_S):
            break
        time.sleep(0.02)
    by_itself = process.poll() is not None
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)  # also what it left behind
    process.wait()
    return by_itself


def _last_line(told: Path, code: int | None) -> str:
    lines = [line.strip() for line in told.read_text(errors="replace").splitlines() if line.strip()]
    raised = [line for line in lines if not line.startswith(("warning", "Warning", "^", "~"))]
    return f"{raised[-1][:300]} (exit status {code})" if raised else f"exit status {code}"

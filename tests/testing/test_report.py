"""What a check says: as text, a table, JSON, and from the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ecopipe.testing import LAWS, Report, Verdict, check, processes, statement
from ecopipe.testing.report import cell

TOYS = "tests.testing.toys"
ROOT = Path(__file__).resolve().parents[2]
VERDICTS = (
    Verdict("exactly_once", "Each sample | once.", "pass", "23 samples", 0.5),
    Verdict("second_resume", "Again.", "hangs", "no answer\nin 4 s", 4.0),
    Verdict("elastic_order", "In order.", "not offered", "has no ranks", 0.0),
)
REPORT = Report("module:name", VERDICTS)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ecopipe.testing", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_a_report_as_text_table_and_json() -> None:
    assert REPORT.failures == [VERDICTS[1]]
    assert str(REPORT).splitlines() == [
        "module:name",
        "pass         exactly_once   23 samples",
        "hangs        second_resume  no answer",
        "in 4 s",
        "not offered  elastic_order  has no ranks",
    ]
    assert REPORT.table().splitlines() == [
        "| law | outcome | evidence |",
        "|---|---|---|",
        "| Each sample \\| once. | pass | 23 samples |",
        "| Again. | hangs | no answer in 4 s |",
        "| In order. | not offered | has no ranks |",
    ]
    assert json.loads(REPORT.json())["verdicts"][0]["outcome"] == "pass"
    assert cell("a |\n b") == "a \\| b"


def test_each_law_states_itself_in_a_sentence() -> None:
    for law in LAWS:
        assert statement(law).endswith(".")
        assert "\n" not in statement(law)


def test_progress_is_told_law_by_law() -> None:
    seen: list[Verdict] = []
    report = check(f"{TOYS}:sound", laws=["exactly_once", "equal_steps"], progress=seen.append)
    assert tuple(seen) == report.verdicts


@pytest.mark.parametrize(
    ("arguments", "code", "out", "err"),
    [
        (("sound", "--law", "equal_steps"), 0, "pass         equal_steps               6 = 6, 4 = 4 = 4 steps\n", ""),
        (
            ("liesaboutitslength", "--law", "length_is_true"),
            1,
            "fails        length_is_true            says 11, and 12 batches come (0 workers)\n",
            "",
        ),
        (
            ("sound", "--law", "second_resme"),
            2,
            "",
            "testing: there is no law 'second_resme'. Did you mean 'second_resume'?",
        ),
    ],
)
def test_the_command_line(arguments: tuple[str, ...], code: int, out: str, err: str) -> None:
    done = run(f"{TOYS}:{arguments[0]}", *arguments[1:])
    assert (done.returncode, done.stdout) == (code, out)
    assert done.stderr.startswith(err)


def test_the_command_line_gives_json_and_help() -> None:
    done = run(f"{TOYS}:sound", "--law", "exactly_once", "--json", "--fresh")
    assert json.loads(done.stdout)["verdicts"][0]["evidence"] == "23 samples"
    assert all(law in run("--help").stdout for law in LAWS)


def test_importing_the_kit_imports_neither_torch_nor_pytest() -> None:
    code = "import ecopipe.testing, sys; sys.exit(bool({'torch', 'pytest', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_check_that_is_killed_leaves_no_process_and_no_folder(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ecopipe.testing", f"{TOYS}:neverexits", "--law", "exactly_once"]
    with subprocess.Popen(command, cwd=ROOT, env={**os.environ, "TMPDIR": str(tmp_path)}) as checking:
        deadline = time.monotonic() + 30
        while len(family := processes.descendants(checking.pid)) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        os.kill(checking.pid, signal.SIGKILL)
    assert len(family) == 2
    while any(Path(f"/proc/{pid}").exists() for pid in family) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [pid for pid in family if Path(f"/proc/{pid}").exists()] == []
    assert list(tmp_path.iterdir()) == []

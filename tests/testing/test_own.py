"""ecopipe's own loader keeps every law of the kit."""

from __future__ import annotations

from pathlib import Path

import pytest

from ecopipe.testing import LAWS, check

from . import own

TARGET = "tests.testing.own:contract"
QUICK = {
    "second_resume": "the exact rest",
    "damaged_sample": "raises an error that names s09",
    "worker_killed": "goes on, nothing lost",
    "killed_leaves_nothing": "nothing left",
}


@pytest.fixture
def shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own.write(tmp_path)
    monkeypatch.setenv(own.FOLDER, str(tmp_path))


@pytest.mark.usefixtures("shards")
def test_the_loader_keeps_its_contract() -> None:
    report = check(TARGET, laws=QUICK)
    assert {verdict.law: verdict.evidence for verdict in report.verdicts if verdict.outcome == "pass"} == QUICK


@pytest.mark.long
@pytest.mark.usefixtures("shards")
def test_the_loader_keeps_every_law() -> None:
    report = check(TARGET)
    assert {verdict.law for verdict in report.verdicts if verdict.outcome == "pass"} == set(LAWS)

"""The kit itself: a sound loader keeps every law, and each flawed one is caught, by the laws that it breaks."""

from __future__ import annotations

import fcntl
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

import ecopipe.testing
from ecopipe.testing import LAWS, check

from . import toys

TOYS = "tests.testing.toys"


@pytest.fixture(autouse=True)
def shared_memory_of_toys(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """Names of its own; and a toy that leaves some has the machine's shared memory to itself among these tests."""
    own = Path(f"/dev/shm/ecopipe-toy-{uuid.uuid4().hex}")
    monkeypatch.setenv(toys.SEGMENTS, str(own))
    alone = "sharedmemory" in request.node.name
    with (tmp_path_factory.getbasetemp().parent / "shared-memory.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        yield
        for left in own.parent.glob(f"{own.name}-*"):
            left.unlink()


@pytest.mark.parametrize("law", ["exactly_once", "elastic_order"])
def test_a_loader_keeps_its_contract(law: str) -> None:
    """As a user of the kit writes it, who would take all of LAWS."""
    assert not ecopipe.testing.check(f"{TOYS}:sound", laws=[law]).failures


def test_a_sound_loader_keeps_every_law() -> None:
    assert {verdict.outcome for verdict in check(f"{TOYS}:sound").verdicts} == {"pass"}


def test_every_law_is_broken_by_some_toy() -> None:
    assert set().union(*toys.FLAWED.values()) == set(LAWS)


EVIDENCE = {
    "neverdelivers": ("exactly_once", "fails", "1 of 23 samples lost (s03) in epoch 0 with 0 workers"),
    "unequalsteps": ("equal_steps", "fails", "4 and 5 and 4 steps with 0 workers; 4 and 5 and 4 steps with 2 workers"),
    "liesaboutitslength": ("length_is_true", "fails", "says 11, and 12 batches come (0 workers)"),
    "losesabatchatonestep": (
        "resume_at_every_step",
        "fails",
        "at 2 of 24 steps; 0 workers, after step 9 of 12: of the 5 samples due 2 lost",
    ),
    "refusesotherworkers": (
        "resume_with_other_workers",
        "raises",
        "ValueError: a state of 2 workers (0 workers, resumed)",
    ),
    "reorderswhenrankschange": (
        "elastic_order",
        "fails",
        "at 6 of 6 changes; 1 to 2: step 7 brings others than the next 3 of the order",
    ),
    "silentaboutdamage": ("damaged_sample", "fails", "0 workers: leaves out s09 without a word"),
    "hangswhenaworkerdies": ("worker_killed", "hangs", "no answer in 4 s after 2 batches (2 workers)"),
    "endswhenaworkerdies": (
        "worker_killed",
        "fails",
        "killed after batch 1: the epoch ends without an error, and 19 of 23 samples lost (s00, s02, s03 ...)",
    ),
    "leaksadescriptor": ("nothing_grows", "fails", "0 workers: 6, 7, 8, 9, 10, 11 descriptors after 6 epochs"),
    "leavessharedmemorytoitsend": (
        "nothing_grows",
        "fails",
        "0 workers: 1, 2, 3, 4, 5, 6 names in /dev/shm after 6 epochs",
    ),
    "leavesaprocess": ("killed_leaves_nothing", "fails", "left 1 s later, processes: 1"),
}


@pytest.mark.parametrize("toy", toys.FLAWED)
def test_a_flaw_is_caught_and_the_evidence_says_what_was_seen(toy: str) -> None:
    report = check(f"{TOYS}:{toy}", laws=toys.FLAWED[toy], timeout_s=4, grace_s=1)
    assert {verdict.law for verdict in report.failures} == toys.FLAWED[toy]
    if toy in EVIDENCE:
        assert EVIDENCE[toy] in [(verdict.law, verdict.outcome, verdict.evidence) for verdict in report.verdicts]


@pytest.mark.long
@pytest.mark.parametrize("toy", toys.FLAWED)
def test_a_flaw_breaks_no_other_law(toy: str) -> None:
    report = check(f"{TOYS}:{toy}", timeout_s=10, grace_s=5)
    assert {verdict.law for verdict in report.failures} == toys.FLAWED[toy]


@pytest.mark.parametrize(
    ("toy", "law", "evidence"),
    [
        ("sound", "damaged_sample", "raises an error that names s09"),
        ("warns_of_damage", "damaged_sample", "leaves it out, and names s09"),
        ("counts_damage", "damaged_sample", "leaves it out, and counts it"),
        ("sound", "worker_killed", "raises RuntimeError: the worker is gone"),
        ("replaces_workers", "worker_killed", "goes on, nothing lost"),
        ("sound", "equal_steps", "6 = 6, 4 = 4 = 4 steps"),
        ("sound", "length_is_true", "12, 6, as said"),
    ],
)
def test_there_is_more_than_one_way_to_keep_a_law(toy: str, law: str, evidence: str) -> None:
    (verdict,) = check(f"{TOYS}:{toy}", laws=[law]).verdicts
    assert (verdict.outcome, verdict.evidence) == ("pass", evidence)


def test_what_is_not_offered_is_no_failure() -> None:
    report = check(f"{TOYS}:bare")
    outcomes = {verdict.law: verdict.outcome for verdict in report.verdicts}
    assert report.failures == []
    assert {law for law, outcome in outcomes.items() if outcome == "pass"} == {
        "exactly_once",
        "same_seed_same_order",
        "epochs_differ",
        "nothing_grows",
        "finished_leaves_nothing",
        "killed_then_run_again",
        "killed_leaves_nothing",
    }


def test_a_constant_loss_is_unseen_where_samples_are_not_declared_and_the_verdict_says_so() -> None:
    (verdict,) = check(f"{TOYS}:undeclared", laws=["exactly_once"]).verdicts
    assert verdict.outcome == "pass"
    assert verdict.evidence == "23 samples; the contract does not list them, so a constant loss would go unseen"


@pytest.mark.parametrize(
    ("toy", "outcome", "evidence"),
    [
        ("dies", "fails", "the process died of SIGSEGV after its last epoch (0 workers)"),
        ("exits", "fails", "the process died of exit code 3 after its last epoch (0 workers)"),
        ("neverexits", "hangs", "no answer in 2 s after its last epoch (0 workers)"),
        ("endless", "raises", "RuntimeError: epoch 0 does not end: 10001 batches came (0 workers)"),
    ],
)
def test_every_way_to_end_badly_is_a_result(toy: str, outcome: str, evidence: str) -> None:
    timeout_s = 2 if outcome == "hangs" else 60
    (verdict,) = check(f"{TOYS}:{toy}", laws=["exactly_once"], timeout_s=timeout_s).verdicts
    assert (verdict.outcome, verdict.evidence) == (outcome, evidence)


def test_an_epoch_too_short_to_resume_in_is_no_pass() -> None:
    for verdict in check(f"{TOYS}:hasty", laws=["second_resume", "resume_at_every_step"]).verdicts:
        assert verdict.outcome == "fails"
        assert verdict.evidence == "an epoch has 5 steps; to resume in its midst it needs 6"


def test_each_run_can_have_an_interpreter_of_its_own() -> None:
    report = check(f"{TOYS}:sound", laws=["second_resume", "exactly_once_over_ranks"], start="fresh")
    assert [verdict.outcome for verdict in report.verdicts] == ["pass", "pass"]

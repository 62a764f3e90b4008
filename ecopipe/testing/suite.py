"""The laws by name, and the check of a loader against them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

from ecopipe.testing import delivery, faults, resume
from ecopipe.testing.lab import Lab, Start
from ecopipe.testing.report import Outcome, Report, Stop, Verdict
from ecopipe.vocabulary.errors import ConfigError, nearest

Law = Callable[[Lab], str]
"""Gives the evidence that it holds, or raises :class:`Stop`."""

_IN_ORDER: tuple[Law, ...] = (
    delivery.exactly_once,
    delivery.exactly_once_over_ranks,
    delivery.equal_steps,
    delivery.workers_have_no_say,
    delivery.same_seed_same_order,
    delivery.epochs_differ,
    delivery.length_is_true,
    resume.resume_at_every_step,
    resume.second_resume,
    resume.resume_in_second_epoch,
    resume.epoch_after_resume,
    resume.resume_with_other_workers,
    resume.elastic_exactly_once,
    resume.elastic_order,
    faults.damaged_sample,
    faults.nothing_grows,
    faults.finished_leaves_nothing,
    faults.worker_killed,
    faults.killed_then_run_again,
    faults.killed_leaves_nothing,  # last: what a killed run leaves behind must not disturb the other laws
)
LAWS: Mapping[str, Law] = MappingProxyType({getattr(law, "__name__", ""): law for law in _IN_ORDER})
"""Every law by its name."""


def statement(law: str) -> str:
    """What a law demands, in a sentence."""
    return str(LAWS[law].__doc__).strip()


def check(
    target: str,
    *,
    laws: Iterable[str] | None = None,
    timeout_s: float = 60.0,
    grace_s: float = 20.0,
    start: Start = "fork",
    progress: Callable[[Verdict], None] | None = None,
) -> Report:
    """Checks a loader against the laws.

    Args:
        target: ``"module:name"`` of a :class:`Contract`, or of a function that makes a loader.
        laws: Names of :data:`LAWS`; None is all of them. They are asked in the order of :data:`LAWS`.
        timeout_s: Seconds that one run of the loader may take; one that takes longer hangs.
        grace_s: Seconds that processes and shared memory may outlive the run that made them.
        start: ``"fork"`` imports the loader's modules once and forks a process for each run; ``"fresh"`` starts an
            interpreter for each, for loaders that do not survive a fork.
        progress: Called with each verdict as it is reached.

    Raises:
        ConfigError: There is no such loader or law.
    """
    asked = list(LAWS) if laws is None else list(laws)
    for law in asked:
        if law not in LAWS:
            raise ConfigError(f"testing: there is no law {law!r}. {nearest(law, LAWS)}")
    if timeout_s <= 0 or grace_s < 0:
        raise ConfigError(f"testing: timeout_s must be over 0 and grace_s not under it, got {timeout_s} and {grace_s}.")
    verdicts = []
    with Lab(target, timeout_s=timeout_s, grace_s=grace_s, start=start) as lab:
        for law in (law for law in LAWS if law in asked):
            verdicts.append(_judge(law, lab))
            if progress is not None:
                progress(verdicts[-1])
    return Report(target, tuple(verdicts))


def _judge(law: str, lab: Lab) -> Verdict:
    began = time.monotonic()
    outcome: Outcome = "pass"
    try:
        evidence = LAWS[law](lab)
    except Stop as stop:
        outcome, evidence = stop.outcome, stop.evidence
    return Verdict(law, statement(law), outcome, evidence, round(time.monotonic() - began, 2))

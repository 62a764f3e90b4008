"""Laws about what goes wrong: killed workers, killed trainers, damaged samples, and what is left behind."""

from __future__ import annotations

import itertools

from ecopipe.testing.compare import account
from ecopipe.testing.delivery import two_epochs, worker_counts
from ecopipe.testing.lab import Lab, Trace
from ecopipe.testing.report import Stop, listed
from ecopipe.testing.trial import Trial

EPOCHS = 6
RISING = 4


def usual(lab: Lab, workers: int) -> list[str]:
    """What a run delivers to which nothing happens: these laws ask for no more."""
    return two_epochs(lab, workers).flat()


def worker_killed(lab: Lab) -> str:
    """When a worker is killed, the loader raises or goes on; it neither hangs nor loses samples in silence."""
    if "workers" not in lab.offers:
        raise Stop("not offered", "has no workers")
    told = []
    for after in (1, max(1, len(two_epochs(lab, 2).batches[0]) // 2)):
        (trace,) = lab.run(Trial(workers=2, after=after, then="kill a worker"))
        if trace.end != "hung" and not trace.killed:
            raise Stop("not offered", "has no worker processes")
        if trace.end == "raised":
            told.append(f"raises {trace.error}")
            continue
        if wrong := account(trace.expect_done().flat(), usual(lab, 2)):
            raise Stop("fails", f"killed after batch {after}: the epoch ends without an error, and {wrong}")
        told.append("goes on, nothing lost")
    return "; ".join(dict.fromkeys(told))


def killed_then_run_again(lab: Lab) -> str:
    """After a run was killed, the next one works."""
    workers = worker_counts(lab)[-1]
    _kill_trainer(lab, workers, linger=False)
    if wrong := account(lab.one(workers=workers, attempt=3).flat(), usual(lab, workers)):
        raise Stop("fails", f"the next run: {wrong}")
    return "the next run is whole"


def killed_leaves_nothing(lab: Lab) -> str:
    """A run that was killed leaves no process and no shared memory behind."""
    return _leaves_nothing(lab, _kill_trainer(lab, worker_counts(lab)[-1], linger=True))


def finished_leaves_nothing(lab: Lab) -> str:
    """A run that is over leaves no process and no shared memory behind."""
    return _leaves_nothing(lab, lab.one(workers=worker_counts(lab)[-1], epochs=2, linger=True))


def nothing_grows(lab: Lab) -> str:
    """Open file descriptors and shared memory, over all processes of a run, do not grow from epoch to epoch."""
    seen = []
    for workers in worker_counts(lab):
        trace = lab.one(workers=workers, epochs=EPOCHS)
        for counts, what in ((trace.descriptors, "descriptors"), (trace.segments, "names in /dev/shm")):
            if all(earlier < later for earlier, later in itertools.pairwise(counts[-RISING:])):
                raise Stop("fails", f"{workers} workers: {', '.join(map(str, counts))} {what} after {EPOCHS} epochs")
        seen.append(f"{trace.descriptors[0]} to {trace.descriptors[-1]}")
    return f"{' and '.join(seen)} descriptors in {EPOCHS} epochs"


def damaged_sample(lab: Lab) -> str:
    """A sample that cannot be decoded is an error that names it, or is left out and accounted for, alone."""
    if "damaged" not in lab.offers:
        raise Stop("not offered", "the contract has no damaged data set")
    told = []
    for workers in worker_counts(lab):
        (trace,) = lab.run(Trial(workers=workers, damaged=True))
        named = [name for name in lab.damaged_names if name in trace.detail]
        if trace.end == "raised":
            if not named:
                raise Stop("fails", f"{workers} workers: names neither the sample nor its shard: {trace.error}")
            told.append(f"raises an error that names {named[0]}")
            continue
        delivered = trace.expect_done().flat()
        lost = sorted(set(usual(lab, workers)) - set(delivered))
        if not lost:
            raise Stop("fails", f"{workers} workers: the damaged sample is delivered like any other")
        if wrong := account([*delivered, lost[0]], usual(lab, workers)):
            raise Stop("fails", f"{workers} workers: leaves out more than the one: {wrong}")
        if trace.skipped != 1 and not named:
            raise Stop("fails", f"{workers} workers: leaves out {lost[0]} without a word")
        told.append(f"leaves it out, and {'counts it' if trace.skipped == 1 else f'names {named[0]}'}")
    return "; ".join(dict.fromkeys(told))


def _kill_trainer(lab: Lab, workers: int, *, linger: bool) -> Trace:
    half = max(1, len(two_epochs(lab, workers).batches[0]) // 2)
    (trace,) = lab.run(Trial(workers=workers, after=half, then="kill the trainer", linger=linger))
    if "SIGKILL" not in trace.error:
        trace.expect_done()
        raise Stop("fails", f"the run is over before batch {half}")
    return trace


def _leaves_nothing(lab: Lab, trace: Trace) -> str:
    left = [f"processes: {trace.strays}"] if trace.strays else []
    left += [f"in /dev/shm: {len(trace.shared)} ({listed(sorted(trace.shared))})"] if trace.shared else []
    if left:
        raise Stop("fails", f"left {lab.grace_s:g} s later, {', '.join(left)}")
    return "nothing left"

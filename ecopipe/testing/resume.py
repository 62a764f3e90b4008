"""Laws about saving and restoring: the rest of an epoch is what it would have been, also on other workers and ranks."""

from __future__ import annotations

import itertools
from collections.abc import Callable

from ecopipe.testing.compare import account, difference
from ecopipe.testing.delivery import expected, worker_counts
from ecopipe.testing.lab import Keys, Lab, Trace
from ecopipe.testing.report import Outcome, Stop

FEWEST_STEPS = 6
"""With fewer, there would be nothing left to deliver after some of the resumes below."""
WORLD_CHANGES = tuple(itertools.permutations((1, 2, 3), 2))


def saved(lab: Lab, workers: int) -> Trace:
    """Two uninterrupted epochs of one rank, with the state after every batch."""
    for name in ("save", "load"):
        if name not in lab.offers:
            raise Stop("not offered", "its place cannot be saved and restored")
    trace = lab.one(workers=workers, epochs=2, save=True)
    if (steps := min(map(len, trace.batches))) < FEWEST_STEPS:
        raise Stop("fails", f"an epoch has {steps} steps; to resume in its midst it needs {FEWEST_STEPS}")
    return trace


def resume_at_every_step(lab: Lab) -> str:
    """From the state after any step a fresh process delivers the exact rest of the epoch, in order."""
    steps, wrong = 0, []
    for workers in worker_counts(lab):
        whole = saved(lab, workers)
        steps += (count := len(whole.batches[0]))
        for step, state in enumerate(whole.states[0], 1):
            rest = lab.one(workers=workers, states=(state,)).batches[0]
            if step == count and rest == whole.batches[1]:  # the rest is empty, and it goes on with the next epoch
                continue
            if found := difference(rest, whole.batches[0][step:]):
                wrong.append(f"{workers} workers, after step {step} of {count}: {found}")
    if wrong:
        raise Stop("fails", f"at {len(wrong)} of {steps} steps; {wrong[0]}")
    return f"at all {steps} steps"


def second_resume(lab: Lab) -> str:
    """A run that was restored can be saved and restored again."""
    for workers in worker_counts(lab):
        whole = saved(lab, workers)
        count = len(whole.batches[0])
        for first, second in ((1, 1), (count // 2, 2)):
            again = lab.one(workers=workers, states=(whole.states[0][first - 1],), save=True, after=second, then="stop")
            if len(again.states[0]) < second:
                raise Stop("fails", f"{workers} workers: only {len(again.states[0])} batches after the first resume")
            rest = lab.one(workers=workers, states=(again.states[0][-1],))
            if found := difference(rest.batches[0], whole.batches[0][first + second :]):
                raise Stop("fails", f"{workers} workers, after {first} + {second} of {count} steps: {found}")
    return "the exact rest"


def resume_in_second_epoch(lab: Lab) -> str:
    """A state of the second epoch gives the exact rest of the second epoch."""
    for workers in worker_counts(lab):
        whole = saved(lab, workers)
        count = len(whole.batches[1])
        for step in (1, count // 2, count - 1):
            rest = lab.one(workers=workers, states=(whole.states[1][step - 1],), epoch=1)
            if found := difference(rest.batches[0], whole.batches[1][step:]):
                raise Stop("fails", f"{workers} workers, after step {step} of {count}: {found}")
    return "the exact rest"


def epoch_after_resume(lab: Lab) -> str:
    """The epoch after a restored one is whole, and what it would have been; also from a state between two epochs."""
    for workers in worker_counts(lab):
        whole = saved(lab, workers)
        half = len(whole.batches[0]) // 2
        middle = lab.one(workers=workers, states=(whole.states[0][half - 1],), epochs=2).batches[1]
        if found := difference(middle, whole.batches[1]):
            raise Stop("fails", f"{workers} workers, saved mid-epoch: {found}")
        between = lab.one(workers=workers, states=(whole.boundaries[0],), epoch=1, epochs=2).batches
        found = difference(between[0], whole.batches[1])
        if found and between != [[], whole.batches[1]]:  # it may first give the nothing that was left of the old epoch
            raise Stop("fails", f"{workers} workers, saved between epochs: {found}")
    return "the same epoch"


def resume_with_other_workers(lab: Lab) -> str:
    """A state goes on exactly with another number of workers."""
    if "workers" not in lab.offers:
        raise Stop("not offered", "has no workers")
    for before, after in ((2, 0), (2, 1), (0, 2)):
        whole = saved(lab, before)
        half = len(whole.batches[0]) // 2
        rest = lab.one(workers=after, states=(whole.states[0][half - 1],))
        if found := difference(rest.batches[0], whole.batches[0][half:]):
            raise Stop("fails", f"workers={after} after {before}: {found}")
    return "the exact rest"


def elastic_exactly_once(lab: Lab) -> str:
    """When the number of ranks changes mid-epoch, before and after together deliver each sample exactly once."""

    def wrong(steps: list[Keys]) -> str:
        return account([key for step in steps for key in step], expected(lab))

    return _at_every_change(lab, wrong, "nothing lost or repeated")


def elastic_order(lab: Lab) -> str:
    """Through a change of ranks, what came by the end of any step is the beginning of the order that one rank has."""
    order = lab.one(epochs=2).flat()

    def wrong(steps: list[Keys]) -> str:
        so_far: Keys = []
        for number, step in enumerate(steps, 1):
            so_far += step
            if sorted(so_far) != sorted(order[: len(so_far)]):
                return f"step {number} brings others than the next {len(step)} of the order"
        return ""

    return _at_every_change(lab, wrong, "one order")


def _at_every_change(lab: Lab, wrong: Callable[[list[Keys]], str], right: str) -> str:
    """Asks what is wrong at each change of the number of ranks. A trial that hangs or raises is wrong, too."""
    found: list[tuple[Outcome, str]] = []
    for before, after in WORLD_CHANGES:
        try:
            if text := wrong(_steps(*_change(lab, before, after))):
                found.append(("fails", f"{before} to {after}: {text}"))
        except Stop as stop:
            if stop.outcome == "not offered":
                raise
            found.append((stop.outcome, f"{before} to {after}: {stop.evidence}"))
    if found:
        raise Stop(found[0][0], f"at {len(found)} of {len(WORLD_CHANGES)} changes; {found[0][1]}")
    return f"{right} at all {len(WORLD_CHANGES)} changes between 1, 2 and 3 ranks"


def _change(lab: Lab, before: int, after: int) -> tuple[list[Trace], list[Trace]]:
    """The traces of the ranks before and after a change of their number, half-way through the epoch."""
    for name, without in (("ranks", "has no ranks"), ("redeal", "has no way to go on with another number of ranks")):
        if name not in lab.offers:
            raise Stop("not offered", without)
    steps = len(saved(lab, 0).batches[0])
    half = max(1, steps // before // 2)
    old = lab.ranks(before, save=True, after=half, then="stop")
    if any(len(trace.states[0]) < half for trace in old):
        raise Stop("fails", f"a rank of {before} makes fewer than {half} steps")
    states = tuple(trace.states[0][-1] for trace in old)
    return old, lab.ranks(after, states=states)


def _steps(*halves: list[Trace]) -> list[Keys]:
    """The keys of each step, over all ranks, of one group of ranks after another."""
    return [
        [key for batch in step for key in batch]
        for ranks in halves
        for step in itertools.zip_longest(*(trace.batches[0] for trace in ranks), fillvalue=[])
    ]

"""Laws about what is delivered: each sample once, on equal ranks, in an order that only seed and epoch decide."""

from __future__ import annotations

from ecopipe.testing.compare import account, difference
from ecopipe.testing.lab import Lab, Trace
from ecopipe.testing.report import Stop

WORKERS = (0, 2)
WORLDS = (2, 3)


def worker_counts(lab: Lab) -> tuple[int, ...]:
    """The numbers of workers to try."""
    return WORKERS if "workers" in lab.offers else (0,)


def two_epochs(lab: Lab, workers: int) -> Trace:
    """Two epochs of one rank."""
    return lab.one(workers=workers, epochs=2)


def expected(lab: Lab) -> list[str]:
    """The keys of all samples: as declared, or else as they came in one epoch."""
    return lab.samples if lab.samples is not None else sorted(set(two_epochs(lab, 0).flat()))


def exactly_once(lab: Lab) -> str:
    """Each sample comes exactly once in each epoch."""
    samples = expected(lab)
    for workers in worker_counts(lab):
        trace = two_epochs(lab, workers)
        for epoch in range(2):
            if wrong := account(trace.flat(epoch), samples):
                raise Stop("fails", f"{wrong} in epoch {epoch} with {workers} workers")
    known = "" if lab.samples is not None else "; the contract does not list them, so a constant loss would go unseen"
    return f"{len(samples)} samples{known}"


def exactly_once_over_ranks(lab: Lab) -> str:
    """Each sample comes exactly once over all ranks; what only fills the last step is marked."""
    _need_ranks(lab)
    wrong = []
    for workers in worker_counts(lab):
        for world_size in WORLDS:
            delivered = [key for trace in lab.ranks(world_size, workers=workers) for key in trace.flat()]
            if found := account(delivered, expected(lab)):
                wrong.append(f"{world_size} ranks, {workers} workers: {found}")
    if wrong:
        raise Stop("fails", "; ".join(wrong))
    return f"on {' and '.join(map(str, WORLDS))} ranks"


def equal_steps(lab: Lab) -> str:
    """All ranks make the same number of steps."""
    _need_ranks(lab)
    seen, unequal = [], []
    for workers in worker_counts(lab):
        for world_size in WORLDS:
            steps = [len(trace.batches[0]) for trace in lab.ranks(world_size, workers=workers)]
            seen.append(" = ".join(map(str, steps)))
            if len(set(steps)) > 1:
                unequal.append(f"{' and '.join(map(str, steps))} steps with {workers} workers")
    if unequal:
        raise Stop("fails", "; ".join(unequal))
    return f"{', '.join(dict.fromkeys(seen))} steps"


def workers_have_no_say(lab: Lab) -> str:
    """The batches and their order are the same for 0, 1 and 2 workers."""
    if "workers" not in lab.offers:
        raise Stop("not offered", "has no workers")
    wanted = two_epochs(lab, 0).batches[0]
    for workers in (1, 2):
        if wrong := difference(lab.one(workers=workers, epochs=2).batches[0], wanted):
            raise Stop("fails", f"workers={workers} instead of 0: {wrong}")
    return "the same batches"


def same_seed_same_order(lab: Lab) -> str:
    """Two runs with the same seed have the same order."""
    for workers in worker_counts(lab):
        first, second = (lab.one(workers=workers, attempt=attempt) for attempt in (1, 2))
        if wrong := difference(second.batches[0], first.batches[0]):
            raise Stop("fails", f"{workers} workers: {wrong}")
    return "the same batches"


def epochs_differ(lab: Lab) -> str:
    """Another epoch has another order."""
    for workers in worker_counts(lab):
        trace = two_epochs(lab, workers)
        if trace.flat(0) == trace.flat(1):
            raise Stop("fails", f"{workers} workers: epoch 1 comes in the order of epoch 0")
    return "another order"


def length_is_true(lab: Lab) -> str:
    """``len`` is the number of batches that come."""
    lengths = []
    for workers in worker_counts(lab):
        traces = [two_epochs(lab, workers)]
        if "ranks" in lab.offers:
            traces += lab.ranks(2, workers=workers)
        for trace in traces:
            for said, batches in zip(trace.lengths, trace.batches, strict=True):
                if said is None:
                    raise Stop("not offered", "has no length")
                if said != len(batches):
                    raise Stop("fails", f"says {said}, and {len(batches)} batches come ({trace.trial})")
                lengths.append(said)
    return f"{', '.join(map(str, dict.fromkeys(lengths)))}, as said"


def _need_ranks(lab: Lab) -> None:
    if "ranks" not in lab.offers:
        raise Stop("not offered", "has no ranks")

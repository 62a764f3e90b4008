"""The tasks of a rank's batches, and what is kept of each until its batch is handed out."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc

from ecopipe.pipeline.pipeline import Pipeline
from ecopipe.pipeline.plan import Plan
from ecopipe.plan.alike import Alike
from ecopipe.plan.items import OpenedItems
from ecopipe.plan.mixed import Opened
from ecopipe.plan.sequence import Planned
from ecopipe.run import ranks
from ecopipe.run.columns import ROW_COLUMNS
from ecopipe.run.fetching import Ahead, paths_of
from ecopipe.run.maker import Task, make_task
from ecopipe.run.state import Taken
from ecopipe.vocabulary.sample import Place


@dataclass(frozen=True)
class Issued:
    """What is kept of a batch until it is handed out: what will have been taken then, its plan and its index rows."""

    taken: Taken
    planned: Planned
    rows: pa.Table


def make_tasks(
    dealt: Iterator[ranks.Dealt],
    pipeline: Pipeline,
    plan: Plan,
    opened: Opened,
    began: Taken,
    seed: int,
    rank: int,
    issued: deque[Issued],
    ahead: Ahead | None,
) -> Iterator[Task]:
    """The tasks of a rank's batches; what is to be kept of each is left in ``issued``. It holds no loader alive."""
    reads = pipeline.reads()
    columns = None if reads is None else frozenset({*ROW_COLUMNS, "source", "duration_s", *reads})
    for step in dealt:
        planned = step.planned
        rows = planned.rows(columns)
        if isinstance(rows, Alike):
            seconds, shards = rows.sum("duration_s"), rows.shard_names()
        else:
            seconds = float(pc.sum(rows["duration_s"]).as_py() or 0)
            shards = tuple(rows["shard"].to_pylist())
        place = Place(began.epoch, planned.number, shards, rank, step.repeat, seconds, step.step)
        items = opened.state_at(step.after.lanes[0][0]) if isinstance(opened, OpenedItems) else None
        taken = replace(began, cursor=step.after, step=step.step + 1, items=items)
        issued.append(Issued(taken, planned, rows))
        if ahead is not None:
            ahead.ready(planned, paths_of(rows))
        spares = plan.spares(planned) if pipeline.bad_samples.tolerant else None
        yield make_task(rows, place, seed, reads, spares)

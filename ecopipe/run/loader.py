"""The loader: a pipeline's batches, from worker processes, for one rank, on a device, resumable at every step."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any, cast, get_args

import pyarrow.compute as pc
import torch
from torch.utils.data import DataLoader

from ecopipe.pipeline.identity import first_difference
from ecopipe.pipeline.pipeline import Pipeline, Plan
from ecopipe.plan.sequence import Cursor, Planned, sequence
from ecopipe.plan.shards import Shards
from ecopipe.run import ranks
from ecopipe.run.device import is_worker_death, on_device, resolve
from ecopipe.run.worker import BatchMaker, Failure, Task, WorkerTraceback, make_task, start_worker
from ecopipe.vocabulary.errors import ConfigError, StateError, WorkerError, nearest
from ecopipe.vocabulary.sample import Batch, Place

STATE_VERSION = 1


class Loader:
    """Batches of a pipeline. Each ``for`` gives one epoch; after its end the next ``for`` gives the next epoch.

    Args:
        pipeline: What to deliver.
        workers: Worker processes; 0 makes the batches in this process. Never changes what is delivered.
        device: Where batches and device stages live: ``"cpu"``, ``"cuda"``, ``"cuda:1"``.
        rank: This process among ``world_size``; both default to torch.distributed, then torchrun's environment.
        world_size: Number of ranks.
        seed: Seed of the order and of every augmentation.
        epoch: The first epoch.
        tail: When the batches of an epoch do not fill the last step of all ranks: ``"repeat"`` gives the ranks without
            one a batch of that step again (``batch.place.repeat`` says so), ``"drop"`` leaves the step out.
        prefetch: Batches per worker that are made ahead.
        check_crc: Compare what is read with the CRC-32 in the index (2.6 GB/s on one core where it was measured).
        timeout_s: Seconds to wait for a worker's batch before raising; 0 waits for ever.
        multiprocessing_context: How workers start: ``"fork"``, ``"forkserver"``, ``"spawn"``; None is torch's default.
        shards: The pipeline's shards if they are open already; then they are not closed here.

    The state is what has been handed out by the iterator, not what was made ahead. It is JSON: epoch, place in the
    sequence, and what it belongs to.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        *,
        workers: int = 0,
        device: str | torch.device = "cpu",
        rank: int | None = None,
        world_size: int | None = None,
        seed: int = 0,
        epoch: int = 0,
        tail: ranks.Tail = "repeat",
        prefetch: int = 2,
        check_crc: bool = True,
        timeout_s: float = 0,
        multiprocessing_context: str | None = None,
        shards: Shards | None = None,
    ) -> None:
        limits = (("workers", workers, 0), ("epoch", epoch, 0), ("prefetch", prefetch, 1), ("timeout_s", timeout_s, 0))
        for name, value, least in limits:
            if value < least:
                raise ConfigError(f"loader: {name} must be at least {least}, got {value}.")
        if multiprocessing_context not in (None, *(starts := multiprocessing.get_all_start_methods())):
            remedy = nearest(str(multiprocessing_context), starts)
            raise ConfigError(f"loader: unknown multiprocessing_context {multiprocessing_context!r}. {remedy}")
        if tail not in get_args(ranks.Tail):
            raise ConfigError(f"loader: unknown tail {tail!r}. {nearest(str(tail), get_args(ranks.Tail))}")
        self.pipeline = pipeline
        self.rank, self.world_size = ranks.who_am_i(rank, world_size)
        self.seed, self.tail = int(seed), tail
        self.device = resolve(device)
        self._own_shards = shards is None
        self.shards = shards if shards is not None else pipeline.source.open()
        pipeline.check_fields(self.shards.columns, self.shards.fields)
        self._identity = pipeline.identity
        self._epoch = int(epoch)
        self._taken: Cursor | None = None  # what the consumer has taken of the epoch
        self._resume = False  # the next iteration begins at the taken place instead of the epoch's beginning
        self._issued: deque[Cursor] = deque()
        self._tasks = _Tasks()
        self._maker = BatchMaker(pipeline, check_crc=check_crc)
        self._turn = 0
        self._closed = False
        self._lengths: dict[int, int] = {}
        self._torch_loader: DataLoader[Any] = DataLoader(
            self._maker,
            sampler=cast("Any", self._tasks),
            batch_size=None,
            num_workers=workers,
            collate_fn=_as_it_is,  # without batch_size torch hands over what the dataset made, not a list
            pin_memory=self.device.type == "cuda",
            prefetch_factor=prefetch if workers else None,
            persistent_workers=workers > 0,
            timeout=timeout_s if workers else 0,
            multiprocessing_context=multiprocessing_context if workers else None,
            worker_init_fn=start_worker if workers else None,
            generator=torch.Generator(),  # torch draws a worker seed at each start; not from the user's generator
        )

    @property
    def epoch(self) -> int:
        """The epoch of the next batch."""
        return self._epoch

    def set_epoch(self, epoch: int) -> None:
        """Goes to the beginning of an epoch; does nothing if the loader is in that epoch already."""
        if epoch < 0:
            raise ConfigError(f"loader: epoch must be at least 0, got {epoch}.")
        epoch = int(epoch)
        if epoch != self._epoch:
            self._epoch, self._taken, self._resume = epoch, None, False
            self._turn += 1  # an iterator that is still open is one of another epoch

    def __len__(self) -> int:
        """Steps of this rank in the current epoch, by planning it (metadata only; counted once per epoch)."""
        if self._epoch not in self._lengths:
            plan = self._plan(self._epoch)
            batches = plan.count()
            if batches is None:
                batches = sum(1 for _ in _sequence(plan, self.shards, None, self.pipeline.plan_columns()))
            self._lengths = {self._epoch: ranks.steps(batches, self.world_size, self.tail)}
        return self._lengths[self._epoch]

    def __iter__(self) -> Iterator[Batch]:
        """This epoch's batches: from its beginning, or from the place of a state that was just loaded."""
        if self._closed:
            raise RuntimeError("loader: is closed. Make another one.")
        start = self._taken if self._resume else None
        self._resume, self._taken = False, start
        self._issued = deque()
        sequence_ = _sequence(self._plan(self._epoch), self.shards, start)
        dealt = ranks.deal(sequence_, self.rank, self.world_size, self.tail)
        self._tasks.next = _make_tasks(dealt, self._epoch, self.seed, self.rank, self.pipeline.reads(), self._issued)
        self._turn += 1
        return self._deliver(self._turn, fresh=start is None or not start.lanes)

    def _deliver(self, turn: int, *, fresh: bool) -> Iterator[Batch]:
        self._check_turn(turn)
        count = 0
        try:
            for batch in on_device(self._made(turn), self.pipeline.device_stages, self.device, self.seed):
                self._check_turn(turn)
                self._taken = self._issued.popleft()
                count += 1
                yield batch
        except (RuntimeError, ConnectionError, EOFError) as error:  # the latter while a batch was handed over
            if isinstance(error, RuntimeError) and not is_worker_death(error):
                raise
            self._end_workers()
            reason = str(error).splitlines()[0].rstrip(". ") if isinstance(error, RuntimeError) else "a worker is gone"
            raise WorkerError(
                f"loader: {reason}. The state after the last batch is good: continue from it. If workers die again, "
                "use fewer, or give them more memory."
            ) from error
        self._check_turn(turn)
        if fresh and not count:
            raise ConfigError(
                f"loader: epoch {self._epoch} holds no batch for rank {self.rank} of {self.world_size}: Where left out "
                "every sample, or tail='drop' the only step. Widen the one, or use tail='repeat'."
            )
        self._epoch, self._taken = self._epoch + 1, None

    def _made(self, turn: int) -> Iterator[Batch]:
        self._check_turn(turn)
        batches = iter(self._torch_loader)
        while True:
            self._check_turn(turn)  # before a batch is taken: it would be the newer iterator's
            try:
                made = next(batches)
            except StopIteration:
                return
            if isinstance(made, Failure):
                details = getattr(made.error, "details", "")
                raise made.error from (WorkerTraceback(details) if details else None)
            yield made

    def _check_turn(self, turn: int) -> None:
        if turn != self._turn:
            raise RuntimeError(
                "loader: this iterator is over, because the loader was iterated anew, sent to another epoch or state, "
                "or closed. Use one iterator at a time, or two loaders."
            )

    def _plan(self, epoch: int) -> Plan:
        return Plan(self.pipeline, self.shards.rows_per_shard, self.seed, epoch)

    def state_dict(self) -> dict[str, Any]:
        """The state after the last batch that was handed out, as JSON-ready values."""
        taken = self._taken or Cursor()
        state: dict[str, Any] = {
            "version": STATE_VERSION,
            "epoch": self._epoch,
            "batch": taken.number,
            "turn": taken.turn,
            "lanes": [list(place) for place in taken.lanes],
            "seed": self.seed,
            "index": self.shards.fingerprint,
            "pipeline": self._identity,
        }
        return state | {"check": _check_sum(state)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues where a state was taken; the next ``for`` begins with the batch after it.

        The number of ranks and workers may differ from those that took the state.

        Raises:
            StateError: The state is of another version, index, seed or pipeline; names the first difference.
        """
        if not isinstance(state, Mapping):
            raise StateError(f"state: a mapping as state_dict() gives is wanted, got {type(state).__name__}.")
        mine = self.state_dict()
        if lost := [key for key in mine if key not in state]:
            raise StateError(f"state: has no {lost[0]!r}. It is not a state of an ecopipe loader, or is damaged.")
        if state["version"] != STATE_VERSION:
            raise StateError(f"state: has version {state['version']}; this ecopipe reads {STATE_VERSION}.")
        if state["check"] != _check_sum(state):
            raise StateError("state: is damaged: it does not agree with its own checksum. Load an earlier one.")
        if state["seed"] != self.seed:
            raise StateError(
                f"state: was taken with seed {state['seed']}, this loader has {self.seed}. Use the same seed."
            )
        if found := first_difference(state["pipeline"], mine["pipeline"]):
            raise StateError(f"state: belongs to another pipeline: {found}. Load it into the pipeline that made it.")
        if state["index"] != mine["index"]:
            raise StateError(
                f"state: belongs to other shards: their index was {state['index']} and is {mine['index']}. "
                "Load it with the shards that it was taken on."
            )
        lanes = tuple((int(block), int(batch)) for block, batch in state["lanes"])
        self._epoch = int(state["epoch"])
        self._taken = Cursor(int(state["batch"]), int(state["turn"]), lanes)
        self._resume = True
        self._turn += 1  # an iterator that is still open must not move the place

    def close(self) -> None:
        """Ends the workers, and closes the files that the loader opened."""
        self._turn += 1
        self._closed = True
        self._end_workers()
        self._maker.close()
        if self._own_shards:
            self.shards.close()

    def _end_workers(self) -> None:
        workers, self._torch_loader._iterator = self._torch_loader._iterator, None
        if workers is not None and hasattr(workers, "_shutdown_workers"):
            workers._shutdown_workers()

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class _Tasks:
    """The sampler of torch's DataLoader: the tasks of the iteration that begins next."""

    def __init__(self) -> None:
        self.next: Iterator[Task] = iter(())

    def __iter__(self) -> Iterator[Task]:
        return self.next


def _sequence(
    plan: Plan, shards: Shards, start: Cursor | None, columns: tuple[str, ...] | None = None
) -> Iterator[Planned]:
    return sequence(plan, lambda slices: shards.read(slices, columns), start)


def _make_tasks(
    dealt: Iterator[ranks.Dealt], epoch: int, seed: int, rank: int, reads: set[str] | None, issued: deque[Cursor]
) -> Iterator[Task]:
    """The tasks of a rank's batches; the place after each is left in ``issued``. It holds no loader alive."""
    for step in dealt:
        rows = step.planned.rows()
        seconds = float(pc.sum(rows["duration_s"]).as_py() or 0)
        place = Place(epoch, step.planned.number, tuple(rows["shard"].to_pylist()), rank, step.repeat, seconds)
        issued.append(step.after)
        yield make_task(rows, place, seed, reads)


def _check_sum(state: Mapping[str, Any]) -> str:
    """A digest of the numbers of a state, so that a damaged one is noticed; its pipeline is compared word for word."""
    numbers = [state["epoch"], state["batch"], state["turn"], state["lanes"], state["seed"], state["index"]]
    return hashlib.blake2b(json.dumps(numbers, default=repr).encode(), digest_size=8).hexdigest()


def _as_it_is(made: Any) -> Any:
    return made

"""The loader: a pipeline's batches, from worker processes, for one rank, on a device, resumable at every step."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import torch

from ecopipe.pipeline.pipeline import Pipeline
from ecopipe.pipeline.plan import Plan
from ecopipe.pipeline.tuning import makers
from ecopipe.plan.items import OpenedItems
from ecopipe.plan.mixed import Opened
from ecopipe.plan.sequence import sequence
from ecopipe.run import ranks, settings, state
from ecopipe.run.device import on_device, resolve
from ecopipe.run.fetching import Ahead, Made, NearMaker, cache_for, wanted_of
from ecopipe.run.gauge import Gauge, Recording
from ecopipe.run.issuing import Issued, make_tasks
from ecopipe.run.ledger import Ledger
from ecopipe.run.maker import BatchMaker, Failure, Task, Verify, WorkerTraceback
from ecopipe.run.metering import timed
from ecopipe.run.pool import Maker, Pool
from ecopipe.run.quarantine import Quarantine
from ecopipe.run.state import Belonging, Taken
from ecopipe.run.threads import ThreadPool
from ecopipe.run.worth import HostRanks
from ecopipe.storage.cache import Cache
from ecopipe.vocabulary.errors import ConfigError
from ecopipe.vocabulary.sample import Batch

if TYPE_CHECKING:
    from ecopipe.insight.profile import Profile


class Loader:
    """Batches of a pipeline. Each ``for`` gives one epoch; after its end the next ``for`` gives the next epoch.

    Args:
        pipeline: What to deliver.
        workers: Worker processes, 0 for none; never changes what is delivered. By default the pipeline's tuning, or 0.
        threads: Threads that make batches: in each worker, or without workers in this process; 0 for none beside those
            that are there. They serve where decoders release the interpreter's lock, as those of audio and images do,
            and every stage has to bear several; a Map is refused without workers, since it seeds generators that this
            process draws from. Never changes what is delivered. By default the tuning, or 0.
        device: Where batches and device stages live: ``"cpu"``, ``"cuda"``, ``"cuda:1"``.
        rank: This process among ``world_size``; both default to torch.distributed, then torchrun's environment.
        world_size: Number of ranks.
        seed: Seed of the order and of every augmentation.
        epoch: The first epoch.
        tail: When the batches of an epoch do not fill the last step of all ranks: ``"repeat"`` gives the ranks without
            one a batch of that step again (``batch.place.repeat`` says so), ``"drop"`` leaves the step out.
        prefetch: Batches per worker and thread that are made ahead; by default what the pipeline's tuning says, or 2.
        verify: ``"crc"`` compares what is read with the CRC-32 in the index (2.6 GB/s on one core where it was
            measured), ``"off"`` does not.
        timeout_s: Seconds that a batch may take in a worker; then the worker is replaced. 0 is without end. A thread of
            this process that is late cannot be replaced: it is a WorkerError.
        worker_retries: How often a batch is given to another worker after its worker died or was late. Then it is a
            WorkerError. Each batch counts for itself.
        multiprocessing_context: How workers start: ``"fork"``, ``"forkserver"``, ``"spawn"``; None is Python's default.
        ledger: A folder in which this loader writes what it hands out, a row per sample (``ecopipe audit`` reads it).
        quarantine: A file to which the bad samples are appended that the pipeline's policy lets pass.
        shards: The pipeline's shards if they are open already; then they are not closed here.
        cache: The folder in which shards at URLs are kept, for all processes of the host; unless given,
            ``ecopipe/shards`` in the user's cache (``$ECOPIPE_CACHE/shards``). False keeps none. Shards by path are
            kept only if a folder is given: on a network. A :class:`ecopipe.storage.cache.Cache` is used as it is.
        cache_limit: Bytes that are kept at most, such as ``"200GB"``: those used last. Unless given,
            ``$ECOPIPE_CACHE_LIMIT``, or 20 GB. Neither changes what is delivered.

    The state is what has been handed out by the iterator, not what was made ahead. It is JSON: epoch, place in the
    sequence, and what it belongs to.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        *,
        workers: int | None = None,
        threads: int | None = None,
        device: str | torch.device = "cpu",
        rank: int | None = None,
        world_size: int | None = None,
        seed: int = 0,
        epoch: int = 0,
        tail: ranks.Tail = "repeat",
        prefetch: int | None = None,
        verify: Verify = "crc",
        timeout_s: float = 300,
        worker_retries: int = 2,
        multiprocessing_context: str | None = None,
        ledger: str | Path | None = None,
        quarantine: str | Path | None = None,
        shards: Opened | None = None,
        cache: Cache | str | Path | Literal[False] | None = None,
        cache_limit: int | str | None = None,
    ) -> None:
        settings.check(
            pipeline=pipeline, workers=workers, threads=threads, device=device, rank=rank, world_size=world_size,
            seed=seed, epoch=epoch, tail=tail, prefetch=prefetch, verify=verify, timeout_s=timeout_s,
            worker_retries=worker_retries, multiprocessing_context=multiprocessing_context, ledger=ledger,
            quarantine=quarantine,
        )  # fmt: skip
        self.pipeline = pipeline
        self.workers, self.threads, self.prefetch = settings.tuned(pipeline.tuning, workers, threads, prefetch)
        settings.check_makers(pipeline, self.workers, self.threads)
        self._given_rank = rank, world_size
        self.rank, self.world_size = ranks.who_am_i(rank, world_size)
        self.seed, self.tail = int(seed), tail
        self.device = resolve(device)
        self._own_shards = shards is None
        self.shards = shards if shards is not None else pipeline.open()
        pipeline.check_fields(self.shards)
        self._belonging = Belonging(self.seed, self.shards.fingerprint, pipeline.identity)
        self._taken = Taken(int(epoch))  # what the consumer has taken
        self._check_epoch(int(epoch))
        self._resume = False  # the next iteration begins at the taken place instead of the epoch's beginning
        self._issued: deque[Issued] = deque()
        self._quarantine = Quarantine(pipeline.bad_samples, quarantine)
        self._ledger = None if ledger is None else Ledger(ledger, self._header())
        self._maker: BatchMaker | NearMaker = BatchMaker(pipeline, verify=verify)
        self._cache: Cache | None = None
        self._ahead: Ahead | None = None
        if not isinstance(self.shards, OpenedItems) and (near := cache_for(self.shards, cache, cache_limit)):
            self._cache = near.cache
            self._maker = NearMaker(self._maker, near.cache, wanted_of(self.shards), reads := pipeline.reads())
            if near.cache is not None:
                host = HostRanks.here(self.rank, self.world_size)
                first = self.made_ahead + 2  # so many are issued before the first is handed out
                self._ahead = Ahead(near.cache, self.shards, reads, host, verify=verify == "crc", first=first)
        self._gauge = Gauge(self.device)
        self._turn = 0
        self._begun = False  # whether the newest iterator was asked for a batch; until then set_epoch moves its start
        self._closed = False
        self._lengths: dict[int, int] = {}
        self._pool: Pool | ThreadPool | None = None
        if self.workers:
            self._pool = Pool(
                cast("Maker", self._maker),
                workers=self.workers,
                threads=max(self.threads, 1),
                prefetch=self.prefetch,
                timeout_s=timeout_s,
                retries=worker_retries,
                context=multiprocessing_context,
            )
        elif self.threads:
            self._pool = ThreadPool(self._maker, threads=self.threads, prefetch=self.prefetch, timeout_s=timeout_s)

    batch_sampler = None  # with sampler, as a DataLoader without batch_size has them

    @property
    def sampler(self) -> Loader:
        """Itself: Lightning tells ``loader.sampler.set_epoch`` of each epoch, as it does with torch's DataLoader."""
        return self

    @property
    def epoch(self) -> int:
        """The epoch of the next batch."""
        return self._taken.epoch

    @property
    def made_ahead(self) -> int:
        """Batches that are made ahead of the consumer."""
        return makers(self.workers, self.threads) * self.prefetch

    @property
    def worker_pids(self) -> list[int]:
        """Process ids of the workers; empty before the first batch, and without workers."""
        return list(self._pool.pids) if self._pool is not None else []

    @property
    def cache_counters(self) -> dict[str, int]:
        """What this loader did with the cache: hits and misses (shards), evictions, bytes fetched (whole shards) and
        bytes read through (ranges, for the batches that have come; whoever made them). Empty without a cache."""
        return self._cache.counters.figures() if self._cache is not None else {}

    def metrics(self) -> dict[str, float]:
        """Counters since the loader was made: see :meth:`ecopipe.run.gauge.Gauge.metrics`; for Prometheus and for
        TensorBoard :func:`ecopipe.insight.trace.prometheus` and :func:`ecopipe.insight.trace.to_tensorboard`."""
        now = {"workers": self.workers, "threads": self.threads, "epoch": self.epoch}
        return self._gauge.metrics(now, self.cache_counters)

    def profile(self) -> Profile:
        """Begins to record, in any loop: see :class:`ecopipe.insight.profile.Profile`; its ``words()`` tell what was
        found, and :func:`ecopipe.insight.trace.write_trace` writes its recording."""
        from ecopipe.insight.profile import Profile  # against the layers, as Pipeline.loader is

        recording = Recording(self.workers, self.prefetch, self.device, threads=self.threads)
        return Profile(recording, self.pipeline, self._gauge)

    def set_epoch(self, epoch: int) -> None:
        """Goes to the beginning of an epoch; does nothing if the loader is in that epoch already."""
        settings.check(epoch=epoch)
        epoch = int(epoch)
        if epoch != self.epoch:
            self._check_epoch(epoch)
            self._taken, self._resume = Taken(epoch), False
            if self._begun:
                self._turn += 1  # an iterator that is still open is one of another epoch

    def __len__(self) -> int:
        """Steps of this rank in the current epoch, those before a restart included: by planning it, on metadata.

        Raises:
            TypeError: The epoch has no end, or none that is known.
        """
        plan = self._plan()
        if isinstance(self.shards, OpenedItems):
            raise TypeError(
                "loader: what an iterable (Items) gives has no length before its end. Count the steps yourself."
            )
        if plan.endless:
            raise TypeError(
                "loader: an epoch of a mixture with stop='forever' has no length. Count the steps yourself."
            )
        if self.epoch not in self._lengths:
            batches = plan.count()
            if batches is None:
                batches = sum(1 for _ in sequence(plan, self.shards.read, columns=self.pipeline.plan_columns()))
            self._lengths = {self.epoch: batches}
        left = self._lengths[self.epoch] - self._taken.cursor.number
        return self._taken.step + ranks.steps(left, self.world_size, self.tail)

    def __iter__(self) -> Iterator[Batch]:
        """This epoch's batches: from its beginning, or from the place of a state that was just loaded."""
        if self._closed:
            raise RuntimeError("loader: is closed. Make another one.")
        if (now := ranks.who_am_i(*self._given_rank)) != (self.rank, self.world_size):
            raise ConfigError(
                f"loader: was made as rank {self.rank} of {self.world_size}, and this process is now rank {now[0]} of "
                f"{now[1]}. Make it after torch.distributed is initialised (in Lightning: in train_dataloader)."
            )
        if not self._resume:
            self._taken = Taken(self.epoch + 1) if self._is_over() else self._taken.border
        self._turn += 1
        self._begun = False
        return self._deliver(self._turn)

    def _is_over(self) -> bool:
        """Whether all steps of the epoch were taken by a consumer that counts them, and never asked for its end."""
        if self._taken.at_border or isinstance(self.shards, OpenedItems):
            return False
        planned = sequence(self._plan(), self.shards.read, self._taken.cursor, self.pipeline.plan_columns())
        return next(ranks.deal(planned, self.rank, self.world_size, self.tail), None) is None

    def _tasks(self) -> Iterator[Task]:
        """This rank's tasks of the epoch, from the taken place on."""
        self._issued = deque()
        plan = self._plan()
        if isinstance(self.shards, OpenedItems):
            if self._taken.at_border:
                self.shards.begin_epoch(self._taken.epoch_items)
            else:
                self.shards.go_to(self._taken.cursor.lanes[0][0], self._taken.items)
        wide = self.world_size > 1 and self.pipeline.source.lanes > 1  # then some lanes may be others' alone
        columns = self.pipeline.plan_columns() if wide else None
        planned = sequence(plan, self.shards.read, self._taken.cursor, columns)
        dealt = ranks.deal(planned, self.rank, self.world_size, self.tail, self._taken.step)
        if self._ahead is not None:
            self._ahead.follow(plan, self._taken.cursor)
        return make_tasks(
            dealt, self.pipeline, plan, self.shards, self._taken, self.seed, self.rank, self._issued, self._ahead
        )

    def _deliver(self, turn: int) -> Iterator[Batch]:
        self._check_turn(turn)
        self._begun, self._resume = True, False
        tasks = self._tasks()
        began = self._taken
        if self._ledger is not None:
            self._ledger.begin(began.epoch, began.cursor.number, began.step)
        stages, gauge = self.pipeline.device_stages, self._gauge
        gauge.begin()
        for batch in on_device(self._made(turn, tasks), stages, self.device, self.seed, gauge):
            self._check_turn(turn)
            issued = self._issued[0]
            if batch.place is not None:
                self._quarantine.enter(batch.place)
                if self._ledger is not None:
                    self._ledger.add(batch.place, issued.rows, issued.planned.checks())
            self._taken = self._issued.popleft().taken
            gauge.hand_over(batch)
            yield batch
            gauge.ask()
        self._check_turn(turn)
        ended = self._taken
        if began.at_border and ended.at_border:
            raise ConfigError(
                f"loader: epoch {self.epoch} holds no batch for rank {self.rank} of {self.world_size}: Where left out "
                "every sample, or tail='drop' the only step. Widen the one, or use tail='repeat'."
            )
        if self._ledger is not None:
            self._ledger.end(ended.epoch, ended.cursor.number, ended.step)
        items = self.shards.state_at_end() if isinstance(self.shards, OpenedItems) else None
        self._taken = Taken(ended.epoch + 1, epoch_items=items)

    def _made(self, turn: int, tasks: Iterator[Task]) -> Iterator[Batch]:
        tasks = self._gauge.tasks(tasks)
        maker = partial(timed, cast("Maker", self._maker))
        answers = self._pool.run(tasks) if self._pool is not None else map(maker, tasks)
        made: Iterator[Any] = self._gauge.made(answers)
        while True:
            self._check_turn(turn)
            batch = next(made, None)
            if batch is None:
                return
            if isinstance(batch, Made):
                if self._cache is not None:
                    self._cache.counters.bytes_read_through += batch.read_through
                batch = batch.answer
            if isinstance(batch, Failure):
                details = getattr(batch.error, "details", "")
                raise batch.error from (WorkerTraceback(details) if details else None)
            yield batch

    def _check_turn(self, turn: int) -> None:
        if turn != self._turn:
            raise RuntimeError(
                "loader: this iterator is over, because the loader was iterated anew, sent to another epoch or state, "
                "or closed. Use one iterator at a time, or two loaders."
            )

    def _check_epoch(self, epoch: int) -> None:
        """Refuses an epoch that only those before it lead to."""
        if epoch and isinstance(self.shards, OpenedItems) and self.shards.is_node:
            raise ConfigError(
                f"loader: epoch {epoch} of a node cannot be gone to: its epochs follow one another. Load a state "
                "that was taken before it."
            )

    def _plan(self) -> Plan:
        return self.pipeline.plan(self.shards, self.seed, self.epoch)

    def _header(self) -> dict[str, Any]:
        """What the ledger says of this loader."""
        belonging = {"pipeline": self._belonging.pipeline, "index": self._belonging.index, "seed": self.seed}
        return belonging | {"rank": self.rank, "world_size": self.world_size, "tail": self.tail}

    def state_dict(self) -> dict[str, Any]:
        """The state after the last batch that was handed out, as JSON-ready values."""
        return state.write(self._taken, self._belonging)

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Continues where a state was taken; the next ``for`` begins with the batch after it.

        The number of ranks and workers may differ from those that took the state.

        Raises:
            StateError: The state is of another version, index, seed or pipeline; names the first difference.
        """
        self._taken = state.read(saved, self._belonging)
        self._resume = True
        self._turn += 1  # an iterator that is still open must not move the place

    def close(self) -> None:
        """Ends the workers, and closes the files that the loader opened."""
        self._turn += 1
        self._closed = True
        if self._pool is not None:
            self._pool.close()
        if self._ahead is not None:
            self._ahead.close()
        self._maker.close()
        if self._ledger is not None:
            self._ledger.close()
        if self._own_shards:
            self.shards.close()

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

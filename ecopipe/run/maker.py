"""From index rows to a collated batch: read, check, decode, collate; and what becomes of samples that fail."""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, TypeVar, cast

import pyarrow as pa
import pyarrow.compute as pc

from ecopipe.datasets.shards import check_members
from ecopipe.formats.audio import MAX_VALUES
from ecopipe.formats.index_arrays import to_numpy
from ecopipe.pipeline.pipeline import Pipeline
from ecopipe.plan.alike import Alike
from ecopipe.plan.items import ITEM
from ecopipe.plan.parts import START, STOP, WHOLE
from ecopipe.run import dropped
from ecopipe.run.columns import ROW_COLUMNS, ColumnReader
from ecopipe.run.metering import READ, StageMeter, current
from ecopipe.run.recent import RecentSamples
from ecopipe.stages.columns import ByColumns, Columns, collate_columns, collates_columns
from ecopipe.stages.foreign import Map
from ecopipe.stages.memory import BatchMemory, BatchRows
from ecopipe.stages.stage import ANY, CollateStage, SampleStage
from ecopipe.storage.files import RangeReader
from ecopipe.vocabulary.errors import DataError, EcopipeError, SampleError
from ecopipe.vocabulary.randomness import Chance
from ecopipe.vocabulary.sample import Batch, Fault, Part, Place, Sample

_Made = TypeVar("_Made")

Verify = Literal["crc", "off"]
"""Whether what is read is compared with the CRC-32 in the index."""


@dataclass(frozen=True)
class Task:
    """One batch to make: the index rows of its samples, and its place; ``spares`` may stand in for bad samples.

    ``issued_ns`` is 0, or when it was issued, on the monotonic clock: then its batch comes with its times.
    """

    rows: pa.RecordBatch | Alike
    place: Place
    seed: int
    spares: pa.RecordBatch | None = None
    issued_ns: int = 0

    def __str__(self) -> str:
        first = f"first sample {str(self.rows['key'][0])!r} in {self.rows['shard'][0]}"
        return f"batch {self.place.number} of epoch {self.place.epoch} ({first})"


@dataclass(frozen=True)
class Failure:
    """What is returned instead of a batch that could not be made; raised again where the batch was wanted."""

    error: EcopipeError


class WorkerTraceback(Exception):
    """The cause of an error that was raised in a worker, as the text of its traceback."""

    def __str__(self) -> str:
        return f"in a worker:\n{self.args[0]}"


def failure(task: Task, error: BaseException) -> Failure:
    """What is returned when something nobody thought of went wrong with a task."""
    key, shard = str(task.rows["key"][0]), str(task.rows["shard"][0])
    reason = f"its batch cannot be made or sent: {type(error).__name__}: {error}"
    return Failure(SampleError("worker", key, shard, reason, traceback.format_exc()))


def make_task(
    rows: pa.Table | Alike, place: Place, seed: int, reads: set[str] | None, spares: pa.Table | None = None
) -> Task:
    """A task of some index rows, less the columns that no stage looks at."""

    def wanted(table: pa.Table | Alike) -> pa.RecordBatch | Alike:
        columns = [name for name in table.column_names if name in ROW_COLUMNS or reads is None or name in reads]
        left = table.select(columns)
        return left if isinstance(left, Alike) else left.combine_chunks().to_batches()[0]

    return Task(wanted(rows), place, seed, wanted(spares) if spares is not None and spares.num_rows else None)


@dataclass(frozen=True)
class _Item:
    """A sample of the batch being made: of the planned one at ``position``, or what stands in for it."""

    position: int
    sample: Sample


class BatchMaker:
    """Makes the batch of a task, in whatever process it is called."""

    def __init__(self, pipeline: Pipeline, *, verify: Verify = "crc") -> None:
        self._pipeline, self._verify = pipeline, verify
        self._policy = pipeline.bad_samples.policy
        self._stages = pipeline.sample_stages
        self._of_samples = frozenset({READ, *(stage.label for stage in self._stages)})
        self._collate = pipeline.collate
        self._parts_in = pipeline.parts_in
        self._given = {name for stage in [*pipeline.plan_stages, pipeline.batching] for name in stage.gives()}
        self._recent = RecentSamples()
        self._reads = pipeline.reads()
        self._reader = RangeReader()
        self._meter: StageMeter | None = None
        self._filler, self._memory = _filler(self._stages, self._collate), BatchMemory()
        by_columns = [stage for stage in self._stages if isinstance(stage, ByColumns)]
        self._columns: ColumnReader | None = None
        if len(by_columns) == len(self._stages) and collates_columns(self._collate):
            self._columns = ColumnReader(self._reads, verify=verify == "crc", reader=self._reader)

    def another(self) -> BatchMaker:
        """One for another thread."""
        return BatchMaker(self._pipeline, verify=self._verify)

    def __call__(self, task: Task) -> Batch | Failure:
        self._meter = current()
        try:
            return self._make(task)
        except EcopipeError as error:
            return Failure(error)
        except Exception as error:
            return failure(task, error)

    def _make(self, task: Task) -> Batch:
        chances = [Chance(task.seed, task.place.epoch, stage.label) for stage in self._stages]
        self._recent.keep(2 * len(task.rows))
        if (batch := self._by_columns(task, chances)) is not None:
            batch.place = task.place
            return batch
        if self._meter is not None:
            self._meter.expect(len(task.rows), self._of_samples)
        memory = self._rows(task)
        into: Sequence[Any] = memory.rows if memory is not None else [None] * len(task.rows)
        if self._policy != "raise":
            return self._make_of_the_good(task, chances, memory, into)
        rows = task.rows.to_pylist()
        batch = self._collated([self._sample(row, chances, to) for row, to in zip(rows, into, strict=True)], memory)
        batch.place = task.place
        return batch

    def _rows(self, task: Task) -> BatchRows | None:
        """The memory of the batch, if its samples can be put straight into it: their lengths are in the index."""
        row = self._filler.row() if self._filler is not None and not self._parts_in else None
        if row is None or row.measure not in task.rows.column_names:
            return None
        lengths = task.rows[row.measure]
        if lengths.null_count or not pa.types.is_integer(lengths.type):
            return None
        least, most = pc.min_max(lengths).as_py().values()
        if least <= 0 or most * len(lengths) > MAX_VALUES:  # as only a damaged index says
            return None
        return BatchRows.empty(to_numpy(lengths), row.dtype, self._memory)

    def _by_columns(self, task: Task, chances: Sequence[Chance]) -> Batch | None:
        """The batch, if all stages can work on all of its samples at once and nothing is wrong with any; else None."""
        if self._columns is None:
            return None
        try:
            columns = self._timed(READ, self._columns.read, task.rows)
            for stage, chance in zip(self._stages, chances, strict=True):
                if columns is None or not _has_all(columns, stage.needs()):
                    return None
                columns = self._timed(stage.label, cast("ByColumns", stage).apply_columns, columns, chance)
            if columns is None:
                return None
            return self._timed(self._collate.label, partial(collate_columns, self._collate), columns)
        except (EcopipeError, ValueError):
            return None  # it is found again sample by sample, and said with its key

    def _make_of_the_good(
        self, task: Task, chances: Sequence[Chance], memory: BatchRows | None, into: Sequence[Any]
    ) -> Batch:
        """The batch without its bad samples, or with others in their places; ``place.faults`` says which."""
        rows = task.rows.to_pylist()
        faults: dict[int, Fault] = {}
        items: list[_Item] = []
        spares = self._good_spares(task, chances)
        for position, row in enumerate(rows):
            try:
                items.append(_Item(position, self._sample(row, chances, into[position])))
            except DataError as error:
                faults[position] = _fault(position, row, error)
        while True:
            chosen = self._with_substitutes(items, faults, spares, len(rows))
            try:
                batch = self._collated([item.sample for item in chosen], memory)
                break
            except SampleError:
                misfits = self._misfits(chosen)
                if not misfits:
                    raise
                items = [item for item in chosen if item.position not in misfits]
                for position, reason in misfits.items():
                    faults.setdefault(position, _fault(position, rows[position], reason))
        keys = {item.position: item.sample.key for item in chosen}
        found = tuple(replace(fault, substitute=keys.get(position)) for position, fault in sorted(faults.items()))
        batch.place = replace(task.place, faults=found)
        return batch

    def _with_substitutes(
        self, items: list[_Item], faults: dict[int, Fault], spares: Iterator[Sample], count: int
    ) -> list[_Item]:
        """The samples to collate: spares, or else good samples of the batch again, in the places of bad ones."""
        filled = {item.position: item for item in items}
        empty = [position for position in range(count) if position not in filled]
        if self._policy == "skip":
            empty = empty[:1] if not items else []
        for number, position in enumerate(empty):
            sample = next(spares, None)
            if sample is None and not items:
                if filled:
                    break  # what stands in stands alone
                fault = faults[position]
                raise SampleError(
                    fault.stage, fault.key, fault.shard,
                    f"{fault.reason} All {count} samples of its batch are bad, and those that could stand in. Mend the "
                    "shards.",
                )  # fmt: skip
            filled[position] = _Item(position, sample if sample is not None else items[number % len(items)].sample)
        return [filled[position] for position in sorted(filled)]

    def _misfits(self, chosen: Sequence[_Item]) -> dict[int, SampleError]:
        """The positions of samples that cannot be collated: alone, or beside the first; or the first, if most others
        do not go with it."""
        alone = {item.position: self._refusal([item]) for item in chosen}
        if found := {position: error for position, error in alone.items() if error is not None}:
            return found
        first, *others = chosen
        beside = {item.position: self._refusal([first, item]) for item in others}
        found = {position: error for position, error in beside.items() if error is not None}
        if 2 * len(found) >= len(chosen):
            return {first.position: next(iter(found.values()))}
        return found

    def _refusal(self, items: Sequence[_Item]) -> SampleError | None:
        try:
            self._collated([item.sample for item in items])
        except SampleError as error:
            return error
        return None

    def _good_spares(self, task: Task, chances: Sequence[Chance]) -> Iterator[Sample]:
        for row in [] if task.spares is None else task.spares.to_pylist():
            try:
                yield self._sample(row, chances)
            except DataError:
                continue

    def _sample(self, row: dict[str, Any], chances: Sequence[Chance], into: Any = None) -> Sample:
        def made() -> Sample:
            dropped.check()
            meter = self._meter if self._meter is not None and self._meter.is_next_timed() else None
            raw = self.raw(row) if meter is None else meter.around(READ, self.raw, row)
            return apply_stages(self._stages, chances, raw, meter, self._filler, into)

        if self._parts_in != "tokens" or ITEM in row:
            return made()
        which = row["path"], *(member["offset"] for member in row["members"]), *chances
        return self._recent.get(which, made).at(self._part(row), **{name: row[name] for name in self._given})

    def raw(self, row: dict[str, Any]) -> Sample:
        """The sample of an index row as it lies in its shard, before any stage.

        Raises:
            ShardError: A member cannot be read, or is not what was indexed.
        """
        if (item := row.get(ITEM)) is not None:
            return Sample(row["key"], pickle.loads(item), shard=row["shard"], part=self._part(row))
        reads = self._reads
        members = [member for member in row["members"] if reads is None or member["extension"] in reads]
        payloads = self._reader.read(row["path"], [(member["offset"], member["size"]) for member in members])
        if self._verify == "crc":
            check_members(row["path"], row["key"], members, payloads)
        fields = {name: value for name, value in row.items() if name not in ROW_COLUMNS and value is not None}
        fields.update((member["extension"], data) for member, data in zip(members, payloads, strict=True))
        return Sample(row["key"], fields, shard=row["shard"], part=self._part(row))

    def _part(self, row: dict[str, Any]) -> Part | None:
        return Part(row[START], row[STOP], row[WHOLE], self._parts_in) if self._parts_in else None

    def _timed(self, name: str, make: Callable[..., _Made], *given: Any) -> _Made:
        return make(*given) if self._meter is None else self._meter.around(name, make, *given)

    @property
    def reader(self) -> RangeReader:
        """What reads members that are not mapped."""
        return self._reader

    def close(self) -> None:
        """Closes the files that this process opened."""
        self._reader.close()
        if self._columns is not None:
            self._columns.close()

    def _collated(self, samples: Sequence[Sample], memory: BatchRows | None = None) -> Batch:
        try:
            if memory is None:
                batch = self._timed(self._collate.label, self._collate.apply, samples)
            else:
                batch = self._timed(self._collate.label, self._collate.apply_to_rows, samples, memory)
            if self._parts_in:
                batch["parts"] = [(sample.part.start, sample.part.stop) for sample in samples if sample.part]
            return batch
        except EcopipeError:
            raise
        except Exception as error:
            raise _explain(self._collate.label, samples, error) from error


def _filler(stages: Sequence[SampleStage], collate: CollateStage) -> SampleStage | None:
    """The stage that can put a field of the samples straight into the batch: no other makes it anew before Collate."""
    found, field = None, ""
    for stage in stages:
        if (row := stage.row()) is not None and collate.takes_rows(row.field):
            found, field = stage, row.field
        elif found is not None and (ANY in stage.needs() or field in stage.gives()):
            found = None
    return found


def apply_stages(
    stages: Sequence[SampleStage],
    chances: Sequence[Chance],
    sample: Sample,
    meter: StageMeter | None = None,
    filler: SampleStage | None = None,
    into: Any = None,
) -> Sample:
    """The sample after sample stages, each with its draws; what goes wrong is told with the stage, key and shard.

    ``filler`` is the stage that may put what it makes ``into`` memory of the batch.

    Raises:
        SampleError: A stage could not process the sample.
    """
    for stage, chance in zip(stages, chances, strict=True):
        if sample.part_in("frames"):  # each segment draws for itself; tokens are cut when all is drawn
            chance = replace(chance, stage=f"{chance.stage}{sample.part}")
        try:
            missing = [names for names in stage.wanted if not any(name in sample for name in names)]
            if missing:
                raise ValueError(f"has no {' or '.join(missing[0])}; it holds {', '.join(sorted(sample))}")
            given: tuple[Any, ...] = (sample, chance)
            apply: Callable[..., Sample] = stage.apply
            if stage is filler and into is not None:
                apply, given = stage.apply_into, (sample, chance, into)
            sample = apply(*given) if meter is None else meter.around(stage.label, apply, *given)
        except SampleError as error:
            raise SampleError(
                error.stage, error.key, error.shard or sample.shard, error.reason, error.details
            ) from error
        except EcopipeError:
            raise
        except Exception as error:
            raise _explain(stage.label, [sample], error, foreign=isinstance(stage, Map)) from error
    return sample


def _has_all(columns: Columns, needs: Sequence[str]) -> bool:
    return all(need != ANY and not set(need.split("|")).isdisjoint(columns.fields) for need in needs)


def _fault(position: int, row: dict[str, Any], error: DataError) -> Fault:
    stage, reason = (error.stage, error.reason) if isinstance(error, SampleError) else ("read", str(error))
    return Fault(position, row["key"], row["shard"], stage, reason)


def _explain(stage: str, samples: Sequence[Sample], error: Exception, *, foreign: bool = False) -> SampleError:
    own = isinstance(error, ValueError) and not foreign  # our stages say in words what is wrong with a sample
    reason = str(error) if own else f"{type(error).__name__}: {error}"
    key = samples[0].key if len(samples) == 1 else f"{samples[0].key} and {len(samples) - 1} more"
    return SampleError(stage, key, samples[0].shard, reason, traceback.format_exc())

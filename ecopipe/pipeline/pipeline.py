"""A pipeline: a source and its stages, as one frozen value that can be read, compared, printed and run."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ecopipe.pipeline.identity import describe
from ecopipe.plan.blocks import Lane, deal_lanes, slices_of
from ecopipe.stages.plan import Take, Where
from ecopipe.stages.source import TarShards
from ecopipe.stages.stage import (
    ANY,
    BatchingStage,
    CollateStage,
    DeviceStage,
    PlanStage,
    Rows,
    SampleStage,
    Stage,
)
from ecopipe.vocabulary.errors import ConfigError, nearest
from ecopipe.vocabulary.randomness import Chance
from ecopipe.vocabulary.sample import Batch

if TYPE_CHECKING:
    from ecopipe.run.loader import Loader

_PHASES: list[tuple[type[Stage], str]] = [
    (PlanStage, "plan stages (Where, Take, Shuffle)"),
    (BatchingStage, "one batching stage (Bucket or Batch)"),
    (SampleStage, "sample stages (DecodeAudio, Tokenize..., Map)"),
    (CollateStage, "one Collate"),
    (DeviceStage, "device stages (LogMel, SpecAugment, OnDevice)"),
]
_ORDER = "; then ".join(title for _, title in _PHASES)


@dataclass(frozen=True, init=False)
class Pipeline:
    """A source and stages, in the order in which a sample meets them.

    >>> pipe = Pipeline(TarShards("shards/cifar10/train"), Shuffle(), Batch(256), DecodeImage(), Collate("image"))
    >>> for batch in pipe.loader(workers=2): ...

    It is refused at construction if the stages cannot work in their order, and before a payload byte is read if the
    shards do not hold what a stage needs. ``pipeline | stage`` gives a longer one.

    Raises:
        ConfigError: The order cannot work; two stages share a name.
    """

    source: TarShards
    stages: tuple[Stage, ...]

    def __init__(self, source: TarShards, *stages: Stage) -> None:
        object.__setattr__(self, "source", source)
        object.__setattr__(self, "stages", stages)
        if not isinstance(source, TarShards):
            raise ConfigError(f"Pipeline: the first argument is the source (TarShards), got {type(source).__name__}.")
        for number, stage in enumerate(stages, 1):
            if not isinstance(stage, Stage):
                raise ConfigError(
                    f"Pipeline: stage {number} is {stage!r}, which is no stage. "
                    "Wrap a function or module in Map or OnDevice."
                )
        self._check_names()
        self._check_order()
        self._check_batch_fields()

    def __or__(self, stage: Stage) -> Pipeline:
        return Pipeline(self.source, *self.stages, stage)

    def __iter__(self) -> Iterator[Batch]:
        """The batches of epoch 0 under seed 0, made in this process."""
        with self.loader() as loader:
            yield from loader

    def __repr__(self) -> str:
        lines = [repr(self.source), *(repr(stage) for stage in self.stages)]
        return "Pipeline(\n" + "".join(f"    {line},\n" for line in lines) + ")"

    def loader(self, **settings: Any) -> Loader:
        """The loader that runs this pipeline: see :class:`ecopipe.run.loader.Loader` for the settings."""
        from ecopipe.run.loader import Loader  # the one import against the layers: the verb of the value

        known = [name for name in inspect.signature(Loader).parameters if name != "pipeline"]
        for name in settings:
            if name not in known:
                raise ConfigError(f"loader: unknown setting {name!r}. {nearest(name, known)}")
        return Loader(self, **settings)

    @property
    def identity(self) -> dict[str, Any]:
        """What decides what is delivered, as JSON: stages and settings, less tuning and paths."""
        return {"source": describe(self.source), "stages": [describe(stage) for stage in self.stages]}

    @property
    def batching(self) -> BatchingStage:
        """The stage that cuts batches."""
        found: BatchingStage = self._of(BatchingStage)[0]
        return found

    @property
    def collate(self) -> CollateStage:
        """The stage that makes a batch of samples."""
        found: CollateStage = self._of(CollateStage)[0]
        return found

    @property
    def plan_stages(self) -> list[PlanStage]:
        """The plan stages before the batching one."""
        return self._of(PlanStage)

    @property
    def sample_stages(self) -> list[SampleStage]:
        """The sample stages."""
        return self._of(SampleStage)

    @property
    def device_stages(self) -> list[DeviceStage]:
        """The device stages."""
        return self._of(DeviceStage)

    def _of(self, kind: type[Any]) -> list[Any]:
        return [stage for stage in self.stages if isinstance(stage, kind)]

    def _check_names(self) -> None:
        seen: dict[str, int] = {}
        for number, stage in enumerate(self.stages, 1):
            if stage.label in seen:
                raise ConfigError(
                    f"Pipeline: stages {seen[stage.label]} and {number} are both called {stage.label}. "
                    f"Give one a name: {type(stage).__name__}(..., name='...')."
                )
            seen[stage.label] = number

    def _check_order(self) -> None:
        reached, previous = -1, "the source"
        for number, stage in enumerate(self.stages, 1):
            phase = next(at for at, (kind, _) in enumerate(_PHASES) if isinstance(stage, kind))
            alone = isinstance(stage, BatchingStage | CollateStage)
            if phase < reached or (alone and phase == reached):
                raise ConfigError(
                    f"Pipeline: stage {number}, {stage.label} ({stage.title}), cannot come after {previous}. "
                    f"The order is: {_ORDER}."
                )
            reached, previous = phase, f"{stage.label} ({stage.title})"
        for kind, title in ((BatchingStage, "Bucket or Batch"), (CollateStage, "Collate")):
            if not any(isinstance(stage, kind) for stage in self.stages):
                raise ConfigError(f"Pipeline: has no {title}. The order is: {_ORDER}.")
        if getattr(self.batching, "drop_last", False) and any(isinstance(stage, Where) for stage in self.stages):
            raise ConfigError(
                f"Pipeline: {self.batching.label} drops short batches, and after Where every block ends with one: "
                "samples would be lost all along. Leave drop_last out."
            )
        takes = [at for at, stage in enumerate(self.stages) if isinstance(stage, Take)]
        wheres = [at for at, stage in enumerate(self.stages) if isinstance(stage, Where)]
        if takes and wheres and max(takes) > min(wheres):
            raise ConfigError("Pipeline: Take counts samples before any is left out: put it before Where.")

    def _check_batch_fields(self) -> None:
        collate = next(stage for stage in self.stages if isinstance(stage, CollateStage))
        have = {"keys", *collate.gives()}
        for stage in self.device_stages:
            have = self._pass(stage, have, "the batch")

    def check_fields(self, columns: set[str], fields: set[str]) -> None:
        """Refuses a stage that needs a field which neither the shards nor an earlier stage give.

        Args:
            columns: Filled columns of the index: what plan stages see.
            fields: These and members' extensions: what sample stages see.

        Raises:
            ConfigError: Names the stage, the field, and what is there.
        """
        for plan_stage in [*self.plan_stages, self.batching]:
            self._pass(plan_stage, columns, "the index")
        have = fields
        for stage in [*self.sample_stages, self.collate]:
            have = self._pass(stage, have, "the sample")

    @staticmethod
    def _pass(stage: Stage, have: set[str], what: str) -> set[str]:
        for need in stage.needs():
            if need != ANY and not have & set(need.split("|")):
                wanted = " or ".join(repr(name) for name in need.split("|"))
                raise ConfigError(
                    f"Pipeline: {stage.label} needs {wanted}, which {what} does not hold there. "
                    f"{nearest(need.split('|')[0], have - {'key', 'shard'})}"
                )
        return (have - set(stage.takes_away())) | set(stage.gives())

    def reads(self) -> set[str] | None:
        """Fields of the shards that the sample stages and Collate may look at; None for all of them."""
        wanted: set[str] = set()
        for stage in [*self.sample_stages, self.collate]:
            for need in stage.needs():
                if need == ANY:
                    return None
                wanted.update(need.split("|"))
        return wanted

    def plan_columns(self) -> tuple[str, ...]:
        """Columns of the index that planning looks at."""
        needs = {need for stage in [*self.plan_stages, self.batching] for need in stage.needs()}
        return ("key", "shard", *sorted(needs - {"key", "shard"}))


class Plan:
    """The plan stages of a pipeline in one epoch over some shards: a :class:`ecopipe.plan.sequence.Recipe`."""

    def __init__(self, pipeline: Pipeline, rows_per_shard: Sequence[int], seed: int, epoch: int) -> None:
        self._pipeline = pipeline
        self._rows_per_shard = rows_per_shard
        self._stages = [(stage, Chance(seed, epoch, stage.label)) for stage in pipeline.plan_stages]
        self._batching = (pipeline.batching, Chance(seed, epoch, pipeline.batching.label))

    def lanes(self) -> list[Lane]:
        """The epoch's lanes."""
        source = self._pipeline.source
        slices = slices_of(self._rows_per_shard, source.block_rows)
        for stage, chance in self._stages:
            slices = stage.deal(slices, chance)
        multiple = self._pipeline.batching.multiple
        rows = max(source.block_rows - source.block_rows % multiple, multiple)
        return deal_lanes(slices, source.lanes, rows)

    def count(self) -> int | None:
        """Batches of the epoch where row counts alone tell; None where it has to be planned."""
        if any(isinstance(stage, Where) for stage, _ in self._stages):
            return None
        batching = self._batching[0]
        counts = [batching.count(rows) for lane in self.lanes() for rows in lane.block_sizes()]
        return None if None in counts else sum(count for count in counts if count is not None)

    def cut(self, block: pa.Table, lane: int, number: int) -> list[Rows]:
        """The batches of one block, as positions into it."""
        rows: Rows = np.arange(block.num_rows, dtype=np.int64)
        for stage, chance in self._stages:
            rows = stage.apply(block, rows, chance, (lane, number))
        batching, chance = self._batching
        return [batch for batch in batching.apply(block, rows, chance, (lane, number)) if len(batch)]

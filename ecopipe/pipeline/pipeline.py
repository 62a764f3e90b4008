"""A pipeline: a source and its stages, as one frozen value that can be read, compared, printed and run."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ecopipe.datasets.shards import Progress, silent
from ecopipe.pipeline.bad_samples import BadSamples, Policy
from ecopipe.pipeline.identity import describe
from ecopipe.pipeline.plan import Plan, index_columns
from ecopipe.pipeline.statistics import check_statistics
from ecopipe.pipeline.tuning import Tuning
from ecopipe.plan.mixed import Opened
from ecopipe.stages.bptt import BPTT
from ecopipe.stages.plan import Take, Where
from ecopipe.stages.source import Items, Mix, Source, TarShards
from ecopipe.stages.stage import (
    ANY,
    BatchingStage,
    CollateStage,
    DeviceStage,
    PlanStage,
    SampleStage,
    Stage,
)
from ecopipe.vocabulary.errors import ConfigError, nearest
from ecopipe.vocabulary.sample import Batch

if TYPE_CHECKING:
    from ecopipe.run.loader import Loader

_PHASES: list[tuple[type[Stage], str]] = [
    (PlanStage, "plan stages (Where, Take, Shuffle, Segment)"),
    (BatchingStage, "one batching stage (Bucket, Batch, Pack or BPTT)"),
    (SampleStage, "sample stages (DecodeAudio, Tokenize..., Map)"),
    (CollateStage, "one Collate, CollatePacked, CollateBPTT or CollateStream"),
    (DeviceStage, "device stages (LogMel, SpecAugment, OnDevice)"),
]
_ORDER = "; then ".join(title for _, title in _PHASES)


@dataclass(frozen=True, init=False)
class Pipeline:
    """A source and stages, in the order in which a sample meets them.

    >>> pipe = Pipeline(TarShards("shards/cifar10/train"), Shuffle(), Batch(256), DecodeImage(), Collate("image"))
    >>> for batch in pipe.loader(workers=2): ...

    It is refused at construction if the stages cannot work in their order, and before a payload byte is read if the
    shards do not hold what a stage needs. ``pipeline | stage`` gives a longer one. ``bad_samples`` says what becomes of
    samples that cannot be read or processed: ``"raise"``, ``"skip"``, ``"substitute"``, or a :class:`BadSamples`.
    ``tuning`` is what its loader uses where it is not told; it is no part of the identity.

    Raises:
        ConfigError: The order cannot work; two stages share a name.
    """

    source: Source
    stages: tuple[Stage, ...]
    bad_samples: BadSamples
    tuning: Tuning

    def __init__(
        self,
        source: Source,
        *stages: Stage,
        bad_samples: BadSamples | Policy = "raise",
        tuning: Tuning = Tuning(),  # noqa: B008  (it is frozen)
    ) -> None:
        object.__setattr__(self, "tuning", tuning)
        object.__setattr__(self, "source", source)
        object.__setattr__(self, "stages", stages)
        policy = bad_samples if isinstance(bad_samples, BadSamples) else BadSamples(bad_samples)
        object.__setattr__(self, "bad_samples", policy)
        if not isinstance(source, TarShards | Mix | Items):
            raise ConfigError(
                f"Pipeline: the first argument is the source (TarShards, Mix or Items), got {type(source).__name__}."
            )
        for number, stage in enumerate(stages, 1):
            if not isinstance(stage, Stage):
                raise ConfigError(
                    f"Pipeline: stage {number} is {stage!r}, which is no stage. "
                    "Wrap a function or module in Map or OnDevice."
                )
        self._check_names()
        self._check_order()
        self._check_parts()
        self._check_batch_fields()

    def __or__(self, stage: Stage) -> Pipeline:
        return Pipeline(self.source, *self.stages, stage, bad_samples=self.bad_samples, tuning=self.tuning)

    def __iter__(self) -> Iterator[Batch]:
        """The batches of epoch 0 under seed 0, made in this process."""
        with self.loader() as loader:
            yield from loader

    def __repr__(self) -> str:
        lines = [repr(self.source), *(repr(stage) for stage in self.stages)]
        if self.bad_samples != BadSamples():
            lines.append(f"bad_samples={self.bad_samples!r}")
        if self.tuning != Tuning():
            lines.append(f"tuning={self.tuning!r}")
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
        """What decides what is delivered, as JSON: stages and settings, less tuning, paths and the policy for bad
        samples."""
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

    @property
    def threads_alone(self) -> bool:
        """Whether threads of the consumer's process may make batches: no sample stage seeds what it draws from."""
        return not any(stage.seeds_process for stage in self.sample_stages)

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
        for kind, title in ((BatchingStage, "Bucket, Batch or Pack"), (CollateStage, "Collate")):
            if not any(isinstance(stage, kind) for stage in self.stages):
                raise ConfigError(f"Pipeline: has no {title}. The order is: {_ORDER}.")
        if getattr(self.batching, "drop_last", False) and any(isinstance(stage, Where) for stage in self.stages):
            raise ConfigError(
                f"Pipeline: {self.batching.label} drops short batches, and after Where every block ends with one: "
                "samples would be lost all along. Leave drop_last out."
            )
        multiple = self.batching.multiple
        if isinstance(self.source, Items) and self.source.window % multiple:
            nearest_window = max(self.source.window // multiple, 1) * multiple
            raise ConfigError(
                f"Pipeline: the window of {self.source.window:,} items is no multiple of {self.batching.label}'s "
                f"{multiple}: each would end with a short batch. Set window={nearest_window}."
            )
        takes = [at for at, stage in enumerate(self.stages) if isinstance(stage, Take)]
        wheres = [at for at, stage in enumerate(self.stages) if isinstance(stage, Where)]
        if takes and wheres and max(takes) > min(wheres):
            raise ConfigError("Pipeline: Take counts samples before any is left out: put it before Where.")

    def _check_parts(self) -> None:
        """Refuses parts of samples that nothing cuts out, and those whose number the other plan stages cannot know."""
        makers = [stage for stage in [*self.plan_stages, self.batching] if stage.parts_in()]
        if not makers:
            return
        first, *others = makers
        if others:
            raise ConfigError(
                f"Pipeline: {others[0].label} cannot divide what {first.label} has divided into parts. Leave out one."
            )
        unit = first.parts_in()
        if not any(stage.parts_in() == unit for stage in [*self.sample_stages, self.collate]):
            cutter = {"frames": "DecodeAudio", "tokens": "CollatePacked or CollateBPTT"}[unit]
            raise ConfigError(
                f"Pipeline: {first.label} plans parts counted in {unit}, and no stage cuts them out: each would be the "
                f"whole sample. Put {cutter} behind it."
            )
        after = self.stages[self.stages.index(first) + 1 :]
        if take := next((stage for stage in after if isinstance(stage, Take)), None):
            raise ConfigError(f"Pipeline: {take.label} counts whole samples: put it before {first.label}.")
        if getattr(self.batching, "drop_last", False):
            raise ConfigError(
                f"Pipeline: {self.batching.label} drops short batches, and after {first.label} every block ends with "
                "one: parts would be lost all along. Leave drop_last out."
            )
        if isinstance(first, BPTT) and self.bad_samples.policy == "substitute":
            raise ConfigError(
                f"Pipeline: {first.label} gives each token its place, where no other sample can stand in. Use "
                "bad_samples='skip', which leaves the places of a bad one empty."
            )

    @property
    def parts_in(self) -> str:
        """What the parts of samples are counted in that rows stand for; empty where they stand for whole samples."""
        return next((unit for stage in [*self.plan_stages, self.batching] if (unit := stage.parts_in())), "")

    def _check_batch_fields(self) -> None:
        collate = next(stage for stage in self.stages if isinstance(stage, CollateStage))
        have = {"keys", *collate.gives()}
        for stage in self.device_stages:
            have = self._pass(stage, have, "the batch")

    def check_fields(self, shards: Opened) -> None:
        """Refuses a stage that needs a field which neither the shards nor an earlier stage give, and statistics of
        other features.

        Raises:
            ConfigError: Names the stage, the field, and what is there.
        """
        for name, part in shards.parts.items():
            where = f" of {name}" if name else ""
            named = {"source"} if name else set()
            planned: set[str] = set()
            for plan_stage in [*self.plan_stages, self.batching]:
                self._pass(plan_stage, part.columns | named | planned, f"the index{where}")
                planned |= set(plan_stage.gives())
            have = part.fields | named | planned
            for stage in [*self.sample_stages, self.collate]:
                have = self._pass(stage, have, f"the sample{where}")
        check_statistics(self.device_stages)

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
        wanted.update(row.measure for stage in self.sample_stages if (row := stage.row()) is not None)
        return wanted

    def plan_columns(self) -> tuple[str, ...]:
        """Columns of the index that planning looks at."""
        return index_columns([*self.plan_stages, self.batching])

    def open(self, progress: Progress = silent) -> Opened:
        """Opens the source's shards, as tolerantly as the policy for bad samples asks for."""
        return self.source.open(progress, tolerant=self.bad_samples.tolerant)

    def plan(self, shards: Opened, seed: int, epoch: int) -> Plan:
        """What the plan stages do in an epoch."""
        return Plan(self.source, self.plan_stages, self.batching, shards, seed, epoch)

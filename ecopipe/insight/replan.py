"""The plan part of a pipeline, made again from its identity: what a ledger says it is, over the index that it names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import pyarrow as pa

from ecopipe.pipeline import toml  # noqa: F401 - fills the registry
from ecopipe.pipeline.plan import Plan, index_columns
from ecopipe.plan.blocks import Slice
from ecopipe.plan.mixed import Opened
from ecopipe.plan.sequence import Planned, sequence
from ecopipe.stages.source import Mix, Source, TarShards
from ecopipe.stages.stage import REGISTRY, BatchingStage, PlanStage
from ecopipe.vocabulary.errors import ConfigError, DataError

_COLUMNS = ("key", "shard", "members")
T = TypeVar("T")


@dataclass(frozen=True)
class Replanned:
    """The plan part of a pipeline: its source, opened, its plan stages, and its batching stage."""

    source: Source
    stages: tuple[PlanStage, ...]
    batching: BatchingStage

    def sequence(self, shards: Opened, seed: int, epoch: int) -> Iterator[Planned]:
        """The batches of an epoch."""
        return sequence(self._plan(shards, seed, epoch), self._reading(shards))

    def endless(self, shards: Opened) -> bool:
        """Whether its epochs never end."""
        return self._plan(shards, 0, 0).endless

    def _plan(self, shards: Opened, seed: int, epoch: int) -> Plan:
        return Plan(self.source, self.stages, self.batching, shards, seed, epoch)

    def _reading(self, shards: Opened) -> Callable[..., pa.Table]:
        needs = index_columns((*self.stages, self.batching))
        wanted = (*_COLUMNS, *(name for name in needs if name not in _COLUMNS))

        def read(slices: list[Slice], _columns: tuple[str, ...] | None = None) -> pa.Table:
            return shards.read(slices, wanted)

        return read


def plan_part(identity: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a pipeline's identity that decides the order: its source, and its stages up to the batching one."""
    stages = []
    for described in identity["stages"]:
        stages.append(described)
        if issubclass(REGISTRY.get(described["stage"], PlanStage), BatchingStage):
            break
    return {"source": identity["source"], "stages": stages}


def replanned(identity: Mapping[str, Any], places: Sequence[str]) -> Replanned:
    """The plan part of a pipeline.

    Args:
        identity: The identity of the whole pipeline.
        places: Where the shards lie: paths; for a mixture ``NAME=PATH`` for each of its sources, in its order.

    Raises:
        ConfigError: The places do not suit the source.
        DataError: The identity names a stage that is not ecopipe's, or settings that this version does not know.
    """
    source = _source(identity["source"], places)
    stages = [_stage(described) for described in plan_part(identity)["stages"]]
    *before, batching = stages
    if not isinstance(batching, BatchingStage):
        raise DataError("ledger: its pipeline has no batching stage of ecopipe's, and cannot be planned again.")
    return Replanned(source, tuple(stage for stage in before if isinstance(stage, PlanStage)), batching)


def _stage(described: Mapping[str, Any]) -> Any:
    kind = str(described["stage"])
    if not issubclass(REGISTRY.get(kind, object), PlanStage | BatchingStage):
        raise DataError(
            f"ledger: its pipeline has a plan stage {kind} that is not ecopipe's, and cannot be planned again here."
        )
    return _made(REGISTRY[kind], {name: value for name, value in described.items() if name != "stage"})


def _source(described: Mapping[str, Any], places: Sequence[str]) -> Source:
    kind, settings = described["source"], {name: value for name, value in described.items() if name != "source"}
    if kind == "TarShards":
        return _made(TarShards, {**settings, "path": tuple(places)})
    if kind != "Mix":
        raise DataError(
            f"ledger: its source is {kind}, which leaves no index: there is nothing to compare with. Ledgers of shards "
            "(TarShards, Mix) can be audited."
        )
    named: dict[str, list[str]] = {}
    for place in places:
        name, equals, path = place.partition("=")
        if not equals or not path:
            raise ConfigError(
                f"--index {place!r}: the pipeline mixes several sources. Write NAME=PATH for each of them."
            )
        named.setdefault(name, []).append(path)
    parts = settings.pop("sources")
    if len(named) != len(parts):
        raise ConfigError(
            f"--index: names {len(named)} sources ({', '.join(named)}), and the pipeline mixes {len(parts)}. Write "
            "--index NAME=PATH for each of them, in the pipeline's order."
        )
    sources = [
        _made(TarShards, {**part, "name": name, "path": tuple(paths)})
        for part, (name, paths) in zip(parts, named.items(), strict=True)
    ]
    return _made(Mix, {**settings, "sources": tuple(sources)})


def _made(kind: Callable[..., T], settings: Mapping[str, Any]) -> T:
    try:
        return kind(**{name: _frozen(value) for name, value in settings.items()})
    except TypeError as error:
        raise DataError(
            f"ledger: its pipeline was written by another version of ecopipe ({error}). Audit it with that one."
        ) from error


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value

"""What becomes of a raw sample on its way into a shard: the sample stages of a pipeline whose end is a writer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from ecopipe.datasets.corpus import RawSample
from ecopipe.datasets.sharded import Sharded
from ecopipe.formats.measures import MEASURES, measure
from ecopipe.sharding.writer import Record
from ecopipe.stages.plan import Where
from ecopipe.stages.stage import SampleStage, Stage
from ecopipe.vocabulary.errors import ConfigError, CorpusError, SampleError, nearest
from ecopipe.vocabulary.randomness import Chance
from ecopipe.vocabulary.sample import Sample

_ONE = np.zeros(1, np.int64)


@dataclass(frozen=True)
class Recipe:
    """Sample stages, and ``Where`` to leave samples out, in the order in which they are applied.

    A stage sees the members (bytes, by their extensions), the corpus's own columns, and the measures of the members.
    What it leaves as bytes becomes a member; a number becomes a column of the index. Measures are taken anew of the
    members that are written, and before each ``Where``.

    Args:
        stages: The stages; none writes samples as they are.
        seed: Of the draws of random stages, which are those of epoch 0.
    """

    stages: tuple[Stage, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        labels: set[str] = set()
        for stage in self.stages:
            if not isinstance(stage, SampleStage | Where):
                raise ConfigError(
                    f"shard: {stage.label} is a {stage.title}. What is sharded passes through sample stages and Where "
                    "only; leave it to the pipeline that streams the shards."
                )
            if stage.label in labels and isinstance(stage, SampleStage):
                raise ConfigError(f"shard: two stages are called {stage.label!r}. Give one of them a name.")
            labels.add(stage.label)

    def identity(self) -> dict[str, Any]:
        """What decides the result, as JSON."""
        if not self.stages:
            return {}
        from ecopipe.pipeline.identity import describe  # it brings torch, which writing samples as they are needs not

        return {"stages": [describe(stage) for stage in self.stages], "seed": self.seed}

    def apply(self, raw: RawSample, text_columns: Mapping[str, str]) -> Record | None:
        """The sample as it is to be written; None if a ``Where`` leaves it out.

        Args:
            raw: The sample.
            text_columns: The corpus's own columns; those of text stay.

        Raises:
            CorpusError: A member is damaged.
            SampleError: A stage could not process it, or left what cannot be written.
        """
        measures = _measure(raw.key, raw.members)
        if not self.stages:
            return Record(raw.key, raw.members, {**measures, **raw.extras})
        from ecopipe.run.maker import apply_stages

        known = {name: value for name, value in {**measures, **raw.extras}.items() if value is not None}
        sample = Sample(raw.key, {**known, **raw.members})
        for stage in self.stages:
            if isinstance(stage, Where):
                sample = sample.with_fields(**_present(_measure(raw.key, _members(sample))))
                if not self._keeps(stage, sample):
                    return None
            elif isinstance(stage, SampleStage):
                sample = apply_stages([stage], [Chance(self.seed, 0, stage.label)], sample)
        return self._record(sample, measures, text_columns)

    def _keeps(self, stage: Where, sample: Sample) -> bool:
        value = sample.get(stage.measure)
        if value is None:
            return False
        kind = MEASURES.get(stage.measure)
        column = pa.array([value], pa.type_for_alias(kind) if kind else None)
        block = pa.table({stage.measure: column})
        return bool(len(stage.apply(block, _ONE, Chance(self.seed, 0, stage.label), (0, 0))))

    def _record(self, sample: Sample, before: Mapping[str, Any], text_columns: Mapping[str, str]) -> Record:
        members = _members(sample)
        if not members:
            raise SampleError(
                "shard", sample.key, "", "no stage left a member to write (bytes). End with a stage that encodes"
            )
        values: dict[str, Any] = {}
        for name, value in sample.items():
            if isinstance(value, np.generic):
                value = value.item()
            if isinstance(value, bytes):
                continue
            if not isinstance(value, int | float) and not (isinstance(value, str) and name in text_columns):
                raise SampleError(
                    "shard", sample.key, "",
                    f"the field {name!r} is {_kind(value)}, which neither a tar nor an index holds. Encode it "
                    "(EncodeAudio, EncodeImage, EncodeArray), or leave it out (Drop)",
                )  # fmt: skip
            if name not in MEASURES or value != before.get(name):  # those of what was read are no matter
                values[name] = int(value) if isinstance(value, bool) else value
        return Record(sample.key, members, {**values, **_present(_measure(sample.key, members))})


def keep(corpus: Sharded, stage: Where) -> None:
    """Leaves out the samples of shards that a ``Where`` does, by what their index says.

    Raises:
        ConfigError: The index has no such column, or its values cannot be compared so.
    """
    if stage.measure not in corpus.table.column_names:
        table = corpus.table
        known = [name for name in table.column_names if table[name].null_count < len(table) and name[0] != "_"]
        raise ConfigError(f"{stage.label}: the index has no {stage.measure!r}. {nearest(stage.measure, known)}")
    rows = np.arange(len(corpus.table))
    kept = stage.apply(corpus.table, rows, Chance(0, 0, stage.label), (0, 0))
    corpus.keep(np.isin(rows, kept))


def _members(sample: Sample) -> dict[str, bytes]:
    return {name: value for name, value in sample.items() if isinstance(value, bytes)}


def _present(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _measure(key: str, members: Mapping[str, bytes]) -> dict[str, Any]:
    try:
        return measure(members)
    except ValueError as error:
        raise CorpusError(f"sample {key!r}: {error}. Fetch its file again, or leave it out.") from error


def _kind(value: Any) -> str:
    shape = getattr(value, "shape", None)
    return type(value).__name__ if shape is None else f"an array {value.dtype} {list(shape)}"

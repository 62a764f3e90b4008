"""New measures for shards that are there: the index gets a column more, the tars stay as they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from ecopipe.datasets import shards
from ecopipe.datasets.sharded import Sharded
from ecopipe.formats.index import BATCH_ROWS, IndexFile, IndexWriter, Row, digest_rows
from ecopipe.formats.measures import MEASURES
from ecopipe.formats.tar import Member
from ecopipe.run.maker import apply_stages
from ecopipe.sharding.local import Note, run_local
from ecopipe.stages.stage import SampleStage
from ecopipe.storage import remote
from ecopipe.vocabulary.errors import ConfigError, SampleError, ShardError
from ecopipe.vocabulary.randomness import Chance
from ecopipe.vocabulary.sample import Sample

Measure = tuple[str, tuple[SampleStage, ...]]
"""The name of a new column, and the stages that make it: a field of that name, or else what the last stage gives."""


def check_measures(measures: Sequence[tuple[str, Sequence[object]]]) -> None:
    """Refuses names and stages that cannot be.

    Raises:
        ConfigError: A name is taken, or a stage is no sample stage.
    """
    taken = {"key", "shard", "members", *MEASURES}
    for name, stages in measures:
        if not name.isidentifier() or name in taken:
            raise ConfigError(f"--measure {name!r}: this name is taken, or is no plain word. Choose another one.")
        taken.add(name)
        for stage in stages:
            if not isinstance(stage, SampleStage):
                raise ConfigError(f"--measure {name!r}: {stage!r} is no sample stage, and one is wanted.")


def add_measures(folder: str, measures: Sequence[Measure], *, workers: int = 0, note: Note | None = None) -> str:
    """Adds columns to the index of a folder of shards, or makes columns of those names anew.

    The number of a field is itself; that of a text, a list or an array is its length.

    Args:
        folder: Of tars; indexed first, if need be.
        measures: The columns.
        workers: Processes; 0 works in this one.
        note: Told of the progress.

    Returns:
        The path of the index.

    Raises:
        ConfigError: A name or a stage cannot be.
        DataError: A sample cannot be read or measured; the index stays as it was.
    """
    check_measures(measures)
    corpus = Sharded([folder], split="measured")
    target = shards.index_path(folder)
    with shards.opened(target) as old:
        if corpus.count("measured") != sum(shard.rows for shard in old.shards):
            raise ShardError(f"{folder}: the index lists tars that are not there. Run 'ecopipe index' on the folder.")
        total = corpus.count("measured")
        pieces = [(start, min(start + BATCH_ROWS, total)) for start in range(0, total, BATCH_ROWS)]
        found = [np.empty(total, object) for _ in measures]
        for start, values in run_local(_Measured(corpus, measures), pieces, note or _silent, workers):
            for column, part in zip(found, values, strict=True):
                column[start : start + len(part)] = part
        columns = {name: pa.array(column) for (name, _), column in zip(measures, found, strict=True)}
        _write(target, old, corpus, columns)
    return target


def _silent(_samples: int, _bytes: int, _bad: int) -> None:
    """No progress is shown."""


@dataclass(frozen=True)
class _Measured:
    """Values of the columns for a piece of the rows."""

    corpus: Sharded
    measures: Sequence[Measure]

    def __call__(self, piece: tuple[int, int], note: Note) -> tuple[int, list[list[Any]]]:
        values: list[list[Any]] = [[] for _ in self.measures]
        again = {name for name, _ in self.measures}
        for place in range(*piece):
            raw = self.corpus.sample("measured", place)
            row = {name: value for name, value in self.corpus.measures(place).items() if value is not None}
            row = {name: value for name, value in row.items() if name not in again}
            sample = Sample(raw.key, {**row, **raw.members})
            for column, (name, stages) in zip(values, self.measures, strict=True):
                column.append(_value(name, stages, sample))
            note(1, sum(map(len, raw.members.values())), 0)
        return piece[0], values


def _value(name: str, stages: Sequence[SampleStage], sample: Sample) -> int | float:
    made = apply_stages(stages, [Chance(0, 0, stage.label) for stage in stages], sample)
    field = name if name in made else next((field for field in stages[-1].gives() if field in made), name)
    value = made.get(field)
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, str | bytes | list | tuple | np.ndarray):
        value = len(value)
    if not isinstance(value, int | float):
        raise SampleError(
            stages[-1].label, sample.key, sample.shard,
            f"gives {field!r} as {type(value).__name__}, and a measure is a number, or has a length",
        )  # fmt: skip
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise SampleError(
            stages[-1].label, sample.key, sample.shard, f"gives {field!r} = {value}, which no column of int64 holds"
        )
    return int(value) if isinstance(value, bool) else value


def _write(target: str, old: IndexFile, corpus: Sharded, columns: dict[str, pa.Array]) -> None:
    extras = {**old.extras, **{name: str(column.type) for name, column in columns.items()}}
    with remote.published(target) as temporary:
        writer = IndexWriter(temporary, extras=extras, made_by=old.made_by)
        try:
            for number, shard in enumerate(old.shards):
                chosen = corpus.places_of(shard.name)
                table = old.read(number, 0, shard.rows)
                for name, column in columns.items():
                    if name in table.column_names:
                        table = table.drop_columns([name])
                    table = table.append_column(name, column.take(pa.array(chosen)))
                table = table.select(writer.schema.names).cast(writer.schema)
                writer.add_table(replace(shard, digest=digest_rows(_rows(table))), table)
            writer.finish()
        except BaseException:
            writer.abandon()
            raise


def _rows(table: pa.Table) -> Iterator[Row]:
    for row in table.to_pylist():
        members = [Member(**member) for member in row.pop("members")]
        del row["shard"]
        yield Row(row.pop("key"), members, row)

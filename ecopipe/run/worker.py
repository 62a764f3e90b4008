"""What a worker does: index rows in, a collated batch out. It owns nothing and remembers nothing but open files."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import traceback
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import pyarrow as pa
import torch
from torch.utils.data import Dataset, get_worker_info

from ecopipe.pipeline.pipeline import Pipeline
from ecopipe.stages.foreign import Map
from ecopipe.storage.files import RangeReader
from ecopipe.vocabulary.errors import EcopipeError, SampleError, ShardError
from ecopipe.vocabulary.randomness import Chance
from ecopipe.vocabulary.sample import Batch, Place, Sample

ROW_COLUMNS = ("key", "shard", "path", "members")


@dataclass(frozen=True)
class Task:
    """One batch to make: the index rows of its samples, and its place."""

    rows: pa.RecordBatch
    place: Place
    seed: int


@dataclass(frozen=True)
class Failure:
    """What a worker returns instead of a batch that it could not make; raised again where the batch was wanted."""

    error: EcopipeError


def start_worker(_number: int) -> None:
    """Leaves Ctrl-C to the parent, ends at once when terminated, and says nothing when the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))  # any other code is an error to torch, in the parent
    sys.excepthook = _tell


def _tell(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Python's excepthook, but for a consumer that went away while it was handed a batch."""
    if not issubclass(kind, ConnectionError | EOFError):
        sys.__excepthook__(kind, error, trace)


class WorkerTraceback(Exception):
    """The cause of an error that was raised in a worker, as the text of its traceback."""

    def __str__(self) -> str:
        return f"in a worker:\n{self.args[0]}"


def make_task(rows: pa.Table, place: Place, seed: int, reads: set[str] | None) -> Task:
    """A task of some index rows, less the columns that no stage looks at."""
    columns = [name for name in rows.column_names if name in ROW_COLUMNS or reads is None or name in reads]
    return Task(rows.select(columns).combine_chunks().to_batches()[0], place, seed)


class BatchMaker(Dataset[Any]):
    """Makes the batch of a task. A map-style dataset, indexed by tasks, for torch's DataLoader."""

    def __init__(self, pipeline: Pipeline, *, check_crc: bool = True) -> None:
        self._check_crc = check_crc
        self._stages = pipeline.sample_stages
        self._collate = pipeline.collate
        self._reads = pipeline.reads()
        self._reader = RangeReader()

    def __getitem__(self, task: Task) -> Batch | Failure:
        try:
            batch = self._make(task)
            if get_worker_info() is not None:  # what cannot be sent would leave the consumer waiting for ever
                pickle.dumps([value for value in batch.values() if not isinstance(value, torch.Tensor)])
        except EcopipeError as error:
            return Failure(error)
        except Exception as error:
            key, shard = str(task.rows["key"][0]), str(task.rows["shard"][0])
            reason = f"its batch cannot be made or sent: {type(error).__name__}: {error}"
            return Failure(SampleError("worker", key, shard, reason, traceback.format_exc()))
        return batch

    def _make(self, task: Task) -> Batch:
        chances = [Chance(task.seed, task.place.epoch, stage.label) for stage in self._stages]
        samples = [self._apply(sample, chances) for sample in self._samples(task.rows)]
        try:
            batch = self._collate.apply(samples)
        except EcopipeError:
            raise
        except Exception as error:
            raise self._explain(self._collate.label, samples, error) from error
        batch.place = task.place
        return batch

    def _samples(self, rows: pa.RecordBatch) -> list[Sample]:
        return [self._sample(row) for row in rows.to_pylist()]

    def _sample(self, row: dict[str, Any]) -> Sample:
        reads = self._reads
        members = [member for member in row["members"] if reads is None or member["extension"] in reads]
        payloads = self._reader.read(row["path"], [(member["offset"], member["size"]) for member in members])
        if self._check_crc:
            _check_members(row, members, payloads)
        fields = {name: value for name, value in row.items() if name not in ROW_COLUMNS and value is not None}
        fields.update((member["extension"], data) for member, data in zip(members, payloads, strict=True))
        return Sample(row["key"], fields, shard=row["shard"])

    def close(self) -> None:
        """Closes the files that this process opened."""
        self._reader.close()

    def _apply(self, sample: Sample, chances: Sequence[Chance]) -> Sample:
        for stage, chance in zip(self._stages, chances, strict=True):
            try:
                missing = [need for need in stage.needs() if need != "*" and not set(need.split("|")) & set(sample)]
                if missing:
                    raise ValueError(f"has no {missing[0].replace('|', ' or ')}; it holds {', '.join(sorted(sample))}")
                sample = stage.apply(sample, chance)
            except SampleError as error:
                raise SampleError(
                    error.stage, error.key, error.shard or sample.shard, error.reason, error.details
                ) from error
            except EcopipeError:
                raise
            except Exception as error:
                raise self._explain(stage.label, [sample], error, foreign=isinstance(stage, Map)) from error
        return sample

    @staticmethod
    def _explain(stage: str, samples: Sequence[Sample], error: Exception, *, foreign: bool = False) -> SampleError:
        own = isinstance(error, ValueError) and not foreign  # our stages say in words what is wrong with a sample
        reason = str(error) if own else f"{type(error).__name__}: {error}"
        key = samples[0].key if len(samples) == 1 else f"{samples[0].key} and {len(samples) - 1} more"
        return SampleError(stage, key, samples[0].shard, reason, traceback.format_exc())


def _check_members(row: dict[str, Any], members: Sequence[dict[str, Any]], payloads: Sequence[bytes]) -> None:
    for member, payload in zip(members, payloads, strict=True):
        if zlib.crc32(payload) != member["crc32"]:
            raise ShardError(
                f"{row['path']}: sample {row['key']!r} member {member['extension']!r} is not what was indexed "
                "(its CRC-32 differs): the shard was damaged or replaced. Restore it, or run 'ecopipe index' on it."
            )

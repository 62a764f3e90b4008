"""Trainings that leave ledgers: real loaders on generated shards, stopped and resumed, and faults edited into files."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from ecopipe import Batch, Collate, DecodeImage, Pipeline, Shuffle, TarShards
from ecopipe.insight.audit import Report, audit
from ecopipe.insight.findings import Problem
from ecopipe.run.ledger import METADATA, SAMPLE, SCHEMA, LedgerFile, ledger_files

Row = dict[str, Any]
Messages = list[list[Row]]


def images(shards: Path, size: int = 4) -> Pipeline:
    """60 images in five shards: 15 batches of 4, in four blocks."""
    source = TarShards(str(shards / "cifar10" / "train"), block_rows=16)
    return Pipeline(source, Shuffle(), Batch(size), DecodeImage(), Collate("image", layout="stack"))


@dataclass
class Training:
    """A pipeline and its ledger; each run leaves the state of every step on every rank."""

    pipeline: Pipeline
    folder: Path
    settings: dict[str, Any] = field(default_factory=dict)

    def run(
        self,
        world_size: int = 1,
        *,
        state: str | None = None,
        steps: int | None = None,
        epochs: int = 1,
        first: int = 0,
    ) -> list[str]:
        """One rank after the other makes so many steps (of each epoch); gives rank 0's states, of the beginning too.

        A state that is taken on any rank after a step is the same.
        """
        states: list[list[str]] = []
        for rank in range(world_size):
            with self.pipeline.loader(
                rank=rank, world_size=world_size, ledger=self.folder, epoch=first, **self.settings
            ) as loader:
                if state is not None:
                    loader.load_state_dict(json.loads(state))
                states.append([json.dumps(loader.state_dict())])
                for _ in range(epochs):
                    for _batch in islice(loader, steps):
                        states[-1].append(json.dumps(loader.state_dict()))
        assert all(other == states[0] for other in states)
        return states[0]

    def audit(self, **settings: Any) -> Report:
        return audit([self.folder], [str(self.pipeline.source.path)], **settings)

    def files(self, rank: int = 0) -> list[Path]:
        """The files of a rank, in the order in which they were begun."""
        files = [LedgerFile(path) for path in ledger_files(self.folder)]
        return [file.path for file in sorted(files, key=lambda f: f.header["started"]) if file.header["rank"] == rank]

    def edit(self, change: Callable[[Messages], Messages | None], rank: int = 0, run: int = 0) -> None:
        """Rewrites the file of a rank, of its run-th start; ``change`` is given the record batches as lists of rows."""
        (path := self.files(rank)[run]).write_bytes(edited(path, change))


def edited(path: Path, change: Callable[[Messages], Messages | None]) -> bytes:
    file = LedgerFile(path)
    messages = [batch.to_pylist() for _, batch in file.batches()]
    kept = change(messages)
    batches = [pa.RecordBatch.from_pylist(rows, SCHEMA) for rows in (messages if kept is None else kept)]
    schema = SCHEMA.with_metadata({METADATA: json.dumps(file.header)})
    return b"".join([schema.serialize(), *(batch.serialize() for batch in batches)])


def delivered(messages: Messages) -> Messages:
    """The record batches that hold samples."""
    return [rows for rows in messages if rows[0]["event"] == SAMPLE]


def only(report: Report) -> Problem:
    """The one problem of a report."""
    assert report.problem_count == 1, [str(problem) for problem in report.problems]
    return report.problems[0]

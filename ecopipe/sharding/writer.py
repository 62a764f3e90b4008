"""Samples into a tar."""

from __future__ import annotations

import contextlib
import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ecopipe.formats.index import Row, digest_rows
from ecopipe.formats.tar import TarWriter
from ecopipe.vocabulary.errors import CorpusError

MADE_BY = "ecopipe shard"
"""What an index says of tars that may be replaced."""

BUFFER = 2**16
"""Bytes that are collected before they are written; what is larger is written as it is."""

SUMMED = ("duration_s", "tokens", "chars")
"""Measures that a summary adds up."""


@dataclass(frozen=True)
class Record:
    """One sample as it is written: its members' bytes by extension, and its values in the index by column."""

    key: str
    members: Mapping[str, bytes]
    values: Mapping[str, Any]


@dataclass(frozen=True)
class ShardFile:
    """A tar that was written: its name, bytes, samples, the digest that its index has of keys, sizes and CRC-32s, and
    the SHA-256 of its bytes in hexadecimal digits, if that was asked for."""

    name: str
    size: int
    rows: int
    digest: str = ""
    sha256: str = ""


@dataclass
class SplitSummary:
    """What was written of one split."""

    samples: int = 0
    shards: int = 0
    bytes: int = 0
    bad: int = 0
    totals: dict[str, float] = field(default_factory=dict)
    labels: dict[str, int] = field(default_factory=dict)

    def add(self, other: SplitSummary) -> None:
        """Takes in what was written of another part of the split."""
        self.samples += other.samples
        self.shards += other.shards
        self.bytes += other.bytes
        self.bad += other.bad
        for name, total in other.totals.items():
            self.totals[name] = self.totals.get(name, 0) + total
        labels = Counter(self.labels)
        labels.update(other.labels)
        self.labels = dict(sorted(labels.items(), key=lambda item: int(item[0])))


class ShardWriter:
    """Writes one tar, and the rows of its samples.

    Args:
        path: The tar; it is made anew.
        sha256: Whether to take the SHA-256 of the tar.
    """

    def __init__(self, path: Path, *, sha256: bool = False) -> None:
        self._path = path
        self._file = open(path, "wb", buffering=BUFFER)  # noqa: SIM115 - closed by finish or abandon
        self._sha256 = hashlib.sha256() if sha256 else None
        self._tar = TarWriter(self._file, digest=self._sha256)
        self._keys: set[str] = set()
        self._labels: Counter[int] = Counter()
        self._totals: dict[str, float] = {}
        self.rows: list[Row] = []

    def add(self, record: Record) -> int:
        """Appends a sample and returns its bytes in the tar.

        Raises:
            CorpusError: The key holds a dot, or is another sample's in the shard.
        """
        if "." in record.key.rpartition("/")[2] or record.key in self._keys:
            raise CorpusError(
                f"sample {record.key!r}: the key holds a dot, or another sample has it. Rename the sample."
            )
        before = self._tar.position
        members = self._tar.add(record.key, record.members)
        self._keys.add(record.key)
        self.rows.append(Row(record.key, members, record.values))
        for name in SUMMED:
            if (value := record.values.get(name)) is not None:
                self._totals[name] = self._totals.get(name, 0) + value
        if (label := record.values.get("label")) is not None:
            self._labels[label] += 1
        return self._tar.position - before

    def finish(self) -> tuple[ShardFile, SplitSummary]:
        """Closes the tar, and says what it holds."""
        self._tar.finish()
        self._file.close()
        shard = ShardFile(
            self._path.name,
            self._tar.position,
            len(self.rows),
            digest_rows(self.rows),
            self._sha256.hexdigest() if self._sha256 else "",
        )
        labels = {str(label): count for label, count in sorted(self._labels.items())}
        return shard, SplitSummary(len(self.rows), 1, shard.size, 0, self._totals, labels)

    def abandon(self) -> None:
        """Closes an unfinished tar, which is to be thrown away."""
        with contextlib.suppress(OSError):  # what is still to be written has no room, perhaps
            self._file.close()

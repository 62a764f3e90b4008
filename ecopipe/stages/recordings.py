"""Recordings beside a pipeline's own samples: noises, room impulse responses. Read one at a time, in the workers."""

from __future__ import annotations

import os
import threading
import zlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ecopipe.formats import audio as codec
from ecopipe.formats.audio import AUDIO_EXTENSIONS
from ecopipe.plan.blocks import Slice
from ecopipe.plan.shards import Shards, open_shards
from ecopipe.storage.files import RangeReader
from ecopipe.vocabulary.errors import ConfigError, DataError, ShardError

_COLUMNS = ("key", "shard", "members")


@dataclass(frozen=True)
class Recording:
    """One recording, encoded: ``frames`` frames, more than 0, at ``rate_hz``; ``place`` names it in errors."""

    data: bytes
    kind: str
    frames: int
    rate_hz: int
    place: str

    def piece(self, start: int = 0, frames: int | None = None) -> npt.NDArray[Any]:
        """Some of its frames, or all: int16 or float32 [N, channels], finite.

        Raises:
            ShardError: It is damaged, or holds NaN.
        """
        try:
            return codec.decode(self.data, self.kind, start=start, frames=frames)[0]
        except ValueError as error:
            raise _mend(self.place, error) from error

    def stretch(self, frames: int, at: float) -> npt.NDArray[Any]:
        """``frames`` frames from a place that ``at`` in [0, 1) chooses among all; as :meth:`piece` gives them.

        A recording that is shorter goes round: behind its end comes its beginning.
        """
        if self.frames >= frames:
            return self.piece(int(at * (self.frames - frames + 1)), frames)
        whole = self.piece()
        found: npt.NDArray[Any] = whole[(int(at * len(whole)) + np.arange(frames)) % len(whole)]
        return found


def _mend(place: str, error: ValueError) -> ShardError:
    return ShardError(f"{place}: {error}. Mend it, or leave it out of the shards.")


@dataclass(frozen=True)
class _Opened:
    """The shards as one process has them open."""

    shards: Shards
    ends: npt.NDArray[np.int64]
    process: int = field(default_factory=os.getpid)
    reader: RangeReader = field(default_factory=RangeReader)
    lock: threading.Lock = field(default_factory=threading.Lock)


class Recordings:
    """The recordings of some shards, by number.

    It may be pickled or used after a fork: every process opens its own files when it first reads. The index must be
    there what it was where it was opened first, so that a number names the same recording in every process.

    Args:
        paths: The shards, as those of ``TarShards``.
        what: What errors call them, such as ``"AddNoise: noise"``.
        fingerprint: That of the index, if it is known.
    """

    def __init__(self, paths: tuple[str, ...], what: str, fingerprint: str = "") -> None:
        self._paths, self._what, self._known = paths, what, fingerprint
        self._opened: _Opened | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return Recordings, (self._paths, self._what, self._known)

    @property
    def fingerprint(self) -> str:
        """A digest over the names and contents of the shards, by their index; where they lie is no part of it.

        Raises:
            ConfigError: The shards hold no audio.
            DataError: A shard or the index is missing, or is not what was indexed.
        """
        return self._open().shards.fingerprint

    def __len__(self) -> int:
        return int(self._open().ends[-1])

    def read(self, number: int) -> Recording:
        """A recording.

        Raises:
            ShardError: It cannot be read, its CRC is not that of the index, or it is no audio.
        """
        opened = self._open()
        shard = int(np.searchsorted(opened.ends, number, side="right"))
        first = int(opened.ends[shard - 1]) if shard else 0
        with opened.lock:
            rows = opened.shards.read([Slice(shard, number - first, number - first + 1)], _COLUMNS)
        (row,) = rows.to_pylist()
        place = f"{self._what} {row['key']!r} of {row['path']}"
        try:
            kind, data = self._payload(opened, row)
            info = codec.probe(data, kind)
            if not info.frames:
                raise ValueError("it holds no audio: 0 frames")
        except ShardError as error:
            raise ShardError(f"{self._what} {row['key']!r}: {error}") from error
        except ValueError as error:
            raise _mend(place, error) from error
        return Recording(data, kind, info.frames, info.rate_hz, place)

    def _payload(self, opened: _Opened, row: dict[str, Any]) -> tuple[str, bytes]:
        """The kind and the bytes of the one member that is audio."""
        kinds = {member["extension"]: member["extension"].rpartition(".")[2].lower() for member in row["members"]}
        members = [member for member in row["members"] if kinds[member["extension"]] in AUDIO_EXTENSIONS]
        if len(members) != 1:
            raise ValueError(f"one member of audio wanted, and it holds {', '.join(sorted(kinds))}")
        (member,) = members
        with opened.lock:
            (data,) = opened.reader.read(row["path"], [(member["offset"], member["size"])])
        if zlib.crc32(data) != member["crc32"]:
            raise ShardError(
                f"{row['path']}: it is not what was indexed (its CRC-32 differs): the shard was damaged or replaced. "
                "Restore it, or run 'ecopipe index' on it."
            )
        return kinds[member["extension"]], data

    def _open(self) -> _Opened:
        if self._opened is None or self._opened.process != os.getpid():
            try:
                shards = open_shards(self._paths, tolerant=bool(self._known))
            except (ConfigError, DataError) as error:
                raise type(error)(f"{self._what}: {error}") from error
            self._check(shards)
            self._opened = _Opened(shards, np.cumsum(shards.rows_per_shard))
            self._known = shards.fingerprint
        return self._opened

    def _check(self, shards: Shards) -> None:
        if self._known and shards.fingerprint != self._known:
            raise ShardError(
                f"{self._what}: {', '.join(self._paths)}: the index was {self._known} when the pipeline was opened and "
                f"is {shards.fingerprint}: shards were added, removed or replaced meanwhile. Put back what was there, "
                "or make the pipeline anew."
            )
        kinds = {name.rpartition(".")[2].lower() for name in shards.fields}
        if not kinds & set(AUDIO_EXTENSIONS):
            found = ", ".join(sorted(shards.fields - {"key", "shard"})) or "nothing"
            raise ConfigError(
                f"{self._what}: {', '.join(self._paths)}: the shards hold no audio; they hold {found}. Name shards of "
                "recordings."
            )

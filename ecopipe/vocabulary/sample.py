"""A sample and a batch: what flows through a pipeline."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Part(NamedTuple):
    """Which part of a sample is meant: units [start, stop) of all ``whole``, counted in ``unit`` (``"frames"``)."""

    start: int
    stop: int
    whole: int
    unit: str

    def __str__(self) -> str:
        return f"[{self.start}:{self.stop}]"


class Sample(Mapping[str, Any]):
    """One sample: its key, the shard it came from, and named fields.

    A field is a member of the tar under its extension (``sample["flac"]``: bytes), a measure of the index
    (``sample["label"]``: int), or what a stage made of them (``sample["audio"]``: array). A sample is never changed:
    :meth:`with_fields` and :meth:`without` return another one.

    ``part`` is None, or says that only a part of the sample is wanted. Its members are whole; the stage that cuts the
    part out of what they hold is the one that counts in the part's unit.
    """

    __slots__ = ("_fields", "key", "part", "shard")

    def __init__(self, key: str, fields: Mapping[str, Any], *, shard: str = "", part: Part | None = None) -> None:
        self.key = key
        self.shard = shard
        self.part = part
        self._fields = dict(fields)

    def __getitem__(self, name: str) -> Any:
        return self._fields[name]

    def __contains__(self, name: object) -> bool:
        return name in self._fields

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    def __repr__(self) -> str:
        return f"Sample({self.key!r}, fields={sorted(self._fields)}, shard={self.shard!r})"

    def with_fields(self, **fields: Any) -> Sample:
        """This sample with fields added or replaced."""
        return Sample(self.key, {**self._fields, **fields}, shard=self.shard, part=self.part)

    def without(self, *names: str) -> Sample:
        """This sample less the named fields."""
        left = {name: value for name, value in self._fields.items() if name not in names}
        return Sample(self.key, left, shard=self.shard, part=self.part)

    def at(self, part: Part | None, **fields: Any) -> Sample:
        """This sample where another part of it is wanted, with fields that tell of that part."""
        return Sample(self.key, {**self._fields, **fields}, shard=self.shard, part=part)

    def part_in(self, unit: str) -> Part | None:
        """The part that is wanted, if it is counted in this unit."""
        return self.part if self.part is not None and self.part.unit == unit else None


@dataclass(frozen=True)
class Fault:
    """A bad sample of a batch: which of the planned ones it was, what was wrong, and what came in its place.

    ``position`` counts the batch's planned samples from 0; ``stage`` failed, for the reason in words; ``substitute`` is
    the key of the sample that was delivered instead, or None if the place was left out.
    """

    position: int
    key: str
    shard: str
    stage: str
    reason: str
    substitute: str | None = None


@dataclass(frozen=True)
class Place:
    """Where a batch stands in the one global sequence, and who received it.

    ``number`` is its number in the epoch (0, 1, 2, ...), whatever the world size; ``step`` counts the steps of the
    epoch before it, over all restarts; ``shards`` names the shard of each planned sample; ``repeat`` says that it is
    delivered a second time, so that every rank makes the same number of steps; ``duration_s`` is the audio in it by
    the index, before any stage (0 without audio); ``faults`` lists its bad samples, where the pipeline tolerates any.
    """

    epoch: int
    number: int
    shards: tuple[str, ...] = field(default=(), repr=False)
    rank: int = 0
    repeat: bool = False
    duration_s: float = 0.0
    step: int = 0
    faults: tuple[Fault, ...] = ()


class Batch(dict[str, Any]):
    """A batch: a dict of tensors and lists, with ``keys`` (one str per sample) and its place in the sequence.

    ``batch["keys"]``: list of B sample keys. ``batch["parts"]``, where rows stand for parts of samples: list of B pairs
    (start, stop), in frames of the file or in tokens. Tensors have the batch as their first dimension unless a stage
    says otherwise. ``batch.place`` says which batch of the sequence this is.
    """

    place: Place | None

    def __init__(self, fields: Mapping[str, Any] | None = None, *, place: Place | None = None) -> None:
        super().__init__(fields or {})
        self.place = place

    @property
    def sample_keys(self) -> list[str]:
        """What the samples are called, in their order in the batch: by their keys; a part of one with its bounds behind
        it, such as ``1089-134686-0000[160000:320000]``. Random draws and errors go by these names."""
        keys: list[str] = self["keys"]
        if (parts := self.get("parts")) is None:
            return keys
        return [f"{key}[{start}:{stop}]" for key, (start, stop) in zip(keys, parts, strict=True)]

    def with_fields(self, **fields: Any) -> Batch:
        """This batch with fields added or replaced; tensors that stay are shared, not copied."""
        return Batch({**self, **fields}, place=self.place)

    def without(self, *names: str) -> Batch:
        """This batch less the named fields."""
        return Batch({name: value for name, value in self.items() if name not in names}, place=self.place)

    def pin_memory(self) -> Batch:
        """This batch with its tensors in page-locked memory."""
        pinned = {name: value.pin_memory() if hasattr(value, "pin_memory") else value for name, value in self.items()}
        return Batch(pinned, place=self.place)

    def to(self, device: Any, *, non_blocking: bool = False) -> Batch:
        """This batch with its tensors on another device."""
        moved = {
            name: value.to(device, non_blocking=non_blocking) if hasattr(value, "pin_memory") else value
            for name, value in self.items()
        }
        return Batch(moved, place=self.place)

    def __repr__(self) -> str:
        parts = []
        for name, value in self.items():
            shape = getattr(value, "shape", None)
            what = type(value).__name__ if shape is None else f"{value.dtype} {list(shape)}"
            parts.append(f"{name}: {what}")
        return f"Batch({', '.join(parts)})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (dict(self), self.place)


def _rebuild(fields: dict[str, Any], place: Place | None) -> Batch:
    return Batch(fields, place=place)

"""What a stage is: a frozen dataclass and one pure method, ``apply``.

::

    Stage
    ├── PlanStage        index rows -> index rows          (metadata only; also deals slices of shards)
    ├── BatchingStage    index rows -> batches of rows     (exactly one in a pipeline)
    ├── SampleStage      sample -> sample                  (in the workers)
    ├── CollateStage     samples -> batch                  (exactly one in a pipeline, in the workers)
    └── DeviceStage      batch -> batch                    (in the consumer's process, on the device)

A stage's fields are its TOML keys, its repr, its equality and its part of the pipeline's identity. A field made with
``tuning()`` may change without changing what is delivered, and is left out of the identity.
"""

from __future__ import annotations

import abc
import dataclasses
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import UnionType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Union, get_args, get_origin

import numpy as np
import numpy.typing as npt

from ecopipe.stages.memory import BatchRows
from ecopipe.vocabulary.errors import ConfigError, nearest
from ecopipe.vocabulary.randomness import Chance
from ecopipe.vocabulary.sample import Batch, Sample

if TYPE_CHECKING:
    import pyarrow as pa
    from typing_extensions import Self

    from ecopipe.plan.blocks import Slices
    from ecopipe.plan.parts import Parts

Rows = npt.NDArray[np.int64]

ANY = "*"
"""In :meth:`Stage.needs`: every field of the sample, because the stage cannot say which."""

REGISTRY: dict[str, type[Stage]] = {}
"""Every concrete stage by its name in TOML. Filled as stage modules are imported."""


def tuning(default: Any) -> Any:
    """A dataclass field that is not part of the pipeline's identity: it changes the speed, never the result."""
    return dataclasses.field(default=default, metadata={"identity": False})


def from_file(**settings: Any) -> Any:
    """A dataclass field that names a file: what the file holds is the identity, wherever it lies."""
    return dataclasses.field(metadata={"identity": "content"}, **settings)


def told_by(tell: Callable[[Any], str], **settings: Any) -> Any:
    """A dataclass field whose identity is what ``tell(stage)`` says of it, such as what lies under a path; none if the
    field is None."""
    return dataclasses.field(metadata={"identity": tell}, **settings)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Base of every stage.

    Args:
        name: The stage's name in errors, profiles and random draws; the class's name unless a pipeline holds two
            stages of one class.
    """

    name: str = ""
    title: ClassVar[str] = "stage"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    def __init_subclass__(cls, *, abstract: bool = False, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        ours = cls.__module__.startswith("ecopipe.stages.") and cls.__module__ != __name__
        if ours and cls.__name__[0] != "_" and not abstract:
            REGISTRY[cls.__name__] = cls

    def __post_init__(self) -> None:
        self.check_types()

    def check_types(self) -> None:
        """Raises for the first setting that is not of its type, or is NaN or infinite.

        Raises:
            ConfigError: Names the setting, what it is, and what it takes.
        """
        hints = hints_of(type(self))
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if not fits(frozen(value), hints[item.name]):
                raise self.refuse(f"{item.name} = {value!r} has the wrong type; it takes {item.type}")
            if not _finite(value):
                raise self.refuse(f"{item.name} must be finite, got {value!r}")

    def check_positive(self, *names: str) -> None:
        """Raises ConfigError for the first of these settings that is no positive int."""
        for name in names:
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
                raise self.refuse(f"{name} must be a positive int, got {value!r}")

    @classmethod
    def preset(cls, preset: str, **settings: Any) -> Self:
        """The stage with the settings of a preset, other settings replaced: in TOML the key ``preset``.

        A preset is only a set of settings: ``LogMel.preset("torchaudio") == LogMel()``.

        Raises:
            ConfigError: The stage has no preset of that name.
        """
        if preset not in cls.presets:
            found = nearest(preset, cls.presets) if cls.presets else "It has none."
            raise ConfigError(f"{cls.__name__}: unknown preset {preset!r}. {found}")
        return cls(**{**cls.presets[preset], **settings})

    @property
    def label(self) -> str:
        """What errors and profiles call this stage."""
        return self.name or type(self).__name__

    def needs(self) -> tuple[str, ...]:
        """Fields that must be there. ``"flac|wav"`` means one of several; ``ANY`` every field of the sample."""
        return ()

    @cached_property
    def wanted(self) -> tuple[tuple[str, ...], ...]:
        """What :meth:`needs` says: of each of these, one must be there."""
        return tuple(tuple(need.split("|")) for need in self.needs() if need != ANY)

    def gives(self) -> tuple[str, ...]:
        """Fields that are there afterwards."""
        return ()

    def takes_away(self) -> tuple[str, ...]:
        """Fields that are gone afterwards."""
        return ()

    def parts_in(self) -> str:
        """What parts of samples are counted in: those that a plan stage makes, or that another stage cuts out. Empty
        if the stage has to do with none."""
        return ""

    def check_choices(self, **choices: Any) -> None:
        """Raises for the first setting that is none of the choices of its ``Literal``.

        Raises:
            ConfigError: A setting is none of its choices.
        """
        for name, choice in choices.items():
            value = getattr(self, name)
            if value not in get_args(choice):
                raise self.refuse(f"unknown {name} {value!r}. {nearest(str(value), get_args(choice))}")

    def refuse(self, problem: str) -> ConfigError:
        """The error for a setting that cannot work; to be raised by the caller."""
        return ConfigError(f"{self.label}: {problem}")


class PlanStage(Stage):
    """Works on index rows. It sees measures, never payload bytes."""

    title: ClassVar[str] = "plan stage"

    def deal(self, slices: Slices, chance: Chance) -> Slices:
        """The slices of the shards of a source in an epoch, before they are dealt to lanes: reordered, or fewer."""
        return slices

    def parts(self, block: pa.Table, rows: Rows, place: tuple[int, int]) -> Parts | None:
        """The parts of samples that take the place of some rows of a block, before ``apply`` sees them; None leaves the
        rows as they are."""
        return None

    def apply(self, block: pa.Table, rows: Rows, chance: Chance, place: tuple[int, int]) -> Rows:
        """Rows of a block, as positions into ``block``: reordered, or fewer. ``place`` is (lane, block number)."""
        return rows


class BatchingStage(Stage, abc.ABC):
    """Cuts the rows of a block into batches. A pipeline has exactly one, after the other plan stages."""

    title: ClassVar[str] = "batching stage"

    @property
    def multiple(self) -> int:
        """Blocks hold a multiple of so many rows, so that fixed-size batches leave no remainder at a block's end."""
        return 1

    @property
    def batches_per_turn(self) -> int:
        """Batches of a block that follow each other in the sequence, before another lane has its turn."""
        return 1

    def parts(self, block: pa.Table, rows: Rows, place: tuple[int, int]) -> Parts | None:
        """The parts of samples that take the place of some rows of a block, before ``apply`` sees them; None leaves the
        rows as they are."""
        return None

    def count(self, rows: int) -> int | None:
        """Batches that a block of so many rows gives; None if it depends on more than their number."""
        return None

    def by_length(self, block: pa.Table, batches: Sequence[Rows]) -> Rows | None:
        """The numbers of the batches of a block, longest first; None where the stage knows no lengths."""
        return None

    @abc.abstractmethod
    def apply(self, block: pa.Table, rows: Rows, chance: Chance, place: tuple[int, int]) -> list[Rows]:
        """The batches of a block, each as positions into ``block``, in the order of delivery."""


@dataclass(frozen=True)
class Row:
    """What a stage can put straight into the memory of a batch: the field, its dtype, and the measure of the index that
    says its length beforehand."""

    field: str
    dtype: str
    measure: str


class SampleStage(Stage, abc.ABC):
    """A pure function of (sample, seed). Runs in the workers."""

    title: ClassVar[str] = "sample stage"
    seeds_process: ClassVar[bool] = False
    """Whether it seeds generators of which a process has one: then a thread beside the consumer's may not run it."""

    def row(self) -> Row | None:
        """What :meth:`apply_into` fills; None if the stage cannot do so."""
        return None

    def apply_into(self, sample: Sample, chance: Chance, row: npt.NDArray[Any]) -> Sample:
        """What :meth:`apply` gives, bit for bit, with ``row`` itself as the field if that could be filled: an array [T]
        whose content is not set. Numbers that it is filled with are finite."""
        return self.apply(sample, chance)

    @abc.abstractmethod
    def apply(self, sample: Sample, chance: Chance) -> Sample:
        """The sample with fields added or replaced. The input is not changed."""


class CollateStage(Stage, abc.ABC):
    """Makes one batch of several samples. A pipeline has exactly one, after the sample stages."""

    title: ClassVar[str] = "collate stage"

    @abc.abstractmethod
    def apply(self, samples: Sequence[Sample]) -> Batch:
        """The batch, with ``keys``, in the order of the samples."""

    def takes_rows(self, field: str) -> bool:
        """Whether the batch may hold the memory that this field of the samples was put into: [B, Tmax]."""
        return False

    def apply_to_rows(self, samples: Sequence[Sample], rows: BatchRows) -> Batch:
        """What :meth:`apply` gives, in the memory of ``rows`` if the samples are there."""
        return self.apply(samples)


class DeviceStage(Stage, abc.ABC):
    """A pure function of (padded batch with true lengths, seed). Runs on the batch's device."""

    title: ClassVar[str] = "device stage"

    @abc.abstractmethod
    def apply(self, batch: Batch, chance: Chance) -> Batch:
        """The batch with fields added or replaced. The input is not changed."""


def hints_of(kind: type[Any]) -> dict[str, Any]:
    """The annotations of a dataclass's fields, evaluated. (Python 3.10's get_type_hints stumbles over KW_ONLY.)"""
    names: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        names |= vars(sys.modules[base.__module__])
    hints = {item.name: item.type for item in dataclasses.fields(kind)}
    return {name: eval(hint, names) if isinstance(hint, str) else hint for name, hint in hints.items()}


def fits(value: Any, hint: Any) -> bool:
    """Whether a value suits a field's annotation; a whole number suits float, and any text a ``Literal`` of texts."""
    origin, inner = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin in (Union, UnionType):
        return any(fits(value, one) for one in inner)
    if origin is Literal:
        return isinstance(value, type(inner[0]))  # the stage itself names the choices
    if origin is tuple:
        return isinstance(value, tuple) and all(fits(item, inner[0]) for item in value)
    if origin is not None:
        return isinstance(value, origin)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(hint, type) and isinstance(value, hint)


def frozen(value: Any) -> Any:
    """A value with its lists as tuples."""
    return tuple(frozen(item) for item in value) if isinstance(value, list) else value


def _finite(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(map(_finite, value))
    return not isinstance(value, float) or math.isfinite(value)

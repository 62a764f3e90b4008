"""Stages that choose among the fields of a sample, and count what is in one."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

from ecopipe.stages.stage import ANY, SampleStage, Stage
from ecopipe.vocabulary.randomness import Chance
from ecopipe.vocabulary.sample import Sample


@dataclass(frozen=True)
class _Chosen(SampleStage):
    """Some fields by their names."""

    fields: tuple[str, ...]
    _: KW_ONLY
    optional: bool = False

    def __post_init__(self) -> None:
        _check_names(self, self.fields)
        super().__post_init__()


@dataclass(frozen=True)
class Keep(_Chosen):
    """The sample with these fields alone.

    Args:
        fields: Their names.
        optional: Let a sample pass that lacks some of them.
    """

    def needs(self) -> tuple[str, ...]:
        return (ANY,) if self.optional else self.fields

    def gives(self) -> tuple[str, ...]:
        return () if self.optional else self.fields

    def apply(self, sample: Sample, chance: Chance) -> Sample:
        _check_there(sample, self.fields, optional=self.optional)
        return sample.without(*(set(sample) - set(self.fields)))


@dataclass(frozen=True)
class Drop(_Chosen):
    """The sample without these fields.

    Args:
        fields: Their names.
        optional: Let a sample pass that lacks some of them.
    """

    def needs(self) -> tuple[str, ...]:
        return () if self.optional else self.fields

    def takes_away(self) -> tuple[str, ...]:
        return self.fields

    def apply(self, sample: Sample, chance: Chance) -> Sample:
        _check_there(sample, self.fields, optional=self.optional)
        return sample.without(*self.fields)


@dataclass(frozen=True)
class Count(SampleStage):
    """How long a field is, as another field: tokens, frames, characters, bytes. A number becomes a column of shards.

    Args:
        field: An array (its first dimension is counted), a text (characters), bytes, or a list.
        into: The field for the number, an int. By default ``n_`` and the name of the field.
    """

    field: str
    _: KW_ONLY
    into: str | None = None

    @property
    def _into(self) -> str:
        return self.into or f"n_{self.field}"

    def needs(self) -> tuple[str, ...]:
        return (self.field,)

    def gives(self) -> tuple[str, ...]:
        return (self._into,)

    def apply(self, sample: Sample, chance: Chance) -> Sample:
        _check_there(sample, (self.field,), optional=False)
        value = sample[self.field]
        try:
            count = len(value)
        except TypeError:
            raise ValueError(
                f"its {self.field} is {type(value).__name__}, which has no length; an array, text or bytes wanted"
            ) from None
        return sample.with_fields(**{self._into: count})


def _check_names(stage: Stage, fields: object) -> None:
    if isinstance(fields, list):
        object.__setattr__(stage, "fields", tuple(fields))
        fields = tuple(fields)
    if not isinstance(fields, tuple) or not fields or not all(isinstance(name, str) and name for name in fields):
        raise stage.refuse(f"fields must be one or more names, such as ['flac', 'txt'], got {fields!r}")


def _check_there(sample: Sample, fields: tuple[str, ...], *, optional: bool) -> None:
    missing = [name for name in fields if name not in sample]
    if missing and not optional:
        raise ValueError(f"no field {missing[0]!r}; it has {', '.join(sorted(sample))}")

"""Whether the statistics that a ``CMVN`` names are those of the features that it normalises."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ecopipe.pipeline.identity import describe, first_difference
from ecopipe.stages.masking import SpecAugment
from ecopipe.stages.normalization import CMVN
from ecopipe.stages.stage import REGISTRY, DeviceStage
from ecopipe.vocabulary.errors import ConfigError

_NO_MATTER = ("name", "engine", "dtype", "pad_value")
"""Settings that change no statistics worth the name."""


def check_statistics(stages: Sequence[DeviceStage]) -> None:
    """Refuses a ``CMVN`` whose statistics were measured behind other device stages than those before it.

    Raises:
        ConfigError: Names the first difference.
    """
    for number, stage in enumerate(stages):
        if not isinstance(stage, CMVN) or stage.stats is None:
            continue
        found = stage.statistics
        if found.field != stage.field:
            raise ConfigError(
                f"{stage.label}: {stage.stats} holds the statistics of {found.field!r}, and field is {stage.field!r}. "
                "Measure them again with 'ecopipe stats --field'."
            )
        before = list(stages[:number])
        cut = next((at for at, one in enumerate(before) if isinstance(one, CMVN | SpecAugment)), len(before))
        mine = [_settings(describe(one)) for one in before[:cut]]
        theirs = [
            _settings(told)
            for told in found.pipeline.get("stages", [])
            if issubclass(REGISTRY.get(told.get("stage", ""), object), DeviceStage)
        ]
        if found.pipeline and (difference := first_difference(_named(theirs), _named(mine))):
            raise ConfigError(
                f"{stage.label}: {stage.stats} was measured behind other device stages: {difference}. Measure this "
                "pipeline with 'ecopipe stats PIPELINE -o FILE --overwrite'."
            )


def _settings(told: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in told.items() if name not in _NO_MATTER}


def _named(stages: list[dict[str, Any]]) -> dict[str, Any]:
    """The settings of stages under their numbers and names, for a difference that reads well."""
    return {f"device stage {number} ({told['stage']})": told for number, told in enumerate(stages, 1)}

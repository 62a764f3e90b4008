"""What becomes of bad samples: those that cannot be read, do not match their CRC, or that a stage cannot process."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from ecopipe.vocabulary.errors import ConfigError, nearest

Policy = Literal["raise", "skip", "substitute"]

SHARE_OVER = 1000
"""``max_share`` is a share of so many samples at least: one bad sample among the first ten is no tenth."""


@dataclass(frozen=True)
class BadSamples:
    """A pipeline's policy for bad samples. Whatever it is, no other sample changes its place, and no rank its steps.

    A sample that cannot be *planned* (``Bucket`` finds no measure, or one over ``max_padded``) is an error whatever the
    policy: leave it out with ``Where``. So set the limits that you can know before a long run.

    The policy is no part of the pipeline's identity: a run that met a bad sample goes on from its last state with
    another one.

    Args:
        policy: ``"raise"`` an error that names the sample; ``"skip"`` leaves it out of its batch; ``"substitute"``
            delivers another sample of the same bucket in its place: one of the batches that are next in length, drawn
            by (seed, epoch, batch). A batch of nothing but bad samples is given one such substitute under ``"skip"``
            too, because every rank makes every step.
        max_share: Share of bad samples among those this process has delivered, in [0, 1], above which it raises; taken
            of at least 1,000 samples.
        max_consecutive: Bad samples in a row, in this process, above which it raises: a lost disk, not a bad file.
    """

    policy: Policy = "raise"
    max_share: float = field(default=0.01, kw_only=True)
    max_consecutive: int = field(default=32, kw_only=True)

    def __post_init__(self) -> None:
        if self.policy not in get_args(Policy):
            remedy = nearest(str(self.policy), get_args(Policy))
            raise ConfigError(f"BadSamples: unknown policy {self.policy!r}. {remedy}")
        for name, kinds in (("max_share", (int, float)), ("max_consecutive", (int,))):
            if not isinstance(getattr(self, name), kinds):
                raise ConfigError(f"BadSamples: {name} must be a number, got {getattr(self, name)!r}.")
        if not 0 <= self.max_share <= 1:
            raise ConfigError(f"BadSamples: max_share must lie in [0, 1], got {self.max_share}.")
        if self.max_consecutive < 1:
            raise ConfigError(f"BadSamples: max_consecutive must be at least 1, got {self.max_consecutive}.")

    @property
    def tolerant(self) -> bool:
        """Whether a bad sample is anything but an error."""
        return self.policy != "raise"

"""The state of a loader: what the trainer has taken, as a few numbers in JSON, and what they belong to."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ecopipe.pipeline.identity import first_difference, less_weights
from ecopipe.plan.sequence import Cursor
from ecopipe.vocabulary.errors import StateError
from ecopipe.vocabulary.json_text import parse_json, parse_json_object

VERSION = 2


@dataclass(frozen=True)
class Taken:
    """What has been taken: the epoch, the place in its sequence, and the steps made in it, on whatever ranks.

    ``items`` is the state of an iterable source (``Items``) before the cursor's window; ``epoch_items`` that at the end
    of the epoch before.
    """

    epoch: int
    cursor: Cursor = field(default_factory=Cursor)
    step: int = 0
    items: Any = None
    epoch_items: Any = None

    @property
    def border(self) -> Taken:
        """The beginning of its epoch."""
        return Taken(self.epoch, epoch_items=self.epoch_items)

    @property
    def at_border(self) -> bool:
        """Whether nothing of the epoch has been taken."""
        return not self.cursor.lanes


@dataclass(frozen=True)
class Belonging:
    """What a state belongs to: a seed, the shards' fingerprint, and the pipeline's identity."""

    seed: int
    index: str
    pipeline: dict[str, Any]


def write(taken: Taken, belonging: Belonging) -> dict[str, Any]:
    """A state as JSON-ready values."""
    state: dict[str, Any] = {
        "version": VERSION,
        "epoch": taken.epoch,
        "step": taken.step,
        "batch": taken.cursor.number,
        "turn": taken.cursor.turn,
        "lanes": [list(place) for place in taken.cursor.lanes],
        "items": json.dumps([taken.items, taken.epoch_items]),  # as text it is one value: nobody can load half of it
        "seed": belonging.seed,
        "index": belonging.index,
        "pipeline": json.dumps(belonging.pipeline),
    }
    return state | {"check": _check_sum(state)}


def read(state: Mapping[str, Any], belonging: Belonging) -> Taken:
    """What a state says was taken.

    Raises:
        StateError: It is damaged, or of another version, seed, pipeline or index; names the first difference. (The
            weights of a mixture may differ where the state was taken between two epochs.)
    """
    if not isinstance(state, Mapping):
        raise StateError(f"state: a mapping as state_dict() gives is wanted, got {type(state).__name__}.")
    if "version" in state and state["version"] != VERSION:
        raise StateError(
            f"state: has version {state['version']}; this ecopipe reads {VERSION}. Load it with the ecopipe that wrote "
            "it, and begin with this one at the next epoch (set_epoch)."
        )
    if lost := [key for key in write(Taken(0), belonging) if key not in state]:
        raise StateError(f"state: has no {lost[0]!r}. It is not a state of an ecopipe loader, or is damaged.")
    if state["check"] != _check_sum(state):
        raise StateError("state: is damaged: it does not agree with its own checksum. Load an earlier one.")
    if state["seed"] != belonging.seed:
        raise StateError(
            f"state: was taken with seed {state['seed']}, this loader has {belonging.seed}. Use the same seed."
        )
    try:
        lanes = tuple((_count(block), _count(batch)) for block, batch in state["lanes"])
        cursor = Cursor(_count(state["batch"]), _count(state["turn"]), lanes)
        items, epoch_items = parse_json(state["items"])
        taken = Taken(_count(state["epoch"]), cursor, _count(state["step"]), items, epoch_items)
        pipeline = parse_json_object(state["pipeline"])
    except (TypeError, ValueError, OverflowError) as error:
        raise StateError(f"state: is damaged: {error}. Load an earlier one.") from error
    _compare_pipelines(pipeline, belonging.pipeline, at_border=taken.at_border)
    if state["index"] != belonging.index:
        raise StateError(
            f"state: belongs to other shards: their index was {state['index']} and is {belonging.index}. "
            "Load it with the shards that it was taken on."
        )
    return taken


def _count(value: Any) -> int:
    found = int(value)
    if not 0 <= found < 2**63:
        raise ValueError(f"{found} is no count")
    return found


def _compare_pipelines(saved: dict[str, Any], now: dict[str, Any], *, at_border: bool) -> None:
    found = first_difference(saved, now)
    if found and at_border:
        found = first_difference(less_weights(saved), less_weights(now))
    if found:
        remedy = "Load it into the pipeline that made it."
        if found.startswith("source.weights"):
            remedy = "Weights may change between two epochs only: load a state that was taken there."
        raise StateError(f"state: belongs to another pipeline: {found}. {remedy}")


def _check_sum(state: Mapping[str, Any]) -> str:
    """A digest of a state, so that a damaged one is noticed."""
    parts = [state[key] for key in ("epoch", "step", "batch", "turn", "lanes", "items", "seed", "index", "pipeline")]
    return hashlib.blake2b(json.dumps(parts, default=repr).encode(), digest_size=8).hexdigest()

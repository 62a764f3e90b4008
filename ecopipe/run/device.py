"""The device stages: applied to each batch where the consumer wants it, one batch ahead on a side stream on CUDA."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, cast

import torch

from ecopipe.run.gauge import Gauge
from ecopipe.stages.fusion import fuse
from ecopipe.stages.stage import DeviceStage
from ecopipe.vocabulary.errors import ConfigError, EcopipeError, SampleError
from ecopipe.vocabulary.randomness import Chance
from ecopipe.vocabulary.sample import Batch

TO_DEVICE = "to device"
"""What profiles call the copy of a batch to the GPU."""


def resolve(device: str | torch.device) -> torch.device:
    """A device that is there.

    Raises:
        ConfigError: There is no such device on this machine.
    """
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise ConfigError(f"loader: unknown device {device!r}. Write 'cpu', 'cuda' or 'cuda:1'.") from error
    if found.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            f"loader: device {str(device)!r} is wanted and there is no CUDA device here. Use device='cpu'."
        )
    try:
        torch.zeros(1, device=found).cpu()
    except (RuntimeError, NotImplementedError, AssertionError) as error:
        reason = str(error).splitlines()[0].split(". ")[0][:120]
        raise ConfigError(
            f"loader: device {str(device)!r} cannot be used here ({reason}). Use device='cpu'."
        ) from error
    return found


def apply_stages(batch: Batch, stages: Sequence[DeviceStage], seed: int, gauge: Gauge | None = None) -> Batch:
    """A batch after the device stages. Errors are given the stage and the batch's number."""
    place = batch.place
    epoch, number = (place.epoch, place.number) if place else (0, 0)
    for stage in stages:
        try:
            with torch.no_grad():
                chance = Chance(seed, epoch, stage.label)
                made = gauge.around(stage.label, stage.apply, batch, chance) if gauge else stage.apply(batch, chance)
        except (EcopipeError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            keys = batch.sample_keys
            shard = place.shards[0] if place and place.shards else ""
            reason = f"batch {number} of epoch {epoch}: {type(error).__name__}: {error}"
            raise SampleError(
                stage.label, f"{keys[0]} and {len(keys) - 1} more", shard, reason, traceback.format_exc()
            ) from error
        made.place = place
        batch = made
    return batch


def on_device(
    batches: Iterator[Batch], stages: Sequence[DeviceStage], device: torch.device, seed: int, gauge: Gauge
) -> Iterator[Batch]:
    """Batches on the device, after the device stages, which are fused where kernels run.

    On CUDA a batch is pinned here, and the copy and the stages of the next batch run on a side stream while the
    consumer works on this one; the consumer's stream waits for just what it is handed.
    """
    stages = fuse(stages, device)
    if device.type != "cuda":
        for batch in batches:
            yield apply_stages(batch.to(device), stages, seed, gauge)
        return
    side: torch.cuda.Stream = cast("Any", torch.cuda.Stream)(device)
    ready: tuple[Batch, torch.cuda.Event, Batch] | None = None
    for batch in batches:
        pinned = batch.pin_memory()
        with torch.cuda.stream(side):
            moved = gauge.around(TO_DEVICE, partial(pinned.to, non_blocking=True), device)
            made = apply_stages(moved, stages, seed, gauge)
            event: torch.cuda.Event = cast("Any", torch.cuda.Event)()
            event.record(side)
        if ready is not None:
            gauge.ready()
            yield _hand_over(ready[0], ready[1], device)
        ready = made, event, pinned  # the pinned source is kept until its copy is done
    if ready is not None:
        gauge.ready()
        yield _hand_over(ready[0], ready[1], device)


def _hand_over(made: Batch, event: torch.cuda.Event, device: torch.device) -> Batch:
    current = torch.cuda.current_stream(device)
    current.wait_event(event)
    for value in made.values():
        if isinstance(value, torch.Tensor) and value.is_cuda:
            value.record_stream(current)  # its memory is not reused before the consumer's work on it is done
    return made

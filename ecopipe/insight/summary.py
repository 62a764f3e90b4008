"""What a stream delivered, in figures."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import torch

from ecopipe.pipeline.pipeline import Pipeline
from ecopipe.stages.spectral import LogMel
from ecopipe.vocabulary.sample import Batch


@dataclass
class StreamSummary:
    """Counts and times of a stream, from its construction on.

    ``filled_to_s`` is what a stage fills the audio of every sample up to, in seconds, 0 if none does. The lengths of
    its features count that as true; how much of it is, is known from the index.
    """

    filled_to_s: float = 0.0
    samples: int = 0
    batches: int = 0
    repeated_batches: int = 0
    skipped: int = 0
    substituted: int = 0
    audio_s: float = 0.0
    tokens: int = 0
    true_length: int = 0
    padded_length: int = 0
    first_batch_s: float = 0.0
    wall_s: float = 0.0
    shapes: dict[str, str] = field(default_factory=dict)
    _began: float = field(default_factory=time.perf_counter)

    @classmethod
    def of(cls, pipeline: Pipeline) -> StreamSummary:
        """The summary of a stream of a pipeline, which begins now."""
        filled = (stage.pad_audio_to_s for stage in pipeline.device_stages if isinstance(stage, LogMel))
        return cls(max(filled, default=0.0))

    def add(self, batch: Batch) -> None:
        """Takes in a batch that has just been received."""
        self.wall_s = time.perf_counter() - self._began
        if not self.batches:
            self.first_batch_s = self.wall_s
            self.shapes = {
                name: f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
                for name, value in batch.items()
                if isinstance(value, torch.Tensor)
            }
        self.batches += 1
        self.samples += len(batch.sample_keys)
        if batch.place is not None:
            self.repeated_batches += batch.place.repeat
            replaced = sum(fault.substitute is not None for fault in batch.place.faults)
            self.substituted += replaced
            self.skipped += len(batch.place.faults) - replaced
            self.audio_s += batch.place.duration_s
        lengths = batch.get("lengths")
        if isinstance(lengths, torch.Tensor) and len(lengths):
            total = int(lengths.sum())
            self.true_length += self._true_of(total, batch)
            shapes = [batch[name].shape for name in ("features", "tokens", "audio") if name in batch]
            padded = "offsets" not in batch and bool(shapes) and len(shapes[0]) > 1
            self.padded_length += shapes[0][0] * shapes[0][1] if padded else total
            if "tokens" in batch:
                self.tokens += total

    def _true_of(self, total: int, batch: Batch) -> int:
        """How much of the lengths of a batch is of its samples, and not what a stage filled them up with."""
        seconds = batch.place.duration_s if batch.place is not None else 0.0
        if not seconds or not self.filled_to_s or "features" not in batch:
            return total
        return round(total * min(seconds / (len(batch.sample_keys) * self.filled_to_s), 1.0))

    def finish(self) -> None:
        """Ends the clock."""
        self.wall_s = time.perf_counter() - self._began

    @property
    def padding_fraction(self) -> float:
        """Share of the padded length that is padding, in [0, 1)."""
        return 1 - self.true_length / self.padded_length if self.padded_length else 0.0

    def figures(self) -> dict[str, Any]:
        """The figures, as JSON; those of audio and of text only where there was some."""
        wall = self.wall_s or 1e-9
        found: dict[str, Any] = {
            "samples": self.samples,
            "batches": self.batches,
            "repeated_batches": self.repeated_batches,
            "skipped": self.skipped,
            "substituted": self.substituted,
            "wall_s": round(self.wall_s, 4),
            "first_batch_s": round(self.first_batch_s, 4),
            "samples_per_s": round(self.samples / wall, 2),
            "padding_fraction": round(self.padding_fraction, 6),
            "first_batch": self.shapes,
        }
        if self.audio_s:
            found |= {"audio_s": round(self.audio_s, 3), "audio_s_per_s": round(self.audio_s / wall, 2)}
        if self.tokens:
            found |= {"tokens": self.tokens, "tokens_per_s": round(self.tokens / wall, 1)}
        return found

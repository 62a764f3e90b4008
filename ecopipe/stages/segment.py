"""Long recordings in segments, planned from the frames in the index, before a byte of audio is read."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ecopipe.plan.parts import Parts
from ecopipe.stages.stage import PlanStage, Rows
from ecopipe.vocabulary.errors import SampleError

Remainder = Literal["keep", "drop", "even"]
"""What becomes of what is left of a recording behind its last whole segment."""


@dataclass(frozen=True)
class Segment(PlanStage):
    """Recordings -> segments of ``seconds``, of which each is then a row of its own.

    Plan stages behind it see segments: ``frames`` and ``duration_s`` are those of the segment, ``segment`` is its
    number in the recording, from 0. So ``Where("duration_s", at_least=1.0)`` behind it leaves out short remainders, a
    ``Shuffle`` behind it parts the segments of a recording (within a block; one before it leaves them beside each
    other), and ``Bucket`` and ``Batch`` cut batches of segments. ``DecodeAudio`` gives just the segment's frames: bit
    for bit that slice of the whole recording. What a batch holds is in ``batch["parts"]``: (start, stop) in frames of
    the file, for each of ``batch["keys"]``, which stay those of the recordings. Random augmentation draws for each
    segment by itself.

    Transcripts, labels and other measures stay those of the whole recording. A stage that looks beyond an edge
    (``Resample``, filters) sees silence there, as at the ends of any recording. The member is read whole for its CRC
    with every segment; leave shorter recordings in the shards where that is too much.

    Args:
        seconds: Length of a segment, rounded to frames of each recording's rate.
        overlap_s: Seconds that a segment has in common with the one before it. Without it, and unless the remainder is
            dropped, each frame is delivered exactly once.
        remainder: What is left behind the last whole segment: ``"keep"`` makes it a shorter segment, ``"drop"`` leaves
            it out (with recordings shorter than a segment), ``"even"`` cuts each recording into as few segments as may
            be, none longer than ``seconds``, and all of equal length to within a frame.
    """

    seconds: float
    _: KW_ONLY
    overlap_s: float = 0.0
    remainder: Remainder = "keep"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_choices(remainder=Remainder)
        if not self.seconds > 0:
            raise self.refuse(f"seconds must be above 0, got {self.seconds}.")
        if not 0 <= self.overlap_s < self.seconds:
            raise self.refuse(f"overlap_s must be at least 0 and below seconds, got {self.overlap_s}.")
        if self.overlap_s and self.remainder == "even":
            raise self.refuse("segments of equal length do not overlap. Leave out overlap_s, or set remainder='keep'.")

    def needs(self) -> tuple[str, ...]:
        return ("frames", "rate_hz")

    def gives(self) -> tuple[str, ...]:
        return ("frames", "duration_s", "segment")

    def parts_in(self) -> str:
        return "frames"

    def parts(self, block: pa.Table, rows: Rows, place: tuple[int, int]) -> Parts:
        frames, rate_hz = (self._numbers(block, name, rows) for name in self.needs())
        length = np.maximum(np.rint(self.seconds * rate_hz).astype(np.int64), 1)
        step = np.maximum(length - np.rint(self.overlap_s * rate_hz).astype(np.int64), 1)
        whole = np.maximum((frames - length) // step + 1, 0)
        if self.remainder == "drop":
            counts = np.where(frames < length, 0, whole)
        else:
            counts = np.maximum(-(-(frames - length) // step) + 1, 1)
        which = np.repeat(np.arange(len(rows), dtype=np.int64), counts)
        number = np.arange(len(which), dtype=np.int64) - np.repeat(np.cumsum(counts) - counts, counts)
        if self.remainder == "even":
            start, stop = (frames[which] * at // counts[which] for at in (number, number + 1))
        else:
            start = number * step[which]
            stop = np.minimum(start + length[which], frames[which])
        seconds = (stop - start) / np.maximum(rate_hz[which], 1)
        return Parts.of(
            rows[which], start, stop, frames[which], frames=stop - start, duration_s=seconds, segment=number
        )

    def _numbers(self, block: pa.Table, measure: str, rows: Rows) -> npt.NDArray[np.int64]:
        column = block[measure].combine_chunks().take(pa.array(rows))
        if column.null_count:
            at = int(rows[int(np.argmax(np.asarray(column.is_null())))])
            reason = f"has no {measure}, so it is no audio. Leave it out with Where('frames', at_least=1)."
            raise SampleError(self.label, block["key"][at].as_py(), block["shard"][at].as_py(), reason)
        return np.asarray(column.to_numpy(zero_copy_only=False), dtype=np.int64)

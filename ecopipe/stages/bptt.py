"""Language-model batches for back-propagation through time: windows of one long text, each going on where the last
ended.

The windows are planned from the token counts in the index: a row of the plan is a stretch of tokens of a document, and
its place in the batch goes with it to the worker.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from ecopipe.plan.parts import Parts
from ecopipe.stages.collate import FieldCollate
from ecopipe.stages.counting import Counts, counted, whole_document
from ecopipe.stages.stage import BatchingStage, Rows
from ecopipe.vocabulary.errors import ConfigError
from ecopipe.vocabulary.randomness import Chance
from ecopipe.vocabulary.sample import Batch, Sample

_WINDOW = ("stream", "window", "window_row", "window_at", "window_rows", "window_length")
"""What a row of the plan says of its place: lane, window of its block, row and place in that row, and the window's
size."""


@dataclass(frozen=True)
class BPTT(BatchingStage):
    """Batches that are consecutive windows of one text: what torchtext's legacy ``BPTTIterator`` gives.

    The documents of a block are joined in their order, cut into ``columns`` contiguous pieces of equal length, the last
    padded at its end, and each batch is the next window of ``length`` tokens of every piece, with the tokens that
    follow them as targets. So the hidden state of a model goes on from each batch to the next. To be collated by
    :class:`CollateBPTT`.

    A lane of the source is a *stream*, and its state begins anew with every block: ``batch["continues"]`` is False
    there. With one lane, and ``block_rows`` of at least the corpus, the epoch is the legacy iterator's exactly. Several
    lanes take turns, batch by batch: with as many lanes as ranks (or a multiple) each rank keeps its streams, but for
    the steps after the first lane has come to its end. Larger blocks interrupt less and take more memory to plan.

    Each token is delivered once as an input, but the last one of each piece, and once as a target, but the first. A
    block of fewer tokens than twice the columns fills fewer rows with two tokens each (the legacy iterator would give
    nothing).

    Args:
        measure: The tokens of a document, a column of whole numbers in the index.
        columns: Rows of a batch: the model's batch size.
        length: Tokens of a window; the last window of a block may be shorter. torchtext's ``bptt_len``.
        extra: Tokens that come to each document on the way: 1 with an ``eos_token`` that the measure does not count.
    """

    measure: str = "tokens"
    _: KW_ONLY
    columns: int
    length: int = 35
    extra: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_positive("columns", "length")
        if self.extra < 0:
            raise self.refuse(f"extra must be at least 0, got {self.extra}.")

    def needs(self) -> tuple[str, ...]:
        return (self.measure,)

    def gives(self) -> tuple[str, ...]:
        return _WINDOW

    def parts_in(self) -> str:
        return "tokens"

    def parts(self, block: pa.Table, rows: Rows, place: tuple[int, int]) -> Parts:
        lengths = counted(self, self.measure, block, rows) + self.extra
        each = max(-(-int(lengths.sum()) // self.columns), 2)
        found = np.concatenate([self._full(lengths, each), self._empty(lengths, each)], axis=1)
        document, window, row, at, start, stop = found[:, np.lexsort((found[0], found[3], found[2], found[1]))]
        sizes = np.minimum(self.length, each - 1 - window * self.length)
        stream, rows_each = (np.full(len(document), value, dtype=np.int64) for value in (place[0], self.columns))
        places = dict(zip(_WINDOW, (stream, window, row, at, rows_each, sizes), strict=True))
        return Parts.of(rows[document], start, stop, lengths[document], **places)

    def apply(self, block: pa.Table, rows: Rows, chance: Chance, place: tuple[int, int]) -> list[Rows]:
        window = block["window"].to_numpy()[rows]
        return np.split(rows, np.flatnonzero(np.diff(window)) + 1)

    def _full(self, lengths: Counts, each: int) -> Counts:
        """The stretches of documents in all windows: int64 [6, N], document, window, row, place in it, start, stop."""
        (full,) = np.nonzero(lengths)
        ends = np.cumsum(lengths[full])
        begins, total = ends - lengths[full], int(lengths.sum())
        windows = -(-(each - 1) // self.length)
        window = np.repeat(np.arange(windows), self.columns)
        row = np.tile(np.arange(self.columns), windows)
        low = row * each + window * self.length
        high = low + np.minimum(self.length, each - 1 - window * self.length) + 1
        low, high = np.minimum(low, total), np.minimum(high, total)
        first = np.searchsorted(ends, low, side="right")
        counts = np.maximum(np.searchsorted(begins, high, side="left") - first, 0)
        which = np.repeat(np.arange(len(counts)), counts)
        document = first[which] + np.arange(len(which)) - np.repeat(np.cumsum(counts) - counts, counts)
        begin, end = np.maximum(low[which], begins[document]), np.minimum(high[which], ends[document])
        own = begins[document]
        return np.stack([full[document], window[which], row[which], begin - low[which], begin - own, end - own])

    def _empty(self, lengths: Counts, each: int) -> Counts:
        """The same of documents without tokens, each where the next document begins."""
        (empty,) = np.nonzero(lengths == 0)
        offset = (np.cumsum(lengths) - lengths)[empty]
        row = np.minimum(offset // each, self.columns - 1)
        at = np.minimum(offset - row * each, each - 1)
        window = np.minimum(at // self.length, (each - 2) // self.length)
        nothing = np.zeros_like(empty)
        return np.stack([empty, window, row, at - window * self.length, nothing, nothing])


@dataclass(frozen=True)
class CollateBPTT(FieldCollate):
    """Stretches of documents -> a window of the text, and whether it goes on where the one before it ended.

    Of T tokens, and B columns of :class:`BPTT`:

    =================  ==============  =============================================================================
    ``batch[input]``   int64 [B, T]    the tokens; [T, B] with ``batch_first=False``
    ``targets``        the same shape  the token that follows each
    ``continues``      bool            whether this window begins where the last one of its stream ended; if not, the
                                       hidden state begins anew
    ``stream``         int             the lane, whose windows go on from one to the next
    ``window``         int             the window's number in its block, from 0
    ``keys``           list of n       the sample keys of the documents in it, row by row
    ``parts``          list of n       which tokens (start, stop) of each are there, that of the last target included
    =================  ==============  =============================================================================

    One hidden state for each stream is to be kept, and to be saved beside a checkpoint (what a rank has not got, it
    begins anew, as after a restart on other ranks)::

        states = {}
        for batch in loader:
            before, state = states.get(batch["stream"], (None, None))
            goes_on = batch["continues"] and before == batch["window"] - 1
            output, state = model(batch["tokens"], state if goes_on else None)
            states[batch["stream"]] = batch["window"], state.detach()

    Args:
        input: The field with the token numbers, integers [T].
        eos_token: A number that is put behind every document; count it by ``BPTT(extra=1)``.
        pad_value: Stands behind the text in the last row, and in the places of a bad sample that is skipped.
        ignore_value: Stands there in ``targets``; None for ``pad_value``, as in the legacy iterator.
        batch_first: False gives time first, as the legacy iterator does unless told otherwise.
    """

    input: str
    _: KW_ONLY
    eos_token: int | None = None
    pad_value: int = 0
    ignore_value: int | None = None
    batch_first: bool = True

    def __post_init__(self) -> None:
        self.check_fields(self.input, (), ("keys", "parts", "targets", "continues", *_WINDOW))
        super().__post_init__()

    def needs(self) -> tuple[str, ...]:
        return (self.input, *_WINDOW)

    def gives(self) -> tuple[str, ...]:
        return ("keys", self.input, "targets", "continues", "stream", "window")

    def parts_in(self) -> str:
        return "tokens"

    def apply(self, samples: Sequence[Sample]) -> Batch:
        if not samples:
            raise ValueError("a batch of no samples")
        first = samples[0]
        shape = int(first["window_rows"]), int(first["window_length"]) + 1
        ignored = self.pad_value if self.ignore_value is None else self.ignore_value
        tokens, targets = (np.full(shape, value, dtype=np.int64) for value in (self.pad_value, ignored))
        for sample in samples:
            text = self._stretch(sample)
            row, at = int(sample["window_row"]), int(sample["window_at"])
            tokens[row, at : at + len(text)] = targets[row, at : at + len(text)] = text
        fields: dict[str, Any] = {
            "keys": [sample.key for sample in samples],
            self.input: self._laid(tokens[:, :-1]),
            "targets": self._laid(targets[:, 1:]),
            "continues": int(first["window"]) > 0,
            "stream": int(first["stream"]),
            "window": int(first["window"]),
        }
        return Batch(fields)

    def _stretch(self, sample: Sample) -> Counts:
        part = sample.part_in("tokens")
        if part is None:
            raise ConfigError(f"{self.label}: no window was planned for sample {sample.key!r}. Put BPTT before it.")
        whole = whole_document(self, sample, self.tokens(sample, self.input), part, self.eos_token)
        return whole[part.start : part.stop]

    def _laid(self, window: Counts) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(window if self.batch_first else window.T))

"""Texts without padding: several documents to a row (packing), or one after the other (a stream).

Planning a pack needs the lengths of all documents of a block, and no payload. What it decides need not be carried to
the workers, less the bounds of documents that are split: of documents that :class:`Pack` has ordered, a row ends
exactly where the next document no longer fits, so that :class:`CollatePacked` finds the rows again from the documents'
true lengths alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from ecopipe.plan.parts import Parts
from ecopipe.stages.collate import FieldCollate
from ecopipe.stages.counting import counted, unplannable, whole_document
from ecopipe.stages.stage import BatchingStage, Rows
from ecopipe.vocabulary.errors import SampleError
from ecopipe.vocabulary.randomness import Chance
from ecopipe.vocabulary.sample import Batch, Sample

TooLong = Literal["error", "truncate"]
"""What becomes of a document that is longer than a row."""

Long = Literal["error", "truncate", "split"]
"""What becomes of it where rows are planned."""

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Pack(BatchingStage):
    """Batches of rows of ``length`` tokens, each filled with several documents: first-fit decreasing within a block.

    A row's documents have at most ``length`` tokens in sum, so that padding is what is left at its end. The rows have
    their turn in the order of one member each (the first in the block), as the batches of ``Bucket`` have: after a
    ``Shuffle`` the order of rows is random, and so is which of several documents of one length goes where. Only the
    last batch of a block may have fewer rows. To be collated by :class:`CollatePacked`.

    Args:
        measure: The tokens of a document, a column of whole numbers in the index.
        length: Tokens of a row.
        rows: Rows of a batch.
        too_long: A document of more than ``length`` tokens is an error that names it; or counts as ``length``, to be
            truncated by ``CollatePacked(too_long="truncate")``; or is split: into rows of its own as far as it fills
            them, and what is left is packed beside others. Then every token is delivered exactly once, and
            ``batch["parts"]`` says which tokens (start, stop) of each of ``batch["keys"]`` are there.
        extra: Tokens that come to each document on the way: 1 with an ``eos_token`` that the measure does not count.
    """

    measure: str = "tokens"
    _: KW_ONLY
    length: int
    rows: int = 1
    too_long: Long = "error"
    extra: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_choices(too_long=Long)
        self.check_positive("length", "rows")
        if self.extra < 0:
            raise self.refuse(f"extra must be at least 0, got {self.extra}.")

    def needs(self) -> tuple[str, ...]:
        return (self.measure,)

    def parts_in(self) -> str:
        return "tokens" if self.too_long == "split" else ""

    def parts(self, block: pa.Table, rows: Rows, place: tuple[int, int]) -> Parts | None:
        if self.too_long != "split":
            return None
        lengths = self._counted(block, rows) + self.extra
        counts = np.maximum(-(-lengths // self.length), 1)
        which = np.repeat(np.arange(len(rows), dtype=np.int64), counts)
        start = (np.arange(len(which)) - np.repeat(np.cumsum(counts) - counts, counts)) * self.length
        stop = np.minimum(start + self.length, lengths[which])
        return Parts.of(rows[which], start, stop, lengths[which], **{self.measure: stop - start})

    def apply(self, block: pa.Table, rows: Rows, chance: Chance, place: tuple[int, int]) -> list[Rows]:
        if not len(rows):
            return []
        lengths = self._counted(block, rows) if self.too_long == "split" else self._lengths(block, rows)
        bins = first_fit_decreasing(lengths, self.length)
        by_bin = np.argsort(bins, kind="stable")
        members = np.split(by_bin, np.cumsum(np.bincount(bins))[:-1])
        in_turn = np.argsort([one[rows[one].argmin()] for one in members], kind="stable")
        batches = [np.sort(in_turn[at : at + self.rows]) for at in range(0, len(members), self.rows)]
        return [rows[np.concatenate([members[number] for number in batch])] for batch in batches]

    def _counted(self, block: pa.Table, rows: Rows) -> Counts:
        return counted(self, self.measure, block, rows)

    def _lengths(self, block: pa.Table, rows: Rows) -> Counts:
        lengths = self._counted(block, rows) + self.extra
        if self.too_long == "error" and lengths.max() > self.length:
            at, most = int(lengths.argmax()), self.length - self.extra
            raise unplannable(
                self,
                block,
                rows[at],
                f"has {self.measure} {lengths[at] - self.extra}, over the {most} of a row. Set too_long='split', or "
                "'truncate' here and in CollatePacked, or leave long documents out with "
                f"Where({self.measure!r}, at_most={most})",
            )
        return np.minimum(lengths, self.length)


@dataclass(frozen=True)
class CollatePacked(FieldCollate):
    """Documents -> rows of ``length`` tokens, with all that attention needs to keep the documents apart.

    A document goes into the row of the one before it if it fits there, else it begins the next row. For the batches of
    :class:`Pack` these are the rows that were planned; without a bad sample that is skipped there are as many or fewer;
    and any other batches (of ``Batch``, or planned on another tokenizer's counts) are packed as well as their order
    allows. Of n documents in B rows:

    ================  ===================  =========================================================================
    ``batch[input]``  int64 [B, length]    the documents of a row one after the other, then padding
    ``positions``     int64 [B, length]    place in the document, from 0; the padding of a row counts as one document
    ``documents``     int64 [B, length]    number of the document in its row, from 1; 0 in padding
    ``cu_seqlens``    int32 [segments+1]   bounds of documents and runs of padding in the flattened batch, as
                                           ``flash_attn_varlen_func`` takes them; first 0, last B * length
    ``max_seqlen``    int                  the longest of these segments
    ``lengths``       int64 [n]            tokens of each document
    ``starts``        int64 [n]            where each begins in the flattened batch
    ``keys``          list of n            the documents' sample keys
    ``targets``       int64 [B, length]    with ``next_tokens``: the next token of the same document, be it in
                                           another part of it, else ``ignore_value``
    ================  ===================  =========================================================================

    Documents attend to themselves alone where ``documents[:, :, None] == documents[:, None, :]``. An empty document
    keeps its key, and has a segment of length 0. Where documents are split, what is said of a document holds for each
    part: its positions begin at 0.

    Args:
        input: The field with the token numbers, integers [T].
        length: Tokens of a row.
        rows: Every batch has exactly so many rows; what is missing is padding. None: as many as its documents need.
            Give it for shapes that never change; leave it out where ``bad_samples`` substitutes (what stands in may
            be longer).
        too_long: A document of more than ``length`` tokens, ``eos_token`` counted, is an error that names it, or loses
            its end (not the ``eos_token``). One that :class:`Pack` has split is neither: the part that was planned is
            taken, whatever this says.
        eos_token: A number that is put behind every document.
        pad_value: Stands in the padding.
        next_tokens: Gives ``targets``.
        ignore_value: Stands in ``targets`` where a document has no next token.
        keep: Further fields to keep, one value a document: numbers become a tensor [n], anything else a list.
    """

    input: str
    _: KW_ONLY
    length: int
    rows: int | None = None
    too_long: TooLong = "error"
    eos_token: int | None = None
    pad_value: int = 0
    next_tokens: bool = False
    ignore_value: int = -100
    keep: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        own = ("keys", "positions", "documents", "cu_seqlens", "max_seqlen", "lengths", "starts", "targets")
        object.__setattr__(self, "keep", self.check_fields(self.input, self.keep, own))
        super().__post_init__()
        self.check_choices(too_long=TooLong)
        self.check_positive("length", *(["rows"] if self.rows is not None else []))

    def needs(self) -> tuple[str, ...]:
        return (self.input, *self.keep)

    def parts_in(self) -> str:
        return "tokens"

    def gives(self) -> tuple[str, ...]:
        beside = ("positions", "documents", "cu_seqlens", "max_seqlen", "lengths", "starts")
        return ("keys", self.input, *beside, *(["targets"] if self.next_tokens else []), *self.keep)

    def apply(self, samples: Sequence[Sample]) -> Batch:
        if not samples:
            raise ValueError("a batch of no samples")
        texts, following = zip(*map(self._document, samples), strict=True)
        lengths = np.array([len(text) for text in texts], dtype=np.int64)
        rows, starts = next_fit(lengths, self.length)
        needed = int(rows[-1]) + 1
        if self.rows is not None and needed > self.rows:
            raise self._overflow(samples[int(np.argmax(rows >= self.rows))], len(samples), needed)
        size = (self.rows or needed) * self.length
        bounds = _segments(rows, starts, lengths, size, self.length)
        numbers = np.arange(len(rows)) - np.searchsorted(rows, rows) + 1
        tokens, documents = np.full(size, self.pad_value, dtype=np.int64), np.zeros(size, dtype=np.int64)
        for text, start, number in zip(texts, starts.tolist(), numbers.tolist(), strict=True):
            tokens[start : start + len(text)], documents[start : start + len(text)] = text, number
        sizes = np.diff(bounds)
        fields: dict[str, Any] = {
            "keys": [sample.key for sample in samples],
            self.input: self._rows(tokens),
            "positions": self._rows(np.arange(size) - np.repeat(bounds[:-1], sizes)),
            "documents": self._rows(documents),
            "cu_seqlens": torch.from_numpy(bounds.astype(np.int32)),
            "max_seqlen": int(sizes.max()),
            "lengths": torch.from_numpy(lengths),
            "starts": torch.from_numpy(starts),
        }
        if self.next_tokens:
            targets = np.append(tokens[1:], self.ignore_value)
            targets[documents == 0] = self.ignore_value
            filled = lengths > 0
            targets[(starts + lengths)[filled] - 1] = np.array(following, dtype=np.int64)[filled]
            fields["targets"] = self._rows(targets)
        for name in self.keep:
            fields[name] = self.kept(samples, name)
        return Batch(fields)

    def _rows(self, flat: Counts) -> torch.Tensor:
        return torch.from_numpy(flat.reshape(-1, self.length))

    def _document(self, sample: Sample) -> tuple[Counts, int]:
        """A document or the planned part of one, and the token that follows it there."""
        tokens = self.tokens(sample, self.input)
        if part := sample.part_in("tokens"):
            whole = whole_document(self, sample, tokens, part, self.eos_token)
            return whole[part.start : part.stop], int([*whole[part.stop : part.stop + 1], self.ignore_value][0])
        most = self.length - (self.eos_token is not None)
        if len(tokens) > most and self.too_long == "error":
            remedy = f"set too_long='truncate', or leave it out with Where({self.input!r}, at_most={most})"
            raise self.error(sample, f"its {self.input} has {len(tokens)} tokens, over the {most} of a row; {remedy}")
        tokens = tokens[:most]
        return tokens if self.eos_token is None else np.append(tokens, self.eos_token), self.ignore_value

    def _overflow(self, sample: Sample, count: int, needed: int) -> SampleError:
        return self.error(
            sample,
            f"its {self.input} fits in none of the {self.rows} rows of {self.length}: the {count} documents of its "
            f"batch need {needed}. Do Pack's measure and extra count what {self.input} holds? Index with the same "
            "tokenizer, lower Pack's length, or leave rows out",
        )


@dataclass(frozen=True)
class CollateStream(FieldCollate):
    """Documents -> one stream, cut into columns: what torchtext's legacy ``BPTTIterator`` makes of a text.

    The documents of a batch are joined in their order, padded at the end to a multiple of ``columns``, and cut into so
    many contiguous pieces of L tokens. Windows of T for back-propagation through time are cut from it in the training
    loop, the hidden state going from one to the next::

        for text, target in zip(batch["tokens"].split(35, 1), batch["targets"].split(35, 1)): ...

    Each *batch* is such a stream of its own, and the state begins anew with it: a column of the next batch does not go
    on where this one's ended. (For windows as batches, which go on over all of a block, there are ``BPTT`` and
    ``CollateBPTT``; they need the tokens counted in the index.) With ``Batch(size)`` of at least the corpus (one lane,
    one block) that is the legacy iterator's epoch exactly; a large corpus is cut into as many streams as there are
    batches, and the price is ``columns`` interrupted contexts a batch. In return the order is a value like any other,
    and resuming needs no hidden text.

    =====================  =====================  ==================================================================
    ``batch[input]``       int64 [columns, L-1]   the stream's tokens; [L-1, columns] with ``batch_first=False``
    ``targets``            the same shape         the next token of each
    =====================  =====================  ==================================================================

    Args:
        input: The field with the token numbers, integers [T].
        columns: The model's batch size.
        eos_token: A number that is put behind every document.
        pad_value: Fills the last column's end, in the targets too.
        batch_first: False gives time first, as the legacy iterator does unless told otherwise.
        keep: Further fields to keep, one value a document: numbers become a tensor [n], anything else a list.
    """

    input: str
    _: KW_ONLY
    columns: int
    eos_token: int | None = None
    pad_value: int = 0
    batch_first: bool = True
    keep: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "keep", self.check_fields(self.input, self.keep, ("keys", "targets")))
        super().__post_init__()
        self.check_positive("columns")

    def needs(self) -> tuple[str, ...]:
        return (self.input, *self.keep)

    def gives(self) -> tuple[str, ...]:
        return ("keys", self.input, "targets", *self.keep)

    def apply(self, samples: Sequence[Sample]) -> Batch:
        if not samples:
            raise ValueError("a batch of no samples")
        end = np.array([] if self.eos_token is None else [self.eos_token], dtype=np.int64)
        texts = [np.concatenate([self.tokens(sample, self.input), end]) for sample in samples]
        total = sum(map(len, texts))
        each = max(-(-total // self.columns), 1)
        padding = np.full(each * self.columns - total, self.pad_value, dtype=np.int64)
        stream = torch.from_numpy(np.concatenate([*texts, padding]).reshape(self.columns, each))
        pieces = [stream[:, :-1], stream[:, 1:]]
        tokens, targets = (
            (piece if self.batch_first else piece.t()).clone(memory_format=torch.contiguous_format) for piece in pieces
        )
        fields: dict[str, Any] = {"keys": [sample.key for sample in samples], self.input: tokens, "targets": targets}
        for name in self.keep:
            fields[name] = self.kept(samples, name)
        return Batch(fields)


def first_fit_decreasing(lengths: Counts, length: int) -> Counts:
    """The row of each document, int64 [n], rows numbered as they were begun.

    Documents of one length go together: filling the rows in their order, each as far as it goes, is first fit.

    Args:
        lengths: int64 [n], each at most ``length``.
        length: What a row holds.
    """
    found = np.empty(len(lengths), dtype=np.int64)
    left = np.empty(0, dtype=np.int64)
    order = np.argsort(-lengths, kind="stable")
    sizes, counts = np.unique(lengths, return_counts=True)
    at = 0
    for size, count in zip(sizes[::-1].tolist(), counts[::-1].tolist(), strict=True):
        holds = length // size if size else len(lengths)
        fits = left // size if size else np.full(len(left), len(lengths))
        taken = np.diff(np.minimum(np.cumsum(fits), count), prepend=0)
        rest = count - int(taken.sum())
        begun = np.full(-(-rest // holds), holds, dtype=np.int64)
        begun[-1:] -= holds * len(begun) - rest
        taken = np.concatenate([taken, begun])
        left = np.concatenate([left, np.full(len(begun), length)]) - taken * size
        found[order[at : at + count]] = np.repeat(np.arange(len(taken)), taken)
        at += count
    return found


def next_fit(lengths: Counts, length: int) -> tuple[Counts, Counts]:
    """The row of each document, int64 [n], and where it begins in the flattened rows, int64 [n].

    It goes into the row of the one before it if it fits there, else it begins the next row. Unlike first fit, this
    never needs more rows for fewer or for shorter documents, so that a sample which is left out cannot make a batch
    larger.

    Args:
        lengths: int64 [n], each at most ``length``.
        length: What a row holds.
    """
    rows, starts = np.empty_like(lengths), np.empty_like(lengths)
    row, used = 0, 0
    for number, size in enumerate(lengths.tolist()):
        if used + size > length:
            row, used = row + 1, 0
        rows[number], starts[number] = row, row * length + used
        used += size
    return rows, starts


def _segments(rows: Counts, starts: Counts, lengths: Counts, size: int, length: int) -> Counts:
    """Bounds of all documents and of the runs of padding behind the last one of each row."""
    first = np.arange(0, size, length)
    end = first.copy()
    np.maximum.at(end, rows, starts + lengths)
    return np.append(np.sort(np.concatenate([starts, end[end - first < length]])), size)

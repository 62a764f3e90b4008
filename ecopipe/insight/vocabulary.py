"""The words of a pipeline's corpus, counted: in any number of workers, whose counts are added, and in bounded memory.

What is counted is what the pipeline's tokenizer would number in an epoch: the same samples (``Where``, ``Take``), the
same stages before it. So the counts depend on the corpus and those stages, and on no order, batch or worker.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ecopipe.formats.counts import LIMIT, TokenCounts
from ecopipe.pipeline.pipeline import Pipeline
from ecopipe.plan.mixed import Opened
from ecopipe.run.loader import Loader
from ecopipe.stages.plan import Batch as Fixed
from ecopipe.stages.source import Items
from ecopipe.stages.stage import CollateStage, SampleStage
from ecopipe.stages.text import Words
from ecopipe.stages.tokenizer import Tokenizer
from ecopipe.vocabulary.errors import ConfigError
from ecopipe.vocabulary.randomness import Chance
from ecopipe.vocabulary.sample import Batch, Sample

Advance = Callable[[int], object]
"""Called with the samples done since the last call."""

ROWS = 512
"""Samples whose counts a worker adds up before it hands them over."""

_READ = "read"


@dataclass(frozen=True)
class _Read(SampleStage):
    """The text of a sample under ``read``."""

    tokenizer: Tokenizer = field(metadata={"identity": repr})

    def needs(self) -> tuple[str, ...]:
        return self.tokenizer.needs()

    def gives(self) -> tuple[str, ...]:
        return (_READ,)

    def apply(self, sample: Sample, chance: Chance) -> Sample:
        return sample.with_fields(**{_READ: self.tokenizer.text(sample)})


@dataclass(frozen=True)
class _Texts(CollateStage):
    """Samples -> a batch of their texts."""

    def needs(self) -> tuple[str, ...]:
        return (_READ,)

    def apply(self, samples: Sequence[Sample]) -> Batch:
        return Batch({"keys": [sample.key for sample in samples], _READ: [sample[_READ] for sample in samples]})


@dataclass(frozen=True)
class _Counts(_Texts):
    """Samples -> how often each word was met in them."""

    split: Callable[[str], list[str]] = field(metadata={"identity": repr})

    def apply(self, samples: Sequence[Sample]) -> Batch:
        batch = super().apply(samples)
        words = itertools.chain.from_iterable(map(self.split, batch[_READ]))
        return batch.with_fields(**{_READ: Counter(words)})


def tokenizer_of(pipeline: Pipeline) -> Tokenizer:
    """The first tokenizer of a pipeline.

    Raises:
        ConfigError: It has none.
    """
    found = next((stage for stage in pipeline.sample_stages if isinstance(stage, Tokenizer)), None)
    if found is None:
        raise ConfigError(
            "Pipeline: has no tokenizer, which says where the text is. Add TokenizeBasicEnglish or TokenizeWhitespace."
        )
    return found


def words_of(pipeline: Pipeline) -> Words:
    """The first tokenizer of a pipeline, which must be one of words.

    Raises:
        ConfigError: It has none, or another one.
    """
    found = tokenizer_of(pipeline)
    if not isinstance(found, Words):
        raise ConfigError(
            f"{found.label}: makes no words to count; its tokens are settled. Put TokenizeBasicEnglish or "
            "TokenizeWhitespace in its place."
        )
    return found


class CorpusText:
    """The texts of a pipeline's samples as its tokenizer would read them, in this process or in workers.

    Args:
        pipeline: A pipeline with a tokenizer. It and all that follows need not work yet: its vocabulary may be what is
            to be made.
        workers: Worker processes; 0 works in this one.
        shards: The pipeline's shards if they are open already.
        advance: Told of the samples done.
    """

    def __init__(
        self, pipeline: Pipeline, *, workers: int = 0, shards: Opened | None = None, advance: Advance | None = None
    ) -> None:
        self.tokenizer = tokenizer_of(pipeline)
        self.samples = 0
        """Samples read in the last pass."""
        self.skipped = 0
        """Bad samples that the pipeline's policy left out of it."""
        self._pipeline, self._workers, self._shards, self._advance = pipeline, workers, shards, advance

    def texts(self) -> Iterator[str]:
        """Each text once, in the order of an epoch."""
        for found in self._read(_Texts()):
            yield from found

    def count(self, split: Callable[[str], list[str]], *, limit: int = LIMIT) -> TokenCounts:
        """How often each token was met: counted in the workers, added here.

        Args:
            split: Makes tokens of a text; it must be picklable where workers are spawned.
            limit: Different tokens that are held in memory; more are written to temporary files, never pruned.
        """
        counts = TokenCounts(limit=limit)
        for found in self._read(_Counts(split)):
            counts.add(found)
        return counts

    def _read(self, collate: CollateStage) -> Iterator[Any]:
        pipeline = self._up_to_text(collate)
        self.samples = self.skipped = 0
        with Loader(pipeline, workers=self._workers, rank=0, world_size=1, shards=self._shards) as loader:
            for batch in loader:
                faults = batch.place.faults if batch.place else ()
                self.skipped += len(faults)
                if self._advance is not None:
                    self._advance(len(batch.sample_keys))
                if not any(fault.substitute for fault in faults):  # all of the batch were bad, and this is another's
                    self.samples += len(batch.sample_keys)
                    yield batch[_READ]

    def _up_to_text(self, collate: CollateStage) -> Pipeline:
        before = itertools.takewhile(lambda stage: stage is not self.tokenizer, self._pipeline.sample_stages)
        items = isinstance(self._pipeline.source, Items)
        batching = self._pipeline.batching if items else Fixed(ROWS, name="counted at once")
        tolerance = self._pipeline.bad_samples
        if tolerance.policy == "substitute":
            tolerance = replace(tolerance, policy="skip")
        return Pipeline(
            self._pipeline.source,
            *self._pipeline.plan_stages,
            batching,
            *before,
            _Read(self.tokenizer, name=self.tokenizer.label),
            collate,
            bad_samples=tolerance,
        )


def count_words(
    pipeline: Pipeline,
    *,
    workers: int = 0,
    shards: Opened | None = None,
    advance: Advance | None = None,
    limit: int = LIMIT,
) -> TokenCounts:
    """How often each word of a pipeline's corpus occurs, by its tokenizer of words: for :meth:`Vocab.from_counts`.

    >>> with count_words(pipeline, workers=2) as counts:
    ...     vocab = Vocab.from_counts(counts.items(), specials=("<pad>", "<unk>"), min_freq=2).with_default("<unk>")

    Raises:
        ConfigError: The pipeline has no tokenizer of words.
    """
    text = CorpusText(pipeline, workers=workers, shards=shards, advance=advance)
    return text.count(words_of(pipeline).words, limit=limit)

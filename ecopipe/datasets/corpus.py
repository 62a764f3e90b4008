"""What a raw corpus is to ecopipe: named splits of samples in a fixed order, and an account of what is missing."""

from __future__ import annotations

import abc
import importlib
import inspect
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from ecopipe.vocabulary.errors import ConfigError, nearest


@dataclass(frozen=True)
class RawSample:
    """One sample of a raw corpus, its payload as the corpus stores it.

    ``members``: payload bytes under the extension they get in a shard, without the dot (``flac``, ``txt``, ``cls``).
    ``extras``: one value per entry of the corpus's ``columns``.
    """

    key: str
    members: dict[str, bytes]
    extras: dict[str, int | float | str | None] = field(default_factory=dict)


class Corpus(abc.ABC):
    """A raw corpus in its upstream layout, as a folder or as an archive.

    Samples have places, from 0 on, in the order of their keys, whatever the order on disk or in the archive. A part
    that is missing is reported; a damaged corpus is refused with a :class:`CorpusError`, and a damaged sample when it
    is read, or by :meth:`check`. Any sample may be read at any time: by several threads, in forked processes, and
    by a pickled copy in another process.
    """

    name: ClassVar[str]
    title: ClassVar[str] = ""  # what it is, in a few words
    expects: ClassVar[str] = ""  # the upstream layout, in one line
    members: ClassVar[Mapping[str, str]] = {}  # extension -> what the member holds
    options: ClassVar[Mapping[str, str]] = {}  # each keyword-only setting -> what it means
    licence: ClassVar[str] = ""  # and what to cite, as far as it is known
    columns: Mapping[str, str] = {}  # extra columns of the index -> Arrow type by its alias, e.g. "int32"
    version: str = ""  # as the corpus itself states it; empty where it does not
    classes: tuple[str, ...] = ()  # class names; the label is the place in it
    path: str | os.PathLike[str] = ""  # where it was opened
    in_order: ClassVar[bool] = False  # reading places in ascending order is much cheaper than at random

    @abc.abstractmethod
    def splits(self) -> tuple[str, ...]:
        """The names of the splits that are there, sorted."""

    @abc.abstractmethod
    def count(self, split: str) -> int:
        """How many samples the split has, those included that cannot be read."""

    @abc.abstractmethod
    def key(self, split: str, place: int) -> str:
        """The key of one sample, ``0 <= place < count``; no payload is read."""

    @abc.abstractmethod
    def sizes(self, split: str) -> npt.NDArray[np.int64]:
        """int64 [count]: about how many payload bytes each sample has; the same whenever the corpus is the same."""

    @abc.abstractmethod
    def sample(self, split: str, place: int) -> RawSample:
        """One sample, ``0 <= place < count``.

        Raises:
            DataError: This sample is bad; any other can still be read.
        """

    def samples(self, split: str) -> Iterator[RawSample]:
        """All samples of the split in the order of their keys."""
        for place in range(self.count(split)):
            yield self.sample(split, place)

    def check(self, split: str) -> None:
        """Looks for samples that are bad by what listing the corpus has shown; no further payload is read.

        Raises:
            CorpusError: That of the first such sample, as :meth:`sample` raises it.
        """
        self._require_split(split)

    @abc.abstractmethod
    def report(self) -> list[str]:
        """What is incomplete, one sentence each; empty if nothing is."""

    def close(self) -> None:  # noqa: B027 - a corpus without open files has nothing to do
        """Let go of open files. A corpus is also a context manager that does this."""

    def __enter__(self) -> Corpus:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _require_split(self, split: str) -> None:
        if split not in self.splits():
            raise ConfigError(f"The {self.name} corpus here has no split {split!r}. {nearest(split, self.splits())}")

    def _require_place(self, split: str, place: int) -> None:
        count = self.count(split)
        if not 0 <= place < count:
            raise ConfigError(f"The split {split!r} has {count:,} samples, from 0 on, and so none at {place:,}.")


_READERS = {
    "ag_news": ("ecopipe.datasets.ag_news", "AgNews"),
    "cifar10": ("ecopipe.datasets.cifar10", "Cifar10"),
    "cifar100": ("ecopipe.datasets.cifar100", "Cifar100"),
    "csv": ("ecopipe.datasets.csv_files", "CsvFiles"),
    "fashion-mnist": ("ecopipe.datasets.mnist", "FashionMnist"),
    "folder": ("ecopipe.datasets.folder", "Folder"),
    "images": ("ecopipe.datasets.images", "Images"),
    "imdb": ("ecopipe.datasets.imdb", "Imdb"),
    "jsonl": ("ecopipe.datasets.jsonl_files", "JsonlFiles"),
    "kmnist": ("ecopipe.datasets.mnist", "KMnist"),
    "librispeech": ("ecopipe.datasets.librispeech", "LibriSpeech"),
    "libritts": ("ecopipe.datasets.libritts", "LibriTts"),
    "ljspeech": ("ecopipe.datasets.ljspeech", "LJSpeech"),
    "mnist": ("ecopipe.datasets.mnist", "Mnist"),
    "parquet": ("ecopipe.datasets.parquet_files", "ParquetFiles"),
    "speech_commands": ("ecopipe.datasets.speech_commands", "SpeechCommands"),
    "yesno": ("ecopipe.datasets.yesno", "YesNo"),
}

#: The names that :func:`open_corpus` knows.
CORPORA: tuple[str, ...] = tuple(_READERS)


def reader_of(name: str) -> type[Corpus]:
    """The class that reads the corpus ``name`` (one of :data:`CORPORA`).

    Raises:
        ConfigError: There is none.
    """
    if name not in _READERS:
        raise ConfigError(f"There is no reader for a corpus named {name!r}. {nearest(name, CORPORA)}")
    module, attribute = _READERS[name]
    reader: type[Corpus] = getattr(importlib.import_module(module), attribute)
    return reader


def settings_of(reader: type[Corpus]) -> dict[str, inspect.Parameter]:
    """The keyword-only settings of a reader, by name."""
    found = inspect.signature(reader).parameters.values()
    return {item.name: item for item in found if item.kind is item.KEYWORD_ONLY}


def open_corpus(name: str, path: str | os.PathLike[str], **options: Any) -> Corpus:
    """Open the corpus ``name`` (one of :data:`CORPORA`) at a folder, an archive or a file.

    Options are the keyword settings of the reader: ``only`` of LibriSpeech, ``storage`` of CIFAR-10, and so on;
    ``ecopipe datasets NAME`` lists them.
    """
    reader: Any = reader_of(name)
    settings = settings_of(reader)
    for option in options:
        if option not in settings:
            raise ConfigError(f"The {name} corpus has no option {option!r}. {nearest(option, settings)}")
    corpus: Corpus = reader(path, **options)
    if not corpus.path:
        corpus.path = path
    return corpus


def shortfall(split: str, found: int, full: int | None, noun: str) -> list[str]:
    """The sentence of a report about a split with fewer samples than upstream, if it has fewer."""
    if full is None or found >= full:
        return []
    return [f"{split}: {found:,} of the {full:,} {noun} of the full corpus."]

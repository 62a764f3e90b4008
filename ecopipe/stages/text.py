"""Stages that make token numbers of characters and words.

All give ``tokens``: int64 [U]. Number 0 is left for padding (and is the blank of CTC), except where a saved vocabulary
or tokenizer decides.
"""

from __future__ import annotations

import abc
import functools
import zlib
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np

from ecopipe.formats.text import basic_english, decode_utf8, whitespace, with_ngrams
from ecopipe.formats.vocab import Vocab
from ecopipe.stages.stage import from_file
from ecopipe.stages.tokenizer import Tokenizer, Tokens, read_once
from ecopipe.vocabulary.errors import ConfigError, nearest

LIBRISPEECH_ALPHABET = " 'ABCDEFGHIJKLMNOPQRSTUVWXYZ"
"""Every character of LibriSpeech's transcripts."""

Unknown = Literal["error", "skip"]


@dataclass(frozen=True)
class TokenizeCharacters(Tokenizer):
    """Characters -> their places in an alphabet, counted from 1. White space around the text is dropped.

    Args:
        field: The text: bytes, or str; how its bytes are read is told by :class:`~ecopipe.stages.tokenizer.Tokenizer`.
        into: The field for the numbers, int64 [U] in 1..len(alphabet).
        max_tokens: Cut after so many.
        alphabet: The known characters. By default those of LibriSpeech: space is 1, the apostrophe 2, A to Z 3 to 28.
        unknown: A character outside the alphabet is an ``"error"``, or is left out (``"skip"``).
    """

    _: KW_ONLY
    alphabet: str = LIBRISPEECH_ALPHABET
    unknown: Unknown = "error"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.unknown not in get_args(Unknown):
            raise self.refuse(f"unknown='{self.unknown}' is not known. {nearest(str(self.unknown), get_args(Unknown))}")
        twice = sorted({character for character in self.alphabet if self.alphabet.count(character) > 1})
        if twice or not self.alphabet:
            raise self.refuse(f"alphabet has {twice[0]!r} twice" if twice else "alphabet is empty")

    @property
    def vocabulary_size(self) -> int:
        """How many numbers there are, 0 included."""
        return len(self.alphabet) + 1

    def encode(self, text: str) -> Tokens:
        table = _alphabet_table(self.alphabet)
        codes = np.frombuffer(text.strip().encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
        numbers = table[np.minimum(codes, len(table) - 1)]
        if numbers.size and numbers.min() == 0:
            if self.unknown == "error":
                at = int(np.argmin(numbers))
                raise ValueError(
                    f"character {chr(codes[at])!r} at {at} is not in the alphabet {self.alphabet!r}; "
                    "add it, or set unknown='skip' to leave such characters out"
                )
            numbers = numbers[numbers > 0]
        return numbers


@functools.lru_cache(maxsize=16)
def _alphabet_table(alphabet: str) -> Tokens:
    """int64 [largest code point + 2]: code point -> number, 0 if unknown; the last entry stands for all above."""
    table = np.zeros(max(map(ord, alphabet)) + 2, dtype=np.int64)
    for number, character in enumerate(alphabet, start=1):
        table[ord(character)] = number
    return table


@dataclass(frozen=True)
class Words(Tokenizer, abstract=True):
    """Words -> numbers.

    Without a vocabulary a word's number is a hash, so that no pass over the corpus is needed and no word is unknown:
    the hashing trick (Weinberger et al., "Feature hashing for large scale multitask learning", ICML 2009). The number
    is 1 + CRC-32 of its UTF-8 bytes modulo ``buckets``; distinct words may share one.

    Args:
        field: The text: bytes, or str; how its bytes are read is told by :class:`~ecopipe.stages.tokenizer.Tokenizer`.
        into: The field for the numbers, int64 [U] in 0..vocabulary_size - 1.
        max_tokens: Cut after so many, n-grams among them.
        buckets: How many numbers to hash to, without a vocabulary.
        vocabulary: A ``.json`` file of ``ecopipe vocab`` or :meth:`Vocab.save <ecopipe.formats.vocab.Vocab.save>`,
            whose numbers are taken as they are: an unknown word has its default index, or is an error without one. Or
            a text file of one word a line, in UTF-8: its first word has number 2, and 1 is for unknown words.
        ngrams: Add runs of 2 to so many words, joined by spaces, behind the words.
    """

    _: KW_ONLY
    buckets: int = 65535
    vocabulary: str | None = from_file(default=None)
    ngrams: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("buckets", "ngrams"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise self.refuse(f"{name} must be a positive int, got {value!r}")

    @property
    def vocabulary_size(self) -> int:
        """How many numbers there are, 0 included: the rows of an embedding."""
        return self.buckets + 1 if self.vocabulary is None else self._numbering(self.vocabulary).size

    def words(self, text: str) -> list[str]:
        """The words of a text, and their n-grams if any are asked for."""
        words = self.split(text)
        return words if self.ngrams == 1 else with_ngrams(words, self.ngrams)

    @abc.abstractmethod
    def split(self, text: str) -> list[str]:
        """The words of a text."""

    def encode(self, text: str) -> Tokens:
        words = self.words(text)
        numbers = _hashed(self.buckets) if self.vocabulary is None else self._numbering(self.vocabulary).numbers
        return np.fromiter(map(numbers.__getitem__, words), dtype=np.int64, count=len(words))

    def _numbering(self, path: str) -> _Numbering:
        try:
            return _numbering(path)
        except ConfigError as error:
            raise self.refuse(str(error)) from error


@dataclass(frozen=True)
class TokenizeBasicEnglish(Words):
    """Lower-case words and marks (:func:`ecopipe.formats.text.basic_english`) -> numbers: see :class:`Words`.

    torchtext's ``get_tokenizer("basic_english")``; with ``ngrams``, its ``ngrams_iterator`` of that.
    """

    def split(self, text: str) -> list[str]:
        return basic_english(text)


@dataclass(frozen=True)
class TokenizeWhitespace(Words):
    """What stands between white space (``str.split``) -> numbers: see :class:`Words`.

    Args:
        lower: Lower-case each word after the text was split, as the ``Field`` of torchtext's first generation does.
    """

    _: KW_ONLY
    lower: bool = False

    def split(self, text: str) -> list[str]:
        return whitespace(text, lower=self.lower)


class _Hashed(dict[str, int]):
    """Word -> number, computed once for each word."""

    def __init__(self, buckets: int) -> None:
        super().__init__()
        self.buckets = buckets

    def __missing__(self, word: str) -> int:
        if len(self) >= 1 << 20:  # a corpus with no end of words must not fill the memory
            self.clear()
        number = self[word] = 1 + zlib.crc32(word.encode("utf-8", "surrogatepass")) % self.buckets
        return number


@functools.lru_cache(maxsize=4)
def _hashed(buckets: int) -> _Hashed:
    return _Hashed(buckets)


class _Known(dict[str, int]):
    """Word -> number of a vocabulary; ``default`` for all other words."""

    default: int | None = 1

    def __missing__(self, word: str) -> int:
        if self.default is None:
            raise ValueError(
                f"the word {word!r} is not in the vocabulary, which has no default index; make it with one, "
                "or add the word"
            )
        return self.default


class _Numbering(NamedTuple):
    numbers: _Known
    size: int


@read_once
def _numbering(path: str) -> _Numbering:
    """The numbers of a vocabulary's words, and how many there are, those without a word included."""
    if path.endswith(".json"):
        vocab = Vocab.load(path)
        numbers = _Known({word: number for number, word in enumerate(vocab.tokens)})
        if vocab.default_index == -1:
            raise ConfigError(f"the vocabulary {path!r} has default_index -1, which no embedding has a row for")
        numbers.default = vocab.default_index
        return _Numbering(numbers, len(vocab))
    try:
        lines = decode_utf8(Path(path).read_bytes()).removesuffix("\n").split("\n")  # as Vocab.save writes them
        words = [line.removesuffix("\r") for line in lines] if lines != [""] else []
    except (OSError, ValueError) as error:
        raise ConfigError(f"the vocabulary {path!r} cannot be read: {error}") from error
    numbers = _Known()
    for number, word in enumerate(words, start=2):
        if numbers.setdefault(word, number) != number:
            raise ConfigError(f"the vocabulary {path!r} has {word!r} in lines {numbers[word] - 1} and {number - 1}")
    return _Numbering(numbers, len(numbers) + 2)

"""Stages that make token numbers of text.

All give ``tokens``: int64 [U]. Number 0 is left for padding (and is the blank of CTC), except in
:class:`TokenizeJson`, where the saved tokenizer decides.
"""

from __future__ import annotations

import abc
import functools
import os
import zlib
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from ecopipe.formats.text import basic_english, decode_utf8
from ecopipe.stages.stage import SampleStage, from_file
from ecopipe.vocabulary.errors import ConfigError, MissingDependency, nearest
from ecopipe.vocabulary.randomness import Chance
from ecopipe.vocabulary.sample import Sample

LIBRISPEECH_ALPHABET = " 'ABCDEFGHIJKLMNOPQRSTUVWXYZ"
"""Every character of LibriSpeech's transcripts."""

Unknown = Literal["error", "skip"]
Tokens = npt.NDArray[np.int64]


@dataclass(frozen=True)
class _Tokenizer(abc.ABC):
    """What all stages of this module share."""

    _: KW_ONLY
    field: str = "txt"
    into: str = "tokens"
    max_tokens: int | None = None

    def __post_init__(self) -> None:
        if self.max_tokens is not None and (not isinstance(self.max_tokens, int) or self.max_tokens < 1):
            raise ConfigError(f"{type(self).__name__}: max_tokens must be a positive int, got {self.max_tokens!r}")

    def needs(self) -> tuple[str, ...]:
        return (self.field,)

    def gives(self) -> tuple[str, ...]:
        return (self.into,)

    def apply(self, sample: Sample, chance: Chance) -> Sample:
        if self.field not in sample:
            raise ValueError(f"no field {self.field!r}; it has {', '.join(sorted(sample))}")
        value = sample[self.field]
        text = value if isinstance(value, str) else decode_utf8(value)
        tokens = self.encode(text)
        return sample.with_fields(**{self.into: tokens if self.max_tokens is None else tokens[: self.max_tokens]})

    @abc.abstractmethod
    def encode(self, text: str) -> Tokens:
        """The token numbers of a text: int64 [U]."""


@dataclass(frozen=True)
class TokenizeCharacters(_Tokenizer, SampleStage):
    """Characters -> their places in an alphabet, counted from 1. White space around the text is dropped.

    Args:
        field: The text: bytes in UTF-8, or str.
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
class TokenizeBasicEnglish(_Tokenizer, SampleStage):
    """Lower-case words and punctuation marks (:func:`ecopipe.formats.text.basic_english`) -> numbers.

    Without a vocabulary a word's number is a hash, so that no pass over the corpus is needed and no word is unknown:
    the hashing trick (Weinberger et al., "Feature hashing for large scale multitask learning", ICML 2009). The number
    is 1 + CRC-32 of its UTF-8 bytes modulo ``buckets``; distinct words may share one.

    Args:
        field: The text: bytes in UTF-8, or str.
        into: The field for the numbers, int64 [U] in 1..vocabulary_size - 1.
        max_tokens: Cut after so many.
        buckets: How many numbers to hash to, without a vocabulary.
        vocabulary: A file of one token a line, in UTF-8. Its first token has number 2; 1 is for unknown words.
    """

    _: KW_ONLY
    buckets: int = 65535
    vocabulary: str | None = from_file(default=None)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.buckets, int) or self.buckets < 1:
            raise self.refuse(f"buckets must be a positive int, got {self.buckets!r}")

    @property
    def vocabulary_size(self) -> int:
        """How many numbers there are, 0 included: the rows of an embedding."""
        return self.buckets + 1 if self.vocabulary is None else len(_vocabulary(self.vocabulary)) + 2

    def encode(self, text: str) -> Tokens:
        words = basic_english(text)
        if self.vocabulary is None:
            return np.array(list(map(_hashed(self.buckets).__getitem__, words)), dtype=np.int64)
        get = _vocabulary(self.vocabulary).get
        return np.array([get(word, 1) for word in words], dtype=np.int64)


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


@functools.lru_cache(maxsize=4)
def _vocabulary(path: str) -> dict[str, int]:
    try:
        words = decode_utf8(Path(path).read_bytes()).splitlines()
    except (OSError, ValueError) as error:
        raise ConfigError(f"TokenizeBasicEnglish: the vocabulary {path!r} cannot be read: {error}") from error
    numbers: dict[str, int] = {}
    for number, word in enumerate(words, start=2):
        if numbers.setdefault(word, number) != number:
            raise ConfigError(
                f"TokenizeBasicEnglish: the vocabulary {path!r} has {word!r} in lines "
                f"{numbers[word] - 1} and {number - 1}"
            )
    return numbers


@dataclass(frozen=True)
class TokenizeJson(_Tokenizer, SampleStage):
    """Text -> numbers by a tokenizer that the ``tokenizers`` library saved as JSON.

    The file is read once in each process that uses the stage; the stage itself holds the path only. Texts are encoded
    one by one, which starts no threads, so that a process may be forked at any time.

    Args:
        path: The JSON file.
        field: The text: bytes in UTF-8, or str.
        into: The field for the numbers, int64 [U].
        max_tokens: Cut after so many.
        special_tokens: Whether the tokenizer adds its special tokens.
    """

    path: str = from_file()
    _: KW_ONLY
    special_tokens: bool = True

    def encode(self, text: str) -> Tokens:
        encoding = _load_tokenizer(self.path).encode(text, add_special_tokens=self.special_tokens)
        return np.array(encoding.ids, dtype=np.int64)


@functools.lru_cache(maxsize=4)
def _load_tokenizer(path: str) -> Any:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise MissingDependency("TokenizeJson needs tokenizers. Install it: pip install tokenizers") from error
    if not Path(path).is_file():
        raise ConfigError(f"TokenizeJson: there is no file {path!r}")
    try:
        tokenizer = Tokenizer.from_file(path)
    except Exception as error:  # the library raises plain Exception
        raise ConfigError(f"TokenizeJson: {path!r} is not a saved tokenizer: {error}") from error
    tokenizer.no_padding()
    return tokenizer

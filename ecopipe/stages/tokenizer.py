"""What all tokenizers share: which field they read, how its bytes become text, and where its numbers go."""

from __future__ import annotations

import abc
import functools
import os
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt

from ecopipe.formats.text import Form, decode, is_text_encoding, normal_form, without_breaks
from ecopipe.stages.stage import SampleStage
from ecopipe.vocabulary.randomness import Chance
from ecopipe.vocabulary.sample import Sample

Tokens = npt.NDArray[np.int64]
Errors = Literal["strict", "replace"]
T = TypeVar("T")


@dataclass(frozen=True)
class Tokenizer(SampleStage, abstract=True):
    """Text -> token numbers. An empty text has none, and keeps its place.

    Args:
        field: The text: bytes, or str.
        into: The field for the numbers, int64 [U].
        max_tokens: Cut after so many.
        encoding: The encoding of bytes, by Python's name: ``"utf-8"``, ``"latin-1"``, ...
        errors: What bytes that are not in that encoding are: an error of the sample (``"strict"``), which a pipeline's
            ``[bad_samples]`` may leave out and count; or ``"replace"``, U+FFFD in their place.
        normalize: One of Unicode's normal forms, which the text is brought into first: ``"NFC"`` makes "é" one
            character, however it was typed.
        html_breaks: Make spaces of HTML line breaks (``<br>``, ``<br />``, in upper or lower case).
    """

    _: KW_ONLY
    field: str = "txt"
    into: str = "tokens"
    max_tokens: int | None = None
    encoding: str = "utf-8"
    errors: Errors = "strict"
    normalize: Form | None = None
    html_breaks: bool = False

    def __post_init__(self) -> None:
        self.check_choices(errors=Errors)
        if self.normalize is not None:
            self.check_choices(normalize=Form)
        if self.max_tokens is not None and (not isinstance(self.max_tokens, int) or self.max_tokens < 1):
            raise self.refuse(f"max_tokens must be a positive int, got {self.max_tokens!r}")
        if not is_text_encoding(self.encoding):
            raise self.refuse(
                f"unknown encoding {self.encoding!r}. Name one that Python knows: utf-8, latin-1, cp1252."
            )
        super().__post_init__()

    def needs(self) -> tuple[str, ...]:
        return (self.field,)

    def gives(self) -> tuple[str, ...]:
        return (self.into,)

    def text(self, sample: Sample) -> str:
        """The text of a sample, as it is tokenized.

        Raises:
            ValueError: There is none; its bytes are in another encoding.
        """
        if self.field not in sample:
            raise ValueError(f"no field {self.field!r}; it has {', '.join(sorted(sample))}")
        value = sample[self.field]
        text = value if isinstance(value, str) else decode(value, encoding=self.encoding, errors=self.errors)
        if self.html_breaks:
            text = without_breaks(text)
        return text if self.normalize is None else normal_form(text, self.normalize)

    def apply(self, sample: Sample, chance: Chance) -> Sample:
        tokens = self.encode(self.text(sample))
        return sample.with_fields(**{self.into: tokens if self.max_tokens is None else tokens[: self.max_tokens]})

    @abc.abstractmethod
    def encode(self, text: str) -> Tokens:
        """The token numbers of a text: int64 [U]."""


def read_once(read: Callable[[str], T]) -> Callable[[str], T]:
    """What a function makes of a file, kept in each process until the file is another one."""

    @functools.lru_cache(maxsize=4)
    def kept(path: str, _stamp: tuple[int, ...] | None) -> T:
        return read(path)

    @functools.wraps(read)
    def reading(path: str) -> T:
        try:
            now = os.stat(path)
        except OSError:
            return kept(path, None)  # which says what is wrong
        return kept(path, (now.st_mtime_ns, now.st_ctime_ns, now.st_size, now.st_ino))

    return reading

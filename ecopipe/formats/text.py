"""Text: bytes <-> strings <-> words."""

from __future__ import annotations

import codecs
import re
import unicodedata
from collections.abc import Sequence
from typing import Literal

TEXT_EXTENSIONS = ("txt", "text", "transcript")
"""Extensions of members that hold UTF-8 text, without the dot."""

Form = Literal["NFC", "NFD", "NFKC", "NFKD"]
"""Unicode's normal forms."""

_SPACED = tuple((mark, f" {mark} ") for mark in ".,()!?'")
_BREAK = re.compile(r"<br\s*/?>", re.IGNORECASE)


def decode_utf8(data: bytes, errors: str = "strict") -> str:
    """The text of UTF-8 bytes.

    Args:
        data: The bytes; a byte order mark at their start is dropped.
        errors: ``"strict"`` raises; the other handlers of :meth:`bytes.decode` (``"replace"``, ``"ignore"``) mend.

    Raises:
        ValueError: The bytes are not UTF-8; says at which offset.
    """
    return decode(data, errors=errors)


def decode(data: bytes, *, encoding: str = "utf-8", errors: str = "strict") -> str:
    """The text of bytes in an encoding that Python knows, such as ``"latin-1"``.

    Args:
        data: The bytes; a byte order mark at their start is dropped.
        encoding: The encoding's name.
        errors: ``"strict"`` raises; the other handlers of :meth:`bytes.decode` (``"replace"``, ``"ignore"``) mend.

    Raises:
        ValueError: The bytes are not in that encoding; says at which offset.
    """
    try:
        return data.decode(encoding, errors).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        name = "UTF-8" if encoding == "utf-8" else encoding
        raise ValueError(
            f"not {name}: byte 0x{data[error.start]:02x} at offset {error.start} of {len(data)} ({error.reason})"
        ) from None


def is_text_encoding(name: str) -> bool:
    """Whether Python knows an encoding of that name which makes text of bytes."""
    try:
        return isinstance(codecs.lookup(name).decode(b"")[0], str)
    except (LookupError, UnicodeError, ValueError, TypeError):
        return False


def normal_form(text: str, form: Form) -> str:
    """A text in one of Unicode's normal forms: ``"NFC"`` joins an accent to its letter wherever that exists."""
    return unicodedata.normalize(form, text)


def without_breaks(text: str) -> str:
    """A text whose HTML line breaks are spaces: ``<br>``, ``<br/>``, ``<br />``, in upper or lower case."""
    return _BREAK.sub(" ", text)


def basic_english(text: str) -> list[str]:
    """Lower-case words and punctuation marks, as torchtext's ``basic_english_normalize`` gives them.

    Its rules: lower case; a space around each of ``. , ( ) ! ? '``; double quotes removed; ``<br />``, semicolons and
    colons become spaces; split at white space. torchtext makes twelve regular-expression passes of them; every one
    replaces a fixed string, so this makes them with ``str.replace``, which is several times faster.

    >>> basic_english("It's \\"fine\\".<br />Really!")
    ['it', "'", 's', 'fine', '.', 'really', '!']
    """
    text = text.lower().replace('"', "").replace("<br />", " ").replace(";", " ").replace(":", " ")
    for mark, spaced in _SPACED:
        text = text.replace(mark, spaced)
    return text.split()


def whitespace(text: str, *, lower: bool = False) -> list[str]:
    """What stands between white space: ``str.split``, each word lower-cased after it if ``lower``."""
    words = text.split()
    return [word.lower() for word in words] if lower else words


def with_ngrams(words: Sequence[str], n: int) -> list[str]:
    """Words, then all pairs of neighbours, then all threes, up to ``n``, each joined by a space.

    >>> with_ngrams(["here", "we", "are"], 3)
    ['here', 'we', 'are', 'here we', 'we are', 'here we are']
    """
    found = list(words)
    for length in range(2, n + 1):
        found += map(" ".join, zip(*(words[start:] for start in range(length)), strict=False))
    return found

"""Text: bytes <-> strings <-> words."""

from __future__ import annotations

TEXT_EXTENSIONS = ("txt", "text", "transcript")
"""Extensions of members that hold UTF-8 text, without the dot."""

_SPACED = tuple((mark, f" {mark} ") for mark in ".,()!?'")


def decode_utf8(data: bytes, errors: str = "strict") -> str:
    """The text of UTF-8 bytes.

    Args:
        data: The bytes; a byte order mark at their start is dropped.
        errors: ``"strict"`` raises; the other handlers of :meth:`bytes.decode` (``"replace"``, ``"ignore"``) mend.

    Raises:
        ValueError: The bytes are not UTF-8; says at which offset.
    """
    try:
        return data.decode("utf-8", errors).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"not UTF-8: byte 0x{data[error.start]:02x} at offset {error.start} of {len(data)} ({error.reason})"
        ) from None


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

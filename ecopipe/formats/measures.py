"""Measures: cheap numbers about a sample, known without decoding it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ecopipe.formats import audio, image, text
from ecopipe.formats.audio import AUDIO_EXTENSIONS
from ecopipe.formats.image import IMAGE_EXTENSIONS
from ecopipe.formats.text import TEXT_EXTENSIONS

LABEL_EXTENSIONS = ("cls",)
"""Extensions of members that hold a class number in ASCII digits, without the dot (a WebDataset convention)."""

MEASURES: dict[str, str] = {
    "frames": "int64",
    "rate_hz": "int32",
    "channels": "int16",
    "duration_s": "float64",
    "chars": "int32",
    "tokens": "int32",
    "height": "int32",
    "width": "int32",
    "label": "int64",
}
"""Every measure and the Arrow type of its column. Each is null where a sample has no member to take it from.

``frames`` per channel and ``rate_hz`` in Hz are the header's; ``duration_s`` is frames / rate_hz; ``chars`` counts
characters and ``tokens`` basic-English tokens (:func:`ecopipe.formats.text.basic_english`); ``height`` and ``width``
are in pixels; ``label`` is a class number.
"""

Measures = dict[str, int | float | None]


def measure(members: Mapping[str, bytes]) -> Measures:
    """The measures of a sample: every name of :data:`MEASURES`, None where no member tells.

    Args:
        members: Bytes by extension, such as ``{"flac": ..., "txt": ...}``. A dotted extension counts by its last part
            (``"mix.wav"`` is a ``wav``). Unknown extensions are ignored. Of several members of one family, the one
            without a dot counts, else the first.

    Raises:
        ValueError: A member is damaged; names the extension and the reason.
    """
    found: Measures = _NOTHING.copy()
    done: list[Reader] = []
    for extension in sorted(members, key=_has_dot) if len(members) > 1 else members:
        kind = extension.rpartition(".")[2].lower()
        read = _READERS.get(kind)
        if read is not None and read not in done:
            try:
                found.update(read(members[extension], kind))
            except ValueError as error:
                raise ValueError(f"{extension}: {error}") from error
            done.append(read)
    return found


def _has_dot(name: str) -> bool:
    return "." in name


def _audio(data: bytes, kind: str) -> Measures:
    info = audio.check(data, kind)
    seconds = info.frames / info.rate_hz
    return {"frames": info.frames, "rate_hz": info.rate_hz, "channels": info.channels, "duration_s": seconds}


def _text(data: bytes, kind: str) -> Measures:
    words = text.decode(data, errors="replace")  # whether other encodings are let pass is a matter of the pipeline
    return {"chars": len(words), "tokens": len(text.basic_english(words))}


def _image(data: bytes, kind: str) -> Measures:
    if kind == "npy" and len(image.npy_shape(data)) not in (2, 3):
        return {}  # an array, but not of pixels
    height, width = image.probe(data, kind)
    return {"height": height, "width": width}


def _label(data: bytes, kind: str) -> Measures:
    digits = data.strip()
    if not digits.removeprefix(b"-").isdigit():
        shown = digits[:20].decode("ascii", "backslashreplace")
        raise ValueError(f"a class number in ASCII digits wanted, got {shown!r}")
    if len(digits) > 18:
        raise ValueError(f"a class number of at most 18 digits wanted, got {len(digits)} characters")
    return {"label": int(digits)}


Reader = Callable[[bytes, str], Measures]

_FAMILIES: dict[tuple[str, ...], Reader] = {
    AUDIO_EXTENSIONS: _audio, TEXT_EXTENSIONS: _text, IMAGE_EXTENSIONS: _image, LABEL_EXTENSIONS: _label,
}  # fmt: skip
_READERS = {extension: read for family, read in _FAMILIES.items() for extension in family}
_NOTHING: Measures = dict.fromkeys(MEASURES)

"""NIST SPHERE (.sph): the header, whose length libsndfile does not look at.

1,024 bytes or more of lines, each a name, a type and a value, up to ``end_head``. Uncompressed samples follow.
"""

from __future__ import annotations

_CODINGS = ("pcm", "ulaw", "mu-law", "alaw")


def frames(data: bytes) -> int | None:
    """The frames per channel that the header says; None where it does not.

    Raises:
        ValueError: The samples are compressed.
    """
    header = _header(data)
    coding = header.get("sample_coding", "pcm")
    if coding.lower() not in _CODINGS:
        raise ValueError(
            f"compressed sph: its sample_coding is {coding!r}, which libsndfile does not read; convert it first, such "
            "as with sph2pipe -f wav IN.sph OUT.wav"
        )
    return _number(header.get("sample_count", ""))


def end(data: bytes) -> int | None:
    """How many bytes the file has by its header; None where it does not say.

    Raises:
        ValueError: The samples are compressed.
    """
    header, size, count = _header(data), _size(data), frames(data)
    channels, width = (_number(header.get(name, "")) for name in ("channel_count", "sample_n_bytes"))
    if count is None or channels is None or width is None:
        return None
    return size + count * channels * width


def _size(data: bytes) -> int:
    return _number(data[8:16].decode("latin-1")) or 1024


def _header(data: bytes) -> dict[str, str]:
    lines = data[16 : _size(data)].partition(b"end_head")[0].decode("latin-1").splitlines()
    fields = (line.split(maxsplit=2) for line in lines)
    return {field[0]: field[2].strip() for field in fields if len(field) == 3}


def _number(text: str) -> int | None:
    return int(text) if text.strip().isdecimal() else None

"""Whether a file of audio is as long as it says itself: what libsndfile does not look at.

libsndfile reads a truncated AIFF, AU, CAF, W64, SPH or Ogg as a shorter one, and of a chained Ogg the first stream.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from ecopipe.formats import sph

_AU: dict[bytes, Literal["big", "little"]] = {b".snd": "big", b"dns.": "little"}


class _Chunks(NamedTuple):
    """How a container lays out its chunks, from byte ``at``; ``samples`` is the name of the one that holds them."""

    at: int
    name_bytes: int
    size_bytes: int
    order: Literal["big", "little"]
    padded_to: int
    size_counts_header: bool
    samples: bytes


_CHUNKED = {
    b"FORM": _Chunks(12, 4, 4, "big", 2, False, b"SSND"),
    b"caff": _Chunks(8, 4, 8, "big", 1, False, b"data"),
    b"riff": _Chunks(40, 16, 8, "little", 8, True, b"data\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a"),
}


def untagged(data: bytes, kind: str) -> bytes:
    """The file without the ID3v2 tags in front of it. Seven bits to a byte are the size of one, and a flag its footer.

    Raises:
        ValueError: The file ends within such a tag.
    """
    at = 0
    while data[at : at + 3] == b"ID3" and len(data) >= at + 10 and max(data[at + 6 : at + 10]) < 0x80:
        high, mid, low, lowest = data[at + 6 : at + 10]
        at += 10 + (high << 21 | mid << 14 | low << 7 | lowest) + (10 if data[at + 5] & 0x10 else 0)
    if at and at >= len(data):
        raise ValueError(f"damaged {kind}: its ID3 tag ends at byte {at}, {len(data)} are there; the file is truncated")
    return data[at:] if at else data


def known(data: bytes) -> bool:
    """Whether a file is of a container whose end :func:`check_end` can check."""
    return data[:4] == b"OggS" or data[:4] in _AU or data[:7] == b"NIST_1A" or _layout(data) is not None


def check_end(data: bytes, kind: str) -> None:
    """Refuses a file that ends before its container says. What the container does not say passes.

    Raises:
        ValueError: The file is truncated, or is a compressed SPH or a chained Ogg.
    """
    end = None
    if data[:4] == b"OggS":
        _check_pages(data, kind)
    elif layout := _layout(data):
        end = _end_of_chunk(data, layout, kind)
    elif (order := _AU.get(data[:4])) and len(data) >= 12 and data[8:12] != b"\xff\xff\xff\xff":
        end = int.from_bytes(data[4:8], order) + int.from_bytes(data[8:12], order)
    elif data[:7] == b"NIST_1A":
        end = sph.end(data)
    if end is not None and end > len(data):
        raise ValueError(f"damaged {kind}: the header says {end} bytes, {len(data)} are there; the file is truncated")


def _layout(data: bytes) -> _Chunks | None:
    if data[:4] == b"FORM" and data[8:12] not in (b"AIFF", b"AIFC"):
        return None
    return _CHUNKED.get(data[:4])


def _end_of_chunk(data: bytes, layout: _Chunks, kind: str) -> int | None:
    """The end of the chunk of samples; None where it says that it goes on to the end of the file."""
    at, head = layout.at, layout.name_bytes + layout.size_bytes
    while at + head <= len(data):
        body = at + layout.name_bytes
        size = int.from_bytes(data[body : body + layout.size_bytes], layout.order)
        if layout.size_counts_header:
            size -= head
        if data[at:body] == layout.samples:
            return None if size >> (8 * layout.size_bytes - 1) else at + head + size
        at += head + max(size, 0)
        at += -at % layout.padded_to
    raise ValueError(f"damaged {kind}: no chunk of samples in its {len(data)} bytes; the file is truncated")


def _check_pages(data: bytes, kind: str) -> None:
    """Refuses an Ogg whose last page is not whole, and one of several streams, the one behind the other.

    By RFC 3533 section 6: of the flags of a page, 2 begins a stream, and 4 ends it. Streams that begin together,
    before any page of data, are played at the same time.
    """
    at, in_data, ended = data.find(b"OggS"), False, False
    while 0 <= at <= len(data) - 27:
        lacing, flags = at + 27, data[at + 5]
        body = lacing + data[at + 26]
        end = body + sum(data[lacing:body])
        if flags & 2 and in_data:
            raise ValueError(
                f"chained {kind}: another stream begins at byte {at} of {len(data)}, and libsndfile reads only the "
                "first; make them one, such as with ffmpeg -i IN OUT.flac, or a sample of each"
            )
        in_data = not flags & 2
        ended = flags & 4 > 0 and body <= len(data) and end <= len(data)
        at = data.find(b"OggS", end)
    if not ended:
        raise ValueError(f"damaged {kind}: its last page is missing or cut; the file is truncated")

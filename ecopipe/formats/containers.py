"""Whether a file of audio is as long as it says itself: what libsndfile does not look at.

libsndfile reads a truncated AIFF, AU, CAF, W64, SPH or Ogg as a shorter one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

from ecopipe.formats import sph

_LARGEST_OGG_PAGE = 27 + 255 + 255 * 255


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


def check_end(data: bytes, kind: str) -> None:
    """Refuses a file that ends before its container says. What the container does not say passes.

    Raises:
        ValueError: The file is truncated, or is a compressed SPH.
    """
    if data[:4] == b"OggS":
        if not any(_ends_stream(data, at) for at in _last_pages(data)):
            raise ValueError(f"damaged {kind}: its last page is missing or cut; the file is truncated")
        return
    end = None
    if data[:4] in _CHUNKED:
        end = _end_of_chunk(data, _CHUNKED[data[:4]])
    elif data[:4] == b".snd" and len(data) >= 12 and data[8:12] != b"\xff\xff\xff\xff":
        end = int.from_bytes(data[4:8], "big") + int.from_bytes(data[8:12], "big")
    elif data[:7] == b"NIST_1A":
        end = sph.end(data)
    if end is not None and end > len(data):
        raise ValueError(f"damaged {kind}: the header says {end} bytes, {len(data)} are there; the file is truncated")


def _end_of_chunk(data: bytes, layout: _Chunks) -> int | None:
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
    return None


def _last_pages(data: bytes) -> Iterator[int]:
    """Where the last pages of an Ogg begin, the last one first."""
    at, lowest = len(data), len(data) - 2 * _LARGEST_OGG_PAGE
    while (at := data.rfind(b"OggS", 0, at)) >= max(0, lowest):
        yield at


def _ends_stream(data: bytes, at: int) -> bool:
    """Whether the page of an Ogg is whole, and marked as the last one of its stream (RFC 3533 section 6)."""
    lacing = at + 27
    if lacing > len(data) or not data[at + 5] & 4:
        return False
    body = lacing + data[at + 26]
    return body <= len(data) and body + sum(data[lacing:body]) <= len(data)

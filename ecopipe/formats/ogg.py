"""Ogg pages (RFC 3533): their serial number and checksum, which make the bytes of an encoder a function of its input.

Whatever encodes to Ogg draws a serial number at random, so that streams can be played together. A member of a shard is
one stream, and the same audio should be the same bytes.
"""

from __future__ import annotations

import zlib

_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
"""Each byte with its bits in the other order."""


def checksum(data: bytes) -> int:
    """The CRC-32 of RFC 3533: polynomial 0x04c11db7, start 0, the highest bit first.

    zlib's is of the same polynomial with the lowest bit first, and starts and ends with all bits flipped.
    """
    reversed_crc = zlib.crc32(data.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{reversed_crc:032b}"[::-1], 2)


def with_own_serial(data: bytes) -> bytes:
    """An Ogg of one stream with a serial number that is a checksum of the rest of it.

    Raises:
        ValueError: It does not consist of whole pages.
    """
    found, pages = bytearray(data), []
    at = 0
    while at < len(found):
        lacing = at + 27
        body = lacing + (found[at + 26] if lacing <= len(found) else 0)
        end = body + sum(found[lacing:body])
        if found[at : at + 4] != b"OggS" or end > len(found):
            raise ValueError(f"no whole page of Ogg at byte {at} of {len(found)}")
        found[at + 14 : at + 18] = found[at + 22 : at + 26] = bytes(4)
        pages.append((at, end))
        at = end
    serial = zlib.crc32(found).to_bytes(4, "little")
    for at, end in pages:
        found[at + 14 : at + 18] = serial
        found[at + 22 : at + 26] = checksum(bytes(found[at:end])).to_bytes(4, "little")
    return bytes(found)

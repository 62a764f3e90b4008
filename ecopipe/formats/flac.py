"""FLAC, by RFC 9639: the header, where the audio ends, exact samples, and the MD5 of them that the header carries."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ecopipe.formats import dr_flac, libsndfile
from ecopipe.formats.sound import AudioInfo

_NO_MD5 = bytes(16)


def probe(data: bytes) -> AudioInfo:
    """STREAMINFO, RFC 9639 section 8.2: the first metadata block, 34 bytes after the 8 of marker and block header.

    Raises:
        ValueError: The header is damaged.
    """
    if len(data) < 42:
        raise ValueError(f"damaged flac: {len(data)} bytes, and the header alone has 42")
    if data[4] & 0x7F != 0 or int.from_bytes(data[5:8], "big") != 34:
        raise ValueError("damaged flac: it does not begin with a STREAMINFO block")
    packed = int.from_bytes(data[18:26], "big")
    rate_hz, frames = packed >> 44, packed & ((1 << 36) - 1)
    if rate_hz == 0:
        raise ValueError("damaged flac: the header says 0 Hz")
    info = AudioInfo(rate_hz, frames, (packed >> 41 & 7) + 1, (packed >> 36 & 31) + 1)
    return info if frames else replace(info, frames=_end(data, info))  # written to a pipe: 0 is unknown


def read(data: bytes, info: AudioInfo, start: int, end: int, *, md5: bool = False) -> npt.NDArray[Any]:
    """Frames ``start`` to ``end``: int16 [T, channels] of 16-bit FLAC, else float32 [T, channels] in [-1, 1).

    Either is exact. A decoder skips a block whose CRC-16 is wrong, so that damage shows in the length.

    Args:
        data: The file.
        info: What :func:`probe` made of it.
        start: The first frame.
        end: The frame behind the last one.
        md5: Refuse the whole audio if its MD5 is not that of the header. A header of zeros has none, and passes.

    Raises:
        ValueError: The file is damaged.
    """
    whole = start == 0 and end == info.frames
    if info.bits == 16:
        audio = _read16(data, info) if whole else libsndfile.read(_sized(data, info), "flac", info, start, end, "int16")
        if md5:
            _check_md5(data, audio.astype("<i2", copy=False))
        return np.asarray(audio)
    if not md5:
        return np.asarray(libsndfile.read(_sized(data, info), "flac", info, start, end))
    shifted = libsndfile.read(_sized(data, info), "flac", info, start, end, "int32")  # its samples fill the upper bits
    width = (info.bits + 7) // 8
    _check_md5(data, (shifted >> 32 - info.bits).astype("<i4", copy=False)[..., None].view(np.uint8)[..., :width])
    return np.asarray(shifted * np.float32(2**-31), dtype=np.float32)


def _read16(data: bytes, info: AudioInfo) -> npt.NDArray[np.int16]:
    if dr_flac.available():
        return dr_flac.read16(data, info.frames, info.channels)
    other = libsndfile.read(_sized(data, info), "flac", info, 0, info.frames, "int16")
    return np.asarray(other, dtype=np.int16)


def read_into(data: bytes, info: AudioInfo, row: npt.NDArray[Any]) -> bool:
    """Decodes a whole mono FLAC of 16 bits into ``row``, int16 or float32 [info.frames]: the samples of :func:`read`,
    times 1/32768 in float32. False, with anything in ``row``, if it is none, has no end there, or is damaged:
    :func:`check_end` and :func:`read` say what is wrong with it."""
    if not dr_flac.available() or (info.bits, info.channels, info.frames) != (16, 1, len(row)):
        return False
    try:
        decoded = dr_flac.read_into(data, row, np.empty(1, dtype=row.dtype))
        return decoded == len(row) == _end(data, info)
    except ValueError:
        return False


def _sized(data: bytes, info: AudioInfo) -> bytes:
    """The file with its length in its header, without which libsndfile can neither end nor seek."""
    packed = int.from_bytes(data[18:26], "big")
    return data if packed & ((1 << 36) - 1) else data[:18] + (packed | info.frames).to_bytes(8, "big") + data[26:]


def _check_md5(data: bytes, samples: npt.NDArray[Any]) -> None:
    """``samples`` are little-endian, interleaved, each in the whole bytes that its bits need."""
    wanted = data[26:42]
    if wanted == _NO_MD5:
        return
    found = hashlib.md5(np.ascontiguousarray(samples).data, usedforsecurity=False).digest()
    if found != wanted:
        raise ValueError(
            f"damaged flac: the MD5 of its samples is {found.hex()}, and its header says {wanted.hex()}; "
            "it was changed after it was encoded: fetch it again, or leave the sample out"
        )


def check_end(data: bytes, info: AudioInfo) -> None:
    """Refuses a FLAC whose last block does not end where its header says.

    Raises:
        ValueError: The file is truncated, has no audio, or its header was changed.
    """
    if info.frames == 0:
        raise ValueError("damaged flac: no length in its header and no block of audio behind it")
    if _end(data, info) != info.frames:
        raise ValueError(
            f"damaged flac: the header says {info.frames} frames of {info.channels} channels, {info.bits} bits, "
            f"{info.rate_hz} Hz, and no last block agrees; the file is truncated or its header was changed"
        )


def _end(data: bytes, info: AudioInfo) -> int:
    """The frame count at which the last block ends, by the block's own header; 0 if none is found.

    Searches backwards. If ``info`` has a frame count, goes on until a block ends there: a sync code may occur by chance
    within compressed data, so one that ends elsewhere proves nothing.
    """
    blocksize = int.from_bytes(data[10:12], "big")
    for sync in (b"\xff\xf8", b"\xff\xf9"):  # fixed and variable block size
        at = len(data)
        while (at := data.rfind(sync, 42, at)) >= 0:
            end = _block_end(data[at : at + 16], blocksize, info)
            if end and info.frames in (0, end):
                return end
    return 0


_RATES_HZ = (0, 88200, 176400, 192000, 8000, 16000, 22050, 24000, 32000, 44100, 48000, 96000)
_BITS = {1: 8, 2: 12, 4: 16, 5: 20, 6: 24, 7: 32}
_SIZES = {1: 192, **{n: 144 << n for n in range(2, 6)}, **{n: 1 << n for n in range(8, 16)}}


def _block_end(header: bytes, blocksize: int, info: AudioInfo) -> int | None:
    """The frame count at the end of the block with this header (RFC 9639 section 9.1).

    None if it is not the header of a block of such audio.
    """
    if len(header) < 7:
        return None
    size_code, rate_code, lead = header[2] >> 4, header[2] & 15, header[4]
    ones = 8 - (lead ^ 0xFF).bit_length()  # the number is coded as in UTF-8, in 1 to 7 bytes
    if size_code == 0 or rate_code == 15 or ones in (1, 8) or header[3] & 1:
        return None
    if 0 < rate_code < 12 and _RATES_HZ[rate_code] != info.rate_hz:
        return None
    channel_code, bits_code = header[3] >> 4, header[3] >> 1 & 7
    if (channel_code + 1 if channel_code < 8 else 2) != info.channels or _BITS.get(bits_code, info.bits) != info.bits:
        return None
    at = 5 + max(ones - 1, 0)
    number = lead & (0x7F >> ones)
    for byte in header[5:at]:
        number = number << 6 | byte & 0x3F
    if size_code in (6, 7):
        size = int.from_bytes(header[at : at + size_code - 5], "big") + 1
        at += size_code - 5
    else:
        size = _SIZES[size_code]
    if rate_code >= 12:  # the rate is written out: in kHz, in Hz, or in tens of Hz
        width, unit = {12: (1, 1000), 13: (2, 1), 14: (2, 10)}[rate_code]
        if int.from_bytes(header[at : at + width], "big") * unit != info.rate_hz:
            return None
        at += width
    if at >= len(header) or _crc8(header[:at]) != header[at]:
        return None
    return (number if header[1] & 1 else number * blocksize) + size


def _crc8(data: bytes) -> int:
    """CRC-8 of RFC 9639: polynomial x^8 + x^2 + x + 1, start 0."""
    crc = 0
    for byte in data:
        crc = _CRC8[crc ^ byte]
    return crc


def _crc8_of(byte: int) -> int:
    for _ in range(8):
        byte = (byte << 1 ^ 0x07 if byte & 0x80 else byte << 1) & 0xFF
    return byte


_CRC8 = tuple(map(_crc8_of, range(256)))

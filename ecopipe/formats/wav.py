"""WAV: the header, and 16-bit PCM, which needs no decoder.

By the RIFF/WAVE specification with WAVE_FORMAT_EXTENSIBLE, also big-endian (RIFX), and RF64 of EBU Tech 3306, whose
sizes of 64 bits lie in a chunk named ds64. Other codings are read by libsndfile.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ecopipe.formats import libsndfile
from ecopipe.formats.sound import INT16_SCALE, AudioInfo, cut_short

MARKS = (b"RIFF", b"RIFX", b"RF64")
"""The first four bytes of a WAV."""

_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_UNKNOWN_SIZE = 0xFFFFFFFF
_PIPE_SIZES = (0x7FFFF000, 0x7FFFFF00, 0x80000000, 0x7FFF0000, 0x7FFFFFFF)
"""Sizes that stand for none, where nobody can seek back to write the true one: SoX's, rounded down to whole frames;
arecord's two; GStreamer's; and the largest of 31 bits. ffmpeg writes ``_UNKNOWN_SIZE``."""


@dataclass(frozen=True)
class Wav:
    """The layout of a WAV: its samples are ``size`` bytes from byte ``at``, with ``align`` bytes to a frame.

    ``coding`` is the format tag, behind WAVE_FORMAT_EXTENSIBLE too; a compressed one has blocks of ``align`` bytes.
    ``order`` is that of its numbers.
    """

    info: AudioInfo
    coding: int
    at: int
    size: int
    align: int
    order: Literal["big", "little"]

    @property
    def pcm16(self) -> bool:
        return self.coding == _PCM and self.info.bits == 16


def probe(data: bytes) -> Wav:
    """The layout of a WAV, by the chunks up to ``data``, each padded to an even size.

    Raises:
        ValueError: The header is damaged.
    """
    if data[8:12] != b"WAVE":
        raise ValueError(f"damaged wav: {data[:4].decode()} without WAVE")
    order: Literal["big", "little"] = "big" if data[:4] == b"RIFX" else "little"
    layout = ">HHIIHH" if order == "big" else "<HHIIHH"
    at, form, long_size = 12, None, None
    while at + 8 <= len(data):
        name, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], order)
        at += 8
        if name == b"fmt ":
            if size < 16 or at + size > len(data):
                raise ValueError(f"damaged wav: its fmt chunk has {min(size, len(data) - at)} bytes, 16 or more wanted")
            coding, channels, rate_hz, _, align, bits = struct.unpack_from(layout, data, at)
            if coding == _EXTENSIBLE:
                if size < 40:
                    raise ValueError(f"damaged wav: its extensible fmt chunk has {size} bytes, 40 wanted")
                coding = int.from_bytes(data[at + 24 : at + 26], order)
            form = coding, channels, rate_hz, align, bits
        elif name == b"ds64":
            long_size = int.from_bytes(data[at + 8 : at + 16], "little")
        elif name == b"data":
            if form is None:
                raise ValueError("damaged wav: samples before their format")
            coding, channels, rate_hz, align, bits = form
            if not channels or not rate_hz or not align or (coding in (_PCM, _FLOAT) and align != channels * bits // 8):
                raise ValueError(f"damaged wav: {channels} channels of {bits} bits at {rate_hz} Hz in {align} bytes")
            if size == _UNKNOWN_SIZE and data[:4] == b"RF64":
                if long_size is None:
                    raise ValueError("damaged wav: RF64 without a ds64 chunk before its samples, which has their size")
                size = long_size
            elif _goes_to_the_end(size, len(data) - at, align):
                size = len(data) - at
            frames = size // align
            if coding not in (_PCM, _FLOAT):  # compressed: a block of bytes holds several frames
                frames = libsndfile.probe(data, "wav").frames
            return Wav(AudioInfo(rate_hz, frames, channels, bits), coding, at, size, align, order)
        at += size + size % 2
    raise ValueError("damaged wav: no data chunk")


def _goes_to_the_end(size: int, found: int, align: int) -> bool:
    """Whether a data chunk was written to a pipe: its size stands for none, and the file does not have half of it."""
    return size == _UNKNOWN_SIZE or (found < size // 2 and any(0 <= pipe - size < align for pipe in _PIPE_SIZES))


def check_end(data: bytes, wav: Wav) -> None:
    """Refuses a WAV that ends before its header says, or goes on where that says that there is nothing.

    Raises:
        ValueError: The file is truncated, or was never closed.
    """
    found = len(data) - wav.at
    if wav.size == 0 and found >= wav.align and not _is_chunk(data, wav):
        raise ValueError(
            f"damaged wav: the header says no samples, {found} bytes follow; it was not closed by what recorded it: "
            "have its header written anew, such as with sox --ignore-length IN.wav OUT.wav, or leave the sample out"
        )
    if wav.coding in (_PCM, _FLOAT):
        if found // wav.align < wav.info.frames:
            raise cut_short("wav", wav.info.frames, found // wav.align)
    elif found < wav.size:
        raise ValueError(
            f"damaged wav: the header says {wav.size} bytes of samples, {found} are there; the file is truncated"
        )


def _is_chunk(data: bytes, wav: Wav) -> bool:
    """Whether what lies where samples would be is another chunk, as behind the samples of an empty WAV."""
    name, size = data[wav.at : wav.at + 4], int.from_bytes(data[wav.at + 4 : wav.at + 8], wav.order)
    return all(32 <= byte < 127 for byte in name) and wav.at + 8 + size <= len(data)


def read16(data: bytes, wav: Wav, start: int, end: int) -> npt.NDArray[np.int16]:
    """Frames ``start`` to ``end`` of 16-bit PCM as int16 [T, channels], their own memory."""
    return _values(data, wav, start, end).astype(np.int16)


def read16_into(data: bytes, wav: Wav, row: npt.NDArray[Any]) -> bool:
    """Puts the samples of mono 16-bit PCM into ``row``, int16 or float32 [T], times 1/32768 in float32; False if it is
    none such, or has not T frames."""
    if not wav.pcm16 or wav.info.channels != 1 or wav.info.frames != len(row):
        return False
    values = _values(data, wav, 0, len(row))[:, 0]
    if row.dtype == np.int16:
        row[:] = values
    else:
        np.multiply(values, np.float32(INT16_SCALE), out=row)
    return True


def _values(data: bytes, wav: Wav, start: int, end: int) -> npt.NDArray[Any]:
    """Frames ``start`` to ``end`` of 16-bit PCM where they lie: [T, channels] in the file's byte order."""
    channels = wav.info.channels
    at, count = wav.at + start * wav.align, (end - start) * channels
    dtype = ">i2" if wav.order == "big" else "<i2"
    return np.frombuffer(data, dtype=dtype, count=count, offset=at).reshape(-1, channels)

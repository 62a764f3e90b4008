"""WAV: the header, and 16-bit PCM, which needs no decoder.

By the RIFF/WAVE specification with WAVE_FORMAT_EXTENSIBLE. Other codings are read by libsndfile.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ecopipe.formats import libsndfile
from ecopipe.formats.sound import AudioInfo, cut_short

_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_UNKNOWN_SIZE = 0xFFFFFFFF


@dataclass(frozen=True)
class Wav:
    """The layout of a WAV: its samples are ``size`` bytes from byte ``at``, with ``align`` bytes to a frame.

    ``coding`` is the format tag, behind WAVE_FORMAT_EXTENSIBLE too; a compressed one has blocks of ``align`` bytes.
    """

    info: AudioInfo
    coding: int
    at: int
    size: int
    align: int

    @property
    def pcm16(self) -> bool:
        return self.coding == _PCM and self.info.bits == 16


def probe(data: bytes) -> Wav:
    """The layout of a WAV, by the chunks up to ``data``, each padded to an even size.

    Raises:
        ValueError: The header is damaged.
    """
    if data[8:12] != b"WAVE":
        raise ValueError("damaged wav: RIFF without WAVE")
    at, form = 12, None
    while at + 8 <= len(data):
        name, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        at += 8
        if name == b"fmt ":
            if size < 16 or at + size > len(data):
                raise ValueError(f"damaged wav: its fmt chunk has {min(size, len(data) - at)} bytes, 16 or more wanted")
            coding, channels, rate_hz, _, align, bits = struct.unpack_from("<HHIIHH", data, at)
            if coding == _EXTENSIBLE:
                if size < 40:
                    raise ValueError(f"damaged wav: its extensible fmt chunk has {size} bytes, 40 wanted")
                coding = int.from_bytes(data[at + 24 : at + 26], "little")
            form = coding, channels, rate_hz, align, bits
        elif name == b"data":
            if form is None:
                raise ValueError("damaged wav: samples before their format")
            coding, channels, rate_hz, align, bits = form
            if not channels or not rate_hz or not align or (coding in (_PCM, _FLOAT) and align != channels * bits // 8):
                raise ValueError(f"damaged wav: {channels} channels of {bits} bits at {rate_hz} Hz in {align} bytes")
            if size == _UNKNOWN_SIZE:  # written to a pipe: the samples go on to the end
                size = len(data) - at
            frames = size // align
            if coding not in (_PCM, _FLOAT):  # compressed: a block of bytes holds several frames
                frames = libsndfile.probe(data, "wav").frames
            return Wav(AudioInfo(rate_hz, frames, channels, bits), coding, at, size, align)
        at += size + size % 2
    raise ValueError("damaged wav: no data chunk")


def check_end(data: bytes, wav: Wav) -> None:
    """Refuses a WAV that ends before its header says.

    Raises:
        ValueError: The file is truncated.
    """
    found = len(data) - wav.at
    if wav.coding in (_PCM, _FLOAT):
        if found // wav.align < wav.info.frames:
            raise cut_short("wav", wav.info.frames, found // wav.align)
    elif found < wav.size:
        raise ValueError(
            f"damaged wav: the header says {wav.size} bytes of samples, {found} are there; the file is truncated"
        )


def read16(data: bytes, wav: Wav, start: int, end: int) -> npt.NDArray[np.int16]:
    """Frames ``start`` to ``end`` of 16-bit PCM as int16 [T, channels], their own memory."""
    channels = wav.info.channels
    at, count = wav.at + start * wav.align, (end - start) * channels
    return np.frombuffer(data, dtype="<i2", count=count, offset=at).reshape(-1, channels).astype(np.int16)

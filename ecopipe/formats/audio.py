"""Audio: encoded bytes <-> arrays of samples.

FLAC and WAV headers are parsed here, because a header that was read once is what a decoded array is checked against:
a damaged or truncated file raises, and never comes back shorter than it says. The layouts are those of RFC 9639
(FLAC) and of the RIFF/WAVE specification with WAVE_FORMAT_EXTENSIBLE. Everything else is read by libsndfile.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ecopipe.vocabulary.errors import MissingDependency

AUDIO_EXTENSIONS = ("flac", "wav", "ogg", "oga", "opus", "mp3", "sph", "aiff", "aif", "au", "caf", "w64")
"""Extensions of members that :func:`decode` reads, without the dot."""

INT16_SCALE = 1 / 32768
"""int16 * INT16_SCALE is float32 in [-1, 1), exactly."""

_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_UNKNOWN_SIZE = 0xFFFFFFFF
_MP3_SLACK = 2 * 1152  # libsndfile estimates the length of an MP3 without a Xing header, to within two MP3 frames


@dataclass(frozen=True)
class AudioInfo:
    """What a header says: ``rate_hz`` in Hz, ``frames`` per channel, ``channels``, and ``bits`` per sample.

    ``bits`` is 0 where the format has no fixed number (Vorbis, Opus, MP3).
    """

    rate_hz: int
    frames: int
    channels: int
    bits: int


def probe(data: bytes, kind: str) -> AudioInfo:
    """What the header of an audio file says, without decoding it.

    Args:
        data: The file. For FLAC and WAV its first bytes up to the samples are enough.
        kind: Its extension, such as ``"flac"``, for the error message.

    Raises:
        ValueError: The header is damaged, or not one of audio.
    """
    if data[:4] == b"fLaC":
        return _probe_flac(data)
    if data[:4] == b"RIFF":
        return _probe_wav(data)[0]
    return _probe_other(data, kind)


def check(data: bytes, kind: str) -> AudioInfo:
    """What the header says, after a look at the end: a FLAC whose last block is not where the header says is refused.

    Raises:
        ValueError: The file is damaged or truncated, as far as can be seen without decoding it.
    """
    info = probe(data, kind)
    if data[:4] == b"fLaC":
        _check_flac_end(data, info)
    return info


def decode(data: bytes, kind: str) -> tuple[npt.NDArray[np.int16] | npt.NDArray[np.float32], int]:
    """The samples of an audio file and its rate in Hz.

    Returns:
        ``(audio, rate_hz)``. ``audio`` is int16 [T, channels] for 16-bit FLAC and 16-bit PCM WAV, bit for bit what
        the file holds; else float32 [T, channels] in [-1, 1] (a float WAV may exceed that range). T is what the header
        says; for MP3, whose header may only estimate it, T is what was decoded.

    Raises:
        ValueError: The file is damaged, truncated, or not one of audio.
    """
    if data[:4] == b"fLaC":
        info = _probe_flac(data)
        _check_flac_end(data, info)
        audio = _decode_flac16(data, info) if info.bits == 16 else _decode_other(data, kind, info)
    elif data[:4] == b"RIFF":
        info, coding, start = _probe_wav(data)
        if coding == _PCM and info.bits == 16:
            audio = _decode_wav16(data, info, start)
        else:
            audio = _decode_other(data, kind, info)
    else:
        info = _probe_other(data, kind)
        audio = _decode_other(data, kind, info)
    if info.frames != len(audio) and not (kind == "mp3" and abs(info.frames - len(audio)) <= _MP3_SLACK):
        raise ValueError(
            f"damaged {kind}: the header says {info.frames} frames, {len(audio)} could be decoded; "
            "the file is truncated or some of its bytes were changed"
        )
    return audio, info.rate_hz


# -- FLAC ---------------------------------------------------------------------------------------------------------


def _probe_flac(data: bytes) -> AudioInfo:
    """STREAMINFO, RFC 9639 section 8.2: the first metadata block, 34 bytes after the 8 of marker and block header."""
    if len(data) < 42:
        raise ValueError(f"damaged flac: {len(data)} bytes, and the header alone has 42")
    if data[4] & 0x7F != 0 or int.from_bytes(data[5:8], "big") != 34:
        raise ValueError("damaged flac: it does not begin with a STREAMINFO block")
    packed = int.from_bytes(data[18:26], "big")
    rate_hz, frames = packed >> 44, packed & ((1 << 36) - 1)
    if rate_hz == 0:
        raise ValueError("damaged flac: the header says 0 Hz")
    info = AudioInfo(rate_hz, frames, (packed >> 41 & 7) + 1, (packed >> 36 & 31) + 1)
    return info if frames else replace(info, frames=_flac_end(data, info))  # written to a pipe: 0 is unknown


def _decode_flac16(data: bytes, info: AudioInfo) -> npt.NDArray[np.int16]:
    """int16 [T, channels]. The decoder skips a frame whose CRC-16 is wrong, so that damage shows in the length."""
    try:
        import miniaudio
    except ImportError:
        other = _decode_other(data, "flac", info, "int16")
        return np.asarray(other, dtype=np.int16)
    try:
        sound = miniaudio.flac_read_s16(data)
    except miniaudio.DecodeError as error:
        raise ValueError(f"damaged flac: {error}") from error
    return np.frombuffer(sound.samples, dtype=np.int16).reshape(-1, info.channels)


def _check_flac_end(data: bytes, info: AudioInfo) -> None:
    if info.frames == 0:
        raise ValueError("damaged flac: no length in its header and no block of audio behind it")
    if _flac_end(data, info) != info.frames:
        raise ValueError(
            f"damaged flac: the header says {info.frames} frames of {info.channels} channels, {info.bits} bits, "
            f"{info.rate_hz} Hz, and no last block agrees; the file is truncated or its header was changed"
        )


def _flac_end(data: bytes, info: AudioInfo) -> int:
    """The frame count at which the last block ends, by the block's own header; 0 if none is found.

    Searches backwards. If ``info`` has a frame count, goes on until a block ends there: a sync code may occur by chance
    within compressed data, so one that ends elsewhere proves nothing.
    """
    blocksize = int.from_bytes(data[10:12], "big")
    for sync in (b"\xff\xf8", b"\xff\xf9"):  # fixed and variable block size
        at = len(data)
        while (at := data.rfind(sync, 42, at)) >= 0:
            end = _flac_block_end(data[at : at + 16], blocksize, info)
            if end and info.frames in (0, end):
                return end
    return 0


_FLAC_RATES_HZ = (0, 88200, 176400, 192000, 8000, 16000, 22050, 24000, 32000, 44100, 48000, 96000)
_FLAC_BITS = {1: 8, 2: 12, 4: 16, 5: 20, 6: 24, 7: 32}
_FLAC_SIZES = {1: 192, **{n: 144 << n for n in range(2, 6)}, **{n: 1 << n for n in range(8, 16)}}


def _flac_block_end(header: bytes, blocksize: int, info: AudioInfo) -> int | None:
    """The frame count at the end of the block with this header (RFC 9639 section 9.1).

    None if it is not the header of a block of such audio.
    """
    if len(header) < 7:
        return None
    size_code, rate_code, lead = header[2] >> 4, header[2] & 15, header[4]
    ones = 8 - (lead ^ 0xFF).bit_length()  # the number is coded as in UTF-8, in 1 to 7 bytes
    if size_code == 0 or rate_code == 15 or ones in (1, 8) or header[3] & 1:
        return None
    if 0 < rate_code < 12 and _FLAC_RATES_HZ[rate_code] != info.rate_hz:
        return None
    channel_code, bits_code = header[3] >> 4, header[3] >> 1 & 7
    if (channel_code + 1 if channel_code < 8 else 2) != info.channels or _FLAC_BITS.get(
        bits_code, info.bits
    ) != info.bits:
        return None
    at = 5 + max(ones - 1, 0)
    number = lead & (0x7F >> ones)
    for byte in header[5:at]:
        number = number << 6 | byte & 0x3F
    if size_code in (6, 7):
        size = int.from_bytes(header[at : at + size_code - 5], "big") + 1
        at += size_code - 5
    else:
        size = _FLAC_SIZES[size_code]
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
        crc ^= byte
        for _ in range(8):
            crc = (crc << 1 ^ 0x07 if crc & 0x80 else crc << 1) & 0xFF
    return crc


# -- WAV ----------------------------------------------------------------------------------------------------------


def _probe_wav(data: bytes) -> tuple[AudioInfo, int, int]:
    """``(info, coding, offset of the samples)``: the chunks up to ``data``, each padded to an even size."""
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
                frames = _probe_other(data, "wav").frames
            return AudioInfo(rate_hz, frames, channels, bits), coding, at
        at += size + size % 2
    raise ValueError("damaged wav: no data chunk")


def _decode_wav16(data: bytes, info: AudioInfo, start: int) -> npt.NDArray[np.int16]:
    """int16 [T, channels], its own memory; T is less than ``info.frames`` if the bytes end before."""
    frames = min(info.frames, (len(data) - start) // (2 * info.channels))
    view = np.frombuffer(data, dtype="<i2", count=frames * info.channels, offset=start)
    return view.reshape(frames, info.channels).astype(np.int16)


# -- everything else ----------------------------------------------------------------------------------------------


def _soundfile() -> Any:
    try:
        import soundfile
    except ImportError as error:
        raise MissingDependency("This audio format needs soundfile. Install it: pip install soundfile") from error
    return soundfile


_BITS = {"PCM_S8": 8, "PCM_U8": 8, "PCM_16": 16, "PCM_24": 24, "PCM_32": 32, "FLOAT": 32, "DOUBLE": 64}


def _probe_other(data: bytes, kind: str) -> AudioInfo:
    soundfile = _soundfile()
    try:
        info = soundfile.info(io.BytesIO(data))
    except (soundfile.SoundFileError, RuntimeError) as error:
        begins = f"begins with {data[:4]!r}" if data else "is empty"
        raise ValueError(f"not readable as {kind}: it {begins}; libsndfile: {_reason(error)}") from error
    return AudioInfo(info.samplerate, info.frames, info.channels, _BITS.get(info.subtype, 0))


def _decode_other(data: bytes, kind: str, info: AudioInfo, dtype: str = "float32") -> Any:
    soundfile = _soundfile()
    try:
        audio, rate_hz = soundfile.read(io.BytesIO(data), dtype=dtype, always_2d=True)
    except (soundfile.SoundFileError, RuntimeError) as error:
        raise ValueError(f"damaged {kind}: libsndfile: {_reason(error)}") from error
    if rate_hz != info.rate_hz:
        raise ValueError(f"damaged {kind}: the header says {info.rate_hz} Hz, decoded at {rate_hz} Hz")
    return audio


def _reason(error: Exception) -> str:
    """The library's own words, less the address of the object that it read from."""
    text = str(getattr(error, "error_string", "") or error)
    return text.rstrip(".: ") or "no reason given"

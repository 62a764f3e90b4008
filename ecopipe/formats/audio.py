"""Audio: encoded bytes <-> arrays of samples.

What a file is, its first bytes say; its extension only names it in messages. A header that was read once is what a
decoded array is checked against: a damaged or truncated file raises, and never comes back shorter than it says. FLAC
and WAV headers are parsed in :mod:`ecopipe.formats.flac` and :mod:`ecopipe.formats.wav`, everything else is read by
libsndfile, its length checked against what its container says. Of what libsndfile reads, containers are refused
whose end nothing here could check: VOC, IRCAM, PAF and the like. ID3v2 tags in front of any file are passed over.

What cannot be seen: a truncated MP3 that has no Xing header and was cut between two of its frames; a changed byte in
the samples of PCM, or in a lossy packet that still decodes to the right length; and, in a read of a piece, damage
outside that piece that leaves headers and the end of the file as they are; and that a WAV without a size, as pipes
write it, was cut.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy.typing as npt

from ecopipe.formats import containers, flac, libsndfile, mp3, sph, wav
from ecopipe.formats.sound import INT16_SCALE, AudioInfo, cut_short, end_of_piece

__all__ = ["AUDIO_EXTENSIONS", "INT16_SCALE", "AudioInfo", "check", "decode", "decode_into", "probe"]

AUDIO_EXTENSIONS = ("flac", "wav", "ogg", "oga", "opus", "mp3", "sph", "aiff", "aif", "au", "caf", "w64")
"""Extensions of members that :func:`decode` reads, without the dot."""

MAX_VALUES = 1 << 31
"""Frames times channels that are decoded at once at most: 37 hours of mono at 16 kHz. A header may say any number."""

_EMPTY_TAG = b"ID3\x04\x00\x00\x00\x00\x00\x0a" + bytes(10)


def probe(data: bytes, kind: str) -> AudioInfo:
    """What the header of an audio file says, without decoding it.

    Args:
        data: The file. For FLAC and WAV its first bytes up to the samples are enough.
        kind: Its extension, such as ``"flac"``, for the error message.

    Raises:
        ValueError: The header is damaged, or not one of audio.
    """
    data = containers.untagged(data, kind)
    if data[:4] == b"fLaC":
        return flac.probe(data)
    if data[:4] in wav.MARKS:
        return wav.probe(data).info
    return _open(data, kind)[1]


def check(data: bytes, kind: str) -> AudioInfo:
    """What the header says, after a look at the end of the file.

    Raises:
        ValueError: The file is damaged or truncated, as far as can be seen without decoding it.
    """
    data = containers.untagged(data, kind)
    if data[:4] == b"fLaC":
        info = flac.probe(data)
        flac.check_end(data, info)
    elif data[:4] in wav.MARKS:
        layout = wav.probe(data)
        info = layout.info
        wav.check_end(data, layout)
    else:
        containers.check_end(data, kind)
        info = _open(data, kind)[1]
    return info


def decode(
    data: bytes, kind: str, *, start: int = 0, frames: int | None = None, md5: bool = False
) -> tuple[npt.NDArray[Any], int]:
    """The samples of an audio file, or of a piece of it, and its rate in Hz.

    A piece is exactly that slice of the whole. 16-bit PCM WAV is sliced, other PCM, float, mu-law and A-law and FLAC
    are sought in; the rest (Vorbis, Opus, MP3, ADPCM, ALAC) is decoded from its beginning to the end of the piece,
    because a decoder that was sought gives other samples: time and memory follow the end of the piece, not its length.

    Args:
        data: The file.
        kind: Its extension, such as ``"flac"``, for the error message.
        start: The first frame wanted.
        frames: How many; by default all that are left.
        md5: Refuse a FLAC whose samples do not have the MD5 that its header carries. Zeros there mean that it carries
            none. Only of a whole FLAC: other formats carry none, and a piece has no MD5 of its own.

    Returns:
        ``(audio, rate_hz)``. ``audio`` is int16 [T, channels] for 16-bit FLAC and 16-bit PCM WAV, bit for bit what
        the file holds; else float32 [T, channels] in [-1, 1]. Float WAV, Vorbis, Opus and MP3 may exceed that range,
        and are not clipped. T is what the header says, which is 0 for a WAV of no samples.

    Raises:
        ValueError: The file is damaged, truncated, or not one of audio; it holds NaN or Inf; the piece is not within
            it. No samples at all are refused, but in a WAV: they look like the beginning of a stream that was cut.
    """
    if md5 and (start or frames is not None):
        raise ValueError("the MD5 of a FLAC is that of all its samples; leave md5 out to read a piece")
    data = containers.untagged(data, kind)
    audio: npt.NDArray[Any]
    if data[:4] == b"fLaC":
        info = flac.probe(data)
        flac.check_end(data, info)
        end = _end_of(info, start, frames, kind)
        audio = flac.read(data, info, start, end, md5=md5)
    elif data[:4] in wav.MARKS:
        layout = wav.probe(data)
        wav.check_end(data, layout)
        info = layout.info
        end = _end_of(info, start, frames, kind)
        read16 = layout.pcm16
        audio = wav.read16(data, layout, start, end) if read16 else libsndfile.read(data, kind, info, start, end)
    else:
        containers.check_end(data, kind)
        data, info = _open(data, kind)
        end = _end_of(info, start, frames, kind, sought=False)
        audio = libsndfile.read(data, kind, info, start, end)
    if len(audio) != end - start:
        raise cut_short(kind, info.frames, start + len(audio))
    return audio, info.rate_hz


def decode_into(data: bytes, kind: str, row: npt.NDArray[Any]) -> AudioInfo | None:
    """Decodes a whole mono file of 16 bits, FLAC or PCM WAV, into the memory that is given for it.

    Args:
        data: The file.
        kind: Its extension.
        row: int16 or float32 [T], contiguous. It gets the samples of :func:`decode`, times 1/32768 in float32.

    Returns:
        What its header says; None if it is none such, has not T frames, or is damaged. Then anything may be in ``row``,
        and :func:`decode` says what is wrong with it.
    """
    try:
        data = containers.untagged(data, kind)
        if data[:4] == b"fLaC":
            info = flac.probe(data)
            return info if flac.read_into(data, info, row) else None
        if data[:4] in wav.MARKS:
            layout = wav.probe(data)
            wav.check_end(data, layout)
            return layout.info if wav.read16_into(data, layout, row) else None
    except ValueError:
        pass
    return None


def _end_of(info: AudioInfo, start: int, frames: int | None, kind: str, *, sought: bool = True) -> int:
    """:func:`end_of_piece`, of a piece that may be decoded: from its beginning, or unless ``sought``, the file's."""
    end = end_of_piece(info, start, frames)
    if (end - start if sought else end) * info.channels > MAX_VALUES:
        raise ValueError(
            f"refused {kind}: by its header {end:,} frames of {info.channels} channels are to be decoded, and at most "
            f"{MAX_VALUES:,} values are at once; read it in pieces, with offset_s and duration_s"
        )
    return end


def _open(data: bytes, kind: str) -> tuple[bytes, AudioInfo]:
    """What libsndfile is given to read, and its header, with the length by the file itself.

    Raises:
        ValueError: The header is damaged, or one of a container whose end cannot be checked.
    """
    if mp3.looks_like(data):
        return _open_mp3(data, kind)
    if not containers.known(data):
        raise ValueError(
            f"not readable as {kind}: its format is {libsndfile.format_of(data, kind)}, of which nothing here can "
            "check that it is whole; convert it to WAV or FLAC, such as with sox IN OUT.flac"
        )
    info = libsndfile.probe(data, kind)
    if info.frames == 0:
        raise ValueError(
            f"damaged {kind}: the header says no samples, in a file of {len(data)} bytes; it was not closed by what "
            "recorded it, or is empty: encode it again from its source, or leave the sample out"
        )
    frames = sph.frames(data) if data[:7] == b"NIST_1A" else None
    return data, info if frames is None else replace(info, frames=frames)


def _open_mp3(data: bytes, kind: str) -> tuple[bytes, AudioInfo]:
    frames = mp3.count(data)
    data = _EMPTY_TAG + data  # without a tag, libsndfile would rather read a file "._" of the working directory
    info = libsndfile.probe(data, kind)
    if frames is None:
        return data, info
    if 0 < info.frames < frames:  # estimated from its bytes, beyond which libsndfile reads nothing: add some
        data += bytes(len(data) * (frames - info.frames) // info.frames + 4096)
    return data, replace(info, frames=frames)

"""Audio that libsndfile reads: every format but 16-bit PCM WAV and whole 16-bit FLAC."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from ecopipe.formats.sound import AudioInfo
from ecopipe.vocabulary.errors import MissingDependency

_BITS = {"PCM_S8": 8, "PCM_U8": 8, "PCM_16": 16, "PCM_24": 24, "PCM_32": 32, "FLOAT": 32, "DOUBLE": 64}
_STATELESS = {*_BITS, "ULAW", "ALAW"}
"""Codings in which a frame is decoded without the one before it, and FLAC: where a seek lands exactly."""


def probe(data: bytes, kind: str) -> AudioInfo:
    """What libsndfile takes from the header.

    Raises:
        ValueError: It is none that libsndfile knows.
    """
    info = _info(data, kind)
    return AudioInfo(info.samplerate, info.frames, info.channels, _BITS.get(info.subtype, 0))


def format_of(data: bytes, kind: str) -> str:
    """What libsndfile takes a file for, and its coding, such as ``"VOC (PCM_16)"``.

    Raises:
        ValueError: It is none that libsndfile knows.
    """
    info = _info(data, kind)
    return f"{info.format} ({info.subtype})"


def _info(data: bytes, kind: str) -> Any:
    soundfile = soundfile_module()
    try:
        return soundfile.info(io.BytesIO(data))
    except (soundfile.SoundFileError, RuntimeError) as error:
        begins = f"begins with {data[:4]!r}" if data else "is empty"
        raise ValueError(f"not readable as {kind}: it {begins}; libsndfile: {reason_of(error)}") from error


def read(data: bytes, kind: str, info: AudioInfo, start: int, end: int, dtype: str = "float32") -> Any:
    """Frames ``start`` to ``end``, as ``dtype`` [T, channels]; fewer where the file holds fewer.

    Seeks where that is exact: in PCM, float, mu-law, A-law and FLAC. After a seek a decoder of Vorbis, Opus, MP3 or
    ADPCM may give other samples than without, so those are decoded from their beginning up to ``end``.

    Raises:
        ValueError: The file is damaged, is not what ``info`` says, or holds a number that is not finite.
    """
    soundfile = soundfile_module()
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            if (file.samplerate, file.channels) != (info.rate_hz, info.channels):
                raise ValueError(
                    f"damaged {kind}: the header says {info.rate_hz} Hz in {info.channels} channels, decoded at "
                    f"{file.samplerate} Hz in {file.channels}"
                )
            seeks = file.format != "OGG" and file.subtype in _STATELESS
            begin = file.seek(start if seeks else 0) if file.seekable() else 0
            audio = file.read(end - begin, dtype=dtype, always_2d=True)
            whole_numbers = file.subtype.startswith("PCM")
    except (soundfile.SoundFileError, RuntimeError) as error:
        raise ValueError(f"damaged {kind}: libsndfile: {reason_of(error)}") from error
    if begin < start:
        audio = audio[start:].copy()  # not a view, which would keep what came before it in memory
    if not whole_numbers and not np.isfinite(audio).all():
        frame, channel = np.argwhere(~np.isfinite(audio))[0]
        raise ValueError(
            f"{kind} holds {_shown(audio[frame, channel])} at frame {start + frame} of channel {channel}; "
            "encode it again from its source, or leave the sample out"
        )
    return audio


def _shown(number: Any) -> str:
    return "NaN" if np.isnan(number) else "Inf" if number > 0 else "-Inf"


def soundfile_module() -> Any:
    """The package soundfile.

    Raises:
        MissingDependency: It is not installed.
    """
    try:
        import soundfile
    except ImportError as error:
        raise MissingDependency("This audio format needs soundfile. Install it: pip install soundfile") from error
    return soundfile


def reason_of(error: Exception) -> str:
    """The library's own words, less the address of the object that it read from."""
    text = str(getattr(error, "error_string", "") or error)
    return text.rstrip(".: ") or "no reason given"

"""Arrays of samples -> encoded bytes that are a function of them: no clock, no random number.

WAV is written here: what libsndfile writes of floats carries the time. FLAC, Opus, Vorbis and MP3 are encoded by
libsndfile; the same build of it gives the same bytes. FLAC and PCM are exact. The lossy ones round in floats, whose
last bits may differ between kinds of processors.
"""

from __future__ import annotations

import io
import struct
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ecopipe.formats import ogg
from ecopipe.formats.audio import INT16_SCALE
from ecopipe.formats.libsndfile import reason_of, soundfile_module

AudioFormat = Literal["flac", "wav", "opus", "ogg", "mp3"]
"""FLAC, WAV, Opus in Ogg, Vorbis in Ogg, MP3: also the extensions of their members."""

Clipping = Literal["clip", "error"]

BITS: dict[str, tuple[int, ...]] = {"flac": (16, 24), "wav": (16, 24, 32)}
"""Bits of a sample that a format can hold; 32 of WAV are floats. The others have no fixed number."""

MAX_PEAK = 100.0
"""Floats beyond it are no audio in [-1, 1], but whole numbers as floats, most likely: 40 dB over full scale."""

_KINDS = {"flac": "FLAC", "opus": "OGG", "ogg": "OGG", "mp3": "MP3"}
_CODINGS = {"opus": "OPUS", "ogg": "VORBIS", "mp3": "MPEG_LAYER_III"}
_MOST_OF_WAV = 0xFFFFFFFF - 64
_FRAMES_AT_ONCE = 1 << 16
"""Frames that libsndfile is given at a time: of a long stretch its Vorbis encoder exhausts the stack."""


def encode(
    audio: npt.NDArray[Any],
    rate_hz: int,
    kind: AudioFormat,
    *,
    bits: int = 16,
    compression: int | None = None,
    quality: float | None = None,
    clipping: Clipping = "clip",
) -> bytes:
    """The file that holds some audio, at the same rate, as many frames and channels.

    Args:
        audio: float32 in [-1, 1] or int16: [T] or [T, channels].
        rate_hz: Its rate, in Hz.
        kind: The format.
        bits: Of FLAC and WAV: 16, 24, or 32 for float WAV. int16 becomes 16 bits, or more, exactly; floats are rounded,
            halves to even, full scale being 2 ** (bits - 1).
        compression: Of FLAC: 0 (fast) to 8 (small); by default the encoder's own, 5.
        quality: Of Opus, Vorbis and MP3: above 0 (small), up to 1 (best); by default the encoder's own. Opus takes
            6 + 250 * quality kbit/s for each channel.
        clipping: Floats outside [-1, 1] are clipped, or an error. In float WAV they stay as they are.

    Raises:
        ValueError: There are no frames; the floats are not finite, far beyond 1, or outside [-1, 1] with
            ``clipping="error"``; the format cannot hold the rate, the channels or the length.
    """
    if audio.ndim not in (1, 2) or not audio.size or audio.dtype not in (np.float32, np.int16):
        raise ValueError(
            f"its audio is {audio.dtype} {list(audio.shape)}; float32 or int16 [T] or [T, channels] of a frame or more "
            "wanted, as DecodeAudio gives it"
        )
    if audio.dtype == np.float32:
        audio = _bounded(audio, clipping, keep=kind == "wav" and bits == 32)
    frames = audio[:, None] if audio.ndim == 1 else audio
    if kind == "wav":
        return _wav(frames, rate_hz, bits)
    samples = _whole_numbers(frames, bits) if kind == "flac" else frames
    level = compression / 8 if compression is not None else 1 - quality if quality is not None else None
    found = _by_libsndfile(samples, rate_hz, kind, f"PCM_{bits}" if kind == "flac" else _CODINGS[kind], level)
    return ogg.with_own_serial(found) if _KINDS[kind] == "OGG" else found


def _bounded(audio: npt.NDArray[Any], clipping: Clipping, *, keep: bool) -> npt.NDArray[Any]:
    peak = float(np.abs(audio).max())
    if not peak <= MAX_PEAK:  # NaN too
        raise ValueError(
            f"its audio reaches {peak:.3g}; floats in [-1, 1] wanted: divide whole numbers by 32768, or by what full "
            "scale is"
        )
    if peak <= 1 or keep:
        return audio
    if clipping == "error":
        raise ValueError(
            f"{int((np.abs(audio) > 1).sum()):,} of its {audio.size:,} values lie outside [-1, 1], up to {peak:.3g}; "
            "lower it before, or clip it with clipping='clip'"
        )
    return np.asarray(np.clip(audio, -1, 1))


def _whole_numbers(audio: npt.NDArray[Any], bits: int) -> npt.NDArray[Any]:
    """int16 for 16 bits; int32 whose upper 24 bits are the samples for 24."""
    if bits == 16:
        return audio if audio.dtype == np.int16 else _rounded(audio, 16).astype(np.int16)
    numbers = audio.astype(np.int32) << 8 if audio.dtype == np.int16 else _rounded(audio, 24).astype(np.int32)
    return numbers << 8


def _rounded(audio: npt.NDArray[Any], bits: int) -> npt.NDArray[np.float64]:
    full = 2.0 ** (bits - 1)
    return np.clip(np.rint(audio * full, dtype=np.float64), -full, full - 1)


def _wav(audio: npt.NDArray[Any], rate_hz: int, bits: int) -> bytes:
    """PCM, or IEEE floats in 32 bits, by the RIFF/WAVE specification."""
    frames, channels = audio.shape
    if bits == 32:
        floats = audio * np.float32(INT16_SCALE) if audio.dtype == np.int16 else audio
        samples, coding = floats.astype("<f4").tobytes(), 3
    elif bits == 24:
        samples, coding = _whole_numbers(audio, 24).astype("<i4")[..., None].view(np.uint8)[..., 1:].tobytes(), 1
    else:
        samples, coding = _whole_numbers(audio, 16).astype("<i2").tobytes(), 1
    align = channels * bits // 8
    if len(samples) > _MOST_OF_WAV or channels > 0xFFFF or rate_hz * align > 0xFFFFFFFF:
        raise ValueError(
            f"{len(samples):,} bytes of {rate_hz} Hz in {channels} channels do not fit into a WAV, which has sizes of "
            "32 bits; encode it as flac, or cut it"
        )
    form = struct.pack("<HHIIHH", coding, channels, rate_hz, rate_hz * align, align, bits)
    chunks = [(b"fmt ", form)] if coding == 1 else [(b"fmt ", form + bytes(2)), (b"fact", struct.pack("<I", frames))]
    chunks.append((b"data", samples))
    body = b"WAVE" + b"".join(
        name + struct.pack("<I", len(data)) + data + bytes(len(data) % 2) for name, data in chunks
    )
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _by_libsndfile(audio: npt.NDArray[Any], rate_hz: int, kind: str, coding: str, level: float | None) -> bytes:
    soundfile = soundfile_module()
    settings: dict[str, Any] = {} if level is None else {"compression_level": level}
    out = io.BytesIO()
    try:
        with soundfile.SoundFile(
            out, "w", rate_hz, audio.shape[1], format=_KINDS[kind], subtype=coding, **settings
        ) as file:
            for start in range(0, len(audio), _FRAMES_AT_ONCE):
                file.write(audio[start : start + _FRAMES_AT_ONCE])
    except (soundfile.SoundFileError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"cannot be written as {kind} at {rate_hz} Hz in {audio.shape[1]} channels: {reason_of(error)}"
            + ("; put Resample(48000) before" if kind == "opus" and rate_hz not in _OPUS_HZ else "")
        ) from error
    return out.getvalue()


_OPUS_HZ = (8000, 12000, 16000, 24000, 48000)

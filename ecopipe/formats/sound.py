"""What the header of an audio file says, and the refusals that all formats of audio share."""

from __future__ import annotations

from dataclasses import dataclass

INT16_SCALE = 1 / 32768
"""int16 * INT16_SCALE is float32 in [-1, 1), exactly."""


@dataclass(frozen=True)
class AudioInfo:
    """What a header says: ``rate_hz`` in Hz, ``frames`` per channel, ``channels``, and ``bits`` per sample.

    ``bits`` is 0 where the format has no fixed number (Vorbis, Opus, MP3).
    """

    rate_hz: int
    frames: int
    channels: int
    bits: int


def end_of_piece(info: AudioInfo, start: int, frames: int | None) -> int:
    """The frame behind the piece that begins at ``start``: of ``frames`` frames, or all that is left.

    Raises:
        ValueError: The piece is empty, begins before the audio, or reaches past its end.
    """
    if start == 0 and frames is None:
        return info.frames
    length = f"the audio has {info.frames} frames ({info.frames / info.rate_hz:.6g} s)"
    where = f"a piece from frame {start} ({start / info.rate_hz:.6g} s)"
    if start < 0 or (frames is not None and frames < 1):
        raise ValueError(f"{where} of {frames} frames is none; give a start of 0 or more, and a frame or more")
    if start >= info.frames:
        raise ValueError(f"{where} begins past the end: {length}; correct where it begins")
    end = info.frames if frames is None else start + frames
    if end > info.frames:
        raise ValueError(
            f"{where} to frame {end} ({end / info.rate_hz:.6g} s) reaches past the end: {length}; correct the piece, "
            "or give it no length to read to the end"
        )
    return end


def cut_short(kind: str, frames: int, found: int) -> ValueError:
    """The error for audio that has fewer (or more) frames than its header says; to be raised by the caller."""
    return ValueError(
        f"damaged {kind}: the header says {frames} frames, {found} could be decoded; "
        "the file is truncated or some of its bytes were changed"
    )

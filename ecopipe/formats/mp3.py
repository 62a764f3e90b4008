"""MP3: how long it is, by a walk over the headers of its frames.

An MP3 holds no length. A Xing or Info frame may give one; without, decoders estimate it from the first frame. For a
variable bit rate that is wrong, libsndfile reads no further than its estimate, and nobody notices a missing end.
"""

from __future__ import annotations

_KBPS = {
    1: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 0),
    2: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 0),
}
_RATES_HZ = {3: (44100, 48000, 32000, 0), 2: (22050, 24000, 16000, 0), 0: (11025, 12000, 8000, 0)}
_TAGS = (b"TAG", b"APE", b"LYR", b"ID3")


def looks_like(data: bytes) -> bool:
    """Whether a file begins as an MP3 does that has no ID3v2 tag."""
    return _frame(data, 0) is not None


def count(data: bytes) -> int | None:
    """The samples per channel of an MP3 without a Xing or Info frame, and without an ID3v2 tag.

    None where such a frame gives the length (it also says what to cut at both ends, which the decoder does), or where
    the walk meets something else than Layer III.

    Raises:
        ValueError: The last frame is cut, or there are fewer or more than the Xing or Info frame says.
    """
    first = _frame(data, 0)
    if first is None:
        return None
    samples = 1152 if data[1] & 0x08 else 576
    declared, frames = _declared(data[:first]), 0
    at = 0 if declared is None else first
    while size := _frame(data, at):
        at += size
        frames += 1
    if at > len(data) or (at + 4 > len(data) and data[at : at + 1] == b"\xff"):
        raise ValueError("damaged mp3: its last frame is cut; the file is truncated")
    if at < len(data) and data[at : at + 3] not in _TAGS and data[at:].strip(b"\x00"):
        return None
    if declared is None:
        return frames * samples
    if declared not in (0, frames):
        raise ValueError(
            f"damaged mp3: its Xing header says {declared} frames, {frames} are there; "
            "the file is truncated or some of its bytes were changed"
        )
    return None


def _frame(data: bytes, at: int) -> int | None:
    """The bytes of the frame at a place; None if no Layer III frame begins there."""
    if at + 4 > len(data) or data[at] != 0xFF or data[at + 1] & 0xE6 != 0xE2:
        return None
    version, rate_code = data[at + 1] >> 3 & 3, data[at + 2] >> 2 & 3
    if version == 1 or not (rate_hz := _RATES_HZ[version][rate_code]):
        return None
    kbps = _KBPS[1 if version == 3 else 2][data[at + 2] >> 4]
    if not kbps:
        return None
    return (144 if version == 3 else 72) * kbps * 1000 // rate_hz + (data[at + 2] >> 1 & 1)


def _declared(frame: bytes) -> int | None:
    """The count of frames that a Xing or Info frame declares, 0 where it declares none; None if it is another frame."""
    for name in (b"Xing", b"Info"):
        if (at := frame.find(name, 0, 44)) > 0 and len(frame) >= at + 12:
            return int.from_bytes(frame[at + 8 : at + 12], "big") if frame[at + 7] & 1 else 0
    return 0 if frame[36:40] == b"VBRI" else None

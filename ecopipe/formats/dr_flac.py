"""FLAC of 16 bits by dr_flac (https://github.com/mackron/dr_libs), which miniaudio brings: straight into given memory.

It does not hold the interpreter's lock while it decodes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

try:
    from miniaudio import ffi, lib

    _READS: dict[np.dtype[Any], tuple[str, Any]] = {
        np.dtype(np.int16): ("short[]", lib.ma_dr_flac_read_pcm_frames_s16),
        np.dtype(np.float32): ("float[]", lib.ma_dr_flac_read_pcm_frames_f32),
    }
except (ImportError, AttributeError):  # not installed, or a miniaudio that has it no more
    _READS = {}


def available() -> bool:
    """Whether there is a dr_flac."""
    return bool(_READS)


def read_into(data: bytes, out: npt.NDArray[Any], beyond: npt.NDArray[Any] | None = None) -> int:
    """Decodes a FLAC from its beginning until ``out`` is full; gives the frames that came, fewer where it is damaged.

    A decoder skips a block whose CRC-16 is wrong.

    Args:
        data: The file.
        out: int16, or float32 in [-1, 1): [T, channels], or [T] of one channel; contiguous, in native byte order.
        beyond: Takes what there is behind that, if any is wanted; its frames are counted too.

    Raises:
        ValueError: It is not FLAC, or its header is damaged.
    """
    kind, read = _READS[out.dtype]
    flac = lib.ma_dr_flac_open_memory(ffi.from_buffer(data), len(data), ffi.NULL)
    if flac == ffi.NULL:
        raise ValueError("damaged flac: it cannot be opened")
    try:
        frames = read(flac, len(out), ffi.from_buffer(kind, out, require_writable=True))
        if beyond is not None:
            frames += read(flac, len(beyond), ffi.from_buffer(kind, beyond, require_writable=True))
        return int(frames)
    finally:
        lib.ma_dr_flac_close(flac)


def read16(data: bytes, frames: int, channels: int) -> npt.NDArray[np.int16]:
    """The samples of a FLAC of 16 bits: int16 [T, channels], of which T is less than ``frames`` where it is damaged.

    Raises:
        ValueError: As :func:`read_into`.
    """
    out = np.empty((frames, channels), dtype=np.int16)
    return out[: read_into(data, out)]

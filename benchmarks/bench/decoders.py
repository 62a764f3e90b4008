"""The decoders that loaders are given: bytes of FLAC -> float32 [T] in [-1, 1]. Each imports what it needs."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Audio = npt.NDArray[np.float32]


def soundfile(data: bytes) -> Audio:
    """By libsndfile: what most pipelines are written with."""
    import soundfile as library

    audio: Audio = library.read(io.BytesIO(data), dtype="float32")[0]
    return audio


def dr_flac(data: bytes) -> Audio:
    """By dr_flac, as ecopipe decodes 16-bit FLAC."""
    import miniaudio

    samples = np.frombuffer(miniaudio.flac_read_s16(data).samples, dtype=np.int16)
    return samples * np.float32(1 / 32768)


BY_NAME: dict[str, Callable[[bytes], Audio]] = {"soundfile": soundfile, "dr_flac": dr_flac}


def padded(samples: list[Any]) -> tuple[Any, Any]:
    """Arrays or tensors [T] -> audio float32 [B, Tmax], zero behind each end, and lengths int64 [B]."""
    import torch

    lengths = torch.tensor([len(sample) for sample in samples])
    audio = torch.zeros(len(samples), int(lengths.max()))
    for row, sample in zip(audio, samples, strict=True):
        row[: len(sample)] = torch.as_tensor(sample)
    return audio, lengths

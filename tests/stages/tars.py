"""Small tars of recordings and documents whose every frame and token can be told apart."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import soundfile


def write_tars(folder: Path, samples: Sequence[tuple[str, Mapping[str, bytes]]], each: int) -> Path:
    """Samples (key, members) in tars of so many."""
    folder.mkdir(parents=True)
    for number in range(0, len(samples), each):
        with tarfile.open(folder / f"{number:05}.tar", "w") as tar:
            for key, members in samples[number : number + each]:
                for extension, data in members.items():
                    info = tarfile.TarInfo(f"{key}.{extension}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    return folder


def recording(frames: int, rate_hz: int, kind: str, seed: int) -> bytes:
    """Noise of 16 bits."""
    audio = np.random.default_rng(seed).integers(-(2**15), 2**15, frames, dtype=np.int16)
    stream = io.BytesIO()
    soundfile.write(stream, audio, rate_hz, format=kind.upper(), subtype="PCM_16")
    return stream.getvalue()


def write_recordings(folder: Path, frames: Sequence[int], rates_hz: Sequence[int] = (8000,), each: int = 3) -> Path:
    """Recordings r00, r01, ... of so many frames, WAV and FLAC in turn, the rates in turn."""
    samples = []
    for number, count in enumerate(frames):
        kind = ("wav", "flac")[number % 2]
        data = recording(count, rates_hz[number % len(rates_hz)], kind, number)
        samples.append((f"r{number:02}", {kind: data, "txt": b"A"}))
    return write_tars(folder, samples, each)


def write_documents(folder: Path, lengths: Sequence[int], each: int = 5) -> Path:
    """Documents d00, d01, ... of so many words; no word comes twice."""
    samples = []
    for number, count in enumerate(lengths):
        text = " ".join(f"w{number}x{word}" for word in range(count))
        samples.append((f"d{number:02}", {"txt": text.encode()}))
    return write_tars(folder, samples, each)

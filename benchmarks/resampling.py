"""Resampling: soxr as the workers call it, torchaudio, and ecopipe's own on the device, in interleaved runs.

Speed is in seconds of audio per second, for a batch of utterances of noise, on the CPU or on CUDA. Beside each speed
stands what it buys, measured with full tones: the greatest ripple up to 0.9 of the lower Nyquist frequency, and the
most that is left of what should be gone: images and noise beside tones below 0.9 of it, and tones from 1.0 of it up.

"kaiser_best" of torchaudio is with the settings that its documentation gives: 64 zero crossings, rolloff 0.9475937167,
beta 14.769656459. Where torchaudio's kernel would be over 1 GB, it is left out.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import soxr
import torch
import torchaudio
from torch import Tensor

from ecopipe.signal.resampling import resample

RATES = [
    (48000, 16000), (44100, 16000), (22050, 16000), (16000, 8000), (8000, 16000), (16000, 44100), (16000, 16001),
    (96000, 44102),
]  # fmt: skip
BEST: dict[str, Any] = {
    "lowpass_filter_width": 64,
    "rolloff": 0.9475937167399596,
    "resampling_method": "sinc_interp_kaiser",
    "beta": 14.769656459379492,
}

Make = Callable[[Tensor, int, int], Tensor]
"""float32 [B, T] at a rate in Hz -> float32 [B, frames] at another."""


def by_soxr(audio: Tensor, old_hz: int, new_hz: int) -> Tensor:
    made = [soxr.resample(row, old_hz, new_hz, quality="HQ") for row in audio.numpy()]
    return torch.from_numpy(np.stack(made))


def by_torchaudio(audio: Tensor, old_hz: int, new_hz: int, **settings: Any) -> Tensor:
    made: Tensor = torchaudio.functional.resample(audio, old_hz, new_hz, **settings)
    return made


def by_ecopipe(audio: Tensor, old_hz: int, new_hz: int) -> Tensor:
    return resample(audio, torch.full((len(audio),), audio.shape[1], device=audio.device), old_hz, new_hz)[0]


WAYS: dict[str, Make] = {
    "soxr HQ": by_soxr,
    "torchaudio default": by_torchaudio,
    "torchaudio kaiser_best": functools.partial(by_torchaudio, **BEST),
    "ecopipe": by_ecopipe,
}


def kernel_bytes(old_hz: int, new_hz: int, settings: dict[str, Any]) -> float:
    """Bytes of torchaudio's kernel: for each of the new phases, all the old ones and the filter's width."""
    divisor = math.gcd(old_hz, new_hz)
    old, new = old_hz // divisor, new_hz // divisor
    width = settings.get("lowpass_filter_width", 6) * old / (min(old, new) * settings.get("rolloff", 0.99))
    return 8.0 * new * (2 * width + old)


def ways(old_hz: int, new_hz: int, device: torch.device) -> dict[str, Make]:
    """Those that can be run."""
    left_out = set() if device.type == "cpu" else {"soxr HQ"}
    for name, settings in (("torchaudio default", {}), ("torchaudio kaiser_best", BEST)):
        if kernel_bytes(old_hz, new_hz, settings) > 1e9:
            left_out.add(name)
    return {name: make for name, make in WAYS.items() if name not in left_out}


def tones(hz: np.ndarray[Any, Any], rate_hz: int, frames: int) -> Tensor:
    """float64 [len(hz), frames]."""
    return torch.from_numpy(np.sin(2 * np.pi * hz[:, None] * np.arange(frames) / rate_hz + 0.3))


def quality(make: Make, old_hz: int, new_hz: int, device: torch.device) -> tuple[float, float]:
    """The greatest ripple in dB, and the most that is left in dB below a full tone."""
    nyquist, frames = min(old_hz, new_hz) / 2, old_hz // 2
    passed, stopped = np.linspace(0.005, 0.9, 40) * nyquist, np.linspace(nyquist, 0.999 * old_hz / 2, 40)
    made = make(tones(passed, old_hz, frames).float().to(device), old_hz, new_hz).double().cpu()
    middle = slice(made.shape[1] // 4, -made.shape[1] // 4)
    wanted = tones(passed, new_hz, made.shape[1])[:, middle]
    gains = (made[:, middle] * wanted).sum(dim=1) / wanted.square().sum(dim=1)
    left = (made[:, middle] - gains[:, None] * wanted).square().mean(dim=1).max().item()
    if new_hz < old_hz:
        made = make(tones(stopped, old_hz, frames).float().to(device), old_hz, new_hz).double().cpu()
        left = max(left, made[:, middle].square().mean(dim=1).max().item())
    return (20 * gains.log10()).abs().max().item(), 10 * math.log10(left / 0.5)


def timed(make: Make, audio: Tensor, old_hz: int, new_hz: int) -> float:
    """Seconds that a batch takes."""
    began = time.perf_counter()
    make(audio, old_hz, new_hz)
    if audio.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - began


def measure(old_hz: int, new_hz: int, batch: int, seconds: int, repeats: int, device: torch.device) -> dict[str, Any]:
    """By name: seconds of audio per second, run by run; ripple and what is left, in dB."""
    audio = (torch.randn(batch, seconds * old_hz) * 0.1).to(device)
    made = ways(old_hz, new_hz, device)
    speeds: dict[str, list[float]] = {name: [] for name in made}
    for number in range(repeats + 1):
        for name, make in made.items():
            taken = timed(make, audio, old_hz, new_hz)
            if number:  # the first makes the filters
                speeds[name].append(batch * seconds / taken)
    return {name: (speeds[name], *quality(make, old_hz, new_hz, device)) for name, make in made.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=8, help="utterances")
    parser.add_argument("--seconds", type=int, default=10, help="of each")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1, help="threads of torch; soxr has one")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    settings = parser.parse_args()
    torch.set_num_threads(settings.threads)
    device = torch.device(settings.device)
    found = {
        f"{old_hz} -> {new_hz}": measure(old_hz, new_hz, settings.batch, settings.seconds, settings.repeats, device)
        for old_hz, new_hz in RATES
    }
    if settings.json:
        print(json.dumps(found))
        return
    print("seconds of audio per second, median (range); greatest ripple; most left of what should be gone\n")
    print(f"| Hz | {' | '.join(WAYS)} |\n|---|{'---|' * len(WAYS)}")
    for rates, by_name in found.items():
        cells = ["-"] * len(WAYS)
        for place, name in enumerate(WAYS):
            if name in by_name:
                speeds, ripple_db, left_db = by_name[name]
                speed = f"{statistics.median(speeds):,.0f} ({min(speeds):,.0f}-{max(speeds):,.0f})"
                cells[place] = f"{speed}; {ripple_db:.4f} dB; {left_db:.0f} dB"
        print(f"| {rates} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()

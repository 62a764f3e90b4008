"""Features of a batch of speech: ecopipe's stages against torchaudio and a NeMo-style front end, in interleaved runs.

Each is given the padded batch on the device, and makes 80 log-mel bins, with SpecAugment's masks; the NeMo-style one is
batched, normalises each feature over the true frames, and masks within true lengths, all in torch operations. The floor
is what copying the same bytes takes: the audio read once, the features written once. The error is the greatest
difference of log-mel features from ``Dense`` in float64, over bins within 80 dB of the utterance's loudest.

    python benchmarks/frontend.py                     # CPU, one thread for each core
    python benchmarks/frontend.py --device cuda       # CUDA events; also prints the GPU's name
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ecopipe.signal.dense import Dense
from ecopipe.stages.masking import SpecAugment
from ecopipe.stages.normalization import CMVN
from ecopipe.stages.spectral import LogMel
from ecopipe.vocabulary.randomness import Chance
from ecopipe.vocabulary.sample import Batch

RATE_HZ = 16000


def speech(count: int, shortest_s: float, longest_s: float) -> list[Tensor]:
    """int16 [T] each: gliding harmonics in noise, of lengths drawn evenly."""
    rng = np.random.default_rng(0)
    made = []
    for seconds in rng.uniform(shortest_s, longest_s, count):
        t = np.arange(int(seconds * RATE_HZ)) / RATE_HZ
        tone = sum(np.sin(2 * np.pi * k * (110 + 40 * np.sin(t)) * t) / k for k in range(1, 12))
        audio = (0.1 * tone + 0.01 * rng.standard_normal(len(t))) * (0.55 + 0.45 * np.sin(3 * t))
        made.append(torch.from_numpy((audio.clip(-1, 1) * 32767).astype(np.int16)))
    return made


def padded(signals: list[Tensor], device: torch.device) -> Batch:
    """The batch as ``Collate`` makes it."""
    audio = torch.nn.utils.rnn.pad_sequence(signals, batch_first=True)
    lengths = torch.tensor([len(signal) for signal in signals])
    keys = [f"utterance-{number}" for number in range(len(signals))]
    return Batch({"keys": keys, "audio": audio, "lengths": lengths, "rate_hz": RATE_HZ}).to(device)


def ours(*, normalise: bool, layout: str, signals: list[Tensor], device: torch.device) -> Callable[[], Tensor]:
    """ecopipe's stages, one after another as the loader applies them."""
    from ecopipe.run.device import apply_stages
    from ecopipe.stages.fusion import fuse

    batch = padded(signals, device)
    if layout == "flat":
        lengths = batch["lengths"]
        batch = batch.with_fields(audio=torch.cat(signals).to(device), offsets=lengths.cumsum(0) - lengths)
    stages = [LogMel(), *([CMVN.preset("nemo")] if normalise else []), SpecAugment.preset("LD", time_warp=0)]
    fused = fuse(stages, device)
    return lambda: apply_stages(batch, fused, 0)["features"]  # type: ignore[no-any-return]


def torchaudio(signals: list[Tensor], device: torch.device) -> Callable[[], Tensor]:
    """torchaudio's transforms, each mask drawn for each sample."""
    from torchaudio import transforms

    mel = transforms.MelSpectrogram(RATE_HZ, 400, hop_length=160, n_mels=80).to(device)
    masks = [transforms.FrequencyMasking(27, iid_masks=True), transforms.TimeMasking(100, iid_masks=True)] * 2
    audio = padded(signals, device)["audio"]

    def run() -> Tensor:
        made = mel(audio.float() / 32768).clamp_min(1e-10).log()[:, None]
        for mask in masks:
            made = mask(made)
        return made

    return run


def nemo_style(signals: list[Tensor], device: torch.device) -> Callable[[], Tensor]:
    """A batched front end in torch operations: pre-emphasis, STFT, mel, log, masked mean and deviation, masks."""
    batch = padded(signals, device)
    audio, lengths = batch["audio"], batch["lengths"]
    stage = LogMel.preset("nemo")
    assert stage.recipe.bands is not None
    filters = torch.from_numpy(stage.recipe.bands.filters(512)).float().T.to(device)
    window = torch.hann_window(400, periodic=False, device=device)

    def run() -> Tensor:
        wave = audio.float() / 32768
        inside = torch.arange(wave.shape[1], device=device) < lengths[:, None]
        wave = torch.cat([wave[:, :1], wave[:, 1:] - 0.97 * wave[:, :-1]], dim=1).masked_fill(~inside, 0.0)
        spectrum = torch.stft(wave, 512, 160, 400, window, pad_mode="constant", return_complex=True)
        made = torch.log(filters @ torch.view_as_real(spectrum).square().sum(-1) + 2**-24)
        counts = lengths // 160
        frame = torch.arange(made.shape[2], device=device)
        valid = (frame < counts[:, None])[:, None]
        mean = (made * valid).sum(2, keepdim=True) / counts[:, None, None]
        variance = ((made - mean).square() * valid).sum(2, keepdim=True) / (counts[:, None, None] - 1)
        made = ((made - mean) / (variance.sqrt() + 1e-5)).masked_fill(~valid, 0.0)
        width = torch.rand(len(made), 2, 2, device=device) * torch.tensor([28, 101], device=device)
        room = torch.stack([torch.full_like(counts, 80), counts], dim=1)[:, None]
        begin = torch.rand(len(made), 2, 2, device=device) * (room - width.floor() + 1)
        bins = torch.arange(80, device=device)
        in_freq = ((bins >= begin[:, :, :1]) & (bins < begin[:, :, :1] + width[:, :, :1])).any(1)
        in_time = ((frame >= begin[:, :, 1:]) & (frame < begin[:, :, 1:] + width[:, :, 1:])).any(1)
        return made.masked_fill(in_freq[:, :, None] | in_time[:, None], 0.0)

    return run


def copy(signals: list[Tensor], device: torch.device) -> Callable[[], Tensor]:
    """As many bytes as the audio has, read, and as many as the features have, written: half of each, both ways."""
    frames = sum(1 + len(signal) // 160 for signal in signals)
    count = (2 * sum(map(len, signals)) + 4 * 80 * frames) // 2
    source, target = torch.ones(2, count, dtype=torch.uint8, device=device)
    return lambda: target.copy_(source)


def error(run: Callable[[], Tensor], signals: list[Tensor], stage: LogMel) -> float:
    """The greatest difference from float64 over the first signals, in nepers; masks are not made here."""
    features = run()
    worst = 0.0
    for number, signal in enumerate(signals[:4]):
        exact = Dense(stage.recipe)(signal[None], torch.tensor([len(signal)]))[0]
        loud = exact > exact.max() - 8 * math.log(10)
        found = features[number, : len(exact)].double().cpu()
        worst = max(worst, float((found - exact)[loud].abs().max()))
    return worst


def clean(name: str, signals: list[Tensor], device: torch.device) -> float:
    """The error of the log-mel features that a way makes, before masks and normalisation; NaN for the copy."""
    some = signals[:4]
    if name.startswith("ecopipe"):
        batch = padded(some, device)
        return error(lambda: LogMel().apply(batch, Chance(0, 0, "x"))["features"], some, LogMel())
    if name == "torchaudio":
        from torchaudio import transforms

        mel = transforms.MelSpectrogram(RATE_HZ, 400, hop_length=160, n_mels=80).to(device)
        rows = [mel(signal.to(device).float() / 32768).clamp_min(1e-10).log().T for signal in some]
        return error(lambda: torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), some, LogMel())
    return math.nan


def timed(run: Callable[[], Tensor], device: torch.device, repeats: int) -> float:
    """Milliseconds of one run, of ``repeats`` in a row."""
    if device.type == "cuda":
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        began.record()
        for _ in range(repeats):
            run()
        ended.record()
        torch.cuda.synchronize()
        return float(began.elapsed_time(ended)) / repeats
    start = time.perf_counter()
    for _ in range(repeats):
        run()
    return (time.perf_counter() - start) / repeats * 1000


def measure(device: torch.device, count: int, rounds: int, repeats: int) -> dict[str, Any]:
    """Milliseconds of each way, round by round, and its error."""
    signals = speech(count, 2, 20)
    ways = {
        "ecopipe": ours(normalise=False, layout="pad", signals=signals, device=device),
        "ecopipe, flat": ours(normalise=False, layout="flat", signals=signals, device=device),
        "torchaudio": torchaudio(signals, device),
        "ecopipe, normalised": ours(normalise=True, layout="pad", signals=signals, device=device),
        "NeMo-style, normalised": nemo_style(signals, device),
        "copy": copy(signals, device),
    }
    for run in ways.values():
        run()
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, run in ways.items():
            found[name].append(timed(run, device, repeats))
    seconds = sum(map(len, signals)) / RATE_HZ
    return {
        "seconds": seconds,
        "padding": 1 - seconds * RATE_HZ / (len(signals) * max(map(len, signals))),
        "milliseconds": found,
        "error": {name: clean(name, signals, device) for name in ways},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--repeats", type=int, help="runs in a row; by default 1 on the CPU, 50 on a GPU")
    parser.add_argument("--json", help="write the figures to this file")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    device = torch.device(given.device)
    on_gpu = device.type == "cuda"
    where = torch.cuda.get_device_name(device) if on_gpu else f"CPU, {given.threads} threads"
    found = measure(device, given.batch, given.rounds, given.repeats or (50 if on_gpu else 1))
    print(
        f"{where}; torch {torch.__version__}; {given.batch} utterances of 2 to 20 s, {found['seconds']:.0f} s of "
        f"audio, {100 * found['padding']:.0f} % padding; medians of {given.rounds} interleaved rounds (least to most)\n"
    )
    medians = {name: statistics.median(times) for name, times in found["milliseconds"].items()}
    print("| | ms | audio s per s | error against float64 |\n|---|---|---|---|")
    for name, times in found["milliseconds"].items():
        wrong = found["error"][name]
        told = "" if math.isnan(wrong) else f"{wrong:.1e}"
        rate = "" if name == "copy" else f"{1000 * found['seconds'] / medians[name]:,.0f}"
        print(f"| {name} | {medians[name]:.3g} ({min(times):.3g}-{max(times):.3g}) | {rate} | {told} |")
    print(
        f"\ntorchaudio / ecopipe: {medians['torchaudio'] / medians['ecopipe']:.2f}; NeMo-style / ecopipe, both "
        f"normalised: {medians['NeMo-style, normalised'] / medians['ecopipe, normalised']:.2f}; copy / ecopipe: "
        f"{medians['copy'] / medians['ecopipe']:.3f} of the bandwidth floor"
    )
    if given.json:
        with open(given.json, "w", encoding="utf-8") as file:
            json.dump({"where": where, "torch": torch.__version__, **found}, file, indent=1)


if __name__ == "__main__":
    main()

"""The device stage that brings audio to another rate."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor

from ecopipe.signal.resampling import Kernel, resample, resample_flat
from ecopipe.stages.stage import DeviceStage
from ecopipe.vocabulary.randomness import Chance
from ecopipe.vocabulary.sample import Batch


@dataclass(frozen=True)
class ResampleOnDevice(DeviceStage):
    """``audio`` at another rate: L samples at r Hz become floor(L * rate_hz / r + 1/2), in float32.

    Takes ``audio`` float32 [B, T] in [-1, 1] or int16 [B, T], ``lengths`` int64 [B] in samples, and ``rate_hz``; or a
    flat batch: ``audio`` [sum of T], and ``offsets``. Gives all of them at the new rate: float32, zero behind each
    sample's end. A batch that has the rate already is left as it is, int16 too.

    The filter is that of :mod:`ecopipe.signal.resampling`. A sample is resampled to the same bits in any batch,
    padded or flat. The work is done once the samples have been batched, so all of them must have one rate; where a
    corpus mixes rates, put ``Resample`` before Collate. Flat batches on CUDA wait for the device, to learn their size.

    Args:
        rate_hz: The rate wanted, in Hz.
        zeros: Zero crossings of the filter on either side: more of them make the transition narrower.
        rolloff: Where the filter is at -6 dB, as a fraction of the lower Nyquist frequency, in (0, 1].
        beta: The shape of its Kaiser window: more of it makes a deeper stop band and a wider transition.
    """

    rate_hz: int
    _: KW_ONLY
    zeros: int = Kernel.zeros
    rolloff: float = Kernel.rolloff
    beta: float = Kernel.beta

    def __post_init__(self) -> None:
        self.check_positive("rate_hz", "zeros")
        super().__post_init__()
        if not 0 < self.rolloff <= 1:
            raise self.refuse(f"rolloff must be in (0, 1], got {self.rolloff!r}")
        if not 0 <= self.beta <= 100:
            raise self.refuse(f"beta must be in 0..100, got {self.beta!r}")

    def needs(self) -> tuple[str, ...]:
        return ("audio", "lengths", "rate_hz")

    def gives(self) -> tuple[str, ...]:
        return ("audio", "lengths", "rate_hz")

    def apply(self, batch: Batch, chance: Chance) -> Batch:
        audio, lengths, offsets, rate_hz = batch["audio"], batch["lengths"], batch.get("offsets"), batch.get("rate_hz")
        if not isinstance(rate_hz, int) or rate_hz <= 0:
            raise self.refuse(
                f"the batch must have one rate_hz, a positive int, got {rate_hz!r}; DecodeAudio and Collate('audio') "
                "set it"
            )
        self._check(audio, offsets)
        if rate_hz == self.rate_hz:
            return batch
        kernel = Kernel(self.zeros, float(self.rolloff), float(self.beta))
        with torch.no_grad():
            if offsets is None:
                audio, lengths = resample(audio, lengths, rate_hz, self.rate_hz, kernel=kernel)
                return batch.with_fields(audio=audio, lengths=lengths, rate_hz=self.rate_hz)
            audio, lengths, offsets = resample_flat(audio, lengths, offsets, rate_hz, self.rate_hz, kernel=kernel)
            return batch.with_fields(audio=audio, lengths=lengths, offsets=offsets, rate_hz=self.rate_hz)

    def _check(self, audio: Tensor, offsets: Tensor | None) -> None:
        if audio.dim() != (2 if offsets is None else 1) or audio.dtype not in (torch.float32, torch.int16):
            shape = "[B, T]" if offsets is None else "[sum of T]"
            raise self.refuse(
                f"audio must be float32 or int16 {shape}, got {str(audio.dtype).removeprefix('torch.')} "
                f"{list(audio.shape)}; DecodeAudio(channels='mono') makes such"
            )

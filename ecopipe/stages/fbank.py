"""Kaldi's features, and cepstra: Fbank, MFCC, KaldiMFCC."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ecopipe.signal.framing import Framing
from ecopipe.signal.mel import cosines
from ecopipe.signal.spectra import Log, MelBands, Recipe
from ecopipe.stages.features import FeatureStage, no_empty_band, times
from ecopipe.stages.spectral import LogMel

_EPSILON = 2.0**-23
"""The least energy of a band in Kaldi: the epsilon of float32."""

KaldiWindow = Literal["povey", "hann_symmetric", "hamming_symmetric", "blackman", "rectangular"]


@dataclass(frozen=True)
class Fbank(FeatureStage):
    """``audio`` -> ``features``: Kaldi's filter banks, [B, frames, n_mels], as ``compute-fbank-feats`` makes them.

    Takes and gives what :class:`LogMel` does. From each frame its mean is taken away, then it is pre-emphasised, then
    multiplied with a Povey window; triangles are straight in mel. Audio that is shorter than a frame has no frames
    with ``snip_edges``, and a ``lengths`` of 0. Kaldi's dither is not offered: put ``AddNoise`` before ``Collate``.

    ================  ==================================================================================================
    preset            what it equals
    ================  ==================================================================================================
    ``"kaldi"``       ``compute-fbank-feats --dither=0`` with its other defaults, 23 bands among them
    ``"torchaudio"``  ``torchaudio.compliance.kaldi.fbank`` with its defaults, on audio in [-1, 1]
    ``"lhotse"``      lhotse's ``Fbank``: 80 bands up to 7,600 Hz, audio in [-1, 1], ``snip_edges=False``
    ================  ==================================================================================================

    Args:
        rate_hz: The rate of the audio, in Hz; another one is refused.
        n_mels: Mel bands (``--num-mel-bins``; Kaldi's default is 23).
        frame_length_ms: Length of a frame, in milliseconds.
        frame_shift_ms: From one frame to the next, in milliseconds.
        f_min: Lower edge of the lowest band, in Hz (``--low-freq``).
        f_max: Upper edge of the highest band, in Hz; 0 or less: so much below half the rate (``--high-freq``).
        window: See :func:`ecopipe.signal.windows.window`; Kaldi calls ``hann_symmetric`` hanning.
        preemphasis: c in x[n] - c * x[n - 1] within a frame (``--preemphasis-coefficient``).
        remove_dc_offset: Take each frame's mean away.
        snip_edges: Only frames that lie wholly inside; else a frame for each shift, mirrored at the sample's two ends.
        round_to_power_of_two: Fill frames up with zeros to a power of two for the transform.
        use_energy: The frame's log energy as a further feature, before the others (behind them with ``htk_compat``).
        raw_energy: That energy before pre-emphasis and window.
        energy_floor: The least energy of a frame; 0 for that of a band.
        htk_compat: Energy last.
        use_log: The natural logarithm of energies, which are at least 2**-23.
        use_power: Energies, not magnitudes.
        int16_scale: Take audio as in [-32768, 32768), as Kaldi reads it from files; else in [-1, 1).
        pad_value: What stands in frames behind a sample's end.
        dtype: Of the features: ``"float32"`` or ``"bfloat16"``.
        engine: See :class:`LogMel`.
    """

    _: KW_ONLY
    n_mels: int = 80
    frame_length_ms: float = 25.0
    frame_shift_ms: float = 10.0
    f_min: float = 20.0
    f_max: float = 0.0
    window: KaldiWindow = "povey"
    preemphasis: float = 0.97
    remove_dc_offset: bool = True
    snip_edges: bool = True
    round_to_power_of_two: bool = True
    use_energy: bool = False
    raw_energy: bool = True
    energy_floor: float = 0.0
    htk_compat: bool = False
    use_log: bool = True
    use_power: bool = True
    int16_scale: bool = True
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "kaldi": {"n_mels": 23},
        "torchaudio": {"n_mels": 23, "int16_scale": False, "energy_floor": 1.0},
        "lhotse": {"f_max": -400.0, "snip_edges": False, "int16_scale": False},
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_positive("n_mels")
        self.check_choices(window=KaldiWindow)
        for name in ("frame_length_ms", "frame_shift_ms"):
            if int(getattr(self, name) * self.rate_hz / 1000 + 1e-6) < 1:
                raise self.refuse(f"{name} must be at least one sample, got {getattr(self, name)!r}")
        if not 0 <= self.preemphasis <= 1:
            raise self.refuse(f"preemphasis must be in 0..1, got {self.preemphasis!r}")
        if not self.energy_floor >= 0:
            raise self.refuse(f"energy_floor must be at least 0, got {self.energy_floor!r}")
        if not 0 <= self.f_min < self._top <= self.rate_hz / 2:
            raise self.refuse(
                f"0 <= f_min < f_max <= {self.rate_hz / 2} Hz must hold, got {self.f_min} and {self._top}"
            )
        framing = self.recipe.framing
        if framing.n_fft % 2:
            raise self.refuse(
                f"frames of {framing.length} samples need round_to_power_of_two: a transform of an even size is wanted"
            )
        band = no_empty_band(self.recipe)
        if band is not None:
            raise self.refuse(
                f"n_mels = {self.n_mels} is too many for frames of {framing.n_fft} samples: band {band} lies between "
                "two frequencies of the spectrum and would always be empty; lower n_mels or raise frame_length_ms"
            )

    @property
    def _top(self) -> float:
        return self.f_max if self.f_max > 0 else self.rate_hz / 2 + self.f_max

    @property
    def recipe(self) -> Recipe:
        length = int(self.rate_hz * self.frame_length_ms / 1000 + 1e-6)
        framing = Framing(
            length=length,
            hop=int(self.rate_hz * self.frame_shift_ms / 1000 + 1e-6),
            n_fft=1 << (length - 1).bit_length() if self.round_to_power_of_two else length,
            window=self.window,
            placing="inside" if self.snip_edges else "middle",
            edge="mirror",
            scale=32768.0 if self.int16_scale else 1.0,
            preemphasis=self.preemphasis,
            preemphasis_of="frame",
            remove_dc=self.remove_dc_offset,
        )
        bands = MelBands(self.rate_hz, self.n_mels, self.f_min, self._top, "kaldi")
        return Recipe(
            framing, 2.0 if self.use_power else 1.0, bands, "ln" if self.use_log else "none", _EPSILON,
            energy=("raw" if self.raw_energy else "windowed") if self.use_energy else "none",
            energy_floor=self.energy_floor,
        )  # fmt: skip

    def finish(self, features: Tensor, lengths: Tensor, offsets: Tensor | None) -> Tensor:
        if self.use_energy and self.htk_compat:
            return torch.cat([features[..., 1:], features[..., :1]], dim=-1)
        return features


@dataclass(frozen=True)
class KaldiMFCC(Fbank):
    """``audio`` -> ``features``: Kaldi's cepstra, [B, frames, n_mfcc], as ``compute-mfcc-feats --dither=0`` makes them.

    Args:
        n_mfcc: Coefficients, the first one included (``--num-ceps``).
        lifter: See :func:`ecopipe.signal.mel.cosines` (``--cepstral-lifter``).
        use_energy: The frame's log energy in place of the first coefficient.
        htk_compat: The first coefficient, or the energy, last; without energy times the square root of 2.

    The other arguments are those of :class:`Fbank`.
    """

    _: KW_ONLY
    n_mels: int = 23
    n_mfcc: int = 13
    lifter: float = 22.0
    use_energy: bool = True
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "kaldi": {},
        "torchaudio": {"int16_scale": False, "energy_floor": 1.0, "use_energy": False},
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_cepstra(self)
        if not (self.use_log and self.use_power):
            raise self.refuse("cepstra are made of the logarithm of energies: leave use_log and use_power on")

    def finish(self, features: Tensor, lengths: Tensor, offsets: Tensor | None) -> Tensor:
        cepstra = times(features[..., int(self.use_energy) :].contiguous(), _basis(self, features.device))
        first = features[..., :1] if self.use_energy else cepstra[..., :1]
        if not self.htk_compat:
            return torch.cat([first, cepstra[..., 1:]], dim=-1)
        return torch.cat([cepstra[..., 1:], first if self.use_energy else first * math.sqrt(2)], dim=-1)


@dataclass(frozen=True)
class MFCC(LogMel):
    """``audio`` -> ``features``: cepstra of log-mel features, [B, frames, n_mfcc], by an orthonormal DCT-II.

    ================  ==================================================================================================
    preset            what it equals, for each utterance alone
    ================  ==================================================================================================
    ``"torchaudio"``  ``torchaudio.transforms.MFCC()``: 128 bands of 400 samples, some of them empty
    ``"librosa"``     ``librosa.feature.mfcc(y=y, sr=22050)``
    ================  ==================================================================================================

    Kaldi's are those of :class:`KaldiMFCC`.

    Args:
        n_mfcc: Coefficients, the first one included.
        lifter: See :func:`ecopipe.signal.mel.cosines`.

    The other arguments are those of :class:`LogMel`; bands that are always empty are let pass here.
    """

    _: KW_ONLY
    n_mfcc: int = 40
    lifter: float = 0.0
    log: Log = "db"
    max_range: float = 80.0
    empty_bands: ClassVar[bool] = True
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "torchaudio": {"hop_length": 200, "n_mels": 128},
        "librosa": {**LogMel.presets["librosa"], "n_mfcc": 20},
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_cepstra(self)

    def finish(self, features: Tensor, lengths: Tensor, offsets: Tensor | None) -> Tensor:
        return times(super().finish(features, lengths, offsets), _basis(self, features.device))


def _check_cepstra(stage: MFCC | KaldiMFCC) -> None:
    stage.check_positive("n_mfcc")
    if stage.n_mfcc > stage.n_mels:
        raise stage.refuse(f"n_mfcc = {stage.n_mfcc} coefficients need as many mel bands, n_mels is {stage.n_mels}")
    if not stage.lifter >= 0:
        raise stage.refuse(f"lifter must be at least 0, got {stage.lifter!r}")


@functools.lru_cache(maxsize=32)
def _basis(stage: MFCC | KaldiMFCC, device: torch.device) -> Tensor:
    """float64 [n_mels, n_mfcc] on the device."""
    return torch.from_numpy(cosines(stage.n_mels, stage.n_mfcc, stage.lifter)).to(device)

"""Spectrogram and LogMel: spectra as torchaudio, librosa, Whisper and NeMo make them, on the device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ecopipe.signal.framing import Framing
from ecopipe.signal.mel import MelScale, Norm
from ecopipe.signal.spectra import Guard, Log, MelBands, Recipe
from ecopipe.signal.windows import Window
from ecopipe.stages.features import FeatureStage, largest, no_empty_band

PadMode = Literal["reflect", "constant"]


@dataclass(frozen=True)
class _Centered(FeatureStage):
    """Frames as ``torch.stft(center=True)`` and librosa place them."""

    _: KW_ONLY
    n_fft: int = 400
    win_length: int | None = None
    hop_length: int = 160
    window: Window = "hann"
    pad_mode: PadMode = "reflect"
    drop_last: bool = False
    power: float = 2.0
    log: Log = "ln"
    floor: float = 1e-10
    floor_mode: Guard = "clamp"
    max_range: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_positive("n_fft", "hop_length")
        self.check_choices(window=Window, pad_mode=PadMode, log=Log, floor_mode=Guard)
        if self.n_fft % 2:
            raise self.refuse(f"n_fft must be even, got {self.n_fft}")
        if self.win_length is not None and not 0 < self.win_length <= self.n_fft:
            raise self.refuse(f"win_length must be in 1..n_fft = {self.n_fft}, got {self.win_length!r}")
        if not 1e-37 <= self.floor <= 1e37:
            raise self.refuse(f"floor must be at least 1e-37 and at most 1e37 (float32), got {self.floor!r}")
        if not self.power > 0:
            raise self.refuse(f"power must be positive, got {self.power!r}")
        if not self.max_range >= 0:
            raise self.refuse(f"max_range must be at least 0, got {self.max_range!r}")
        if self.max_range and self.log == "none":
            raise self.refuse("max_range is in units of the logarithm; set log")

    @property
    def framing(self) -> Framing:
        """The frames."""
        return Framing(
            length=self.win_length or self.n_fft, hop=self.hop_length, n_fft=self.n_fft, window=self.window,
            edge="zero" if self.pad_mode == "constant" else "reflect", drop_last=self.drop_last,
        )  # fmt: skip

    def finish(self, features: Tensor, lengths: Tensor, offsets: Tensor | None) -> Tensor:
        if not self.max_range:
            return features
        return torch.maximum(features, largest(features, lengths, offsets) - self.max_range)


@dataclass(frozen=True)
class Spectrogram(_Centered):
    """``audio`` -> ``features``: the spectrum of each frame, [B, frames, n_fft // 2 + 1].

    Frames, windows and edges are those of :class:`LogMel`, input and layouts too. The defaults are those of
    ``torchaudio.transforms.Spectrogram``; ``Spectrogram.preset("librosa")`` is ``abs(librosa.stft(y)) ** 2``.

    Args:
        rate_hz: The rate of the audio, in Hz; another one is refused.
        n_fft: Samples in a frame; even.
        win_length: Samples in the window, in the middle of the frame; by default ``n_fft``.
        hop_length: Samples from one frame to the next.
        window: See :func:`ecopipe.signal.windows.window`.
        pad_mode: See :class:`LogMel`.
        drop_last: See :class:`LogMel`.
        power: 2.0 for energy, 1.0 for magnitude.
        log: ``"none"``, ``"ln"``, ``"log10"``, or ``"db"``: 10 log10 (of the energy: set ``power=2``).
        floor: See :class:`LogMel`.
        floor_mode: See :class:`LogMel`.
        max_range: See :class:`LogMel`.
        pad_value: What stands in frames behind a sample's end.
        dtype: Of the features: ``"float32"`` or ``"bfloat16"``.
        engine: See :class:`LogMel`.
    """

    _: KW_ONLY
    hop_length: int = 200
    log: Log = "none"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "torchaudio": {},
        "librosa": {"rate_hz": 22050, "n_fft": 2048, "hop_length": 512, "pad_mode": "constant"},
    }

    @property
    def recipe(self) -> Recipe:
        return Recipe(self.framing, self.power, log=self.log, floor=self.floor, guard=self.floor_mode)


@dataclass(frozen=True)
class LogMel(_Centered):
    """``audio`` -> ``features``: the logarithm of mel-band energies, [B, frames, n_mels].

    Takes ``audio`` float32 [B, T] in [-1, 1] or int16 [B, T], ``lengths`` int64 [B] in samples, and ``rate_hz``. Gives
    ``features`` and ``lengths`` in frames: 1 + L // hop_length for L samples, or L // hop_length with ``drop_last``.
    The audio is taken away. A flat batch (``Collate(..., layout="flat")``) gives flat features, [sum of frames,
    n_mels], with their ``offsets``.

    Frames are centred (frame n on sample n * hop_length), and each sample is reflected at its own two ends, as
    ``numpy.pad(..., mode="reflect")`` does, however short it is; empty audio is a frame of silence. So features do
    not depend on the padding. Silence is the logarithm of ``floor`` and never -inf.

    ================  ==================================================================================================
    preset            what it equals, for each utterance alone
    ================  ==================================================================================================
    ``"torchaudio"``  ``torchaudio.transforms.MelSpectrogram(16000, 400, hop_length=160, n_mels=80)``, ln, floor 1e-10
    ``"librosa"``     ``librosa.power_to_db(librosa.feature.melspectrogram(y=y, sr=22050))``
    ``"whisper"``     openai/whisper's ``log_mel_spectrogram`` of 30 s; ``n_mels=128`` for large-v3
    ``"nemo"``        NeMo's ``FilterbankFeatures`` without dither; ``CMVN.preset("nemo")`` behind it normalises
    ================  ==================================================================================================

    Args:
        rate_hz: The rate of the audio, in Hz; another one is refused.
        n_mels: Mel bands.
        n_fft: Samples in a frame; even.
        win_length: Samples in the window, which stands in the middle of the frame; by default ``n_fft``.
        hop_length: Samples from one frame to the next.
        window: See :func:`ecopipe.signal.windows.window`.
        pad_mode: What stands outside of a sample's two ends: ``"reflect"``, or zeros (``"constant"``).
        drop_last: Leave out the last frame: L // hop_length frames, as Whisper and NeMo have.
        pad_audio_to_s: Fill up with zeros to so many seconds, and make features of these too, as Whisper does with
            30 s; longer audio is refused. ``lengths`` then count all of it. 0 for none.
        preemphasis: c in x[n] - c * x[n - 1], on the whole signal; 0 for none.
        f_min: Lower edge of the lowest band, in Hz.
        f_max: Upper edge of the highest band, in Hz; by default half the rate.
        mel_scale: See :func:`ecopipe.signal.mel.mel_filters`.
        norm: See :func:`ecopipe.signal.mel.mel_filters`.
        power: 2.0 for energy, 1.0 for magnitude.
        log: ``"ln"``, ``"log10"``, ``"db"`` (10 log10) or ``"none"``.
        floor: The least energy, or what is added to each.
        floor_mode: ``"clamp"``: energies below ``floor`` become it. ``"add"``: it is added.
        max_range: Features below the greatest of the utterance less this become that; 0 for none. In units of the
            logarithm.
        shift: Added to features at the end, before ``factor``.
        factor: Features are multiplied by it at the end.
        pad_value: What stands in frames behind a sample's end.
        dtype: Of the features: ``"float32"`` or ``"bfloat16"``.
        engine: ``"fft"``; ``"triton"``: fused kernels; ``"matmul"``: products in float64 that ``torch.compile`` takes,
            a reference; ``"auto"``: triton on CUDA where it is installed, else fft. They agree to some 1e-5 of the
            greatest energy of a frame, not bit for bit.
    """

    _: KW_ONLY
    n_mels: int = 80
    f_min: float = 0.0
    f_max: float | None = None
    mel_scale: MelScale = "htk"
    norm: Norm = "none"
    preemphasis: float = 0.0
    pad_audio_to_s: float = 0.0
    shift: float = 0.0
    factor: float = 1.0
    empty_bands: ClassVar[bool] = False
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "torchaudio": {},
        "librosa": {
            "rate_hz": 22050, "n_fft": 2048, "hop_length": 512, "pad_mode": "constant", "n_mels": 128,
            "mel_scale": "slaney", "norm": "slaney", "log": "db", "max_range": 80.0,
        },
        "whisper": {
            "mel_scale": "slaney", "norm": "slaney", "log": "log10", "max_range": 8.0, "shift": 4.0, "factor": 0.25,
            "drop_last": True, "pad_audio_to_s": 30.0,
        },
        "nemo": {
            "n_fft": 512, "win_length": 400, "window": "hann_symmetric", "preemphasis": 0.97, "pad_mode": "constant",
            "mel_scale": "slaney", "norm": "slaney", "floor": 2**-24, "floor_mode": "add", "drop_last": True,
        },
    }  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_positive("n_mels")
        self.check_choices(mel_scale=MelScale, norm=Norm)
        top = self.rate_hz / 2 if self.f_max is None else self.f_max
        if not 0 <= self.f_min < top <= self.rate_hz / 2:
            raise self.refuse(f"0 <= f_min < f_max <= {self.rate_hz / 2} Hz must hold, got {self.f_min} and {top}")
        if not 0 <= self.preemphasis <= 1:
            raise self.refuse(f"preemphasis must be in 0..1, got {self.preemphasis!r}")
        if not self.pad_audio_to_s >= 0:
            raise self.refuse(f"pad_audio_to_s must be at least 0, got {self.pad_audio_to_s!r}")
        if not self.factor:
            raise self.refuse("factor 0 would make all features equal")
        band = None if self.empty_bands else no_empty_band(self.recipe)
        if band is not None:
            raise self.refuse(
                f"n_mels = {self.n_mels} is too many for n_fft = {self.n_fft}: band {band} lies between two "
                "frequencies of the spectrum and would always be empty; lower n_mels or raise n_fft"
            )

    @property
    def recipe(self) -> Recipe:
        framing = replace(self.framing, pad_to=round(self.pad_audio_to_s * self.rate_hz), preemphasis=self.preemphasis)
        top = self.rate_hz / 2 if self.f_max is None else self.f_max
        bands = MelBands(self.rate_hz, self.n_mels, self.f_min, top, self.mel_scale, self.norm)
        return Recipe(framing, self.power, bands, self.log, self.floor, self.floor_mode)

    def finish(self, features: Tensor, lengths: Tensor, offsets: Tensor | None) -> Tensor:
        features = super().finish(features, lengths, offsets)
        if self.shift:
            features = features + self.shift
        return features * self.factor if self.factor != 1.0 else features

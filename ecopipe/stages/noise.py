"""Stages that bring other recordings into the audio of a sample, by draws of its key: noises and rooms.

The recordings lie in shards of their own, which ``ecopipe index`` or the first use indexes. What their index holds is
part of the pipeline's identity: a state is refused where they have changed.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from math import ceil, sqrt
from typing import Literal

import numpy as np

from ecopipe.signal.waveform import Audio, Wave, as_dtype, gaussian, mixed, power, resampled, reverberated
from ecopipe.stages.recordings import Recording, Recordings
from ecopipe.stages.stage import SampleStage, told_by
from ecopipe.stages.waveform import AudioStage, audio_of, check_probability, check_range, rate_of
from ecopipe.vocabulary.errors import ShardError
from ecopipe.vocabulary.randomness import Chance, Draws
from ecopipe.vocabulary.sample import Sample

Normalize = Literal["energy", "power"]
Paths = str | tuple[str, ...]


@dataclass(frozen=True)
class AddNoise(AudioStage):
    """Noise added to ``audio`` at a drawn ratio of signal to noise: 10 log10 of the one's power by the other's.

    Both powers are means of squares over the whole sample, as ``torchaudio.functional.add_noise`` has it, and the ratio
    is uniform in dB. The noise is one recording, drawn among all; its channels are averaged, and a stretch as long as
    the sample is drawn from it, going round where it is shorter, and resampled to the sample's rate. All channels of a
    sample get the same noise. A sample that is silent stays so, and a stretch of noise that is silent adds nothing.
    float32 may pass full scale; int16 is clipped there, which alters the ratio of a sample that is loud already.

    Args:
        noise: A folder of tars of recordings, as ``TarShards`` takes it, or several; None is white Gaussian noise.
        snr_db: The least and the greatest ratio, in dB: at 0 the noise is as loud as the signal.
        p: The share of samples that get noise.
    """

    noise: str | tuple[str, ...] | None = told_by(lambda stage: f"index:{stage.recordings.fingerprint}", default=None)
    _: KW_ONLY
    snr_db: tuple[float, float]
    p: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "noise", _checked(self, "noise", self.noise))
        if isinstance(self.snr_db, list):
            object.__setattr__(self, "snr_db", tuple(self.snr_db))
        check_range(self, "snr_db", self.snr_db)
        check_probability(self, self.p)
        super().__post_init__()

    @cached_property
    def recordings(self) -> Recordings:
        """The noises."""
        return _recordings(self, "noise", self.noise or ())

    def needs(self) -> tuple[str, ...]:
        return ("audio",) if self.noise is None else ("audio", "rate_hz")

    def apply(self, sample: Sample, chance: Chance) -> Sample:
        audio, draws = audio_of(sample), chance.draws(sample.key)
        coin, at, row, place = draws.uniform(4).tolist()
        if coin >= self.p or not audio.size:
            return sample
        low, high = self.snr_db
        noise = self._noise(sample, len(audio), row, place, draws)
        return sample.with_fields(audio=as_dtype(mixed(audio, noise, low + at * (high - low)), audio.dtype))

    def _noise(self, sample: Sample, frames: int, row: float, place: float, draws: Draws) -> Wave:
        """float64 [frames]."""
        if self.noise is None:
            return gaussian(draws, frames)
        rate_hz = rate_of(sample)
        found = self.recordings.read(int(row * len(self.recordings)))
        if found.rate_hz == rate_hz:
            return _mono(found.stretch(frames, place))
        before = ceil(frames * found.rate_hz / rate_hz) + 1  # so many give no less than `frames`
        part = _mono(found.stretch(before, place))
        return resampled(part, found.rate_hz, rate_hz)[:frames].astype(np.float64)


@dataclass(frozen=True)
class Reverb(AudioStage):
    """``audio`` as it sounds in a room: convolved with a room impulse response, one drawn among all.

    The peak of the response is taken for the direct sound and stands at time 0, so that length and timing stay as they
    are and an alignment stays true; what rings on behind the last frame is cut off. Of a response of several channels
    the first one is taken, and it is resampled to the sample's rate. float32 may pass full scale; int16 is clipped
    there.

    Args:
        rirs: A folder of tars of room impulse responses, as ``TarShards`` takes it, or several.
        normalize: ``"energy"``: the squares of the response sum to 1, so that white noise keeps its power.
            ``"power"``: the sample keeps the power that it had, as in Kaldi's ``wav-reverberate``.
        p: The share of samples that are reverberated.
    """

    rirs: str | tuple[str, ...] = told_by(lambda stage: f"index:{stage.recordings.fingerprint}")
    _: KW_ONLY
    normalize: Normalize = "energy"
    p: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "rirs", _checked(self, "rirs", self.rirs))
        check_probability(self, self.p)
        self.check_choices(normalize=Normalize)
        super().__post_init__()

    @cached_property
    def recordings(self) -> Recordings:
        """The room impulse responses."""
        return _recordings(self, "rirs", self.rirs)

    def needs(self) -> tuple[str, ...]:
        return ("audio", "rate_hz")

    def apply(self, sample: Sample, chance: Chance) -> Sample:
        audio, rate_hz = audio_of(sample), rate_of(sample)
        coin, row = chance.draws(sample.key).uniform(2).tolist()
        if coin >= self.p or not audio.size:
            return sample
        response = self._response(self.recordings.read(int(row * len(self.recordings))), rate_hz)
        wave = reverberated(audio, response)
        if self.normalize == "power" and (made := power(wave)):
            wave = wave * sqrt(power(audio) / made)
        return sample.with_fields(audio=as_dtype(wave, audio.dtype))

    def _response(self, found: Recording, rate_hz: int) -> Wave:
        """float64 [L] of unit energy."""
        first: Audio = found.piece()[:, 0]
        if found.rate_hz != rate_hz:
            first = resampled(first, found.rate_hz, rate_hz)
        energy = power(first) * len(first)
        if not energy:
            raise ShardError(
                f"{found.place}: it is silent at {rate_hz} Hz, and no impulse response. Leave it out of the shards."
            )
        return np.divide(first, sqrt(energy), dtype=np.float64)


def _mono(audio: Audio) -> Wave:
    """[T, channels] -> float64 [T]: the mean of the channels."""
    return np.asarray(audio.mean(axis=1), dtype=np.float64)


def _checked(stage: SampleStage, name: str, paths: object) -> Paths | None:
    """Paths of shards, several as a tuple; refuses what is none."""
    several = (paths,) if isinstance(paths, str) else paths
    if paths is None and name == "noise":
        return None
    if not isinstance(several, tuple | list) or not several or not all(isinstance(p, str) and p for p in several):
        raise stage.refuse(f"{name} must be a folder of tars, or several, got {paths!r}")
    return paths if isinstance(paths, str) else tuple(several)


def _recordings(stage: SampleStage, name: str, paths: Paths) -> Recordings:
    """The recordings of a stage; their files are opened when they are first needed."""
    return Recordings((paths,) if isinstance(paths, str) else paths, f"{stage.label}: {name}")

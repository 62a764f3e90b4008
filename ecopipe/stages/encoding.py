"""Stages that make members again: audio and images, encoded, as shards hold them.

A pipeline that ends in shards needs one for every array: what is bytes then is a member, under the name of its field;
what is a number or text is a column of the index.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np

from ecopipe.formats import audio_encoding, image_encoding
from ecopipe.formats.audio_encoding import BITS, AudioFormat, Clipping
from ecopipe.formats.image_encoding import EXTENSION_OF, ImageFormat, Subsampling
from ecopipe.stages.stage import SampleStage, Stage
from ecopipe.stages.waveform import audio_of, rate_of
from ecopipe.vocabulary.randomness import Chance
from ecopipe.vocabulary.sample import Sample


@dataclass(frozen=True)
class EncodeAudio(SampleStage):
    """``audio`` and ``rate_hz`` -> a member such as ``flac``: bytes. The audio is taken away.

    ``audio`` is float32 in [-1, 1] or int16, [T] or [T, channels], of at least one frame. The bytes are a function of
    it: the same build of libsndfile gives the same file. 16-bit FLAC and WAV of int16, and of floats that came of 16
    bits, are exact.

    Args:
        format: ``"flac"``, ``"wav"``, ``"opus"`` (in Ogg), ``"ogg"`` (Vorbis) or ``"mp3"``.
        into: The field for the bytes; its last part says the format to whoever reads it. By default the format.
        bits: Of FLAC 16 or 24; of WAV 16, 24, or 32, which are floats. Floats are rounded to it, halves to even.
        compression: Of FLAC: 0 (fast) to 8 (small). By default libsndfile's, 5.
        quality: Of Opus, Vorbis and MP3: above 0 (small), up to 1 (best). By default the encoder's own. Opus takes
            6 + 250 * quality kbit/s for each channel, and the rates 8000, 12000, 16000, 24000 and 48000 Hz.
        clipping: What becomes of floats outside [-1, 1], such as resampling makes of loud audio: ``"clip"`` them, as
            soundfile and torchaudio do, or an ``"error"``. In WAV of 32 bits they stay. Floats beyond 100 are refused.
        keep: Leave ``audio`` and ``rate_hz`` for the stages behind.
    """

    format: AudioFormat = "flac"
    _: KW_ONLY
    into: str | None = None
    bits: int = 16
    compression: int | None = None
    quality: float | None = None
    clipping: Clipping = "clip"
    keep: bool = False

    def __post_init__(self) -> None:
        self.check_choices(format=AudioFormat, clipping=Clipping)
        super().__post_init__()
        if self.bits not in BITS.get(self.format, (16,)):
            takes = " or ".join(map(str, BITS.get(self.format, ())))
            remedy = f"choose {takes}" if takes else "it has no fixed number: leave bits out"
            raise self.refuse(f"bits={self.bits} is none of {self.format}; {remedy}")
        if self.compression is not None and not (self.format == "flac" and 0 <= self.compression <= 8):
            raise self.refuse(f"compression is 0 to 8, and of flac; got {self.compression} for {self.format}")
        if self.quality is not None and (self.format in BITS or not 0 < self.quality <= 1):
            raise self.refuse(
                f"quality is above 0, up to 1, and of opus, ogg and mp3; got {self.quality} for {self.format}"
            )
        check_field(self, "into", self.into)

    def needs(self) -> tuple[str, ...]:
        return ("audio", "rate_hz")

    def gives(self) -> tuple[str, ...]:
        return (self.into or self.format,)

    def takes_away(self) -> tuple[str, ...]:
        return () if self.keep else ("audio", "rate_hz")

    def apply(self, sample: Sample, chance: Chance) -> Sample:
        data = audio_encoding.encode(
            audio_of(sample),
            rate_of(sample),
            self.format,
            bits=self.bits,
            compression=self.compression,
            quality=self.quality,
            clipping=self.clipping,
        )
        return sample.without(*self.takes_away()).with_fields(**{self.into or self.format: data})


@dataclass(frozen=True)
class EncodeImage(SampleStage):
    """``image`` -> a member such as ``png``: bytes. The image is taken away.

    The image is uint8 [C, H, W] in 0..255, C = 1 (grey) or 3 (red, green, blue), as ``DecodeImage`` gives it. The bytes
    are a function of it: the same build of Pillow gives the same file. PNG and raw are exact.

    Args:
        format: ``"png"``; ``"jpeg"`` (extension ``jpg``); or ``"raw"``, the array itself (``npy``), which streams
            fastest.
        field: The image.
        into: The field for the bytes; its last part says the format to whoever reads it. By default the extension.
        quality: Of JPEG: 1 to 95.
        subsampling: Of JPEG: whether two or four neighbouring pixels share their colours.
        compression: Of PNG: 0 (none, fast) to 9 (small).
        keep: Leave the image for the stages behind.
    """

    format: ImageFormat = "png"
    _: KW_ONLY
    field: str = "image"
    into: str | None = None
    quality: int = 90
    subsampling: Subsampling = "4:2:0"
    compression: int = 6
    keep: bool = False

    def __post_init__(self) -> None:
        self.check_choices(format=ImageFormat, subsampling=Subsampling)
        super().__post_init__()
        if not 1 <= self.quality <= 95:
            raise self.refuse(f"quality is 1 to 95, got {self.quality}")
        if not 0 <= self.compression <= 9:
            raise self.refuse(f"compression is 0 to 9, got {self.compression}")
        check_field(self, "into", self.into)

    @property
    def _into(self) -> str:
        return self.into or EXTENSION_OF[self.format]

    def needs(self) -> tuple[str, ...]:
        return (self.field,)

    def gives(self) -> tuple[str, ...]:
        return (self._into,)

    def takes_away(self) -> tuple[str, ...]:
        return () if self.keep else (self.field,)

    def apply(self, sample: Sample, chance: Chance) -> Sample:
        data = image_encoding.encode(
            array_of(sample, self.field),
            self.format,
            quality=self.quality,
            subsampling=self.subsampling,
            compression=self.compression,
        )
        return sample.without(*self.takes_away()).with_fields(**{self._into: data})


def check_field(stage: Stage, setting: str, name: str | None) -> None:
    """Refuses a field for bytes that cannot be the extension of a member."""
    if name is not None and (not name or name != name.lower() or "/" in name or not all(name.split("."))):
        raise stage.refuse(f"{setting} must be an extension in lower case, such as 'flac' or 'mix.flac', got {name!r}")


def array_of(sample: Sample, field: str) -> Any:
    """A field of a sample that is an array.

    Raises:
        ValueError: There is none, or it is something else.
    """
    if field not in sample:
        raise ValueError(f"no field {field!r}; it has {', '.join(sorted(sample))}")
    value = sample[field]
    if not isinstance(value, np.ndarray):
        if not hasattr(value, "__array__"):
            raise ValueError(f"its {field} is {type(value).__name__}; an array wanted")
        value = np.asarray(value)
    return value

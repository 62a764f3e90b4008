"""Stages that make arrays of audio: decode, resample."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from math import isfinite
from typing import Any, Literal, get_args

import numpy as np

from ecopipe.formats import audio as codec
from ecopipe.formats.audio import AUDIO_EXTENSIONS, INT16_SCALE, AudioInfo
from ecopipe.signal.waveform import Audio, Quality, resampled, to_int16
from ecopipe.stages.stage import Row, SampleStage
from ecopipe.vocabulary.errors import nearest
from ecopipe.vocabulary.randomness import Chance
from ecopipe.vocabulary.sample import Part, Sample

Dtype = Literal["float32", "int16"]
Channels = Literal["mono", "first", "all"]

_ANY_AUDIO = "|".join(AUDIO_EXTENSIONS)


@dataclass(frozen=True)
class DecodeAudio(SampleStage):
    """Encoded audio -> ``audio`` and ``rate_hz``.

    ``audio`` is float32 [T] in [-1, 1] or int16 [T], or [T, channels] with ``channels="all"``; ``rate_hz`` is an int in
    Hz, that of the file. The encoded bytes are taken away. What a float file holds beyond [-1, 1] stays as it is in
    float32 and is clipped in int16; NaN and Inf are refused.

    ``offset_s`` and ``duration_s`` read a piece: exactly ``round(duration_s * rate)`` frames from frame
    ``round(offset_s * rate)`` of the whole. PCM, float, mu-law, A-law and FLAC are read there only; Vorbis, Opus, MP3
    and ADPCM are decoded from their beginning to the end of the piece, because that alone is exact. A piece that
    reaches past the end is refused. The measures of the index (``frames``, ``duration_s``) stay those of the file.
    Behind a ``Segment`` the piece is the one that was planned, to the frame, and the measures are those of the piece.

    Args:
        field: The member to decode, such as ``"flac"`` or ``"mix.wav"``; by default the one whose extension is of
            audio. A sample that holds several is refused unless one is named.
        dtype: ``"int16"`` halves the memory of a batch and is exact for 16-bit FLAC and WAV.
        channels: ``"mono"`` is the mean of all channels (int16: rounded, halves to even), ``"first"`` the first one, an
            int that one, counted from 0. A file with too few is refused.
        rate_hz: Refuse a file that has another rate, in Hz. Leave it out and put Resample behind to convert.
        expect_channels: Refuse a file that has another number of channels. Leave it out to convert by ``channels``.
        offset_s: Where the piece begins, in seconds; or the field that says it, such as ``"start_s"``.
        duration_s: How long it is, in seconds; or the field that says it. By default it goes on to the end.
        md5: Refuse a FLAC whose samples do not have the MD5 in its header; one whose header has none (zeros) and other
            formats pass. It needs the whole file. Damage after encoding shows without it, by the CRC of every block;
            it finds what was exchanged or written wrong, for about a third more time.
    """

    _: KW_ONLY
    field: str | None = None
    dtype: Dtype = "float32"
    channels: Channels | int = "mono"
    rate_hz: int | None = None
    expect_channels: int | None = None
    offset_s: float | str = 0.0
    duration_s: float | str | None = None
    md5: bool = False

    def __post_init__(self) -> None:
        self.check_choices(dtype=Dtype)
        if isinstance(self.channels, str):
            if self.channels not in get_args(Channels):
                known = nearest(self.channels, get_args(Channels))
                raise self.refuse(f"unknown channels {self.channels!r}. {known} Or an int, the channel wanted.")
        elif type(self.channels) is not int or self.channels < 0:
            raise self.refuse(f"channels must be {', '.join(get_args(Channels))} or an int >= 0, got {self.channels!r}")
        for name in ("rate_hz", "expect_channels"):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < 1):
                raise self.refuse(f"{name} must be a positive int, got {value!r}")
        if isinstance(self.channels, int) and self.channels >= (self.expect_channels or self.channels + 1):
            raise self.refuse(f"channels={self.channels} counts from 0, and expect_channels is {self.expect_channels}")
        if not isinstance(self.offset_s, str) and not _seconds(self.offset_s):
            raise self.refuse(f"offset_s must be seconds, 0 or more, or the name of a field, got {self.offset_s!r}")
        if not isinstance(self.duration_s, str | None) and not (_seconds(self.duration_s) and self.duration_s > 0):
            raise self.refuse(f"duration_s must be seconds, above 0, or the name of a field, got {self.duration_s!r}")
        if self.md5 and self._cuts:
            raise self.refuse("md5 is that of the whole file. Leave out md5, or offset_s and duration_s.")
        super().__post_init__()

    @property
    def _cuts(self) -> bool:
        return self.offset_s != 0 or self.duration_s is not None

    def parts_in(self) -> str:
        return "frames"

    def needs(self) -> tuple[str, ...]:
        named = (name for name in (self.offset_s, self.duration_s) if isinstance(name, str))
        return (self.field or _ANY_AUDIO, *named)

    def gives(self) -> tuple[str, ...]:
        return ("audio", "rate_hz")

    def takes_away(self) -> tuple[str, ...]:
        return (self.field,) if self.field else AUDIO_EXTENSIONS

    def apply(self, sample: Sample, chance: Chance) -> Sample:
        field = self.field or self._find(sample)
        if field not in sample:
            raise ValueError(f"no field {field!r}; it has {', '.join(sorted(sample))}")
        data, kind = sample[field], field.rpartition(".")[2].lower()
        start, frames, part = 0, None, sample.part_in("frames")
        expected = self.rate_hz is not None or self.expect_channels is not None or type(self.channels) is int
        if part or self._cuts or expected:
            info = codec.probe(data, kind)
            self._check(info)
            if part:
                start, frames = self._planned(part, info)
            elif self._cuts:
                start = round(self._read(sample, "offset_s") * info.rate_hz)
                frames = None if self.duration_s is None else round(self._read(sample, "duration_s") * info.rate_hz)
        decoded, rate_hz = codec.decode(data, kind, start=start, frames=frames, md5=self.md5)
        return sample.without(field).with_fields(audio=self._mix(decoded), rate_hz=rate_hz)

    def row(self) -> Row | None:
        return None if self._cuts or self.md5 or self.channels == "all" else Row("audio", self.dtype, "frames")

    def apply_into(self, sample: Sample, chance: Chance, row: Audio) -> Sample:
        field = self.field or self._find(sample)
        if field in sample and not sample.part_in("frames"):
            info = codec.decode_into(sample[field], field.rpartition(".")[2].lower(), row)
            if info is not None:
                self._check(info)
                return sample.without(field).with_fields(audio=row, rate_hz=info.rate_hz)
        return self.apply(sample, chance)

    def _planned(self, part: Part, info: AudioInfo) -> tuple[int, int | None]:
        """Where a planned part begins, and its frames; None for all there are."""
        if self._cuts:
            raise ValueError("a segment was planned, and offset_s and duration_s name another piece; leave them out")
        if info.frames != part.whole:
            raise ValueError(
                f"its header says {info.frames} frames, and {part.whole} by the index, on which its segments were "
                "planned; run 'ecopipe index' on its shard"
            )
        return part.start, None if part.stop - part.start == part.whole else part.stop - part.start

    def _find(self, sample: Sample) -> str:
        found = [name for name in sample if name in AUDIO_EXTENSIONS]
        if len(found) > 1:
            raise ValueError(f"several fields of audio ({', '.join(found)}); name the one to decode with field=...")
        if not found:
            raise ValueError(f"no field of audio ({', '.join(AUDIO_EXTENSIONS)}); it has {', '.join(sorted(sample))}")
        return found[0]

    def _check(self, info: AudioInfo) -> None:
        if self.rate_hz not in (None, info.rate_hz):
            raise ValueError(
                f"{info.rate_hz} Hz found, rate_hz={self.rate_hz} expected; leave rate_hz out of DecodeAudio and put "
                f"Resample({self.rate_hz}) behind it to convert"
            )
        if self.expect_channels not in (None, info.channels):
            raise ValueError(
                f"{info.channels} channels found, expect_channels={self.expect_channels} expected; leave "
                "expect_channels out of DecodeAudio and choose with channels='mono', 'first', 'all' or a number"
            )
        if isinstance(self.channels, int) and self.channels >= info.channels:
            raise ValueError(
                f"channels={self.channels} wanted, counted from 0, and it has {info.channels}; choose a lower one, or "
                "channels='mono' or 'all'"
            )

    def _read(self, sample: Sample, setting: Literal["offset_s", "duration_s"]) -> float:
        """A setting in seconds, taken from the sample where it names a field."""
        name = getattr(self, setting)
        if not isinstance(name, str):
            return float(name)
        if name not in sample:
            raise ValueError(f"no field {name!r} for {setting}; it has {', '.join(sorted(sample))}")
        value = sample[name]
        if not _seconds(value):
            raise ValueError(f"{setting} is the field {name!r}, which holds {value!r}; seconds wanted, 0 or more")
        return float(value)

    def _mix(self, decoded: Audio) -> Audio:
        """int16 or float32 [T, channels] -> the wanted channels and dtype."""
        audio, whole = decoded, decoded.dtype == np.int16
        if self.channels == "first":
            audio = audio[:, :1]
        elif isinstance(self.channels, int):
            audio = audio[:, self.channels : self.channels + 1]
        elif self.channels == "mono" and audio.shape[1] > 1:
            audio = audio.mean(axis=1, keepdims=True, dtype=np.float32)  # exact for the sum of 512 int16 channels
        if self.dtype == "float32":
            audio = audio * np.float32(INT16_SCALE) if whole else audio
        elif audio.dtype != np.int16:
            audio = to_int16(audio if whole else audio / np.float32(INT16_SCALE))
        return np.ascontiguousarray(audio if self.channels == "all" else audio[:, 0])


@dataclass(frozen=True)
class Resample(SampleStage):
    """``audio`` at another rate: T frames at r Hz become floor(T * rate_hz / r + 1/2), in the same dtype.

    By soxr (https://sourceforge.net/p/soxr). Audio that has the rate already is left as it is. int16 is resampled in
    float32 and rounded: soxr's own int16 output is dithered, and noise is not a function of the sample.

    Args:
        rate_hz: The rate wanted, in Hz.
        quality: From ``"QQ"`` (quick) to ``"VHQ"`` (very high quality), as soxr names them.
    """

    rate_hz: int
    _: KW_ONLY
    quality: Quality = "HQ"

    def __post_init__(self) -> None:
        if not isinstance(self.rate_hz, int) or self.rate_hz <= 0:
            raise self.refuse(f"rate_hz must be a positive int, got {self.rate_hz!r}")
        self.check_choices(quality=Quality)
        super().__post_init__()

    def needs(self) -> tuple[str, ...]:
        return ("audio", "rate_hz")

    def gives(self) -> tuple[str, ...]:
        return ("audio", "rate_hz")

    def apply(self, sample: Sample, chance: Chance) -> Sample:
        for field in self.needs():
            if field not in sample:
                raise ValueError(f"no field {field!r}; it has {', '.join(sorted(sample))}")
        audio, rate_hz = sample["audio"], sample["rate_hz"]
        if rate_hz == self.rate_hz:
            return sample
        made = resampled(audio, rate_hz, self.rate_hz, self.quality)
        if audio.dtype == np.int16:
            return sample.with_fields(audio=to_int16(made), rate_hz=self.rate_hz)
        return sample.with_fields(audio=made, rate_hz=self.rate_hz)


def _seconds(value: Any) -> bool:
    """Whether a value is a time in seconds: a finite number, 0 or more."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        return False
    return bool(isfinite(value) and value >= 0)

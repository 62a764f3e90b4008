"""Batches that are decoded in place: which are, that they are the same, and that what does not fit falls back."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import soundfile
import torch

from ecopipe.pipeline.pipeline import Pipeline
from ecopipe.plan.blocks import Slice
from ecopipe.run.loader import Loader
from ecopipe.run.maker import BatchMaker, Failure, Task, make_task
from ecopipe.stages.audio import DecodeAudio, Resample
from ecopipe.stages.collate import Collate
from ecopipe.stages.fields import Count
from ecopipe.stages.foreign import Map
from ecopipe.stages.memory import BatchRows
from ecopipe.stages.plan import Batch, Shuffle
from ecopipe.stages.source import TarShards
from ecopipe.stages.stage import SampleStage
from ecopipe.stages.text import TokenizeCharacters
from ecopipe.stages.waveform import Gain
from ecopipe.vocabulary.errors import SampleError
from ecopipe.vocabulary.sample import Place

from .test_bad_samples import SPLIT, flip, listed

DECODE, CHARACTERS = DecodeAudio(), TokenizeCharacters()


def as_it_is(value: object) -> object:
    return value


def speech(folder: Path, *stages: SampleStage, collate: Collate | None = None, policy: str = "raise") -> Pipeline:
    collate = collate or Collate("audio")
    return Pipeline(TarShards(str(folder)), Shuffle(), Batch(5), *stages, collate, bad_samples=policy)


@pytest.fixture
def folder(shards: Path) -> Path:
    return shards / "librispeech" / SPLIT


@pytest.fixture
def filled(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Of each batch with memory of its own: whether its samples were there."""
    found: list[bool] = []
    hold = BatchRows.hold

    def noted(self: BatchRows, arrays: list[np.ndarray]) -> bool:
        found.append(hold(self, arrays))
        return found[-1]

    monkeypatch.setattr(BatchRows, "hold", noted)
    return found


def all_of(pipeline: Pipeline) -> list[dict[str, torch.Tensor]]:
    with Loader(pipeline) as loader:
        return [dict(batch) for batch in loader]


@pytest.mark.parametrize("dtype", ["int16", "float32"])
@pytest.mark.parametrize("more", [(), (CHARACTERS,), (Count("audio"),)])
@pytest.mark.parametrize("value", [0, 0.5])
def test_audio_that_nobody_touches_is_decoded_in_place(folder, filled, dtype, more, value):
    if dtype == "int16" and value:
        value = 3
    collate = Collate("audio", pad_value=value, target="tokens" if CHARACTERS in more else None)
    found = all_of(speech(folder, DecodeAudio(dtype=dtype), *more, collate=collate))
    assert filled == [True] * 5
    expected = all_of(speech(folder, DecodeAudio(dtype=dtype), *more, Map(as_it_is, field="audio"), collate=collate))
    assert filled == [True] * 5
    assert len(found) == len(expected) == 5
    for one, other in zip(found, expected, strict=True):
        assert list(one) == list(other)
        assert one["keys"] == other["keys"]
        assert one["audio"].dtype == getattr(torch, dtype)
        for name in set(one) - {"keys", "rate_hz"}:
            assert torch.equal(one[name], other[name]), name
        assert one["rate_hz"] == other["rate_hz"]


@pytest.mark.parametrize(
    ("stages", "collate"),
    [
        ((DECODE, Gain(-6, 6)), None),
        ((DECODE, Resample(8000)), None),
        ((DECODE, Map(as_it_is, field="audio")), None),
        ((DecodeAudio(channels="all"),), None),
        ((DecodeAudio(md5=True),), None),
        ((DecodeAudio(duration_s=0.5),), None),
        ((DECODE,), Collate("audio", pad_first=True)),
        ((DECODE,), Collate("audio", fixed_length=9000)),
        ((DECODE,), Collate("audio", batch_first=False)),
        ((DECODE,), Collate("audio", layout="flat")),
    ],
    ids=["gain", "resample", "map", "all", "md5", "piece", "pad_first", "fixed_length", "time_first", "flat"],
)
def test_anything_else_is_not(folder, filled, stages, collate):
    assert len(all_of(speech(folder, *stages, collate=collate))) == 5
    assert filled == []


@pytest.mark.parametrize("frames", [None, 0, -1, 1, 10**12])
def test_lengths_that_are_wrong_change_nothing(folder, filled, frames):
    pipeline = speech(folder, DECODE)
    with Loader(pipeline) as loader:
        table = loader.shards.read(_slices(loader))
    maker = BatchMaker(pipeline)
    right = maker(make_task(table, Place(0, 0, ()), 0, pipeline.reads()))
    assert filled == [True]
    at = table.schema.get_field_index("frames")
    wrong = table.set_column(at, "frames", pa.array([frames, *table["frames"].to_pylist()[1:]], pa.int64()))
    found = maker(make_task(wrong, Place(0, 0, ()), 0, pipeline.reads()))
    assert not isinstance(right, Failure)
    assert not isinstance(found, Failure)
    assert filled == ([True, False] if frames == 1 else [True])
    assert torch.equal(found["audio"], right["audio"])
    assert torch.equal(found["lengths"], right["lengths"])
    absent = maker(make_task(table.drop_columns(["frames"]), Place(0, 0, ()), 0, pipeline.reads()))
    assert not isinstance(absent, Failure)
    assert torch.equal(absent["audio"], right["audio"])


def _slices(loader: Loader) -> list[Slice]:
    return [Slice(0, 0, loader.shards.rows_per_shard[0])]


def test_a_stereo_sample_takes_the_whole_batch_the_other_way(folder, tmp_path, filled):
    first = listed(folder)[0]
    other = Path(shutil.copytree(folder, tmp_path / "shards"))
    member = next(member for member in first["members"] if member["extension"] == "flac")
    with open(other / first["shard"], "rb") as tar:
        tar.seek(member["offset"])
        mono, rate_hz = soundfile.read(io.BytesIO(tar.read(member["size"])), dtype="int16")
    file = io.BytesIO()
    soundfile.write(file, np.stack([mono, mono], 1), rate_hz, "PCM_16", format="FLAC")
    task = _task(other, {first["key"]: file.getvalue()})
    expected = _task(folder, {})
    for one, way in ((task, False), (expected, True)):
        filled.clear()
        made = one()
        assert filled == [way]
        one.audio = made["audio"]
    assert torch.equal(task.audio, expected.audio)


class _task:
    """Makes the first shard's batch, with the payload of some samples exchanged as it is read."""

    audio: torch.Tensor

    def __init__(self, folder: Path, payloads: dict[str, bytes]) -> None:
        pipeline = speech(folder, DECODE)
        self.maker = BatchMaker(pipeline, verify="off")
        raw = self.maker.raw
        self.maker.raw = lambda row: (  # type: ignore[method-assign]
            raw(row).with_fields(flac=payloads[row["key"]]) if row["key"] in payloads else raw(row)
        )
        with Loader(pipeline) as loader:
            table = loader.shards.read(_slices(loader))
        self.task: Task = make_task(table, Place(0, 0, ()), 0, pipeline.reads())

    def __call__(self):
        made = self.maker(self.task)
        assert not isinstance(made, Failure), made
        return made


@pytest.mark.parametrize("policy", ["skip", "substitute"])
def test_batches_with_bad_samples_are_the_same_either_way(folder, tmp_path, filled, policy):
    other = Path(shutil.copytree(folder, tmp_path / "shards"))
    flip(other, 3)
    found = all_of(speech(other, DECODE, policy=policy))
    assert True in filled and False in filled
    expected = all_of(speech(other, DECODE, Map(as_it_is, field="audio"), policy=policy))
    for one, two in zip(found, expected, strict=True):
        assert one["keys"] == two["keys"]
        assert torch.equal(one["audio"], two["audio"])


def test_an_error_is_that_of_the_stage(folder, tmp_path):
    other = Path(shutil.copytree(folder, tmp_path / "shards"))
    (key,) = flip(other, 1)
    pipeline = speech(other, DECODE)
    with Loader(pipeline, verify="off") as loader, pytest.raises(SampleError, match="damaged flac") as caught:
        list(loader)
    assert (caught.value.stage, caught.value.key) == ("DecodeAudio", key)


def test_what_a_batch_holds_is_its_own_as_long_as_it_is_held(folder):
    """Memory of the batches before is used again, and none that somebody looks at."""
    pipeline = speech(folder, DECODE)
    with Loader(pipeline) as loader:
        held = [batch["audio"] for _ in range(3) for batch in loader]
        copies = [audio.clone() for audio in held]
        places = {audio.data_ptr() for audio in held}
        assert len(places) == len(held)
        del held[::2]
        again = [batch["audio"] for batch in loader]
        assert {audio.data_ptr() for audio in again} & places
        assert all(torch.equal(audio, copy) for audio, copy in zip(held, copies[1::2], strict=True))

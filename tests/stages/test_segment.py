"""Recordings in segments: the plan, the audio, and the laws, over real tars."""

from __future__ import annotations

import io
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st

from ecopipe.formats import audio as codec
from ecopipe.insight.audit import audit
from ecopipe.pipeline.pipeline import Pipeline
from ecopipe.plan.parts import START, STOP, WHOLE
from ecopipe.run.ledger import read_ledger
from ecopipe.stages.audio import DecodeAudio
from ecopipe.stages.collate import Collate
from ecopipe.stages.masking import SpecAugment
from ecopipe.stages.noise import AddNoise
from ecopipe.stages.packing import Pack
from ecopipe.stages.plan import Batch, Bucket, Shuffle, Take, Where
from ecopipe.stages.segment import Segment
from ecopipe.stages.source import Items, TarShards
from ecopipe.stages.spectral import LogMel
from ecopipe.stages.stage import PlanStage
from ecopipe.stages.waveform import Gain
from ecopipe.vocabulary.errors import ConfigError, SampleError

from .. import laws
from ..insight.trainings import Training
from .tars import recording, write_recordings, write_tars

FRAMES = (20_000, 3_000, 8_000, 8_001, 47_123, 1, 16_000, 12_345, 800, 30_000, 9_000)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eleven recordings in four tars."""
    return write_recordings(tmp_path_factory.mktemp("long") / "shards", FRAMES)


def segments(
    corpus: Path, stage: Segment, *stages: PlanStage, lanes: int = 2, block_rows: int = 4, **source: object
) -> Pipeline:
    return Pipeline(
        TarShards(str(corpus), lanes=lanes, block_rows=block_rows),
        Shuffle(),
        stage,
        *stages,
        Shuffle(name="segments"),
        Bucket("frames", max_padded=40_000, max_count=5),
        DecodeAudio(),
        Gain(-6, 6),
        AddNoise(str(corpus), snr_db=(0, 15)),
        Collate("audio", keep=("segment",)),
        LogMel(rate_hz=8000, n_fft=200, hop_length=80, n_mels=20),
        SpecAugment(freq_mask_width=4, time_mask_width=10),
    )


def planned(stage: Segment, *recordings: tuple[int, int]) -> list[list[tuple[int, int]]]:
    """The segments of recordings (frames, rate), each as (start, stop)."""
    frames, rates = zip(*recordings, strict=True)
    block = pa.table({"key": ["k"] * len(frames), "shard": ["s"] * len(frames), "frames": frames, "rate_hz": rates})
    parts = stage.parts(block, np.arange(len(frames))[::-1], (0, 0))
    found: list[list[tuple[int, int]]] = [[] for _ in frames]
    for at, row in enumerate(parts.rows.tolist()):
        start, stop = int(parts.columns[START][at]), int(parts.columns[STOP][at])
        assert parts.columns["segment"][at] == len(found[row])
        assert parts.columns["frames"][at] == stop - start
        assert parts.columns["duration_s"][at] == pytest.approx((stop - start) / rates[row])
        assert parts.columns[WHOLE][at] == frames[row]
        found[row].append((start, stop))
    return found


def test_segments_of_recordings_of_two_rates() -> None:
    recordings = ((25, 10), (20, 10), (7, 10), (50, 20), (0, 10))
    assert planned(Segment(1.0), *recordings) == [
        [(0, 10), (10, 20), (20, 25)], [(0, 10), (10, 20)], [(0, 7)], [(0, 20), (20, 40), (40, 50)], [(0, 0)],
    ]  # fmt: skip
    assert planned(Segment(1.0, remainder="drop"), *recordings) == [
        [(0, 10), (10, 20)], [(0, 10), (10, 20)], [], [(0, 20), (20, 40)], [],
    ]  # fmt: skip
    assert planned(Segment(1.0, remainder="even"), *recordings) == [
        [(0, 8), (8, 16), (16, 25)], [(0, 10), (10, 20)], [(0, 7)], [(0, 16), (16, 33), (33, 50)], [(0, 0)],
    ]  # fmt: skip
    assert planned(Segment(1.0, overlap_s=0.4), *recordings) == [
        [(0, 10), (6, 16), (12, 22), (18, 25)], [(0, 10), (6, 16), (12, 20)], [(0, 7)],
        [(0, 20), (12, 32), (24, 44), (36, 50)], [(0, 0)],
    ]  # fmt: skip
    assert planned(Segment(1.0, overlap_s=0.4, remainder="drop"), *recordings)[:2] == [
        [(0, 10), (6, 16), (12, 22)], [(0, 10), (6, 16)],
    ]  # fmt: skip


@given(
    st.lists(st.tuples(st.integers(1, 500), st.sampled_from([7, 10, 16])), min_size=1, max_size=9),
    st.floats(0.05, 8.0),
    st.sampled_from(["keep", "even"]),
)
def test_every_frame_is_in_exactly_one_segment(
    recordings: list[tuple[int, int]], seconds: float, remainder: str
) -> None:
    made = planned(Segment(seconds, remainder=remainder), *recordings)
    for (frames, rate_hz), parts in zip(recordings, made, strict=True):
        assert [frame for start, stop in parts for frame in range(start, stop)] == list(range(frames))
        assert max(stop - start for start, stop in parts) <= max(round(seconds * rate_hz), 1)
        if remainder == "even":
            sizes = [stop - start for start, stop in parts]
            assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("lanes", [1, 3])
def test_each_segment_is_that_slice_of_its_recording_and_comes_once(corpus: Path, lanes: int) -> None:
    pipeline = Pipeline(
        TarShards(str(corpus), lanes=lanes, block_rows=4),
        Segment(0.7),
        Shuffle(),
        Bucket("frames", max_padded=20_000),
        DecodeAudio(dtype="int16"),
        Collate("audio", keep=("segment", "frames", "duration_s")),
    )
    whole = {f"r{n:02}": codec.decode(recording(f, 8000, ("wav", "flac")[n % 2], n), "x")[0][:, 0] for n, f in
             enumerate(FRAMES)}  # fmt: skip
    covered: defaultdict[str, Counter[int]] = defaultdict(Counter)
    sizes = []
    for batch in pipeline:
        sizes.append(len(batch["keys"]) * int(batch["lengths"].max()))
        assert batch.place is not None and batch.place.duration_s == pytest.approx(float(batch["duration_s"].sum()))
        rows = zip(batch["keys"], batch["parts"], batch["audio"], batch["lengths"].tolist(), strict=True)
        for at, (key, (start, stop), audio, length) in enumerate(rows):
            np.testing.assert_array_equal(audio[:length].numpy(), whole[key][start:stop])
            assert batch["segment"][at] == start // 5600
            assert batch["frames"][at] == stop - start == length
            covered[key].update(range(start, stop))
    assert covered == {key: Counter(range(len(audio))) for key, audio in whole.items()}
    assert max(sizes) <= 20_000


def test_where_behind_it_sees_segments_and_before_it_recordings(corpus: Path) -> None:
    def parts(*stages: PlanStage) -> Counter[str]:
        pipeline = Pipeline(TarShards(str(corpus)), *stages, Batch(4), DecodeAudio(), Collate("audio"))
        return Counter(key for batch in pipeline for key in batch["keys"])

    assert parts(Segment(1.0), Where("duration_s", at_least=0.5)) == {
        "r00": 3, "r02": 1, "r03": 1, "r04": 6, "r06": 2, "r07": 2, "r09": 4, "r10": 1,
    }  # fmt: skip
    assert parts(Where("duration_s", at_least=3.0), Segment(1.0)) == {"r04": 6, "r09": 4}
    assert parts(Segment(1.0), Where("segment", at_least=3)) == {"r04": 3, "r09": 1}


PIPELINES = {
    "keep": lambda corpus: segments(corpus, Segment(1.0)),
    "overlap": lambda corpus: segments(corpus, Segment(0.8, overlap_s=0.3), Where("duration_s", at_least=0.1)),
    "batch": lambda corpus: Pipeline(
        TarShards(str(corpus), block_rows=5), Segment(0.9, remainder="even"), Batch(3), DecodeAudio(), Collate("audio")
    ),
}


@pytest.mark.parametrize("name", PIPELINES)
@pytest.mark.parametrize(
    "law",
    [
        laws.law_1_workers_have_no_say,
        laws.law_2_ranks_interleave,
        laws.law_3_resume_is_exact,
        laws.law_6_no_stage_changes_its_input,
        laws.law_6_stages_are_values,
    ],
    ids=lambda law: law.__name__,
)
def test_laws(law, name: str, corpus: Path) -> None:  # type: ignore[no-untyped-def]
    law(PIPELINES[name](corpus))


def test_law_5_the_features_of_a_segment_do_not_depend_on_its_batch(corpus: Path) -> None:
    def features(pipeline: Pipeline) -> dict[tuple[str, tuple[int, int]], torch.Tensor]:
        found = {}
        for batch in pipeline:
            rows = [row[:length] for row, length in zip(batch["features"], batch["lengths"].tolist(), strict=True)]
            found.update(zip(zip(batch["keys"], batch["parts"], strict=True), rows, strict=True))
        return found

    pipeline = segments(corpus, Segment(1.0))
    stages = [Batch(1) if isinstance(stage, Bucket) else stage for stage in pipeline.stages]
    alone, beside = features(Pipeline(pipeline.source, *stages)), features(pipeline)
    assert alone.keys() == beside.keys() and len(alone) == 25
    assert all(torch.equal(alone[name], beside[name]) for name in alone)


def test_every_segment_draws_for_itself(tmp_path: Path) -> None:
    audio = np.tile(np.full(800, 8000, dtype=np.int16), 6)
    corpus = write_tars(tmp_path / "shards", [("a", {"wav": _wav(audio)})], 1)
    pipeline = Pipeline(
        TarShards(str(corpus)),
        Segment(0.1),
        Batch(6),
        DecodeAudio(),
        Gain(-20, 0),
        Collate("audio"),
        LogMel(rate_hz=8000, n_fft=200, hop_length=80, n_mels=20),
        SpecAugment(fill="zero"),
    )
    sample_only = Pipeline(pipeline.source, *pipeline.stages[:5])
    (batch,) = sample_only
    assert len({float(row[0]) for row in batch["audio"]}) == 6
    (batch,) = Pipeline(pipeline.source, *(stage for stage in pipeline.stages if not isinstance(stage, Gain)))
    masks = {tuple((row == 0).flatten().tolist()) for row in batch["features"]}
    assert len(masks) > 1
    assert batch.sample_keys[1] == "a[800:1600]" and batch["keys"] == ["a"] * 6


def _wav(audio: np.ndarray) -> bytes:
    stream = io.BytesIO()
    soundfile.write(stream, audio, 8000, format="WAV", subtype="PCM_16")
    return stream.getvalue()


@pytest.mark.parametrize("world_size", [1, 3])
def test_the_ledger_proves_every_segment(corpus: Path, tmp_path: Path, world_size: int) -> None:
    training = Training(PIPELINES["batch"](corpus), tmp_path / "ledger")
    training.pipeline = Pipeline(training.pipeline.source, Shuffle(), *training.pipeline.stages)
    states = training.run(world_size, steps=2)
    training.run(2, state=states[2], epochs=2)
    report = training.audit(epochs=2)
    assert report.problems == []
    assert [epoch.exact for epoch in report.epochs] == [epoch.samples for epoch in report.epochs] == [29, 29]
    rows = [row for row in read_ledger(training.folder).to_pylist() if row["key"] == "r04" and not row["repeat"]]
    second = {(row["part_start"], row["part_stop"]) for row in rows if row["epoch"] == 1}
    assert sum(stop - start for start, stop in second) == 47_123


def test_a_segment_delivered_for_another_is_found(corpus: Path, tmp_path: Path) -> None:
    training = Training(PIPELINES["batch"](corpus), tmp_path / "ledger")
    training.run()

    def change(messages: list[list[dict[str, object]]]) -> None:
        row = next(row for rows in messages for row in rows if row["key"] == "r00" and row["part_start"])
        row["part_start"], row["part_stop"] = 0, 6667

    training.edit(change)  # type: ignore[arg-type]
    report = training.audit()
    assert {problem.kind for problem in report.problems} >= {"missing"}
    assert any("without [6666:13333] of sample 'r00' of 00000.tar" in problem.what for problem in report.problems)
    training.edit(lambda messages: [[row for row in rows if row["part_start"] != 20_000] for rows in messages])
    assert any("of sample" in problem.what for problem in training.audit().problems)


def test_bad_recordings_lose_their_own_segments_alone(tmp_path: Path) -> None:
    good, bad = recording(20_000, 8000, "flac", 1), bytearray(recording(20_000, 8000, "flac", 2))
    bad[-5000:-4000] = bytes(1000)
    corpus = write_tars(tmp_path / "shards", [("a", {"flac": good}), ("b", {"flac": bytes(bad)})], 2)
    for policy, keys in (("skip", {"a"}), ("substitute", {"a", "b"})):
        pipeline = Pipeline(
            TarShards(str(corpus)),
            Segment(0.5),
            Batch(2),
            DecodeAudio(),
            Collate("audio"),
            bad_samples=policy,
        )
        found = [(key, part) for batch in pipeline for key, part in zip(batch["keys"], batch["parts"], strict=True)]
        assert {key for key, _ in found} <= keys | {"b"}
        assert {part for key, part in found if key == "a"} == {(at, at + 4000) for at in range(0, 20_000, 4000)}
        faults = [fault for batch in pipeline for fault in batch.place.faults]  # type: ignore[union-attr]
        assert {fault.key for fault in faults} == {"b"} and faults[0].stage == "DecodeAudio"


def test_an_iterable_can_be_segmented(tmp_path: Path) -> None:
    items = [
        {"key": f"i{n}", "wav": recording(9000 + n, 8000, "wav", n), "frames": 9000 + n, "rate_hz": 8000}
        for n in range(5)
    ]
    pipeline = Pipeline(Items(lambda: items, window=4), Segment(0.5), Batch(4), DecodeAudio(), Collate("audio"))
    found = Counter(key for batch in pipeline for key in batch["keys"])
    assert found == {f"i{n}": 3 for n in range(5)}


def test_a_recording_that_is_not_what_was_indexed(tmp_path: Path) -> None:
    items = [{"key": "i", "wav": recording(9000, 8000, "wav", 0), "frames": 8000, "rate_hz": 8000}]
    pipeline = Pipeline(Items(lambda: items, window=4), Segment(0.5), Batch(4), DecodeAudio(), Collate("audio"))
    with pytest.raises(SampleError, match=r"DecodeAudio: sample 'i' .* 9000 frames, and 8000 by the index, on which"):
        list(pipeline)
    pipeline = Pipeline(
        Items(lambda: [{**items[0], "frames": 9000}], window=4),
        Segment(0.5), Batch(4), DecodeAudio(offset_s=0.1), Collate("audio"),
    )  # fmt: skip
    with pytest.raises(SampleError, match="a segment was planned, and offset_s and duration_s name another piece"):
        list(pipeline)


def test_a_sample_without_frames_is_named(tmp_path: Path) -> None:
    samples = [("a", {"wav": recording(100, 8000, "wav", 0)}), ("b", {"txt": b"x"})]
    corpus = write_tars(tmp_path / "shards", samples, 2)
    pipeline = Pipeline(TarShards(str(corpus)), Segment(0.5), Batch(4), DecodeAudio(), Collate("audio"))
    with pytest.raises(SampleError, match=r"Segment: sample 'b' in 00000.tar: has no frames, so it is no audio. Leave"):
        list(pipeline)
    clean = Pipeline(pipeline.source, Where("frames", at_least=1), *pipeline.stages)
    assert [batch["keys"] for batch in clean] == [["a"]]


def test_the_length_of_an_epoch_is_that_of_its_plan(corpus: Path) -> None:
    pipeline = PIPELINES["batch"](corpus)
    with pipeline.loader() as loader:
        assert len(loader) == sum(1 for _ in loader)
    with pipeline.loader(rank=0, world_size=2) as loader:
        assert len(loader) == sum(1 for _ in loader)


TARS = TarShards("nowhere")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Segment(0), "Segment: seconds must be above 0, got 0."),
        (lambda: Segment(1, overlap_s=1.0), "Segment: overlap_s must be at least 0 and below seconds, got 1.0."),
        (lambda: Segment(1, remainder="pad"), "Segment: unknown remainder 'pad'. Known: "),
        (
            lambda: Segment(1, overlap_s=0.1, remainder="even"),
            "Segment: segments of equal length do not overlap. Leave out overlap_s, or set remainder='keep'.",
        ),
        (
            lambda: Pipeline(TARS, Segment(1), Batch(2), Collate("wav")),
            "Pipeline: Segment plans parts counted in frames, and no stage cuts them out: each would be the whole "
            "sample. Put DecodeAudio behind it.",
        ),
        (
            lambda: Pipeline(TARS, Segment(1), Take(3), Batch(2), DecodeAudio(), Collate("audio")),
            "Pipeline: Take counts whole samples: put it before Segment.",
        ),
        (
            lambda: Pipeline(TARS, Segment(1), Pack(length=4, too_long="split"), DecodeAudio(), Collate("audio")),
            "Pipeline: Pack cannot divide what Segment has divided into parts. Leave out one.",
        ),
        (
            lambda: Pipeline(TARS, Segment(1), Batch(2, drop_last=True), DecodeAudio(), Collate("audio")),
            "Pipeline: Batch drops short batches, and after Segment every block ends with one: parts would be lost",
        ),
    ],
)
def test_what_cannot_work_is_refused(make, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ConfigError) as caught:
        make()
    assert str(caught.value).startswith(message)


def test_the_audit_of_a_whole_corpus_has_no_parts(corpus: Path, tmp_path: Path) -> None:
    pipeline = Pipeline(TarShards(str(corpus)), Batch(4), DecodeAudio(), Collate("audio"))
    training = Training(pipeline, tmp_path / "ledger")
    training.run()
    assert set(read_ledger(training.folder)["part_start"].to_pylist()) == {None}
    assert audit([training.folder], [str(corpus)], epochs=1).problems == []
    training.edit(lambda messages: [[row | {"part_start": 0, "part_stop": 9} for row in rows] for rows in messages[:2]])
    assert "unplanned" in {problem.kind for problem in training.audit().problems}

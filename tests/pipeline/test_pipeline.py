from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ecopipe.pipeline.identity import first_difference
from ecopipe.pipeline.pipeline import Pipeline
from ecopipe.stages.audio import DecodeAudio, Resample
from ecopipe.stages.collate import Collate
from ecopipe.stages.foreign import Map
from ecopipe.stages.image import DecodeImage, Normalize
from ecopipe.stages.masking import SpecAugment
from ecopipe.stages.plan import Batch, Bucket, Shuffle, Take, Where
from ecopipe.stages.source import TarShards
from ecopipe.stages.spectral import LogMel
from ecopipe.stages.text import TokenizeBasicEnglish
from ecopipe.vocabulary.errors import ConfigError

SOURCE = TarShards("x")
IMAGES = (Shuffle(), Batch(8), DecodeImage(), Collate("image", layout="stack"))


def test_a_pipeline_is_a_value() -> None:
    one, two = Pipeline(SOURCE, *IMAGES), Pipeline(TarShards("x"), *IMAGES)
    assert one == two
    assert hash(one) == hash(two)
    assert one != Pipeline(SOURCE, *IMAGES[:1], Batch(9), *IMAGES[2:])
    assert one | Normalize(mean=(0.5,), std=(0.5,)) == Pipeline(SOURCE, *IMAGES, Normalize(mean=(0.5,), std=(0.5,)))
    assert "Batch(size=8" in repr(one).replace("name='', ", "")
    with pytest.raises(AttributeError):
        one.source = SOURCE  # type: ignore[misc]


def test_the_identity_leaves_out_where_the_shards_lie() -> None:
    assert Pipeline(SOURCE, *IMAGES).identity == Pipeline(TarShards("elsewhere"), *IMAGES).identity
    assert Pipeline(SOURCE, *IMAGES).identity != Pipeline(TarShards("x", lanes=2), *IMAGES).identity


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        (
            (Batch(8), Shuffle(), *IMAGES[2:]),
            r"stage 2, Shuffle \(plan stage\), cannot come after Batch \(batching stage\)",
        ),
        (
            (Batch(8), Bucket("n", max_count=1), *IMAGES[2:]),
            r"stage 2, Bucket \(batching stage\), cannot come after Batch",
        ),
        (
            (Batch(8), Collate("image"), DecodeImage()),
            r"stage 3, DecodeImage \(sample stage\), cannot come after Collate",
        ),
        ((Batch(8), LogMel(), Collate("audio")), r"stage 3, Collate \(collate stage\), cannot come after LogMel"),
        ((DecodeImage(), Collate("image")), "has no Bucket, Batch or Pack. The order is: plan stages"),
        ((Batch(8), DecodeImage()), "has no Collate"),
        (
            (Where("n", at_least=1), Batch(8, drop_last=True), *IMAGES[2:]),
            "Batch drops short batches, and after Where every",
        ),
        (
            (Where("n", at_least=1), Take(3), *IMAGES[1:]),
            "Take counts samples before any is left out: put it before Where",
        ),
        (
            (Shuffle(), Shuffle(), *IMAGES[1:]),
            r"stages 1 and 2 are both called Shuffle. Give one a name: Shuffle\(..., name=",
        ),
        ((*IMAGES, LogMel()), "LogMel needs 'audio', which the batch does not hold there. .*Known: image, keys"),
        ((Batch(8), DecodeAudio(), Collate("audio"), SpecAugment()), "SpecAugment needs 'features'"),
        (
            (*IMAGES, abs),
            "stage 5 is <built-in function abs>, which is no stage. Wrap a function or module in Map or OnDevice",
        ),
    ],
)
def test_an_order_that_cannot_work_is_refused_at_construction(stages: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Pipeline(SOURCE, *stages)


def test_two_stages_of_a_class_need_names() -> None:
    pipeline = Pipeline(
        SOURCE, Where("a", at_least=1), Where("b", at_least=1, name="other"), Batch(8), DecodeImage(), Collate("image")
    )
    assert [stage.label for stage in pipeline.plan_stages] == ["Where", "other"]


class Opened:
    """Shards, as far as their fields go."""

    def __init__(self, fields: set[str]) -> None:
        self.columns = self.fields = fields
        self.parts = {"": self}


@pytest.mark.parametrize(
    ("pipeline", "fields", "message"),
    [
        (
            Pipeline(SOURCE, *IMAGES),
            {"key", "shard", "txt"},
            "DecodeImage needs 'png' or .*which the sample does not hold",
        ),
        (
            Pipeline(SOURCE, Bucket("frame", max_count=2), *IMAGES[2:]),
            {"png", "frames"},
            "Bucket needs 'frame', which the index does not hold there. Did you mean 'frames'?",
        ),
        (
            Pipeline(SOURCE, Batch(2), Resample(8000), DecodeAudio(), Collate("audio")),
            {"flac"},
            "Resample needs 'audio', which the sample does not hold there",
        ),
        (
            Pipeline(SOURCE, Batch(2), DecodeAudio(), Collate("audio", target="lable")),
            {"flac", "label"},
            "Collate needs 'lable', .*Did you mean 'label'?",
        ),
    ],
)
def test_a_missing_field_is_refused_before_a_byte_is_read(pipeline: Pipeline, fields: set[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        pipeline.check_fields(Opened(fields))  # type: ignore[arg-type]


def test_only_what_stages_look_at_is_read() -> None:
    pipeline = Pipeline(SOURCE, Where("n", at_least=1), *IMAGES)
    reads = pipeline.reads()
    assert reads is not None
    assert {"png", "npy"} <= reads
    assert "flac" not in reads
    assert pipeline.plan_columns() == ("key", "shard", "n")


def test_the_identity_is_of_what_a_file_holds_and_of_what_a_function_is(tmp_path: Path) -> None:
    def identity(path: Path, fn: object = abs) -> str:
        stages = (Batch(8), TokenizeBasicEnglish(vocabulary=str(path)), Map(fn, field="tokens"), Collate("tokens"))  # type: ignore[arg-type]
        return json.dumps(Pipeline(SOURCE, *stages).identity)

    for name, text in (("a", "the\nfilm\n"), ("b", "the\nfilm\n"), ("c", "the\nmovie\n")):
        (tmp_path / name).write_text(text)
    assert identity(tmp_path / "a") == identity(tmp_path / "b") != identity(tmp_path / "c")
    assert identity(tmp_path / "a") != identity(tmp_path / "a", round)
    with pytest.raises(ConfigError, match="TokenizeBasicEnglish: .*nowhere: cannot be read"):
        identity(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("saved", "now", "expected"),
    [
        ({"a": [1, {"b": 2}]}, {"a": [1, {"b": 2}]}, None),
        ({"a": [1, {"b": 2}]}, {"a": [1, {"b": 3}]}, "a[1].b was 2 and is 3"),
        ({"a": 1}, {}, "a is gone"),
        ({}, {"a": 1}, "a was not there"),
        ({"a": [1]}, {"a": [1, 2]}, "a had 1 entries and has 2"),
    ],
)
def test_the_first_difference_is_named(saved: Any, now: Any, expected: str | None) -> None:
    assert first_difference(saved, now) == expected


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TarShards(""), "TarShards: path is empty"),
        (lambda: TarShards(("a", "")), "TarShards: path is empty"),
        (lambda: TarShards("x", lanes=0), "TarShards: lanes must be at least 1, got 0"),
        (lambda: TarShards("x", block_rows=0), "TarShards: block_rows must be at least 1, got 0"),
        (lambda: Pipeline("x", *IMAGES), r"the first argument is the source \(TarShards, Mix or Items\), got str"),  # type: ignore[arg-type]
    ],
)
def test_sources_that_cannot_work_are_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()

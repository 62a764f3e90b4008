from __future__ import annotations

import json
from pathlib import Path

import pytest

import ecopipe
from ecopipe.pipeline.bad_samples import BadSamples
from ecopipe.pipeline.toml import parse_override
from ecopipe.stages.plan import Batch, Bucket
from ecopipe.stages.source import Mix, TarShards
from ecopipe.vocabulary.errors import ConfigError

from ..conftest import ROOT

GOOD = """
[source]
path = "x"

[[stages]]
stage = "Shuffle"

[[stages]]
stage = "Batch"
size = 8

[[stages]]
stage = "DecodeImage"

[[stages]]
stage = "Collate"
input = "image"
"""


@pytest.mark.parametrize("path", sorted((ROOT / "pipelines").glob("*.toml")), ids=lambda path: path.stem)
def test_every_pipeline_file_survives_the_way_there_and_back(path: Path) -> None:
    pipeline = ecopipe.load(path)
    assert ecopipe.loads(ecopipe.dumps(pipeline)) == pipeline


def test_overrides_replace_settings() -> None:
    pipeline = ecopipe.loads(GOOD, {"source.path": ["a", "b"], "source.lanes": 2, "Batch.size": 5})
    assert (pipeline.source.paths, pipeline.source.lanes) == (("a", "b"), 2)
    assert pipeline.batching == Batch(5)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("source.path=shards/imdb/train", ("source.path", "shards/imdb/train")),
        ("Batch.size=5", ("Batch.size", 5)),
        ("Bucket.max_padded = 4.5", ("Bucket.max_padded", 4.5)),
        ("Batch.drop_last=true", ("Batch.drop_last", True)),
        ('source.path=["a", "b"]', ("source.path", ["a", "b"])),
        ("source.path=s3://b/x=1", ("source.path", "s3://b/x=1")),
    ],
)
def test_values_of_set_are_toml_or_strings(text: str, expected: tuple[str, object]) -> None:
    assert parse_override(text) == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("[source]", "[sauce]"), "TOML: unknown key 'sauce'. Did you mean 'source'?"),
        (
            ('path = "x"', 'pahts = "x"'),
            r"TOML: \[source\]: unknown key 'pahts'. Did you mean 'path'\? Known: block_rows, lanes, name, path",
        ),
        (('path = "x"', ""), r"TOML: \[source\]: 'path' is missing. Add path = "),
        (("Shuffle", "Shufle"), "TOML: stage 1: unknown stage 'Shufle'. Did you mean 'Shuffle'?"),
        (('stage = "Shuffle"', ""), "TOML: stage 1: has no 'stage' key"),
        (("size = 8", "sise = 8"), "TOML: stage 2, Batch: unknown key 'sise'. Did you mean 'size'?"),
        (("size = 8", 'size = "8"'), "TOML: stage 2, Batch: size = '8' has the wrong type. It takes int."),
        (("size = 8", "size = true"), "TOML: stage 2, Batch: size = True has the wrong type"),
        (("size = 8", "size = 0"), "TOML: stage 2, Batch: size must be at least 1, got 0"),
        (("size = 8", ""), "TOML: stage 2, Batch: 'size' is missing"),
        (("[source]", "[source"), "TOML: is no TOML: .*line"),
        (('input = "image"', 'input = "image"\nlayout = "pda"'), "stage 4, Collate: .*layout.*'pda'.*pad"),
        (('[[stages]]\nstage = "Collate"\ninput = "image"', ""), "TOML: Pipeline: has no Collate. The order is:"),
        (("[[stages]]", "[stages]"), "TOML: is no TOML|stages must be tables"),
    ],
)
def test_a_mistake_is_named_with_the_nearest_right_key(change: tuple[str, str], message: str) -> None:
    assert change[0] in GOOD
    with pytest.raises(ConfigError, match=message):
        ecopipe.loads(GOOD.replace(*change))


def test_overrides_of_nothing_are_refused() -> None:
    with pytest.raises(ConfigError, match="cannot set 'Bacth.size': no such stage. Did you mean 'Batch'?"):
        ecopipe.loads(GOOD, {"Bacth.size": 3})
    with pytest.raises(ConfigError, match="unknown key 'sise'"):
        ecopipe.loads(GOOD, {"Batch.sise": 3})
    with pytest.raises(ConfigError, match="--set 'nonsense': write it as NAME.KEY=VALUE"):
        parse_override("nonsense")


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.toml: there is no such file"):
        ecopipe.load(tmp_path / "nowhere.toml")
    (tmp_path / "x.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"x\.toml: cannot be read"):
        ecopipe.load(tmp_path / "x.toml")


def test_a_users_function_has_no_toml() -> None:
    from ecopipe.stages.foreign import Map

    pipeline = ecopipe.loads(GOOD)
    mapped = ecopipe.Pipeline(pipeline.source, *pipeline.stages[:3], Map(abs, field="image"), pipeline.stages[3])
    with pytest.raises(ConfigError, match="Map: fn is .*abs.*, which TOML cannot hold"):
        ecopipe.dumps(mapped)


def test_numbers_are_taken_as_toml_writes_them() -> None:
    text = GOOD.replace('stage = "Batch"\nsize = 8', 'stage = "Bucket"\nmeasure = "width"\nmax_padded = 400')
    assert ecopipe.loads(text).batching == Bucket("width", max_padded=400)


MIXED = """
[source]
weights = [3, 1.5]
stop = "cycle"
by = "duration_s"

[[source.sources]]
name = "clean"
path = "a"

[[source.sources]]
name = "other"
path = ["b", "c"]

[[stages]]
stage = "Batch"
size = 2

[[stages]]
stage = "Collate"
input = "txt"

[bad_samples]
policy = "skip"
max_share = 0.5
"""


def test_a_mixture_and_a_policy_survive_toml() -> None:
    pipeline = ecopipe.loads(MIXED, {"other.path": "elsewhere", "source.lanes": 2, "bad_samples.max_consecutive": 7})
    sources = (TarShards("a", name="clean"), TarShards("elsewhere", name="other"))
    assert pipeline.source == Mix(sources, weights=(3, 1.5), stop="cycle", by="duration_s", lanes=2)
    assert pipeline.bad_samples == BadSamples("skip", max_share=0.5, max_consecutive=7)
    assert ecopipe.loads(ecopipe.dumps(pipeline)) == pipeline
    by_epoch = ecopipe.loads(MIXED.replace("[3, 1.5]", "[[3, 1], [1, 1]]"))
    assert ecopipe.loads(ecopipe.dumps(by_epoch)) == by_epoch
    assert json.loads(json.dumps(pipeline.identity)) == pipeline.identity
    assert "bad_samples" not in pipeline.identity


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("stop =", "stopp ="), r"\[source\]: unknown key 'stopp'. Did you mean 'stop'\?"),
        (('stop = "cycle"', ""), r"\[source\]: 'stop' is missing"),
        (('"cycle"', '"circle"'), r"\[source\]: unknown stop 'circle'. Did you mean 'cycle'\?"),
        (("weights = [3, 1.5]", 'weights = ["3", 1]'), r"\[source\]: weights = .* has the wrong type"),
        (("weights = [3, 1.5]", "weights = [1]"), r"\[source\]: got 1 weights for 2 sources"),
        (('path = "a"', 'pth = "a"'), r"\[source\] 1: unknown key 'pth'. Did you mean 'path'\?"),
        (('"skip"', '"skipp"'), r"\[bad_samples\]: unknown policy 'skipp'. Did you mean 'skip'\?"),
        (("max_share = 0.5", "max_share = 2"), r"\[bad_samples\]: max_share must lie in \[0, 1\], got 2"),
        (("max_share = 0.5", "max_consecutive = 0"), r"\[bad_samples\]: max_consecutive must be at least 1, got 0"),
        (("[bad_samples]", "[bad_sample]"), r"unknown key 'bad_sample'. Did you mean 'bad_samples'\?"),
        (("[[source.sources]]", "[source.sources]"), r"TOML"),
    ],
)
def test_mistakes_in_a_mixture_or_a_policy_are_named(change: tuple[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ecopipe.loads(MIXED.replace(*change))

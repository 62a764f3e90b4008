"""Sharding as a pipeline with a writer at its end."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ecopipe.datasets.corpus import RawSample, open_corpus
from ecopipe.datasets.shards import opened, verify_folder
from ecopipe.pipeline.toml import load_stages
from ecopipe.sharding.limits import Limits
from ecopipe.sharding.recipe import Recipe
from ecopipe.sharding.write import write_corpus
from ecopipe.stages.audio import DecodeAudio
from ecopipe.stages.collate import Collate
from ecopipe.stages.foreign import Map
from ecopipe.stages.plan import Shuffle, Where
from ecopipe.stages.stage import SampleStage
from ecopipe.stages.text import TokenizeBasicEnglish
from ecopipe.vocabulary.errors import ConfigError, SampleError
from ecopipe.vocabulary.randomness import Chance
from ecopipe.vocabulary.sample import Sample

from .test_write import keys, tree
from .texts import Texts

PREP = """
[[stages]]
stage = "DecodeAudio"

[[stages]]
stage = "Resample"
rate_hz = 8000

[[stages]]
stage = "EncodeAudio"
format = "flac"

[[stages]]
stage = "Where"
measure = "duration_s"
at_least = 3.0
"""


def rows(folder: Path) -> list[dict[str, object]]:
    with opened(str(folder / "index.arrow")) as index:
        return [
            row for number, shard in enumerate(index.shards) for row in index.read(number, 0, shard.rows).to_pylist()
        ]


def test_audio_is_resampled_encoded_and_filtered_on_its_way(tmp_path: Path, corpora: Path) -> None:
    (tmp_path / "prep.toml").write_text(PREP)
    recipe = Recipe(load_stages(tmp_path / "prep.toml"))
    for workers in (0, 2):
        with open_corpus("librispeech", corpora / "librispeech") as corpus:
            written = write_corpus(
                corpus, tmp_path / str(workers), recipe=recipe, limits=Limits(max_count=5), workers=workers
            )
            given = {sample.key: sample for sample in corpus.samples("train-clean-100")}
    assert tree(tmp_path / "0") == tree(tmp_path / "2")
    found = rows(tmp_path / "0" / "train-clean-100")
    lengths = {key: soundfile.info(io.BytesIO(sample.members["flac"])).duration for key, sample in given.items()}
    assert {row["key"] for row in found} == {key for key, length in lengths.items() if length >= 3}
    assert 0 < len(found) < len(given) and written["train-clean-100"].samples == len(found)
    assert {row["rate_hz"] for row in found} == {8000}
    assert all(row["duration_s"] == pytest.approx(lengths[str(row["key"])], abs=1e-3) for row in found)
    assert all({member["extension"] for member in row["members"]} == {"flac", "txt", "json"} for row in found)  # type: ignore[attr-defined]
    assert all(row["speaker"] == given[str(row["key"])].extras["speaker"] for row in found)
    assert verify_folder(str(tmp_path / "0" / "train-clean-100")).problems == []


def words(sample):
    return {"words": len(sample["txt"].split())}


def test_a_number_that_a_stage_gives_becomes_a_column(tmp_path: Path) -> None:
    recipe = Recipe((Map(words, into="words"),))
    write_corpus(Texts(20), tmp_path, splits=["train"], recipe=recipe, limits=Limits(max_count=6))
    assert [row["words"] for row in rows(tmp_path / "train")] == list(range(1, 21))
    assert [row["label"] for row in rows(tmp_path / "train")] == [place % 2 for place in range(20)]


def test_where_sees_the_measures_of_what_is_written(tmp_path: Path) -> None:
    recipe = Recipe((Where("tokens", at_most=10), Where("label", one_of=(1,))))
    written = write_corpus(Texts(20), tmp_path, recipe=recipe)
    assert keys(tmp_path / "train") == [f"train-{place:03d}" for place in (1, 3, 5, 7, 9)]
    assert (written["train"].samples, written["train"].bad) == (5, 0)


@pytest.mark.parametrize("stage", [Shuffle(), Collate("audio")])
def test_stages_that_cannot_write_are_refused(stage: object) -> None:
    with pytest.raises(
        ConfigError, match=r"shard: \w+ is a .* stage. What is sharded passes through sample stages and"
    ):
        Recipe((stage,))  # type: ignore[arg-type]


def test_two_stages_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigError, match="two stages are called 'Map'. Give one of them a name"):
        Recipe((Map(words, into="words"), Map(words, into="words")))


def as_text(sample):
    return {"text": sample["txt"].decode()}


def test_what_cannot_be_written_is_refused_by_name(corpora: Path) -> None:
    with open_corpus("librispeech", corpora / "librispeech") as corpus:
        raw = corpus.sample("train-clean-100", 0)
    with pytest.raises(SampleError, match=r"the field 'audio' is an array float32 \[\d+\], which neither a tar nor an"):
        Recipe((DecodeAudio(),)).apply(raw, {})
    raw = RawSample("a", {"txt": b"some words"})
    with pytest.raises(SampleError, match="the field 'text' is str, which neither a tar nor an index holds"):
        Recipe((Map(as_text, into="text"),)).apply(raw, {})


def number(sample):
    return {"score": 1.5 if sample.key.endswith("007") else 1}


@dataclass(frozen=True)
class Sometimes(SampleStage):
    """Gives a field to one sample only."""

    def apply(self, sample: Sample, chance: Chance) -> Sample:
        return sample.with_fields(rare=1) if sample.key.endswith("077") else sample


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        (Map(number, into="score"), "score = 1.5 is no whole number, and was one in every sample that was tried"),
        (Sometimes(), "it has a value 'rare', which no sample had that was tried beforehand"),
    ],
)
def test_columns_are_settled_beforehand(tmp_path: Path, stage: SampleStage, message: str) -> None:
    count = 300  # of which 64 are tried, and these two are not
    assert not {7, 77} & set(np.linspace(0, count - 1, 64).astype(int).tolist())
    with pytest.raises(SampleError, match=message):
        write_corpus(Texts(count, longest=20), tmp_path, splits=["train"], recipe=Recipe((stage,)))


def test_random_stages_draw_by_the_seed(tmp_path: Path, corpora: Path) -> None:
    (tmp_path / "prep.toml").write_text(
        '[[stages]]\nstage = "DecodeAudio"\n[[stages]]\nstage = "Gain"\nmin_db = -6.0\nmax_db = 0.0\n'
        '[[stages]]\nstage = "EncodeAudio"\nformat = "flac"\n'
    )
    stages = load_stages(tmp_path / "prep.toml")
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        with open_corpus("librispeech", corpora / "librispeech") as corpus:
            write_corpus(corpus, tmp_path / name, recipe=Recipe(stages, seed))
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    assert tree(tmp_path / "a")["train-clean-100/index.arrow"] != tree(tmp_path / "c")["train-clean-100/index.arrow"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[source]\npath = 'x'\n", "has the table 'source'. Stages for sharding stand alone"),
        ("", r"has no stages. Write \[\[stages\]\] before each"),
        ("[[stages]]\nstage = 'os.system'\n", "unknown stage 'os.system'"),
    ],
)
def test_files_of_stages_are_checked(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "prep.toml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_stages(tmp_path / "prep.toml")


def test_a_tokenizer_needs_its_tokens_encoded() -> None:
    with pytest.raises(SampleError, match="'tokens'"):
        Recipe((TokenizeBasicEnglish(),)).apply(RawSample("a", {"txt": b"some words"}), {})

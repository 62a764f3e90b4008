"""New measures of shards that are there, and shards written anew."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ecopipe.cli.main import app
from ecopipe.datasets.shards import opened, verify_folder
from ecopipe.sharding.limits import Limits
from ecopipe.sharding.measuring import _value, add_measures
from ecopipe.sharding.write import write_corpus
from ecopipe.stages.foreign import Map
from ecopipe.stages.text import TokenizeWhitespace
from ecopipe.storage import files
from ecopipe.vocabulary.errors import EcopipeError, SampleError
from ecopipe.vocabulary.sample import Sample

from .test_recipe import rows
from .test_write import tree
from .texts import Texts


def run(*arguments: object, code: int = 0) -> str:
    """What the command prints, on both streams, in one line."""
    found = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if isinstance(found.exception, EcopipeError):
        assert code == 2
        return str(found.exception)
    assert found.exit_code == code, found.output
    return " ".join(found.output.split())


@pytest.fixture
def imdb(tmp_path: Path, shards: Path) -> Path:
    shutil.copytree(shards / "imdb", tmp_path / "imdb")
    return tmp_path / "imdb" / "train"


def test_a_measure_is_added_and_the_tars_stay(imdb: Path) -> None:
    before, told = tree(imdb), rows(imdb)
    assert "words of 60 samples" in run("index", imdb, "--measure", "words=TokenizeWhitespace", "--workers", 2)
    after = tree(imdb)
    assert {name for name in before if before[name] != after[name]} == {"index.arrow"}
    found = rows(imdb)
    assert [{name: value for name, value in row.items() if name != "words"} for row in found] == told
    for row in found:
        member = next(member for member in row["members"] if member["extension"] == "txt")  # type: ignore[attr-defined]
        with open(imdb / str(row["shard"]), "rb") as file:
            file.seek(member["offset"])
            assert row["words"] == len(file.read(member["size"]).decode().split())
    run("index", imdb, "--measure", "words=TokenizeCharacters(unknown='skip')")  # made anew
    assert [row["words"] for row in rows(imdb)] != [row["words"] for row in found]
    run("stream", "pipelines/imdb.toml", "--set", f"source.path={imdb}", "--set", "Bucket.measure=words")


@pytest.mark.parametrize(
    ("measure", "message"),
    [
        ("words", "write NAME=STAGE"),
        ("tokens=TokenizeWhitespace", "this name is taken"),
        ("a b=TokenizeWhitespace", "no plain word"),
        ("words=Shuffle", "is no sample stage"),
        ("words=Tokenise", "unknown stage 'Tokenise'"),
        ("words=TokenizeWhitespace(lover=True)", "unknown key 'lover'"),
        ("words=__import__('os').system('true')", "Write NAME, or NAME"),
        ("words=TokenizeWhitespace(name=open('x'))", "Write NAME, or NAME"),
        ("words=DecodeAudio", "has no"),
    ],
)
def test_measures_that_cannot_be_are_refused(imdb: Path, measure: str, message: str) -> None:
    before = tree(imdb)
    assert message in run("index", imdb, "--measure", measure, "--workers", 0, code=2)
    assert tree(imdb) == before


def test_reshard_merges_shuffles_filters_and_keeps_what_is_known(imdb: Path, tmp_path: Path) -> None:
    run("index", imdb, imdb.parent / "test", "--measure", "words=TokenizeWhitespace")
    out = tmp_path / "out"
    command = ("reshard", imdb, imdb.parent / "test", "--out", out, "--split", "both", "--shuffle", "--max-count", 25)
    run(*command, "--where", "label=1", "--workers", 2)
    found = rows(out / "both")
    known = {row["key"]: row for row in [*rows(imdb), *rows(imdb.parent / "test")]}
    wanted = [key for key, row in known.items() if row["label"] == 1]
    assert sorted(str(row["key"]) for row in found) == sorted(map(str, wanted))
    assert [row["key"] for row in found] != wanted
    assert all(row["words"] == known[row["key"]]["words"] for row in found)
    assert verify_folder(str(out / "both")).problems == []
    told = json.loads((out / "dataset.json").read_text())
    assert (told["name"], told["classes"]) == ("imdb", ["neg", "pos"])
    assert told["splits"]["both"]["provenance"]["options"] == {"where": ["Where('label', one_of=(1,))"]} or (
        "label" in str(told["splits"]["both"]["provenance"]["options"])
    )


def test_reshard_splits_into_the_same_samples(imdb: Path, tmp_path: Path) -> None:
    for name, workers in (("a", 0), ("b", 2)):
        run("reshard", imdb, "--out", tmp_path / name, "--shards", 9, "--workers", workers)
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    with opened(str(tmp_path / "a" / "train" / "index.arrow")) as index:
        assert len(index.shards) == 9

    def payloads(folder: Path) -> list[tuple[object, object]]:
        return [
            (row["key"], sorted((member["extension"], member["crc32"]) for member in row["members"]))  # type: ignore[attr-defined]
            for row in rows(folder)
        ]

    assert payloads(tmp_path / "a" / "train") == payloads(imdb)


def test_reshard_tells_what_cannot_be(imdb: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for command, message in (
        ((imdb, imdb.parent / "test"), "Say with --split what the new one is called"),
        ((imdb, "--where", "label"), "write MEASURE=LOW:HIGH"),
        ((imdb, "--where", "lable=1"), "Did you mean 'label'?"),
        ((imdb, "--where", "label=a:b"), "the bounds of a range are numbers"),
        ((imdb, "--where", "label=7"), "has no samples"),
        ((imdb, "--max-duration", "soon"), "write a number and a unit, such as 90s"),
        ((tmp_path / "nowhere",), "there is no such file or folder"),
    ):
        assert message in run("reshard", *command, "--out", out, code=2)
    shutil.copytree(imdb, tmp_path / "twice" / "train")
    assert "times (" in run("reshard", imdb, tmp_path / "twice" / "train", "--out", out, code=2)
    with open(imdb / sorted(os.listdir(imdb))[1], "r+b") as file:
        file.seek(1540)  # in the text of the first review
        file.write(b"\x00\x01\x02")
    assert "its CRC-32 differs" in run("reshard", imdb, "--out", out, code=2)
    assert not (out / "train").exists()


@pytest.mark.parametrize(("value", "kept"), [(True, 1), (2**62, 2**62), (1.5, 1.5), (2**70, None)])
def test_a_measure_is_what_a_column_holds(value: float, kept: float | None) -> None:
    stage = Map(lambda text: value, field="txt", into="asked")
    sample = Sample("a", {"txt": b"text"})
    if kept is None:
        with pytest.raises(SampleError, match="which no column of int64 holds"):
            _value("asked", (stage,), sample)
    else:
        assert (_value("asked", (stage,), sample), type(_value("asked", (stage,), sample))) == (kept, type(kept))


def test_a_measure_is_added_to_shards_at_a_url(tmp_path: Path) -> None:
    url = f"memory://{tmp_path.name}-{os.getpid()}"
    for place in (url, tmp_path):
        write_corpus(Texts(20), place, splits=["train"], limits=Limits(max_count=6))
        add_measures(files.join(str(place), "train"), [("words", (TokenizeWhitespace(),))])
    with files.open_binary(f"{url}/train/index.arrow") as index:
        assert index.read() == (tmp_path / "train" / "index.arrow").read_bytes()
    assert [row["words"] for row in rows(tmp_path / "train")] == list(range(1, 21))

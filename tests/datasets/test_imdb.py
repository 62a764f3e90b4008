"""IMDB from a folder and from the archive, with labels that mean what they say."""

from __future__ import annotations

import json
import shutil
import tarfile
from collections import Counter
from pathlib import Path

import pytest

from ecopipe.datasets import synthetic
from ecopipe.datasets.imdb import Imdb
from ecopipe.vocabulary.errors import CorpusError
from tests.datasets.streamed import read_all

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "aclImdb_v1.tar.gz"
real = pytest.mark.skipif(not REAL.is_file(), reason="the real part of IMDB is not beside the project")


@pytest.fixture
def made(tmp_path: Path) -> Path:
    return synthetic.write_imdb(tmp_path / "made", reviews=8, unsup=5, median_words=40)


@real
def test_the_real_one() -> None:
    corpus = Imdb(REAL)
    assert corpus.version == "1.0"
    assert corpus.splits() == ("test", "train")
    assert corpus.report() == [
        f"{split}: 5,000 of the 25,000 reviews of the full corpus." for split in ("test", "train")
    ]
    for split in corpus.splits():
        samples = list(corpus.samples(split))
        assert corpus.count(split) == len(samples) == 5000
        assert Counter(sample.members["cls"] for sample in samples) == {b"0": 2500, b"1": 2500}
        for sample in samples:
            rating = sample.extras["rating"]
            assert type(rating) is int
            assert (rating >= 7) == (sample.members["cls"] == b"1") == (corpus.classes.index("pos") == 1 and rating > 5)
            assert sample.key.startswith(f"{split}-{corpus.classes[int(sample.members['cls'])]}-")
            sample.members["txt"].decode()


@real
def test_the_real_one_is_the_same_from_an_unpacked_folder(tmp_path: Path) -> None:
    with tarfile.open(REAL) as tar:
        tar.extractall(tmp_path, filter="data")
    with Imdb(REAL) as packed, Imdb(tmp_path) as parent, Imdb(tmp_path / "aclImdb") as plain:
        for split in packed.splits():
            wanted = list(packed.samples(split))
            assert list(plain.samples(split)) == wanted
            assert list(parent.samples(split)) == wanted


def test_labels_are_places_in_classes_and_both_are_there(made: Path) -> None:
    corpus = Imdb(made)
    assert corpus.classes == ("neg", "pos")
    for split in ("train", "test"):
        labels = Counter(int(sample.members["cls"]) for sample in corpus.samples(split))
        assert labels == {0: 4, 1: 4}  # neither 1 and 2, nor all of one
        for sample in corpus.samples(split):
            text = (made / split / sample.key.split("-")[1] / f"{sample.key.split('-')[2]}.txt").read_bytes()
            assert sample.members["txt"] == text
            about = json.loads(sample.members["json"])
            assert sample.key.endswith(f"-{about['id']}_{about['rating']}")


def test_unsup_is_a_split_without_labels(made: Path) -> None:
    corpus = Imdb(made)
    assert corpus.splits() == ("test", "train", "unsup")
    samples = list(corpus.samples("unsup"))
    assert [sample.key for sample in samples] == [f"unsup-{number}_0" for number in range(5)]
    for sample in samples:
        assert "cls" not in sample.members
        assert sample.extras == {"rating": None, "class_name": None}
        assert json.loads(sample.members["json"])["rating"] is None
    shutil.rmtree(made / "train" / "unsup")
    assert Imdb(made).splits() == ("test", "train")


def test_bytes_are_kept_as_they_are(made: Path) -> None:
    file = next((made / "train" / "pos").iterdir())
    for payload in (b"", b"caf\xe9\r\n", "naïve\n".encode()):
        file.write_bytes(payload)
        key = f"train-pos-{file.stem}"
        assert {sample.key: sample.members["txt"] for sample in Imdb(made).samples("train")}[key] == payload


@pytest.mark.parametrize(("split", "side"), [("train", "pos"), ("train", "neg"), ("test", "pos"), ("test", "neg")])
def test_a_missing_or_empty_class_is_refused(made: Path, split: str, side: str) -> None:
    shutil.rmtree(made / split / side)
    message = rf"aclImdb/{split}/{side} is missing or empty, so {split} would have reviews of one class only\. Fetch"
    with pytest.raises(CorpusError, match=message):
        Imdb(made)
    (made / split / side).mkdir()
    with pytest.raises(CorpusError, match=message):
        Imdb(made)


def test_a_missing_split_is_reported(made: Path) -> None:
    shutil.rmtree(made / "test")
    corpus = Imdb(made)
    assert corpus.splits() == ("train", "unsup")
    assert corpus.report() == [
        "test: this split of the full corpus is missing.",
        "train: 8 of the 25,000 reviews of the full corpus.",
        "unsup: 5 of the 50,000 reviews of the full corpus.",
    ]


def test_a_rating_that_contradicts_its_folder_is_reported(made: Path) -> None:
    (made / "train" / "pos" / "77_2.txt").write_text("Awful.")
    assert (
        "train: 1 of the pos reviews have a rating outside of 7 to 10, such as train/pos/77_2.txt; "
        "the label is that of the folder."
    ) in Imdb(made).report()


def test_a_file_with_a_strange_name_is_refused(made: Path) -> None:
    (made / "train" / "neg" / "notes.txt").write_text("mine")
    with pytest.raises(CorpusError, match=r"train/neg/notes\.txt is not named ID_RATING\.txt"):
        Imdb(made).check("train")
    good, bad = read_all(Imdb(made), "train")
    assert len(good) == 8 and list(bad) == ["train-neg-notes"]


def test_something_else_is_refused(made: Path) -> None:
    with pytest.raises(CorpusError, match=r"aclImdb/train holds no reviews .* It holds: neg/, pos/, unsup/\. Give the"):
        Imdb(made / "train")


def test_the_class_has_its_name_too(made: Path) -> None:
    for sample in Imdb(made).samples("train"):
        name = sample.extras["class_name"]
        assert (1 if name == "pos" else 0) == int(sample.members["cls"])
        assert name == sample.key.split("-")[1]

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest
import webdataset

from ecopipe.datasets.corpus import Corpus, RawSample, open_corpus
from ecopipe.datasets.shards import find_tars, index_tars, verify_folder
from ecopipe.run.writer import ShardWriter, write_corpus
from ecopipe.vocabulary.errors import ConfigError, CorpusError, OutputError

from ..conftest import real


class Texts(Corpus):
    """A corpus of texts; the sample ``bad`` cannot be measured."""

    name = "texts"
    columns: ClassVar[dict[str, str]] = {"speaker": "int32"}
    classes = ("no", "yes")

    def __init__(self, count: int, bad: int | None = None) -> None:
        self._count, self._bad = count, bad

    def splits(self) -> tuple[str, ...]:
        return ("test", "train")

    def count(self, split: str) -> int:
        return self._count

    def report(self) -> list[str]:
        return []

    def samples(self, split: str) -> Iterator[RawSample]:
        for number in range(self._count):
            members = {"txt": b"word " * (number + 1), "cls": b"%d" % (number % 2)}
            if number == self._bad and split == "train":
                members["flac"] = b"no flac"
            yield RawSample(f"{split}-{number:03d}", members, {"speaker": number})


def tree(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_corpus(Texts(20), tmp_path / name, max_count=6)
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    assert sorted(tree(tmp_path / "a")) == sorted(
        ["dataset.json"]
        + [
            f"{split}/{name}"
            for split in ("test", "train")
            for name in ["index.arrow", *(f"{split}-{n:06d}.tar" for n in range(4))]
        ]
    )


def test_shards_are_rolled_by_count_and_by_size(tmp_path: Path) -> None:
    written = write_corpus(Texts(20), tmp_path / "a", max_count=6)
    assert (written["train"].samples, written["train"].shards) == (20, 4)
    written = write_corpus(Texts(20), tmp_path / "b", max_bytes=10_000)
    sizes = [path.stat().st_size for path in (tmp_path / "b" / "train").glob("*.tar")]
    assert written["train"].shards == len(sizes) > 2
    assert sum(sizes) == written["train"].bytes
    assert all(size <= 10_000 + 10_240 for size in sizes)


def test_dataset_json_tells_what_is_there_and_keeps_earlier_splits(tmp_path: Path) -> None:
    write_corpus(Texts(3), tmp_path, splits=["test"])
    write_corpus(Texts(4), tmp_path, splits=["train"], source="texts.tar.gz")
    found = json.loads((tmp_path / "dataset.json").read_text())
    assert (found["name"], found["classes"], found["source"]) == ("texts", ["no", "yes"], "texts.tar.gz")
    assert {split: about["samples"] for split, about in found["splits"].items()} == {"test": 3, "train": 4}
    assert found["splits"]["train"]["labels"] == {"0": 2, "1": 2}
    assert found["splits"]["train"]["totals"]["tokens"] == 10


def test_a_damaged_sample_is_named_and_its_split_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"sample 'train-002': flac: .*Fetch its file again"):
        write_corpus(Texts(4, bad=2), tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["dataset.json", "test"]
    assert verify_folder(str(tmp_path / "test")).problems == []


def test_nothing_is_overwritten_unasked(tmp_path: Path) -> None:
    write_corpus(Texts(3), tmp_path, splits=["train"])
    before = tree(tmp_path)
    with pytest.raises(OutputError, match=r"train: already exists\. Replace it with --overwrite"):
        write_corpus(Texts(4), tmp_path)
    assert tree(tmp_path) == before
    write_corpus(Texts(4), tmp_path, overwrite=True)
    assert verify_folder(str(tmp_path / "train")).samples == 4


def test_what_ecopipe_did_not_make_is_never_replaced(tmp_path: Path) -> None:
    write_corpus(Texts(3), tmp_path, splits=["train"])
    (tmp_path / "train" / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError, match=r"train: holds 'thesis\.txt', which ecopipe did not make"):
        write_corpus(Texts(3), tmp_path, overwrite=True)
    assert (tmp_path / "train" / "thesis.txt").read_text() == "years of work"


def test_a_tar_that_no_index_accounts_for_is_never_replaced(tmp_path: Path) -> None:
    write_corpus(Texts(3), tmp_path, splits=["train"])
    (tmp_path / "train" / "my-precious.tar").write_bytes(b"x")
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "unindexed.tar").write_bytes(b"x")
    for split in ("train", "test"):
        with pytest.raises(OutputError, match=r"which ecopipe did not make, and is not replaced"):
            write_corpus(Texts(3), tmp_path, splits=[split], overwrite=True)


def test_a_tar_is_not_ecopipes_because_it_was_indexed(tmp_path: Path) -> None:
    folder = tmp_path / "train"
    write_corpus(Texts(3), tmp_path, splits=["train"])
    write_corpus(Texts(3), tmp_path / "other", splits=["train"])
    shutil.copy(tmp_path / "other" / "train" / "train-000000.tar", folder / "my-precious.tar")
    index_tars(find_tars(str(folder)))
    with pytest.raises(OutputError, match=r"holds 'my-precious\.tar', which ecopipe did not make"):
        write_corpus(Texts(3), tmp_path, splits=["train"], overwrite=True)
    foreign = tmp_path / "foreign" / "train"
    foreign.mkdir(parents=True)
    shutil.copy(folder / "my-precious.tar", foreign / "train-000000.tar")
    index_tars(find_tars(str(foreign)))
    with pytest.raises(OutputError, match=r"holds 'train-000000\.tar', which ecopipe did not make"):
        write_corpus(Texts(3), tmp_path / "foreign", splits=["train"], overwrite=True)


def test_what_appears_while_shards_are_written_is_not_replaced(tmp_path: Path) -> None:
    write_corpus(Texts(3), tmp_path, splits=["train"])

    class Slow(Texts):
        def samples(self, split: str) -> Iterator[RawSample]:
            yield from super().samples(split)
            (tmp_path / "train" / "thesis.txt").write_text("years of work")

    with pytest.raises(OutputError, match=r"train: holds 'thesis\.txt', which ecopipe did not make"):
        write_corpus(Slow(3), tmp_path, splits=["train"], overwrite=True)
    assert (tmp_path / "train" / "thesis.txt").read_text() == "years of work"
    assert not list(tmp_path.glob(".ecopipe-*"))


def test_two_corpora_do_not_share_a_place(tmp_path: Path, corpora: Path) -> None:
    write_corpus(Texts(3), tmp_path / "o", splits=["train"])
    with open_corpus("imdb", corpora / "imdb") as corpus, pytest.raises(OutputError, match="holds the shards of texts"):
        write_corpus(corpus, tmp_path / "o")
    (tmp_path / "o" / "dataset.json").write_text("{")
    with pytest.raises(OutputError, match=r"dataset\.json: is no readable JSON"):
        write_corpus(Texts(3), tmp_path / "o", splits=["test"])
    assert not (tmp_path / "o" / "test").exists()


@pytest.mark.parametrize("key", ["a.b", "train-000"])
def test_keys_that_would_not_come_back_are_refused(tmp_path: Path, key: str) -> None:
    writer = ShardWriter(tmp_path, "x")
    writer.add(RawSample("train-000", {"txt": b""}))
    with pytest.raises(CorpusError, match="the key holds a dot, or another sample has it. Rename the sample"):
        writer.add(RawSample(key, {"txt": b""}))
    writer.finish()


def test_unknown_splits_and_limits_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="texts has no split 'trian' here. Did you mean 'train'?"):
        write_corpus(Texts(3), tmp_path, splits=["trian"])
    with pytest.raises(ConfigError, match="limits must be at least 1, got max_bytes=0"):
        write_corpus(Texts(3), tmp_path, max_bytes=0)
    assert os.listdir(tmp_path) == []


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # webdataset leaves files open
def test_webdataset_opens_the_shards_of_every_corpus(shards: Path) -> None:
    for split, count in (("librispeech/train-clean-100", 24), ("imdb/train", 60), ("cifar10/train", 60)):
        tars = sorted(map(str, (shards / split).glob("*.tar")))
        assert len(tars) > 1
        dataset = webdataset.WebDataset(tars, shardshuffle=False)
        if split.startswith(("imdb", "cifar10")):
            dataset = dataset.decode("pil")
        found = list(dataset)
        assert len(found) == count
        if split == "imdb/train":
            assert {sample["cls"] for sample in found} == {0, 1}
            assert all(isinstance(sample["txt"], str) for sample in found)
        if split == "cifar10/train":
            assert all(sample["png"].size == (32, 32) for sample in found)


@pytest.mark.parametrize(
    ("name", "source", "counts"),
    [
        ("librispeech", "LibriSpeech", {"test-clean": 132}),
        ("imdb", "aclImdb_v1.tar.gz", {"train": 5000, "test": 5000}),
        ("cifar10", "cifar-10-python.tar.gz", {"train": 4660, "test": 932}),
    ],
)
def test_real_corpora_are_sharded_whole(name: str, source: str, counts: dict[str, int], tmp_path: Path) -> None:
    with open_corpus(name, real(source)) as corpus:
        written = write_corpus(corpus, tmp_path / name)
    assert {split: summary.samples for split, summary in written.items()} == counts
    for split in counts:
        found = verify_folder(str(tmp_path / name / split))
        assert (found.samples, found.problems) == (counts[split], [])
    if name == "imdb":
        assert all(summary.labels == {"0": 2500, "1": 2500} for summary in written.values())

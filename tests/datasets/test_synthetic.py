"""Generated corpora: always the same, in the upstream layouts, and alike to the real ones where it matters."""

from __future__ import annotations

import hashlib
import importlib
import pickle
import re
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ecopipe.datasets import prose, synthetic
from ecopipe.datasets.cifar10 import Cifar10
from ecopipe.datasets.imdb import Imdb
from ecopipe.datasets.librispeech import LibriSpeech
from ecopipe.vocabulary.errors import ConfigError, MissingDependency, OutputError

Writer = Callable[..., Path]
SMALL: list[tuple[Writer, dict[str, Any]]] = [
    (synthetic.write_librispeech, {"utterances": 5, "speakers": 2, "longest_s": 2.5}),
    (synthetic.write_imdb, {"reviews": 8, "unsup": 2, "median_words": 40}),
    (synthetic.write_cifar10, {"rows": 12}),
]


def digest(root: Path) -> dict[str, str]:
    return {
        str(file.relative_to(root)): hashlib.blake2b(file.read_bytes()).hexdigest()
        for file in sorted(root.rglob("*"))
        if file.is_file()
    }


@pytest.mark.parametrize(("write", "settings"), SMALL)
def test_same_seed_same_files_and_another_seed_others(tmp_path: Path, write: Writer, settings: dict[str, Any]) -> None:
    np.random.seed(1)
    first = digest(write(tmp_path / "a", **settings))
    np.random.seed(2)
    assert digest(write(tmp_path / "b", **settings)) == first
    assert digest(write(tmp_path / "c", **settings, seed=1)) != first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c"]


@pytest.mark.parametrize(("write", "settings"), SMALL)
def test_what_is_there_is_left_alone(tmp_path: Path, write: Writer, settings: dict[str, Any]) -> None:
    place = write(tmp_path, **settings)
    before = digest(place)
    with pytest.raises(OutputError, match=r"is there already\. Choose another folder"):
        write(tmp_path, **settings, seed=5)
    assert digest(place) == before


def test_an_interruption_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(prose, "review", stop)
    with pytest.raises(KeyboardInterrupt):
        synthetic.write_imdb(tmp_path, reviews=2)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("write", "settings", "message"),
    [
        (synthetic.write_librispeech, {"utterances": 0}, "utterances=0 must be at least 1"),
        (synthetic.write_librispeech, {"subsets": "dev-clean"}, "is not a list of names"),
        (synthetic.write_librispeech, {"shortest_s": 9.0, "longest_s": 3.0}, "shortest_s=9.0, longest_s=3.0"),
        (synthetic.write_imdb, {"reviews": 3}, "reviews=3 must be even"),
        (synthetic.write_cifar10, {"rows": -1}, "rows=-1 must be at least 1"),
    ],
)
def test_settings_are_checked(tmp_path: Path, write: Writer, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        write(tmp_path, **settings)
    assert list(tmp_path.iterdir()) == []


def test_without_soundfile_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(MissingDependency, match="pip install soundfile"):
        synthetic.write_librispeech(tmp_path)


def test_librispeech_reads_back(tmp_path: Path) -> None:
    soundfile = pytest.importorskip("soundfile")
    root = synthetic.write_librispeech(tmp_path)
    assert {path.name for path in root.iterdir()} == {"README.TXT", "SPEAKERS.TXT", "CHAPTERS.TXT", "train-clean-100"}
    corpus = LibriSpeech(tmp_path)
    samples = list(corpus.samples("train-clean-100"))
    assert len(samples) == 48
    assert len({sample.extras["speaker"] for sample in samples}) == 6
    assert len({sample.extras["chapter"] for sample in samples}) == 12
    durations = []
    for sample in samples:
        speaker, chapter, _ = sample.key.split("-")
        file = root / "train-clean-100" / speaker / chapter / f"{sample.key}.flac"
        about = soundfile.info(file)
        assert (about.samplerate, about.channels, about.format, about.subtype) == (16000, 1, "FLAC", "PCM_16")
        text = sample.members["txt"].decode()
        assert re.fullmatch(r"[A-Z']+( [A-Z']+)*", text)
        assert abs(len(text.split()) - 2.7 * about.duration) <= 1
        durations.append(about.duration)
    assert min(durations) >= 1.49 and max(durations) <= 20.01
    assert statistics.mean(durations) > statistics.median(durations)  # a long tail of long ones
    spoken = re.findall(r"^(\d+) \| [FM] \| train-clean-100  \| ([\d.]+) \|", (root / "SPEAKERS.TXT").read_text(), re.M)
    assert len(spoken) == 6
    assert abs(sum(float(minutes) for _, minutes in spoken) * 60 - sum(durations)) < 6


def test_librispeech_subsets_share_no_speaker(tmp_path: Path) -> None:
    settings = {"utterances": 4, "speakers": 3, "shortest_s": 0.5, "longest_s": 0.7}
    synthetic.write_librispeech(tmp_path, subsets=("train-clean-100", "dev-clean"), **settings)  # type: ignore[arg-type]
    corpus = LibriSpeech(tmp_path)
    speakers = [{sample.extras["speaker"] for sample in corpus.samples(split)} for split in corpus.splits()]
    assert [len(some) for some in speakers] == [3, 3] and not speakers[0] & speakers[1]


def test_imdb_reads_back(tmp_path: Path) -> None:
    root = synthetic.write_imdb(tmp_path)
    assert {path.name for path in root.iterdir()} == {"README", "imdb.vocab", "train", "test"}
    corpus = Imdb(root)
    assert corpus.splits() == ("test", "train") and corpus.version == ""
    texts = {
        split: [(s.members["txt"].decode(), int(s.members["cls"])) for s in corpus.samples(split)]
        for split in corpus.splits()
    }
    assert {split: len(rows) for split, rows in texts.items()} == {"test": 400, "train": 400}
    lengths = [len(text.replace("<br /><br />", " ").split()) for rows in texts.values() for text, _ in rows]
    assert 30 <= min(lengths) < max(lengths) <= 1000
    assert 140 < statistics.median(lengths) < 200 < statistics.mean(lengths)
    assert sum("<br /><br />" in text for text, _ in texts["train"]) > 50
    assert len({text for rows in texts.values() for text, _ in rows}) == 800
    vocabulary = (root / "imdb.vocab").read_text().splitlines()
    assert len(vocabulary) == len(set(vocabulary)) > 200 and vocabulary[0] == "the"
    liked, disliked = set(prose.LIKED), set(prose.DISLIKED)
    right = 0
    for text, label in texts["test"]:
        words = [word.strip(".,!?") for word in text.lower().replace("<br /><br />", " ").split()]
        right += (sum(w in liked for w in words) > sum(w in disliked for w in words)) == bool(label)
    assert right > 360  # nearly all can be told by their words


def test_cifar10_reads_back_and_is_a_python_2_pickle(tmp_path: Path) -> None:
    root = synthetic.write_cifar10(tmp_path)
    corpus = Cifar10(root, storage="raw")
    assert corpus.classes == synthetic.CIFAR10_CLASSES
    assert (corpus.count("train"), corpus.count("test")) == (1000, 200)
    batch = (root / "data_batch_2").read_bytes()
    as_bytes, as_text = pickle.loads(batch, encoding="bytes"), pickle.loads(batch, encoding="latin1")
    assert sorted(as_bytes) == [b"batch_label", b"data", b"filenames", b"labels"]
    assert sorted(as_text) == ["batch_label", "data", "filenames", "labels"]
    assert as_bytes[b"batch_label"] == b"training batch 2 of 5"
    assert np.array_equal(as_bytes[b"data"], as_text["data"]) and as_text["data"].shape == (200, 3072)
    assert sorted(set(as_text["labels"])) == list(range(10))
    assert len({row.tobytes() for row in as_text["data"]}) == 200
    meta = pickle.loads((root / "batches.meta").read_bytes(), encoding="bytes")
    assert meta[b"num_vis"] == 3072 and meta[b"num_cases_per_batch"] == 200

"""Opening a corpus by its name."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from ecopipe.datasets import corpus, synthetic
from ecopipe.datasets.corpus import CORPORA, open_corpus
from ecopipe.vocabulary.errors import ConfigError

DEMO = ("cifar10", "imdb", "librispeech")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small corpus of each kind in it, side by side."""
    place = tmp_path_factory.mktemp("corpora")
    synthetic.write_librispeech(place, utterances=5, speakers=2, longest_s=2.0)
    synthetic.write_imdb(place, reviews=6, unsup=4, median_words=40)
    synthetic.write_cifar10(place, rows=12)
    return place


def test_the_names() -> None:
    assert set(DEMO) < set(CORPORA) and list(CORPORA) == sorted(CORPORA)
    for name in CORPORA:
        assert corpus.reader_of(name).name == name


@pytest.mark.parametrize("name", DEMO)
def test_every_corpus_keeps_the_contract(root: Path, name: str) -> None:
    with open_corpus(name, root) as opened:
        assert opened.name == name
        assert opened.splits() == tuple(sorted(opened.splits())) and opened.splits()
        assert all(type(kind) is str for kind in opened.columns.values())
        assert opened.report() and all(line.endswith(".") for line in opened.report())
        keys: set[str] = set()
        for split in opened.splits():
            samples = list(opened.samples(split))
            assert samples == list(opened.samples(split))
            assert len(samples) == opened.count(split) > 0
            own = [sample.key for sample in samples]
            assert own == sorted(set(own))
            assert keys.isdisjoint(own)
            keys.update(own)
            for sample in samples:
                assert "." not in sample.key
                assert set(sample.extras) == set(opened.columns)
                assert all(type(payload) is bytes and "." not in ext for ext, payload in sample.members.items())
                if opened.classes and "cls" in sample.members:
                    assert 0 <= int(sample.members["cls"]) < len(opened.classes)


@pytest.mark.parametrize("name", DEMO)
def test_a_corpus_survives_pickling(root: Path, name: str) -> None:
    opened = open_corpus(name, root)
    split = opened.splits()[0]
    again = pickle.loads(pickle.dumps(opened))
    assert list(again.samples(split)) == list(opened.samples(split))


def test_an_unknown_name_is_explained(root: Path) -> None:
    with pytest.raises(ConfigError, match=r"no reader for a corpus named 'librispech'\. Did you mean 'librispeech'\?"):
        open_corpus("librispech", root)


def test_an_unknown_option_is_explained(root: Path) -> None:
    with pytest.raises(ConfigError, match=r"cifar10 corpus has no option 'store'\. Did you mean 'storage'\?"):
        open_corpus("cifar10", root, store="png")
    with pytest.raises(ConfigError, match=r"imdb corpus has no option 'only'\. Known: none\."):
        open_corpus("imdb", root, only=())


@pytest.mark.parametrize("name", DEMO)
def test_an_unknown_split_is_explained(root: Path, name: str) -> None:
    opened = open_corpus(name, root)
    for call in (opened.count, lambda split: list(opened.samples(split))):
        with pytest.raises(ConfigError, match=rf"The {name} corpus here has no split 'trian'\. .*Known: "):
            call("trian")


def test_opening_needs_no_torch_and_no_image_library(root: Path) -> None:
    code = (
        "import sys; from ecopipe.datasets.corpus import open_corpus; "
        f"[open_corpus(name, {str(root)!r}).splits() for name in ('cifar10', 'imdb', 'librispeech')]; "
        "sys.exit(any(name in sys.modules for name in ('torch', 'PIL', 'soundfile')))"
    )
    project = Path(corpus.__file__).resolve().parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=project, check=False).returncode == 0

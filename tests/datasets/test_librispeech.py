"""LibriSpeech in every form that it is given in, and what is wrong with some."""

from __future__ import annotations

import json
import re
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from ecopipe.datasets import synthetic
from ecopipe.datasets.librispeech import LibriSpeech
from ecopipe.vocabulary.errors import ConfigError, CorpusError
from tests.datasets.streamed import read_all

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "LibriSpeech"
real = pytest.mark.skipif(not REAL.is_dir(), reason="the real part of LibriSpeech is not beside the project")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("made")
    return synthetic.write_librispeech(
        root, subsets=("dev-clean", "test-other"), utterances=6, speakers=2, shortest_s=0.6, longest_s=0.9
    )


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "LibriSpeech"))


@real
def test_the_real_one() -> None:
    corpus = LibriSpeech(REAL)
    assert corpus.splits() == ("test-clean",)
    assert corpus.count("test-clean") == 132
    assert corpus.report() == ["test-clean: 132 of the 2,620 utterances of the full corpus."]
    samples = {sample.key: sample for sample in corpus.samples("test-clean")}
    assert len(samples) == 132
    assert len({sample.extras["speaker"] for sample in samples.values()}) == 7
    sample = samples["8224-274384-0003"]
    assert sample.members["txt"] == b"OR HATH HE GIVEN US ANY GIFT"
    assert sample.members["flac"] == (REAL / "test-clean/8224/274384/8224-274384-0003.flac").read_bytes()
    assert sample.extras == {"speaker": 8224, "chapter": 274384}
    assert sample.members["json"] == b'{"chapter":274384,"speaker":8224,"subset":"test-clean","utterance":3}'
    written = {
        line.partition(" ")[0]: line.partition(" ")[2]
        for file in REAL.rglob("*.trans.txt")
        for line in file.read_text().splitlines()
    }
    assert {key: sample.members["txt"].decode() for key, sample in samples.items()} == written


@real
@pytest.mark.parametrize("ending", ["tar.gz", "tar"])
def test_the_real_one_is_the_same_from_an_archive_in_any_order(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"test-clean.{ending}"
    names = sorted((str(file.relative_to(REAL.parent)) for file in REAL.rglob("*") if file.is_file()), reverse=True)
    with tarfile.open(path, "w:gz" if ending == "tar.gz" else "w") as tar:
        for name in names:
            tar.add(REAL.parent / name, name)
    with LibriSpeech(path) as packed, LibriSpeech(REAL.parent) as plain:
        assert list(packed.samples("test-clean")) == list(plain.samples("test-clean"))


def test_every_form_is_the_same(made: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "upstream.tar.gz", "w:gz") as tar:
        tar.add(made, "LibriSpeech")
    with tarfile.open(tmp_path / "dev-clean.tar.gz", "w:gz") as tar:
        tar.add(made / "dev-clean", ".")
    wanted = list(LibriSpeech(made).samples("dev-clean"))
    assert len(wanted) == 6
    for path in (made.parent, made / "dev-clean", tmp_path / "upstream.tar.gz", tmp_path / "dev-clean.tar.gz"):
        assert list(LibriSpeech(path).samples("dev-clean")) == wanted, path


def test_subsets_are_chosen(made: Path) -> None:
    assert LibriSpeech(made).splits() == ("dev-clean", "test-other")
    assert LibriSpeech(made, only=("test-other",)).splits() == ("test-other",)
    with pytest.raises(
        CorpusError, match=r"no subset 'test-clean'.*Known: dev-clean, test-other\..*test-clean\.tar\.gz"
    ):
        LibriSpeech(made, only=("test-clean",))
    with pytest.raises(ConfigError, match=r'only is a list of subsets.*only=\("test-other",\)'):
        LibriSpeech(made, only="test-other")
    with pytest.raises(ConfigError, match="no split 'dev-clean'"):
        LibriSpeech(made, only=("test-other",)).count("dev-clean")


def test_transcripts_are_joined_by_id_and_not_by_order(copy: Path) -> None:
    wanted = list(LibriSpeech(copy).samples("dev-clean"))
    for file in copy.rglob("*.trans.txt"):
        lines = file.read_text().splitlines()
        file.write_text("\n\n".join(reversed(lines)) + "\r\n")
    assert list(LibriSpeech(copy).samples("dev-clean")) == wanted


def test_json_is_compact_and_sorted(made: Path) -> None:
    for sample in LibriSpeech(made).samples("dev-clean"):
        about = json.loads(sample.members["json"])
        assert json.dumps(about, sort_keys=True, separators=(",", ":")).encode() == sample.members["json"]
        assert sample.key == f"{about['speaker']}-{about['chapter']}-{about['utterance']:04d}"


FLAC = "dev-clean/9001/90011/9001-90011-0000.flac"
TEXT = "dev-clean/9001/90011/9001-90011.trans.txt"


def drop_audio(root: Path) -> None:
    (root / FLAC).unlink()


def drop_text(root: Path) -> None:
    lines = (root / TEXT).read_text().splitlines(keepends=True)
    (root / TEXT).write_text("".join(lines[1:]))


def drop_all_texts(root: Path) -> None:
    (root / TEXT).unlink()


def copy_audio(root: Path) -> None:
    other = root / "dev-clean" / "9008" / "90081"
    shutil.copy(root / FLAC, other / Path(FLAC).name)


def move_audio(root: Path) -> None:
    other = root / "dev-clean" / "9008" / "90081"
    shutil.move(root / FLAC, other / Path(FLAC).name)


def repeat_text(root: Path) -> None:
    with open(root / TEXT, "a") as file:
        file.write("9001-90011-0000 SOMETHING ELSE\n")


def empty_audio(root: Path) -> None:
    (root / FLAC).write_bytes(b"")


def wrong_audio(root: Path) -> None:
    (root / FLAC).write_bytes(b"RIFF....WAVE")


def misname_audio(root: Path) -> None:
    (root / FLAC).rename((root / FLAC).with_name("copy of 0000.flac"))


def empty_text(root: Path) -> None:
    with open(root / TEXT, "a") as file:
        file.write("9001-90011-0007\n")


def binary_text(root: Path) -> None:
    (root / TEXT).write_bytes(b"\xff\xfe" + (root / TEXT).read_bytes())


AGAIN = r"Fetch the subset dev-clean again\."


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (drop_audio, rf"{TEXT} has a transcript of the utterance 9001-90011-0000, and there is no audio .*{AGAIN}"),
        (drop_text, rf"{FLAC} has no transcript: no \.trans\.txt .* utterance 9001-90011-0000\. {AGAIN}"),
        (drop_all_texts, rf"{FLAC} has no transcript: no \.trans\.txt .* utterance 9001-90011-0000\. {AGAIN}"),
        (copy_audio, rf"utterance 9001-90011-0000 is there twice: .*{FLAC} and .*9008/90081/9001-.*Remove the copy"),
        (
            move_audio,
            rf"90081/9001-90011-0000\.flac does not lie in the folder 9001/90011 .*Move it there, or f{AGAIN[1:]}",
        ),
        (repeat_text, rf"utterance 9001-90011-0000 has two transcripts: in .*{TEXT} and in line 3 of .*{AGAIN}"),
        (empty_audio, rf"{FLAC} \(utterance 9001-90011-0000\) is empty \(0 bytes\)\. {AGAIN}"),
        (misname_audio, rf"{TEXT} has a transcript of the utterance 9001-90011-0000, and there is no audio .*{AGAIN}"),
        (empty_text, rf"{TEXT}, line 3, is '9001-90011-0007', where an utterance id and its transcript .*{AGAIN}"),
        (binary_text, rf"{TEXT}, line 1, is not text in UTF-8 .*{AGAIN}"),
    ],
)
def test_a_damaged_utterance_is_found_before_the_first_sample_and_the_others_are_read(
    copy: Path, spoil: Callable[[Path], None], message: str
) -> None:
    whole = {sample.key: sample for sample in LibriSpeech(copy).samples("dev-clean")}
    spoil(copy)
    corpus = LibriSpeech(copy)
    with pytest.raises(CorpusError, match=message):
        corpus.check("dev-clean")
    good, bad = read_all(corpus, "dev-clean")
    assert any(re.search(message, text) for text in bad.values())
    assert all(whole[key] == sample for key, sample in good.items())
    assert len(good) + len(bad) == corpus.count("dev-clean") >= 6 and len(good) >= 3
    assert corpus.sizes("dev-clean").shape == (corpus.count("dev-clean"),)
    corpus.check("test-other")
    assert corpus.count("test-other") == 6


def test_audio_that_is_no_flac_is_refused(copy: Path) -> None:
    wrong_audio(copy)
    with pytest.raises(CorpusError, match=rf"{FLAC} \(utterance 9001-90011-0000\) begins with b'RIFF', .*{AGAIN}"):
        list(LibriSpeech(copy).samples("dev-clean"))


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    synthetic.write_imdb(tmp_path, reviews=2, median_words=30)
    with pytest.raises(CorpusError, match=r"holds no LibriSpeech subset .* It holds: aclImdb/\. Give the LibriSpeech"):
        LibriSpeech(tmp_path)

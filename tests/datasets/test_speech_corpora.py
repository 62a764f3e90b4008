"""YESNO, LibriTTS, LJSpeech and Speech Commands in their upstream layouts."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from ecopipe.datasets.libritts import LibriTts
from ecopipe.datasets.ljspeech import LJSpeech
from ecopipe.datasets.speech_commands import SpeechCommands
from ecopipe.datasets.yesno import YesNo
from ecopipe.vocabulary.errors import ConfigError, CorpusError
from tests.conftest import real
from tests.datasets.streamed import read_all, round_trip, wav, write


def packed(root: Path, target: Path, mode: str) -> Path:
    with tarfile.open(target, mode) as tar:  # type: ignore[call-overload]
        tar.add(root, root.name)
    return target


def test_the_real_yesno(tmp_path: Path) -> None:
    archive = real("waves_yesno.tar.gz")
    corpus = YesNo(archive)
    assert corpus.report() == ["train: 30 of the 60 recordings of the full corpus."]
    found = round_trip(corpus, tmp_path / "out")["train"]
    with tarfile.open(archive) as tar:
        upstream = {
            member.name[12:-4]: tar.extractfile(member).read()  # type: ignore[union-attr]
            for member in tar
            if member.name.endswith(".wav")
        }
    assert {key: sample["wav"] for key, sample in found.items()} == upstream and len(upstream) == 30
    for key, sample in found.items():
        assert [int(label) for label in sample["txt"].split()] == [int(label) for label in key.split("_")]
        assert (sample["labels"], sample["tokens"], sample["rate_hz"]) == (key.replace("_", ""), 8, 8000)


def test_yesno_refuses_what_it_is_not(tmp_path: Path) -> None:
    root = write(tmp_path / "waves_yesno", {"README": "x"})
    with pytest.raises(CorpusError, match=r"holds no recordings .* It holds: README"):
        YesNo(root)
    write(root, {"0_0_0_0_1_1_1_1.wav": b"RIFX"})
    with pytest.raises(CorpusError, match=r"0_0_0_0_1_1_1_1\.wav begins with b'RIFX', where WAV begins with b'RIFF'"):
        list(YesNo(tmp_path).samples("train"))
    write(root, {"0_1.wav": wav(5, 8000)})
    with pytest.raises(CorpusError, match=r"0_1\.wav is not named after its eight labels"):
        YesNo(root).check("train")
    assert list(read_all(YesNo(root), "train")[1]) == ["0_1", "0_0_0_0_1_1_1_1"]


STEM = "84/121123/84_121123_000007_000001"
LIBRITTS = {
    f"dev-clean/{STEM}.wav": wav(2400, 24_000),
    f"dev-clean/{STEM}.original.txt": "He cost £5.",
    f"dev-clean/{STEM}.normalized.txt": "He cost five pounds.",
    "dev-clean/84/121123/84_121123.trans.tsv": "84_121123_000007_000001\tHe cost £5.\tHe cost five pounds.\n",
    "dev-clean/84/121123/84_121123.book.tsv": "x\n",
    "test-clean/61/70968/61_70968_000000_000000.wav": wav(4800, 24_000),
    "test-clean/61/70968/61_70968_000000_000000.original.txt": "x",
    "test-clean/61/70968/61_70968_000000_000000.normalized.txt": "y\n",
    "test-clean/61/70968/61_70968_000001_000000.wav": wav(4800, 24_000),
    "SPEAKERS.txt": "x",
}


def test_libritts(tmp_path: Path) -> None:
    root = write(tmp_path / "LibriTTS", LIBRITTS)
    corpus = LibriTts(tmp_path)
    found = round_trip(corpus, tmp_path / "out")
    sample = found["dev-clean"]["84_121123_000007_000001"]
    assert sample["wav"] == LIBRITTS[f"dev-clean/{STEM}.wav"]
    assert sample["original.txt"].decode() == "He cost £5."
    assert sample["normalized.txt"] == b"He cost five pounds."
    assert found["test-clean"]["61_70968_000000_000000"]["normalized.txt"] == b"y\n"
    assert (sample["speaker"], sample["chapter"], sample["rate_hz"], sample["frames"]) == (84, 121123, 24_000, 2400)
    assert (sample["tokens"], sample["chars"]) == (5, 20)
    assert corpus.report() == [
        "dev-clean: 1 of the 5,736 sentences of the full corpus.",
        "test-clean: 1 of the 4,837 sentences of the full corpus.",
        "test-clean: 1 sentences lack a file (.wav, .normalized.txt or .original.txt) and are left out, such as "
        "61_70968_000001_000000.",
    ]
    archive = packed(root, tmp_path / "dev-clean.tar.gz", "w:gz")
    assert LibriTts(archive, only=("dev-clean",)).splits() == ("dev-clean",)
    assert list(LibriTts(root / "dev-clean").samples("dev-clean")) == list(corpus.samples("dev-clean"))
    with pytest.raises(CorpusError, match=r"holds no subset 'dev-clena'\. Did you mean 'dev-clean'"):
        LibriTts(root, only=("dev-clena",))
    with pytest.raises(ConfigError, match=r"only is a list of subsets"):
        LibriTts(root, only="dev-clean")
    with pytest.raises(CorpusError, match=r"holds no LibriTTS subset .* It holds: 84_121123"):
        LibriTts(root / "dev-clean" / "84" / "121123")


METADATA = 'LJ001-0001|Printing, "in 1455" £2|Printing, "in fourteen fifty-five" two pounds\r\nLJ001-0002|in|in\r\n'


def test_ljspeech(tmp_path: Path) -> None:
    files = {"metadata.csv": METADATA, "README": "x"}
    root = write(tmp_path / "LJSpeech-1.1", files)
    for number in (1, 2):
        write(root, {f"wavs/LJ001-000{number}.wav": wav(2205 * number, 22_050)})
    for corpus in (LJSpeech(tmp_path), LJSpeech(packed(root, tmp_path / "LJSpeech-1.1.tar.bz2", "w:bz2"))):
        found = round_trip(corpus, tmp_path / f"out-{corpus.tree.archive}")["train"]
        assert found["LJ001-0001"]["original.txt"].decode() == 'Printing, "in 1455" £2'
        assert found["LJ001-0001"]["normalized.txt"] == b'Printing, "in fourteen fifty-five" two pounds'
        assert found["LJ001-0002"]["wav"] == wav(4410, 22_050)
        assert found["LJ001-0002"]["rate_hz"] == 22_050
        assert corpus.report() == ["train: 2 of the 13,100 clips of the full corpus."]


def test_ljspeech_incomplete_and_damaged(tmp_path: Path) -> None:
    root = write(tmp_path, {"metadata.csv": METADATA, "wavs/LJ001-0001.wav": wav(9, 22_050), "wavs/LJ9.wav": b""})
    corpus = LJSpeech(root)
    assert corpus.count("train") == 1
    assert corpus.report()[1:] == [
        "train: 1 lines of metadata.csv have no clip, such as LJ001-0002.",
        "train: 1 clips have no line in metadata.csv, such as wavs/LJ9.wav.",
    ]
    for text, found in (
        (METADATA + "LJ001-0003|only one", r"line 3, is 'LJ001-0003\|only one', where ID\|TEXT\|NORMALIZED is wanted"),
        (METADATA + "LJ001-0001|a|b", r"line 3: the clip LJ001-0001 has a line already"),
        ("LJ002-0001|a|b", r"names 1 clips, and none of them is in"),
    ):
        write(root, {"metadata.csv": text})
        with pytest.raises(CorpusError, match=found):
            LJSpeech(root).check("train")
    write(root, {"metadata.csv": METADATA.encode("latin-1")})
    with pytest.raises(CorpusError, match=r"metadata\.csv is not text in UTF-8"):
        LJSpeech(root).check("train")
    (root / "metadata.csv").unlink()
    with pytest.raises(CorpusError, match=r"holds no metadata\.csv"):
        LJSpeech(root)


COMMANDS = {
    "bed/0a7c2a8d_nohash_0.wav": wav(16_000, 16_000),
    "bed/0a7c2a8d_nohash_1.wav": wav(15_000, 16_000),
    "cat/00b01445_nohash_0.wav": wav(14_000, 16_000),
    "yes/0ab3b47d_nohash_0.wav": wav(13_000, 16_000),
    "_background_noise_/running_tap.wav": wav(48_000, 16_000),
    "_background_noise_/README.md": "x",
    "validation_list.txt": "cat/00b01445_nohash_0.wav\n",
    "testing_list.txt": "bed/0a7c2a8d_nohash_1.wav\nwow/0a7c2a8d_nohash_0.wav\n",
    "README.md": "x",
    "LICENSE": "x",
}


def test_speech_commands(tmp_path: Path) -> None:
    root = write(tmp_path / "SpeechCommands" / "speech_commands_v0.02", COMMANDS)
    corpus = SpeechCommands(tmp_path)
    assert (corpus.classes, corpus.version) == (("bed", "cat", "yes"), "0.02")
    found = round_trip(corpus, tmp_path / "out")
    assert {split: set(samples) for split, samples in found.items()} == {
        "background": {"_background_noise_/running_tap"},
        "test": {"bed/0a7c2a8d_nohash_1"},
        "train": {"bed/0a7c2a8d_nohash_0", "yes/0ab3b47d_nohash_0"},
        "validation": {"cat/00b01445_nohash_0"},
    }
    sample = found["test"]["bed/0a7c2a8d_nohash_1"]
    assert sample["wav"] == COMMANDS["bed/0a7c2a8d_nohash_1.wav"]
    assert [sample[name] for name in ("label", "class_name", "speaker", "take")] == [0, "bed", "0a7c2a8d", 1]
    assert "cls" not in found["background"]["_background_noise_/running_tap"]
    assert corpus.report() == ["test: 1 recordings of testing_list.txt are missing, such as wow/0a7c2a8d_nohash_0.wav."]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        tar.add(root, ".")  # upstream's archive has no folder at its top
    (tmp_path / "speech_commands_v0.02.tar.gz").write_bytes(buffer.getvalue())
    archived = SpeechCommands(tmp_path / "speech_commands_v0.02.tar.gz")
    assert archived.version == "0.02"
    for split in corpus.splits():
        assert list(archived.samples(split)) == list(corpus.samples(split))


def test_speech_commands_incomplete_and_damaged(tmp_path: Path) -> None:
    root = write(tmp_path, {"bed/0a7c2a8d_nohash_0.wav": b"", "testing_list.txt": "bed\n"})
    with pytest.raises(CorpusError, match=r"testing_list\.txt, line 1, is 'bed', where a path such as"):
        SpeechCommands(root)
    (root / "testing_list.txt").unlink()
    corpus = SpeechCommands(root)
    assert corpus.report() == [
        "test: testing_list.txt is missing, so its recordings are in train.",
        "validation: validation_list.txt is missing, so its recordings are in train.",
        "background: _background_noise_ is missing.",
    ]
    with pytest.raises(CorpusError, match=r"0a7c2a8d_nohash_0\.wav is empty, where WAV begins"):
        list(corpus.samples("train"))
    with pytest.raises(CorpusError, match=r"holds no recordings"):
        SpeechCommands(root / "bed")

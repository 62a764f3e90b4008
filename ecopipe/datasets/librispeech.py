"""LibriSpeech (openslr.org/12): read English speech in FLAC with transcripts.

Layout: ``LibriSpeech/SUBSET/SPEAKER/CHAPTER/SPEAKER-CHAPTER-UTTERANCE.flac``, and in each chapter one
``SPEAKER-CHAPTER.trans.txt`` with a line ``ID TEXT`` for every utterance.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar

from ecopipe.datasets.corpus import RawSample, shortfall
from ecopipe.datasets.grouping import key_of
from ecopipe.datasets.listed import Listed, Row
from ecopipe.datasets.tree import Tree
from ecopipe.vocabulary.errors import ConfigError, CorpusError, nearest

_FULL = {
    "dev-clean": 2_703,
    "dev-other": 2_864,
    "test-clean": 2_620,
    "test-other": 2_939,
    "train-clean-100": 28_539,
    "train-clean-360": 104_014,
    "train-other-500": 148_688,
}
_FILE = re.compile(r"(?:(?P<subset>[^/]+)/)?(?P<folder>\d+/\d+)/(?P<stem>[^/]+?)(?P<kind>\.flac|\.trans\.txt)")
_UTTERANCE = re.compile(r"(\d+)-(\d+)-(\d+)", re.ASCII)
_NAMED = re.compile(rb"\d+-\d+-\d+")


class LibriSpeech(Listed):
    """One sample per utterance, its id the key; each subset is a split.

    Members: ``flac`` (the file as it is), ``txt`` (the transcript in UTF-8, without a newline), ``json`` (speaker,
    chapter, utterance, subset). ``path`` is the corpus folder or its parent, one subset's folder, or an upstream
    archive such as ``test-clean.tar.gz``. ``only`` chooses subsets.
    """

    name = "librispeech"
    title = "LibriSpeech: read English speech, 16 kHz, with transcripts"
    expects = "LibriSpeech/SUBSET/SPEAKER/CHAPTER/*.flac and *.trans.txt, or an archive such as dev-clean.tar.gz"
    members: ClassVar = {"flac": "the audio", "txt": "the transcript", "json": "speaker, chapter, utterance, subset"}
    options: ClassVar = {"only": "subsets, such as dev-clean; all that are there unless given"}
    licence = "CC BY 4.0; cite Panayotov et al., ICASSP 2015"
    columns: Mapping[str, str] = {"speaker": "int32", "chapter": "int32"}

    def __init__(self, path: str | os.PathLike[str], *, only: Sequence[str] = ()) -> None:
        if isinstance(only, str):
            raise ConfigError(f'only is a list of subsets, and {only!r} is text. Write only=("{only}",).')
        super().__init__()
        self.only = tuple(only)
        self.tree = Tree(path, inner="LibriSpeech", depth=4)
        self._files: dict[str, list[tuple[str, str, str]]] = {}  # subset -> (kind, stem, name)
        for name in self.tree.names:
            if match := _FILE.fullmatch(name):
                subset = match["subset"] or self.tree.stem
                self._files.setdefault(subset, []).append((match["kind"], match["stem"], name))
        if not self._files:
            raise CorpusError(
                f"{self.tree.where()} holds no LibriSpeech subset (SUBSET/SPEAKER/CHAPTER/*.flac). It holds: "
                f"{self.tree.outline()}. Give the LibriSpeech folder, one of its subsets, or an archive such as "
                f"test-clean.tar.gz."
            )
        for subset in self.only:
            if subset not in self._files:
                raise CorpusError(
                    f"{self.tree.where()} holds no subset {subset!r}. {nearest(subset, self._files)} "
                    f"Choose one of these, or fetch {subset}.tar.gz into the same folder."
                )
        self._rows = {split: [] for split in self.only or self._files}  # filled when they are asked for
        self._quoted: dict[str, bytes] = {}  # the subset's name as JSON, of those that are filled

    def _make(self, split: str, row: Row) -> RawSample:
        key, file, text, speaker, chapter, utterance = row
        audio = self.tree.read(file)
        if not audio.startswith(b"fLaC"):
            found = f"begins with {audio[:4]!r}" if audio else "is empty"
            raise CorpusError(
                f"{self.tree.where(file)} (utterance {key}) {found}, where FLAC begins with b'fLaC'. "
                f"Fetch the subset {split} again."
            )
        about = b'{"chapter":%d,"speaker":%d,"subset":%s,"utterance":%d}' % (
            chapter,
            speaker,
            self._quoted[split],
            utterance,
        )
        members = {"flac": audio, "txt": text.encode(), "json": about}
        return RawSample(key, members, {"speaker": speaker, "chapter": chapter})

    def _files_of(self, row: Row) -> Iterable[str]:
        return (row[1],)

    def report(self) -> list[str]:
        lines: list[str] = []
        for split in self.splits():
            lines += shortfall(split, self.count(split), _FULL.get(split), "utterances")
        return lines

    def _table(self, split: str) -> Sequence[Row]:
        """(id, FLAC file, transcript, speaker, chapter, utterance) of each utterance, by id."""
        if split not in self._quoted:
            self._require_split(split)
            again = f"Fetch the subset {split} again."
            audio, texts = self._audio(split, again), self._transcripts(split, again)
            for key, (where, _) in texts.items():
                if key not in audio:
                    self._fault(
                        split,
                        key,
                        f"{self.tree.where(where)} has a transcript of the utterance {key}, and there is no audio "
                        f"{key}.flac. {again}",
                    )
            rows: list[Row] = []
            for key in sorted({*audio, *texts, *self._faults.get(split, ())}):
                file, (_, text) = audio.get(key, ""), texts.get(key, ("", ""))
                if key not in texts:
                    self._fault(
                        split,
                        key,
                        f"{self.tree.where(file)} has no transcript: no .trans.txt of {split} has a line for the "
                        f"utterance {key}. {again}",
                    )
                if file and not self.tree.size(file):
                    self._fault(split, key, f"{self.tree.where(file)} (utterance {key}) is empty (0 bytes). {again}")
                numbers = _UTTERANCE.fullmatch(key)
                rows.append((key, file, text, *map(int, numbers.groups() if numbers else ())))
            self._rows[split] = rows
            self._quoted[split] = json.dumps(split).encode()
        return self._rows[split]

    def _audio(self, split: str, again: str) -> dict[str, str]:
        """Utterance id -> its FLAC file."""
        audio: dict[str, str] = {}
        for kind, key, name in self._files[split]:
            if kind != ".flac":
                continue
            if key in audio:
                self._fault(
                    split,
                    key,
                    f"The utterance {key} is there twice: {self.tree.where(audio[key])} and {self.tree.where(name)}. "
                    f"Remove the copy that is not in the folder of its speaker and chapter.",
                )
                continue
            numbers = _UTTERANCE.fullmatch(key)
            if numbers is None:
                key = key_of(key)
                self._fault(
                    split,
                    key,
                    f"{self.tree.where(name)} is not named SPEAKER-CHAPTER-UTTERANCE.flac, so its utterance is "
                    f"unknown. Move it out of the corpus, or give it its upstream name.",
                )
            elif not name.endswith(f"{numbers[1]}/{numbers[2]}/{key}.flac"):
                self._fault(
                    split,
                    key,
                    f"{self.tree.where(name)} does not lie in the folder {numbers[1]}/{numbers[2]} of its speaker and "
                    f"chapter. Move it there, or fetch the subset {split} again.",
                )
            audio[key] = name
        return audio

    def _transcripts(self, split: str, again: str) -> dict[str, tuple[str, str]]:
        """Utterance id -> (the .trans.txt file, the transcript)."""
        texts: dict[str, tuple[str, str]] = {}
        for kind, stem, name in self._files[split]:
            if kind != ".trans.txt":
                continue
            for number, line in enumerate(self.tree.read(name).splitlines(), start=1):
                if not line.strip():
                    continue
                key, text, wrong = _read_line(line)
                if wrong:
                    where = self.tree.where(name)
                    self._fault(split, key or f"{stem}-line-{number}", f"{where}, line {number}, {wrong}. {again}")
                elif key in texts:
                    self._fault(
                        split,
                        key,
                        f"The utterance {key} has two transcripts: in {self.tree.where(texts[key][0])} and in line "
                        f"{number} of {self.tree.where(name)}. {again}",
                    )
                else:
                    texts[key] = (name, text)
        return texts


def _read_line(line: bytes) -> tuple[str, str, str]:
    """The utterance id and the transcript of a line; and what is wrong with it, if anything is."""
    named = _NAMED.search(line)
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        return named[0].decode() if named else "", "", f"is not text in UTF-8 ({error})"
    key, _, words = text.partition(" ")
    if _UTTERANCE.fullmatch(key) and words.strip():
        return key, words.strip(), ""
    wrong = f"is {text[:60]!r}, where an utterance id and its transcript are wanted"
    return named[0].decode() if named else "", "", wrong

"""LibriSpeech (openslr.org/12): read English speech in FLAC with transcripts.

Layout: ``LibriSpeech/SUBSET/SPEAKER/CHAPTER/SPEAKER-CHAPTER-UTTERANCE.flac``, and in each chapter one
``SPEAKER-CHAPTER.trans.txt`` with a line ``ID TEXT`` for every utterance.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

from ecopipe.datasets.corpus import Corpus, RawSample, shortfall
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
_UTTERANCE = re.compile(r"(\d+)-(\d+)-(\d+)")


class LibriSpeech(Corpus):
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
        self._tables: dict[str, list[tuple[str, str, str]]] = {}

    def close(self) -> None:
        self.tree.close()

    def splits(self) -> tuple[str, ...]:
        return tuple(sorted(set(self.only) or self._files))

    def count(self, split: str) -> int:
        return len(self._table(split))

    def samples(self, split: str) -> Iterator[RawSample]:
        for key, file, text in self._table(split):
            audio = self.tree.read(file)
            if not audio.startswith(b"fLaC"):
                found = f"begins with {audio[:4]!r}" if audio else "is empty"
                raise CorpusError(
                    f"{self.tree.where(file)} (utterance {key}) {found}, where FLAC begins with b'fLaC'. "
                    f"Fetch the subset {split} again."
                )
            speaker, chapter, utterance = map(int, key.split("-"))
            about = {"chapter": chapter, "speaker": speaker, "subset": split, "utterance": utterance}
            members = {
                "flac": audio,
                "txt": text.encode(),
                "json": json.dumps(about, sort_keys=True, separators=(",", ":")).encode(),
            }
            yield RawSample(key, members, {"speaker": speaker, "chapter": chapter})

    def report(self) -> list[str]:
        lines: list[str] = []
        for split in self.splits():
            lines += shortfall(split, self.count(split), _FULL.get(split), "utterances")
        return lines

    def _table(self, split: str) -> list[tuple[str, str, str]]:
        """(id, FLAC file, transcript) of each utterance, by id."""
        self._require_split(split)
        if split not in self._tables:
            audio, texts = self._audio(split), self._transcripts(split)
            again = f"Fetch the subset {split} again."
            if silent := sorted(texts.keys() - audio.keys()):
                raise CorpusError(
                    f"{self.tree.where(texts[silent[0]][0])} has a transcript of the utterance {silent[0]}, and there "
                    f"is no audio {silent[0]}.flac{_others(silent)}. {again}"
                )
            if mute := sorted(audio.keys() - texts.keys()):
                raise CorpusError(
                    f"{self.tree.where(audio[mute[0]])} has no transcript: no .trans.txt of {split} has a line for the "
                    f"utterance {mute[0]}{_others(mute)}. {again}"
                )
            for key, file in audio.items():
                if self.tree.size(file) == 0:
                    raise CorpusError(f"{self.tree.where(file)} (utterance {key}) is empty (0 bytes). {again}")
            self._tables[split] = [(key, audio[key], texts[key][1]) for key in sorted(audio)]
        return self._tables[split]

    def _audio(self, split: str) -> dict[str, str]:
        """Utterance id -> its FLAC file."""
        audio: dict[str, str] = {}
        for kind, key, name in self._files[split]:
            if kind != ".flac":
                continue
            if not _UTTERANCE.fullmatch(key):
                raise CorpusError(
                    f"{self.tree.where(name)} is not named SPEAKER-CHAPTER-UTTERANCE.flac, so its utterance is "
                    f"unknown. Move it out of the corpus, or give it its upstream name."
                )
            if key in audio:
                raise CorpusError(
                    f"The utterance {key} is there twice: {self.tree.where(audio[key])} and {self.tree.where(name)}. "
                    f"Remove the copy that is not in the folder of its speaker and chapter."
                )
            audio[key] = name
        for key, name in audio.items():
            speaker, chapter, _ = key.split("-")
            if name.split("/")[-3:-1] != [speaker, chapter]:
                raise CorpusError(
                    f"{self.tree.where(name)} does not lie in the folder {speaker}/{chapter} of its speaker and "
                    f"chapter. Move it there, or fetch the subset {split} again."
                )
        return audio

    def _transcripts(self, split: str) -> dict[str, tuple[str, str]]:
        """Utterance id -> (the .trans.txt file, the transcript)."""
        texts: dict[str, tuple[str, str]] = {}
        for kind, _, name in self._files[split]:
            if kind != ".trans.txt":
                continue
            try:
                lines = self.tree.read(name).decode().splitlines()
            except UnicodeDecodeError as error:
                raise CorpusError(
                    f"{self.tree.where(name)} is not text in UTF-8 ({error}). Fetch the subset {split} again."
                ) from error
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                key, _, text = line.partition(" ")
                text = text.strip()
                if not _UTTERANCE.fullmatch(key) or not text:
                    raise CorpusError(
                        f"{self.tree.where(name)}, line {number}, is {line[:60]!r}, where an utterance id and its "
                        f"transcript are wanted. Fetch the subset {split} again."
                    )
                if key in texts:
                    raise CorpusError(
                        f"The utterance {key} has two transcripts: in {self.tree.where(texts[key][0])} and in line "
                        f"{number} of {self.tree.where(name)}. Fetch the subset {split} again."
                    )
                texts[key] = (name, text)
        return texts


def _others(keys: list[str]) -> str:
    return f" (and {len(keys) - 1:,} more like it)" if len(keys) > 1 else ""

"""Speech Commands (Warden 2018): words of about a second by many speakers, 16 kHz.

Layout: ``WORD/SPEAKER_nohash_TAKE.wav``, ``validation_list.txt`` and ``testing_list.txt`` with a path ``WORD/FILE`` a
line, and longer recordings in ``_background_noise_``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import ClassVar

from ecopipe.datasets.corpus import Corpus, RawSample
from ecopipe.datasets.tree import Tree
from ecopipe.datasets.waves import read_wav
from ecopipe.vocabulary.errors import CorpusError

_LISTS = {"validation": "validation_list.txt", "test": "testing_list.txt"}
_NOISE = "_background_noise_"
_FILE = re.compile(r"([^/]+)/(\w+)_nohash_(\d+)\.wav")
_AGAIN = "Fetch the archive (speech_commands_v0.02.tar.gz) again."


class SpeechCommands(Corpus):
    """One sample per recording; the splits are train, validation, test and, apart, background.

    Members: ``wav`` (the file as it is) and ``cls`` (the place of the word in the sorted words; not in background).
    Columns: ``class_name`` (the word), ``speaker`` (upstream's hash) and ``take``. Keys are like
    ``bed/0a7c2a8d_nohash_0``. ``path`` is the corpus folder, what it lies in, or the archive.
    """

    name = "speech_commands"
    title = "Speech Commands: single words by many speakers, 16 kHz"
    expects = "speech_commands_v0.02.tar.gz, or its folder: WORD/*_nohash_N.wav, validation_list.txt, testing_list.txt"
    members: ClassVar = {"wav": "the audio", "cls": "the place of the word among the sorted words"}
    columns: Mapping[str, str] = {"class_name": "string", "speaker": "string", "take": "int32"}
    licence = "CC BY 4.0; cite Warden, arXiv:1804.03209, 2018"

    def __init__(self, path: str | os.PathLike[str]) -> None:
        names = [f"speech_commands_v0.0{number}" for number in (2, 1)]
        self.tree = Tree(path, inner=[*(f"SpeechCommands/{name}" for name in names), *names], depth=2)
        files = {name: match for name in self.tree.names if (match := _FILE.fullmatch(name)) and match[1] != _NOISE}
        if not files:
            raise CorpusError(
                f"{self.tree.where()} holds no recordings (WORD/SPEAKER_nohash_TAKE.wav). It holds: "
                f"{self.tree.outline()}. Give the folder speech_commands_v0.02, its parent, or the archive."
            )
        self.classes = tuple(sorted({match[1] for match in files.values()}))
        listed = {split: self._read_list(file) for split, file in _LISTS.items()}
        self._absent = {split: sorted(names - files.keys()) for split, names in listed.items()}
        self._rows: dict[str, list[str]] = {}
        for name in sorted(files):
            split = next((split for split, names in listed.items() if name in names), "train")
            self._rows.setdefault(split, []).append(name)
        if noises := [name for name in self.tree.under(f"{_NOISE}/") if name.endswith(".wav")]:
            self._rows["background"] = noises
        for names_of in self._rows.values():
            names_of.sort(key=_key)
        version = re.search(r"v(0\.0\d)", self.tree.where())
        self.version = version[1] if version else ""

    def close(self) -> None:
        self.tree.close()

    def splits(self) -> tuple[str, ...]:
        return tuple(sorted(self._rows))

    def count(self, split: str) -> int:
        self._require_split(split)
        return len(self._rows[split])

    def samples(self, split: str) -> Iterator[RawSample]:
        self._require_split(split)
        for name in self._rows[split]:
            members = {"wav": read_wav(self.tree, name, _AGAIN)}
            extras: dict[str, int | float | str | None] = dict.fromkeys(self.columns)
            if split != "background" and (match := _FILE.fullmatch(name)):
                members["cls"] = b"%d" % self.classes.index(match[1])
                extras = {"class_name": match[1], "speaker": match[2], "take": int(match[3])}
            yield RawSample(_key(name), members, extras)

    def report(self) -> list[str]:
        lines: list[str] = []
        for split, file in sorted(_LISTS.items()):
            if file not in self.tree:
                lines.append(f"{split}: {file} is missing, so its recordings are in train.")
            elif absent := self._absent[split]:
                lines.append(f"{split}: {len(absent):,} recordings of {file} are missing, such as {absent[0]}.")
        if "background" not in self._rows:
            lines.append(f"background: {_NOISE} is missing.")
        return lines

    def _read_list(self, file: str) -> set[str]:
        if file not in self.tree:
            return set()
        lines = self.tree.read(file).decode("utf-8", "replace").splitlines()
        for number, line in enumerate(lines, start=1):
            if line.strip() and not _FILE.fullmatch(line.strip()):
                raise CorpusError(
                    f"{self.tree.where(file)}, line {number}, is {line[:60]!r}, where a path such as "
                    f"bed/0a7c2a8d_nohash_0.wav is wanted. {_AGAIN}"
                )
        return {line.strip() for line in lines if line.strip()}


def _key(name: str) -> str:
    return name.removesuffix(".wav").replace(".", "_")

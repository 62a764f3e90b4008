"""Speech Commands (Warden 2018): words of about a second by many speakers, 16 kHz.

Layout: ``WORD/SPEAKER_nohash_TAKE.wav``, ``validation_list.txt`` and ``testing_list.txt`` with a path ``WORD/FILE`` a
line, and longer recordings in ``_background_noise_``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import ClassVar

from ecopipe.datasets.corpus import RawSample
from ecopipe.datasets.listed import Row
from ecopipe.datasets.tree import Tree
from ecopipe.datasets.waves import Waves, read_wav
from ecopipe.vocabulary.errors import CorpusError

_LISTS = {"validation": "validation_list.txt", "test": "testing_list.txt"}
_NOISE = "_background_noise_"
_FILE = re.compile(r"([^/]+)/(\w+)_nohash_(\d+)\.wav")
_AGAIN = "Fetch the archive (speech_commands_v0.02.tar.gz) again."


class SpeechCommands(Waves):
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
        super().__init__()
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
        for name, match in files.items():
            split = next((split for split, names in listed.items() if name in names), "train")
            row = (_key(name), name, match[1], match[2], int(match[3]))
            self._rows.setdefault(split, []).append(row)
        noises = [name for name in self.tree.under(f"{_NOISE}/") if name.endswith(".wav")]
        if noises:
            self._rows["background"] = [(_key(name), name, None, None, None) for name in noises]
        self._finish(_AGAIN)
        self._numbers = {word: b"%d" % number for number, word in enumerate(self.classes)}
        version = re.search(r"v(0\.0\d)", self.tree.where())
        self.version = version[1] if version else ""

    def _make(self, split: str, row: Row) -> RawSample:
        key, file, word, speaker, take = row
        members = {"wav": read_wav(self.tree, file, _AGAIN)}
        if word is not None:
            members["cls"] = self._numbers[word]
        return RawSample(key, members, {"class_name": word, "speaker": speaker, "take": take})

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

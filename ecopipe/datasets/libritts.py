"""LibriTTS (openslr.org/60; Zen et al. 2019): read English speech at 24 kHz, with the text twice.

Layout: ``LibriTTS/SUBSET/SPEAKER/CHAPTER/SPEAKER_CHAPTER_PARAGRAPH_SENTENCE.wav``, and beside each
``.original.txt`` and ``.normalized.txt``; the ``.tsv`` files of a chapter repeat the texts and are not read.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar

from ecopipe.datasets.corpus import RawSample, shortfall
from ecopipe.datasets.listed import Row
from ecopipe.datasets.tree import Tree
from ecopipe.datasets.waves import Waves, read_wav
from ecopipe.vocabulary.errors import ConfigError, CorpusError, nearest

_FULL = {
    "dev-clean": 5_736,
    "dev-other": 4_613,
    "test-clean": 4_837,
    "test-other": 5_120,
    "train-clean-100": 33_236,
    "train-clean-360": 116_500,
    "train-other-500": 205_044,
}
_AGAIN = "Fetch the subset again."
_TEXTS = ("normalized.txt", "original.txt")
_FILE = re.compile(
    r"(?:(?P<subset>[^/]+)/)?(?P<speaker>\d+)/(?P<chapter>\d+)/(?P<key>(?P=speaker)_(?P=chapter)_\d+_\d+)"
    r"\.(?P<kind>wav|normalized\.txt|original\.txt)"
)


class LibriTts(Waves):
    """One sample per sentence, its id the key; each subset is a split.

    Members: ``wav``, ``normalized.txt`` and ``original.txt``, each the file as it is. Texts are counted by the
    normalized one. A sentence of which a file is missing is reported and left out. ``path`` is the corpus folder, its
    parent, one subset's folder, or an upstream archive such as ``dev-clean.tar.gz``. ``only`` chooses subsets.
    """

    name = "libritts"
    title = "LibriTTS: read English speech, 24 kHz, with both texts"
    expects = "LibriTTS/SUBSET/SPEAKER/CHAPTER/*.wav, *.normalized.txt, *.original.txt, or a subset's .tar.gz"
    members: ClassVar = {"wav": "the audio", "normalized.txt": "the text in words", "original.txt": "the text"}
    columns: Mapping[str, str] = {"speaker": "int32", "chapter": "int32"}
    options: ClassVar = {"only": "subsets, such as dev-clean; all that are there unless given"}
    licence = "CC BY 4.0; cite Zen et al., Interspeech 2019"

    def __init__(self, path: str | os.PathLike[str], *, only: Sequence[str] = ()) -> None:
        if isinstance(only, str):
            raise ConfigError(f'only is a list of subsets, and {only!r} is text. Write only=("{only}",).')
        super().__init__()
        self.only = tuple(only)
        self.tree = Tree(path, inner="LibriTTS", depth=4)
        files: dict[str, dict[str, dict[str, str]]] = {}  # subset -> key -> kind -> file
        for name in self.tree.names:
            if match := _FILE.fullmatch(name):
                subset = files.setdefault(match["subset"] or self.tree.stem, {})
                subset.setdefault(match["key"], {})[match["kind"]] = name
        if not files:
            raise CorpusError(
                f"{self.tree.where()} holds no LibriTTS subset (SUBSET/SPEAKER/CHAPTER/*.wav). It holds: "
                f"{self.tree.outline()}. Give the LibriTTS folder, one of its subsets, or an archive such as "
                f"dev-clean.tar.gz."
            )
        for chosen in self.only:
            if chosen not in files:
                raise CorpusError(f"{self.tree.where()} holds no subset {chosen!r}. {nearest(chosen, files)}")
        self._partial: dict[str, list[str]] = {}
        for split in self.only or files:
            found = files[split].items()
            self._rows[split] = [(key, kinds["wav"], kinds) for key, kinds in found if len(kinds) == 3]
            self._partial[split] = sorted(key for key, kinds in found if len(kinds) < 3)
        self._finish(_AGAIN)

    def _files_of(self, row: Row) -> Iterable[str]:
        files: dict[str, str] = row[2]
        return files.values()

    def _make(self, split: str, row: Row) -> RawSample:
        key, file, files = row
        speaker, chapter = map(int, key.split("_")[:2])
        members = {"wav": read_wav(self.tree, file, _AGAIN)}
        members |= {kind: self.tree.read(files[kind]) for kind in _TEXTS}
        return RawSample(key, members, {"speaker": speaker, "chapter": chapter})

    def report(self) -> list[str]:
        lines: list[str] = []
        for split in self.splits():
            lines += shortfall(split, self.count(split), _FULL.get(split), "sentences")
            if partial := self._partial[split]:
                lines.append(
                    f"{split}: {len(partial):,} sentences lack a file (.wav, .normalized.txt or .original.txt) and are "
                    f"left out, such as {partial[0]}."
                )
        return lines

"""YESNO (openslr.org/1): one speaker who says yes or no eight times, 8 kHz.

Layout: ``waves_yesno/0_0_1_0_1_0_0_0.wav``; the name says what is spoken, 1 for yes and 0 for no.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import ClassVar

from ecopipe.datasets.corpus import Corpus, RawSample, shortfall
from ecopipe.datasets.tree import Tree
from ecopipe.datasets.waves import read_wav
from ecopipe.vocabulary.errors import CorpusError

_FULL = 60
_NAME = re.compile(r"[01](?:_[01]){7}")
_AGAIN = "Fetch waves_yesno.tar.gz again."


class YesNo(Corpus):
    """One sample per recording; upstream has no splits, so all are in train.

    Members: ``wav`` (the file as it is), ``txt`` (the eight labels with spaces between them: ``0 0 1 0 1 0 0 0``). The
    column ``labels`` is the same without spaces. The key is the upstream name. ``path`` is the folder of the
    recordings, its parent or the archive.
    """

    name = "yesno"
    title = "YESNO: one speaker saying yes or no eight times, 8 kHz"
    expects = "waves_yesno.tar.gz, or its folder waves_yesno: 0_0_1_0_1_0_0_0.wav, 1 for yes and 0 for no"
    members: ClassVar = {"wav": "the audio", "txt": "eight labels, such as 0 0 1 0 1 0 0 0"}
    columns: Mapping[str, str] = {"labels": "string"}
    licence = "see openslr.org/1"

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.tree = Tree(path, inner="waves_yesno", depth=1)
        self._files = tuple(name for name in self.tree.names if name.endswith(".wav"))
        for name in self._files:
            if not _NAME.fullmatch(name[:-4]):
                raise CorpusError(
                    f"{self.tree.where(name)} is not named after its eight labels, such as 0_0_1_0_1_0_0_0.wav. Move "
                    f"it out of the corpus."
                )
        if not self._files:
            raise CorpusError(
                f"{self.tree.where()} holds no recordings (0_0_1_0_1_0_0_0.wav and so on). It holds: "
                f"{self.tree.outline()}. Give the folder waves_yesno, its parent, or waves_yesno.tar.gz."
            )

    def close(self) -> None:
        self.tree.close()

    def splits(self) -> tuple[str, ...]:
        return ("train",)

    def count(self, split: str) -> int:
        self._require_split(split)
        return len(self._files)

    def samples(self, split: str) -> Iterator[RawSample]:
        self._require_split(split)
        for name in self._files:
            key = name[:-4]
            members = {"wav": read_wav(self.tree, name, _AGAIN), "txt": key.replace("_", " ").encode()}
            yield RawSample(key, members, {"labels": key.replace("_", "")})

    def report(self) -> list[str]:
        return shortfall("train", len(self._files), _FULL, "recordings")

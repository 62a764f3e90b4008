"""YESNO (openslr.org/1): one speaker who says yes or no eight times, 8 kHz.

Layout: ``waves_yesno/0_0_1_0_1_0_0_0.wav``; the name says what is spoken, 1 for yes and 0 for no.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import ClassVar

from ecopipe.datasets.corpus import RawSample, shortfall
from ecopipe.datasets.grouping import key_of
from ecopipe.datasets.listed import Row
from ecopipe.datasets.tree import Tree
from ecopipe.datasets.waves import Waves, read_wav
from ecopipe.vocabulary.errors import CorpusError

_FULL = 60
_NAME = re.compile(r"[01](?:_[01]){7}")
_AGAIN = "Fetch waves_yesno.tar.gz again."


class YesNo(Waves):
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
        super().__init__()
        self.tree = Tree(path, inner="waves_yesno", depth=1)
        for name in self.tree.names:
            if name.endswith(".wav"):
                key = key_of(name[:-4])
                self._rows.setdefault("train", []).append((key, name))
                if not _NAME.fullmatch(key):
                    self._fault(
                        "train",
                        key,
                        f"{self.tree.where(name)} is not named after its eight labels, such as 0_0_1_0_1_0_0_0.wav. "
                        f"Move it out of the corpus.",
                    )
        self._finish(_AGAIN)
        if not self._rows:
            raise CorpusError(
                f"{self.tree.where()} holds no recordings (0_0_1_0_1_0_0_0.wav and so on). It holds: "
                f"{self.tree.outline()}. Give the folder waves_yesno, its parent, or waves_yesno.tar.gz."
            )

    def _make(self, split: str, row: Row) -> RawSample:
        key, file = row
        members = {"wav": read_wav(self.tree, file, _AGAIN), "txt": key.replace("_", " ").encode()}
        return RawSample(key, members, {"labels": key.replace("_", "")})

    def report(self) -> list[str]:
        return shortfall("train", self.count("train"), _FULL, "recordings")

"""LJSpeech (Ito and Johnson 2017): one reader, 22,050 Hz, with transcripts.

Layout: ``LJSpeech-1.1/wavs/LJ001-0001.wav``, and ``metadata.csv`` with a line ``ID|TEXT|NORMALIZED`` for each, without
quoting.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import ClassVar

from ecopipe.datasets.corpus import Corpus, RawSample, shortfall
from ecopipe.datasets.tree import Tree
from ecopipe.datasets.waves import read_wav
from ecopipe.vocabulary.errors import CorpusError

_FULL = 13_100
_KEY = re.compile(r"[\w-]+")
_AGAIN = "Fetch LJSpeech-1.1.tar.bz2 again."


class LJSpeech(Corpus):
    """One sample per clip; upstream has no splits, so all are in train.

    Members: ``wav`` (the file as it is), ``normalized.txt`` (numbers and abbreviations in words) and ``original.txt``.
    The key is the upstream id. Clips without a line, and lines without a clip, are reported and left out. ``path`` is
    the corpus folder, its parent or the archive.
    """

    name = "ljspeech"
    title = "LJSpeech: one English reader, 22,050 Hz, with transcripts"
    expects = "LJSpeech-1.1.tar.bz2, or its folder LJSpeech-1.1: metadata.csv (ID|TEXT|NORMALIZED) and wavs/ID.wav"
    members: ClassVar = {"wav": "the audio", "normalized.txt": "the text in words", "original.txt": "the text"}
    licence = "public domain; cite Ito and Johnson, The LJ Speech Dataset, 2017"
    version = "1.1"

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.tree = Tree(path, inner="LJSpeech-1.1", depth=2)
        if "metadata.csv" not in self.tree:
            raise CorpusError(
                f"{self.tree.where()} holds no metadata.csv. It holds: {self.tree.outline()}. Give the folder "
                f"LJSpeech-1.1, its parent, or LJSpeech-1.1.tar.bz2."
            )
        texts = self._read_texts()
        self._mute = sorted(key for key in texts if f"wavs/{key}.wav" not in self.tree)
        self._rows = [(key, *texts[key]) for key in sorted(texts.keys() - set(self._mute))]
        clips = [name for name in self.tree.under("wavs/") if name.endswith(".wav")]
        self._untold = [name for name in clips if name[5:-4] not in texts]
        if not self._rows:
            raise CorpusError(
                f"{self.tree.where('metadata.csv')} names {len(texts):,} clips, and none of them is in "
                f"{self.tree.where('wavs')}. {_AGAIN}"
            )

    def close(self) -> None:
        self.tree.close()

    def splits(self) -> tuple[str, ...]:
        return ("train",)

    def count(self, split: str) -> int:
        self._require_split(split)
        return len(self._rows)

    def samples(self, split: str) -> Iterator[RawSample]:
        self._require_split(split)
        for key, original, normalized in self._rows:
            audio = read_wav(self.tree, f"wavs/{key}.wav", _AGAIN)
            yield RawSample(
                key, {"wav": audio, "normalized.txt": normalized.encode(), "original.txt": original.encode()}
            )

    def report(self) -> list[str]:
        lines = shortfall("train", len(self._rows), _FULL, "clips")
        if self._mute:
            lines.append(f"train: {len(self._mute):,} lines of metadata.csv have no clip, such as {self._mute[0]}.")
        if self._untold:
            lines.append(f"train: {len(self._untold):,} clips have no line in metadata.csv, such as {self._untold[0]}.")
        return lines

    def _read_texts(self) -> dict[str, tuple[str, str]]:
        """Id -> (text, text in words)."""
        where = self.tree.where("metadata.csv")
        try:
            lines = self.tree.read("metadata.csv").decode("utf-8-sig").split("\n")
        except UnicodeDecodeError as error:
            raise CorpusError(f"{where} is not text in UTF-8 ({error}). {_AGAIN}") from error
        texts: dict[str, tuple[str, str]] = {}
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            parts = line.removesuffix("\r").split("|")
            if len(parts) != 3 or not _KEY.fullmatch(parts[0]):
                raise CorpusError(
                    f"{where}, line {number}, is {line[:60]!r}, where ID|TEXT|NORMALIZED is wanted. {_AGAIN}"
                )
            if parts[0] in texts:
                raise CorpusError(f"{where}, line {number}: the clip {parts[0]} has a line already. {_AGAIN}")
            texts[parts[0]] = (parts[1], parts[2])
        return texts

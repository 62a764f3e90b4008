"""LJSpeech (Ito and Johnson 2017): one reader, 22,050 Hz, with transcripts.

Layout: ``LJSpeech-1.1/wavs/LJ001-0001.wav``, and ``metadata.csv`` with a line ``ID|TEXT|NORMALIZED`` for each, without
quoting.
"""

from __future__ import annotations

import codecs
import os
import re
from typing import ClassVar

from ecopipe.datasets.corpus import RawSample, shortfall
from ecopipe.datasets.listed import Row
from ecopipe.datasets.tree import Tree
from ecopipe.datasets.waves import Waves, read_wav
from ecopipe.vocabulary.errors import CorpusError

_FULL = 13_100
_KEY = re.compile(r"[\w-]+", re.ASCII)
_AGAIN = "Fetch LJSpeech-1.1.tar.bz2 again."


class LJSpeech(Waves):
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
        super().__init__()
        self.tree = Tree(path, inner="LJSpeech-1.1", depth=2)
        if "metadata.csv" not in self.tree:
            raise CorpusError(
                f"{self.tree.where()} holds no metadata.csv. It holds: {self.tree.outline()}. Give the folder "
                f"LJSpeech-1.1, its parent, or LJSpeech-1.1.tar.bz2."
            )
        texts = self._read_texts()
        self._mute = sorted(key for key in texts if f"wavs/{key}.wav" not in self.tree)
        there = texts.keys() - set(self._mute) | self._faults.get("train", {}).keys()
        clips = [name for name in self.tree.under("wavs/") if name.endswith(".wav")]
        self._untold = [name for name in clips if name[5:-4] not in texts and name[5:-4] not in there]
        if not there:
            raise CorpusError(
                f"{self.tree.where('metadata.csv')} names {len(texts):,} clips, and none of them is in "
                f"{self.tree.where('wavs')}. {_AGAIN}"
            )
        sounds = {key: f"wavs/{key}.wav" for key in there if f"wavs/{key}.wav" in self.tree}
        self._rows["train"] = [(key, sounds.get(key, ""), *texts.get(key, ("", ""))) for key in there]
        self._finish(_AGAIN)

    def _make(self, split: str, row: Row) -> RawSample:
        key, file, original, normalized = row
        audio = read_wav(self.tree, file, _AGAIN)
        return RawSample(key, {"wav": audio, "normalized.txt": normalized.encode(), "original.txt": original.encode()})

    def report(self) -> list[str]:
        lines = shortfall("train", self.count("train"), _FULL, "clips")
        if self._mute:
            lines.append(f"train: {len(self._mute):,} lines of metadata.csv have no clip, such as {self._mute[0]}.")
        if self._untold:
            lines.append(f"train: {len(self._untold):,} clips have no line in metadata.csv, such as {self._untold[0]}.")
        return lines

    def _read_texts(self) -> dict[str, tuple[str, str]]:
        """Id -> (text, text in words)."""
        where = self.tree.where("metadata.csv")
        texts: dict[str, tuple[str, str]] = {}
        lines = self.tree.read("metadata.csv").removeprefix(codecs.BOM_UTF8).split(b"\n")
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            key, *parts = line.removesuffix(b"\r").decode("utf-8", "surrogateescape").split("|")
            wrong, shown = "", line[:60].decode("utf-8", "replace")
            if len(parts) != 2 or not _KEY.fullmatch(key):
                wrong = f"{where}, line {number}, is {shown!r}, where ID|TEXT|NORMALIZED is wanted."
            elif any(map(_has_surrogate, parts)):
                wrong = f"{where} is not text in UTF-8: line {number} is {shown!r}."
            elif key in texts:
                wrong = f"{where}, line {number}: the clip {key} has a line already."
            if wrong:
                self._fault("train", key if _KEY.fullmatch(key) else f"metadata-line-{number}", f"{wrong} {_AGAIN}")
            else:
                texts[key] = (parts[0], parts[1])
        return texts


def _has_surrogate(text: str) -> bool:
    return any("\ud800" <= letter <= "\udfff" for letter in text)

"""Folders of images, a folder for each class: ``CLASS/.../x.png``, or ``SPLIT/CLASS/.../x.png``."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping
from typing import ClassVar

from ecopipe.datasets.corpus import Corpus, RawSample
from ecopipe.datasets.grouping import SPLITS, Splits, by_split, check_splits, key_of, refuse_twin
from ecopipe.datasets.tree import Tree
from ecopipe.vocabulary.errors import CorpusError

_EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


class Images(Corpus):
    """One sample per image; the class is the first folder, however deep below it the image lies.

    Members: the file as it is under its extension in lower case, and ``cls`` (the place of the class in the sorted
    classes, as torchvision's ImageFolder counts them; over all splits, so that a class has one number). The column
    ``class_name`` is the folder's name. The key is the path without extension, dots in its last part made underscores.
    ``path`` is the folder or an archive of it.
    """

    name = "images"
    title = "Folders of images, a folder for each class"
    expects = "CLASS/.../x.png (jpg, ppm, bmp, tif, webp ...), or the same below train/, val/, test/; or its archive"
    members: ClassVar = {"EXT": "the file as it is, png or jpg, say", "cls": "the place among the sorted classes"}
    columns: Mapping[str, str] = {"class_name": "string"}
    options: ClassVar = {"splits": SPLITS}

    def __init__(self, path: str | os.PathLike[str], *, splits: Splits = "auto") -> None:
        check_splits(splits)
        self.tree = Tree(path)
        images = [name for name in self.tree.names if name.lower().endswith(_EXTENSIONS)]
        self._ignored = [name for name in self.tree.names if not name.lower().endswith(_EXTENSIONS)]
        self._loose: list[str] = []
        self._rows: dict[str, list[tuple[str, str, str]]] = {}  # split -> (key, file, class)
        for split, (above, names) in by_split(self.tree, images, splits).items():
            rows = []
            for name in names:
                folder, slash, _ = name[len(above) :].partition("/")
                if slash:
                    rows.append((key_of(name.rpartition(".")[0]), name, folder))
                else:
                    self._loose.append(name)
            if rows:
                self._rows[split] = sorted(rows)
        if not self._rows:
            raise CorpusError(
                f"{self.tree.where()} holds no images in folders of classes (CLASS/x.png). It holds: "
                f"{self.tree.outline()}. Give the folder that holds the folders of the classes or of the splits."
            )
        for rows in self._rows.values():
            for (key, first, _), (other, second, _) in itertools.pairwise(rows):
                if key == other:
                    raise refuse_twin(self.tree, key, first, second)
        self.classes = tuple(sorted({row[2] for rows in self._rows.values() for row in rows}))

    def close(self) -> None:
        self.tree.close()

    def splits(self) -> tuple[str, ...]:
        return tuple(sorted(self._rows))

    def count(self, split: str) -> int:
        self._require_split(split)
        return len(self._rows[split])

    def samples(self, split: str) -> Iterator[RawSample]:
        self._require_split(split)
        numbers = {name: b"%d" % number for number, name in enumerate(self.classes)}
        for key, file, folder in self._rows[split]:
            data = self.tree.read(file)
            if not data:
                raise CorpusError(f"{self.tree.where(file)} is empty (0 bytes). Restore it, or remove it.")
            extension = file.rpartition(".")[2].lower()
            yield RawSample(key, {extension: data, "cls": numbers[folder]}, {"class_name": folder})

    def report(self) -> list[str]:
        lines = []
        if self._loose:
            lines.append(f"{len(self._loose):,} images lie in no folder of a class, such as {self._loose[0]}.")
        if self._ignored:
            lines.append(f"{len(self._ignored):,} files are no images and are left out, such as {self._ignored[0]}.")
        for split in self.splits():
            if absent := sorted(set(self.classes) - {row[2] for row in self._rows[split]}):
                lines.append(f"{split}: {len(absent):,} of the classes have no image, such as {absent[0]}.")
        return lines

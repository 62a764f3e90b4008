"""Folders of images, a folder for each class: ``CLASS/.../x.png``, or ``SPLIT/CLASS/.../x.png``."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import ClassVar

from ecopipe.datasets.corpus import RawSample
from ecopipe.datasets.grouping import SPLITS, Splits, by_split, check_splits, escaped, key_of, unprintable
from ecopipe.datasets.listed import Listed, Row
from ecopipe.datasets.tree import Tree
from ecopipe.vocabulary.errors import CorpusError

_EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


class Images(Listed):
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
        super().__init__()
        self.tree = Tree(path)
        images = [name for name in self.tree.names if name.lower().endswith(_EXTENSIONS)]
        self._ignored = [name for name in self.tree.names if not name.lower().endswith(_EXTENSIONS)]
        self._loose: list[str] = []
        for split, (above, names) in by_split(self.tree, splits, images).items():
            found: dict[str, Row] = {}
            for name in names:
                folder, slash, _ = name[len(above) :].partition("/")
                if not slash:
                    self._loose.append(name)
                    continue
                key = key_of(name.rpartition(".")[0])
                if not name.isprintable():
                    key = escaped(key)
                    self._fault(split, key, unprintable(self.tree, name))
                where = self.tree.where(name)
                if (row := found.setdefault(key, (key, name, folder)))[1] != name:
                    message = f"{self.tree.where(row[1])} and {where} would both be the sample {key!r}."
                    self._fault(split, key, f"{message} Rename one of them.")
                if not self.tree.size(name):
                    self._fault(split, key, f"{where} is empty (0 bytes). Restore it, or remove it.")
            if found:
                self._rows[split] = [found[key] for key in sorted(found)]
        if not self._rows:
            raise CorpusError(
                f"{self.tree.where()} holds no images in folders of classes (CLASS/x.png). It holds: "
                f"{self.tree.outline()}. Give the folder that holds the folders of the classes or of the splits."
            )
        self.classes = tuple(sorted({row[2] for rows in self._rows.values() for row in rows}))
        self._numbers = {name: b"%d" % number for number, name in enumerate(self.classes)}

    def _files_of(self, row: Row) -> Iterable[str]:
        return (row[1],)

    def _make(self, split: str, row: Row) -> RawSample:
        key, file, folder = row
        members = {file.rpartition(".")[2].lower(): self.tree.read(file), "cls": self._numbers[folder]}
        return RawSample(key, members, {"class_name": folder})

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

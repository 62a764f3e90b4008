"""Any folder of files: those of one path up to the first dot of the name are one sample."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import ClassVar

from ecopipe.datasets.corpus import RawSample
from ecopipe.datasets.grouping import SPLITS, Splits, by_split, check_splits, escaped, unprintable
from ecopipe.datasets.listed import Listed, Row
from ecopipe.datasets.tree import Tree
from ecopipe.vocabulary.errors import CorpusError

_MOST_KINDS = 8  # that a report names


class Folder(Listed):
    """One sample per path up to the first dot of the file's name: ``a/1.wav``, ``a/1.txt`` and ``a/1.src.txt`` are the
    sample ``a/1`` with the members ``wav``, ``txt`` and ``src.txt``, as WebDataset has it.

    Members: each file as it is, under its extension in lower case. Files without an extension are left out. ``path`` is
    the folder or an archive of it.
    """

    name = "folder"
    title = "Any folder of files, those of one name together"
    expects = "KEY.EXT files, nested or not, such as a/1.wav with a/1.txt; or an archive of them"
    members: ClassVar = {"EXT": "the file as it is, for each extension"}
    options: ClassVar = {"splits": SPLITS}

    def __init__(self, path: str | os.PathLike[str], *, splits: Splits = "auto") -> None:
        check_splits(splits)
        super().__init__()
        self.tree = Tree(path)
        self._bare: list[str] = []
        for split, (_, names) in by_split(self.tree, splits).items():
            found: dict[str, dict[str, str]] = {}
            for name in names:
                above, slash, last = name.rpartition("/")
                stem, _, extension = last.partition(".")
                if not extension:
                    self._bare.append(name)
                    continue
                key = above + slash + stem
                if not name.isprintable():
                    key = escaped(key)
                    self._fault(split, key, unprintable(self.tree, name))
                files = found.setdefault(key, {})
                twin = files.setdefault(extension.lower(), name)
                if twin != name:
                    self._fault(
                        split,
                        key,
                        f"{self.tree.where(twin)} and {self.tree.where(name)} would be the same member "
                        f"{extension.lower()!r} of the sample {key!r}. Rename one of them.",
                    )
            if found:
                self._rows[split] = sorted(found.items())
        if not self._rows:
            raise CorpusError(
                f"{self.tree.where()} holds no file with an extension. It holds: {self.tree.outline()}. "
                f"Give the folder that holds the samples' files."
            )

    def _files_of(self, row: Row) -> Iterable[str]:
        files: dict[str, str] = row[1]
        return files.values()

    def _make(self, split: str, row: Row) -> RawSample:
        key, files = row
        return RawSample(key, {extension: self.tree.read(file) for extension, file in files.items()})

    def report(self) -> list[str]:
        lines = []
        if self._bare:
            lines.append(f"{len(self._bare):,} files without an extension are left out, such as {self._bare[0]}.")
        for split, rows in sorted(self._rows.items()):
            kinds = {extension for _, files in rows for extension in files}
            partial = [key for key, files in rows if files.keys() != kinds]
            if partial:
                shown = ", ".join(sorted(kinds)[:_MOST_KINDS]) + (" ..." if len(kinds) > _MOST_KINDS else "")
                lines.append(f"{split}: {len(partial):,} samples lack one of {shown}, such as {partial[0]}.")
        return lines

"""What readers of WAV corpora share."""

from __future__ import annotations

from collections.abc import Iterable

from ecopipe.datasets.listed import Listed, Row
from ecopipe.datasets.tree import Tree
from ecopipe.vocabulary.errors import CorpusError


class Waves(Listed):
    """A corpus of WAV files; the file is the second of a row."""

    def _files_of(self, row: Row) -> Iterable[str]:
        return (row[1],)

    def _finish(self, again: str) -> None:
        """Sorts the rows, and notes those whose file is empty."""
        for split, rows in self._rows.items():
            self._rows[split] = sorted(rows)
            for key, file, *_ in self._rows[split]:
                if file and not self.tree.size(file):
                    self._fault(split, key, _wrong(self.tree, file, b"", again))


def read_wav(tree: Tree, file: str, again: str) -> bytes:
    """The bytes of a WAV file as they are.

    Args:
        tree: Where the file lies.
        file: Its name there.
        again: The remedy for a damaged file, a sentence.

    Raises:
        CorpusError: It is empty, or no WAV by its first bytes.
    """
    audio = tree.read(file)
    if audio[:4] != b"RIFF" or audio[8:12] != b"WAVE":
        raise CorpusError(_wrong(tree, file, audio[:4], again))
    return audio


def _wrong(tree: Tree, file: str, head: bytes, again: str) -> str:
    found = f"begins with {head!r}" if head else "is empty"
    return f"{tree.where(file)} {found}, where WAV begins with b'RIFF'. {again}"

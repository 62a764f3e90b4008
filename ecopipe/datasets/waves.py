"""What readers of WAV corpora share."""

from __future__ import annotations

from ecopipe.datasets.tree import Tree
from ecopipe.vocabulary.errors import CorpusError


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
        found = f"begins with {audio[:4]!r}" if audio else "is empty"
        raise CorpusError(f"{tree.where(file)} {found}, where WAV begins with b'RIFF'. {again}")
    return audio

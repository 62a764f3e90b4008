"""Counting more tokens than memory holds, exactly."""

from __future__ import annotations

import heapq
import itertools
import pickle
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from operator import itemgetter
from typing import IO

from ecopipe.vocabulary.errors import ConfigError

LIMIT = 1 << 21
"""Different tokens that are held: some 200 MB."""

_CHUNK = 4096
_token = itemgetter(0)


class TokenCounts:
    """How often each token was met. The counts are exact, and so the same in whatever order and parts they came.

    Beyond ``limit`` different tokens those that are held are written, sorted, to a temporary file, and all such files
    are merged when the counts are read: memory is bounded by the limit, the disk holds the rest, and nothing is pruned.
    """

    def __init__(self, *, limit: int = LIMIT) -> None:
        if type(limit) is not int or limit < 1:
            raise ConfigError(f"TokenCounts: limit must be a positive int, got {limit!r}.")
        self.limit = limit
        self.total = 0
        """Tokens met, repeats among them."""
        self.spilled = 0
        """Temporary files written."""
        self._held: Counter[str] = Counter()
        self._files: list[IO[bytes]] = []

    def add(self, tokens: Iterable[str]) -> None:
        """Counts tokens, or adds what a mapping of tokens to counts holds."""
        found = tokens if isinstance(tokens, Mapping) else list(tokens)
        self._held.update(found)
        self.total += sum(found.values()) if isinstance(found, Mapping) else len(found)
        if len(self._held) > self.limit:
            self._spill()

    def _spill(self) -> None:
        file = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the counts
        ordered = iter(sorted(self._held.items()))
        while chunk := list(itertools.islice(ordered, _CHUNK)):
            pickle.dump(chunk, file, protocol=pickle.HIGHEST_PROTOCOL)
        self._files.append(file)
        self.spilled += 1
        self._held.clear()

    def items(self) -> Iterator[tuple[str, int]]:
        """Each token and its count: in alphabetical order, if any were written to disk."""
        if not self._files:
            yield from self._held.items()
            return
        runs = [*map(_read, self._files), iter(sorted(self._held.items()))]
        for token, same in itertools.groupby(heapq.merge(*runs, key=_token), key=_token):
            yield token, sum(count for _, count in same)

    def close(self) -> None:
        """Removes the temporary files."""
        for file in self._files:
            file.close()
        self._files.clear()
        self._held.clear()

    def __enter__(self) -> TokenCounts:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()


def _read(file: IO[bytes]) -> Iterator[tuple[str, int]]:
    file.seek(0)
    while True:
        try:
            chunk = pickle.load(file)
        except EOFError:
            return
        yield from chunk

"""A vocabulary: tokens and their numbers, both ways."""

from __future__ import annotations

import heapq
import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ecopipe.vocabulary.errors import ConfigError, MissingDependency, OutputError
from ecopipe.vocabulary.json_text import parse_json

VERSION = 1
SUFFIX = ".json"


@dataclass(frozen=True)
class Vocab:
    """Tokens and their numbers, which count from 0. Two are equal if they number all tokens alike.

    >>> vocab = Vocab.build([["a", "film"], ["a"]], specials=["<unk>"]).with_default("<unk>")
    >>> vocab["film"], vocab.lookup_token(1), vocab(["a", "novel"]), "novel" in vocab, len(vocab)
    (2, 'a', [1, 0], False, 3)

    Args:
        tokens: The tokens in the order of their numbers; none twice.
        default_index: The number of every token that is not among them; without one, they are errors.

    Raises:
        ConfigError: A token stands twice, or is no str.
    """

    tokens: tuple[str, ...]
    default_index: int | None = None
    _numbers: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "tokens", tuple(self.tokens))
        object.__setattr__(self, "_numbers", {token: number for number, token in enumerate(self.tokens)})
        wrong = next((token for token in self.tokens if not isinstance(token, str)), None)
        if wrong is not None:
            raise ConfigError(f"Vocab: a token is {wrong!r}, which is no str.")
        if len(self._numbers) != len(self.tokens):
            token, times = Counter(self.tokens).most_common(1)[0]
            raise ConfigError(f"Vocab: the token {token!r} stands in {times} places. Name each one once.")
        if self.default_index is not None and type(self.default_index) is not int:
            raise ConfigError(f"Vocab: default_index must be an int or None, got {self.default_index!r}.")
        if self.default_index is not None and not -1 <= self.default_index < max(len(self.tokens), 1):
            raise ConfigError(
                f"Vocab: default_index = {self.default_index} is no place in a vocabulary of {len(self.tokens)} tokens."
            )

    # -- building -----------------------------------------------------------------------------------------------------

    @classmethod
    def build(cls, texts: Iterable[Iterable[str]], **settings: Any) -> Vocab:
        """The vocabulary of texts, each an iterable of tokens; the settings are those of :meth:`from_counts`.

        Only the counts are held. :class:`ecopipe.formats.counts.TokenCounts` counts more tokens than memory holds.
        """
        counts: Counter[str] = Counter()
        for tokens in texts:
            counts.update(tokens)
        return cls.from_counts(counts.items(), **settings)

    @classmethod
    def from_counts(
        cls,
        counts: Iterable[tuple[str, int]],
        *,
        specials: Sequence[str] = (),
        special_first: bool = True,
        min_freq: int = 1,
        max_tokens: int | None = None,
        max_size: int | None = None,
    ) -> Vocab:
        """The vocabulary of (token, count) pairs, the most frequent first, those of one count in alphabetical order.

        The two limits are those of torchtext's two generations, to the token::

            max_tokens=10_000   build_vocab_from_iterator: the 10,000 - len(specials) most frequent tokens, and of these
                                those with min_freq that are no specials: 10,000 entries at most, fewer if a special
                                is itself frequent in the texts
            max_size=10_000     Field.build_vocab: 10,000 tokens that are no specials, and the specials beside them:
                                10,002 entries with <unk> and <pad>

        Args:
            counts: The pairs, each token once, in any order. They are read once, and under a limit not held.
            specials: Tokens that are always there, in their order, whatever their count.
            special_first: Whether the specials have the first numbers, or the last.
            min_freq: Rarer tokens are left out.
            max_tokens: Entries at most, specials among them.
            max_size: Entries at most, beside the specials.

        Raises:
            ConfigError: Both limits are given; ``max_tokens`` leaves room for no token; ``min_freq`` is below 1.
        """
        if isinstance(specials, str):
            raise ConfigError(f"Vocab: specials must be a list of tokens, got {specials!r}.")
        for name, value in (("min_freq", min_freq), ("max_tokens", max_tokens), ("max_size", max_size)):
            if value is not None and (type(value) is not int or value < 1):
                raise ConfigError(f"Vocab: {name} must be a positive int, got {value!r}.")
        if max_tokens is not None and max_size is not None:
            raise ConfigError("Vocab: max_tokens counts the specials and max_size does not. Set one of them.")
        if max_tokens is not None and max_tokens <= len(specials):
            raise ConfigError(
                f"Vocab: max_tokens={max_tokens} leaves no room beside {len(specials)} specials. Raise it, or set "
                "max_size, which does not count them."
            )
        special = frozenset(specials)
        if max_tokens is None:
            ordered = _most_frequent((pair for pair in counts if pair[0] not in special), max_size)
        else:
            ordered = _most_frequent(counts, max_tokens - len(specials))
        words = [token for token, count in ordered if count >= min_freq and token not in special]
        return cls((*specials, *words) if special_first else (*words, *specials))

    def with_default(self, default: str | int | None) -> Vocab:
        """This vocabulary with another number for unknown tokens: a token's of it, a number, or None for an error."""
        return Vocab(self.tokens, self[default] if isinstance(default, str) else default)

    # -- looking up ---------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.tokens)

    def __contains__(self, token: object) -> bool:
        return token in self._numbers

    def __iter__(self) -> Iterator[str]:
        return iter(self.tokens)

    def __getitem__(self, token: str) -> int:
        """The number of a token.

        Raises:
            KeyError: It is not there, and there is no default index.
        """
        number = self._numbers.get(token, self.default_index)
        if number is None:
            raise KeyError(f"token {token!r} is not in the vocabulary of {len(self):,}, which has no default index")
        return number

    def lookup_indices(self, tokens: Iterable[str]) -> list[int]:
        """The numbers of tokens.

        Raises:
            KeyError: One is not there, and there is no default index.
        """
        if self.default_index is None:
            return [self[token] for token in tokens]
        get, default = self._numbers.get, self.default_index
        return [get(token, default) for token in tokens]

    __call__ = lookup_indices

    def lookup_token(self, index: int) -> str:
        """The token of a number.

        Raises:
            IndexError: No token has it.
        """
        if not 0 <= index < len(self.tokens):
            raise IndexError(f"no token has number {index}: the vocabulary has 0 to {len(self) - 1:,}")
        return self.tokens[index]

    def lookup_tokens(self, indices: Iterable[int]) -> list[str]:
        """The tokens of numbers.

        Raises:
            IndexError: One is no token's.
        """
        return [self.lookup_token(index) for index in indices]

    # -- files --------------------------------------------------------------------------------------------------------

    def dumps(self) -> str:
        """As JSON: equal vocabularies give equal text."""
        content = {"version": VERSION, "default_index": self.default_index, "tokens": list(self.tokens)}
        return json.dumps(content, indent=0) + "\n"

    def save(self, path: str | Path) -> None:
        """Writes JSON, or, under a name that does not end in ``.json``, text of one token a line, which holds no
        default index. What stood there before is replaced by the whole file, or stays.

        Raises:
            ConfigError: A token holds a line feed, which the text cannot hold.
            OutputError: The file cannot be written.
        """
        path = Path(path)
        broken = next((token for token in self.tokens if "\n" in token or "\r" in token), None)
        if path.suffix != SUFFIX and broken is not None:
            raise ConfigError(f"{path}: the token {broken!r} does not fit into one line. Save it as {SUFFIX}.")
        text = self.dumps() if path.suffix == SUFFIX else "".join(f"{token}\n" for token in self.tokens)
        data = text.encode("utf-8")
        try:
            with tempfile.NamedTemporaryFile("wb", prefix=".ecopipe-", dir=path.parent, delete=False) as file:
                try:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                    os.chmod(file.name, 0o644)
                    os.replace(file.name, path)
                except BaseException:
                    os.unlink(file.name)
                    raise
        except OSError as error:
            raise OutputError(f"{path}: cannot be written: {error.strerror or error}. Choose another place.") from error

    @classmethod
    def load(cls, path: str | Path) -> Vocab:
        """Reads what :meth:`save` wrote.

        Raises:
            ConfigError: The file cannot be read, is no vocabulary, or one of another version.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ConfigError(f"{path}: the vocabulary cannot be read: {reason}.") from error
        try:
            if Path(path).suffix == SUFFIX:
                return cls.loads(text)
            return cls(tuple(text.removesuffix("\n").split("\n") if text else ()))
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from error

    @classmethod
    def loads(cls, text: str) -> Vocab:
        """Reads what :meth:`dumps` wrote.

        Raises:
            ConfigError: The text is no vocabulary, or one of another version.
        """
        try:
            content = parse_json(text)
            version, tokens, default = content["version"], content["tokens"], content["default_index"]
        except (ValueError, TypeError, KeyError) as error:
            raise ConfigError(f"Vocab: is no vocabulary ({error!r}). Make one with 'ecopipe vocab'.") from error
        if not isinstance(tokens, list):
            raise ConfigError("Vocab: tokens must be a list. Make the file with 'ecopipe vocab'.")
        if version != VERSION:
            raise ConfigError(f"Vocab: is of version {version!r}; this ecopipe reads {VERSION}. Make it again.")
        return cls(tuple(tokens), default)

    # -- torchtext ----------------------------------------------------------------------------------------------------

    @classmethod
    def from_torchtext(cls, vocab: Any) -> Vocab:
        """What a ``torchtext.vocab.Vocab`` holds."""
        return cls(tuple(vocab.get_itos()), vocab.get_default_index())

    def to_torchtext(self) -> Any:
        """A ``torchtext.vocab.Vocab`` that holds the same.

        Raises:
            MissingDependency: There is no torchtext.
        """
        try:
            from torchtext.vocab import vocab
        except ImportError as error:
            raise MissingDependency(
                "Vocab.to_torchtext needs torchtext, which is archived and runs beside torch 2.3 only. "
                "Install it: pip install torchtext==0.18.0 torch==2.3.1"
            ) from error
        made = vocab(dict.fromkeys(self.tokens, 1))
        made.set_default_index(self.default_index)
        return made


def _most_frequent(counts: Iterable[tuple[str, int]], most: int | None) -> list[tuple[str, int]]:
    def order(pair: tuple[str, int]) -> tuple[int, str]:
        return -pair[1], pair[0]

    return sorted(counts, key=order) if most is None else heapq.nsmallest(most, counts, key=order)

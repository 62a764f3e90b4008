"""Stages that make token numbers of parts of words, by a tokenizer that was trained and saved before."""

from __future__ import annotations

import os
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ecopipe.stages.stage import from_file
from ecopipe.stages.tokenizer import Tokenizer, Tokens, read_once
from ecopipe.vocabulary.errors import ConfigError, MissingDependency


@dataclass(frozen=True)
class TokenizeJson(Tokenizer):
    """Text -> numbers by a tokenizer that the ``tokenizers`` library saved as JSON: BPE, WordPiece, Unigram, ...

    ``ecopipe train-tokenizer`` trains one. The file is read once in each process that uses the stage; the stage itself
    holds the path only. Texts are encoded one by one, which starts no threads, so that a process may be forked at any
    time. Batches would not be faster: on one thread, as a worker has it, ``encode_batch`` of 64 reviews made 0.95 to
    0.98 of the texts a second that BPE makes one by one (``python -m benchmarks.text``).

    Args:
        path: The JSON file.
        field: The text: bytes, or str; how its bytes are read is told by :class:`~ecopipe.stages.tokenizer.Tokenizer`.
        into: The field for the numbers, int64 [U].
        max_tokens: Cut after so many.
        special_tokens: Whether the tokenizer adds its special tokens.
    """

    path: str = from_file()
    _: KW_ONLY
    special_tokens: bool = True

    @property
    def vocabulary_size(self) -> int:
        """How many numbers there are."""
        size: int = _json_tokenizer(self.path).get_vocab_size()
        return size

    def encode(self, text: str) -> Tokens:
        encoding = _json_tokenizer(self.path).encode(text, add_special_tokens=self.special_tokens)
        return np.array(encoding.ids, dtype=np.int64)


@read_once
def _json_tokenizer(path: str) -> Any:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        from tokenizers import Tokenizer as Saved
    except ImportError as error:
        raise MissingDependency("TokenizeJson needs tokenizers. Install it: pip install tokenizers") from error
    _check_file("TokenizeJson", path)
    try:
        tokenizer = Saved.from_file(path)
    except Exception as error:  # the library raises plain Exception
        raise ConfigError(f"TokenizeJson: {path!r} is not a saved tokenizer: {error}") from error
    tokenizer.no_padding()
    return tokenizer


@dataclass(frozen=True)
class TokenizeSentencePiece(Tokenizer):
    """Text -> numbers by a SentencePiece model, as torchtext's ``sentencepiece_numericalizer`` gives them.

    The file is read once in each process that uses the stage; the stage itself holds the path only.

    Args:
        path: The model file (``.model``).
        field: The text: bytes, or str; how its bytes are read is told by :class:`~ecopipe.stages.tokenizer.Tokenizer`.
        into: The field for the numbers, int64 [U]. What is number 0 the model decides; most have unknown pieces there.
        max_tokens: Cut after so many.
        bos: Put the model's number for the beginning of a text before it.
        eos: Put the model's number for the end of a text behind it.
    """

    path: str = from_file()
    _: KW_ONLY
    bos: bool = False
    eos: bool = False

    @property
    def vocabulary_size(self) -> int:
        """How many numbers there are."""
        size: int = _sentence_pieces(self.path).get_piece_size()
        return size

    def encode(self, text: str) -> Tokens:
        model = _sentence_pieces(self.path)
        return np.array(model.encode(text, out_type=int, add_bos=self.bos, add_eos=self.eos), dtype=np.int64)


@read_once
def _sentence_pieces(path: str) -> Any:
    try:
        from sentencepiece import SentencePieceProcessor
    except ImportError as error:
        raise MissingDependency(
            "TokenizeSentencePiece needs sentencepiece. Install it: pip install sentencepiece"
        ) from error
    _check_file("TokenizeSentencePiece", path)
    model = SentencePieceProcessor()
    try:
        model.LoadFromSerializedProto(Path(path).read_bytes())
    except (RuntimeError, OSError) as error:
        raise ConfigError(f"TokenizeSentencePiece: {path!r} is no SentencePiece model: {error}") from error
    return model


def _check_file(stage: str, path: str) -> None:
    if not Path(path).is_file():
        raise ConfigError(f"{stage}: there is no file {path!r}")

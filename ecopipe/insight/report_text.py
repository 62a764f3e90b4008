"""A text beside the tokens that a pipeline makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ecopipe.stages.stage import SampleStage
from ecopipe.stages.subwords import TokenizeJson, TokenizeSentencePiece
from ecopipe.stages.text import TokenizeCharacters, Words
from ecopipe.stages.tokenizer import Tokenizer
from ecopipe.vocabulary.sample import Sample

MOST_TOKENS = 80
MOST_CHARACTERS = 600


@dataclass(frozen=True)
class Text:
    """The beginning of a text, and its tokens: (number, what it stands for; empty where that is not known)."""

    key: str
    stage: str
    text: str
    tokens: tuple[tuple[int, str], ...]
    characters: int
    count: int


def text_of(stages: Sequence[SampleStage], states: Sequence[tuple[str, Sample]]) -> list[Text]:
    """The texts that tokenizers of a pipeline met in one sample, from its state before and after each stage."""
    found = []
    for stage, (_, before), (_, after) in zip(stages, states, states[1:], strict=False):
        if isinstance(stage, Tokenizer):
            text, numbers = stage.text(before), [int(number) for number in after[stage.into]]
            shown = numbers[:MOST_TOKENS]
            pieces = _pieces(stage, text, shown)
            tokens = tuple(zip(shown, pieces, strict=True))
            found.append(Text(after.key, stage.label, text[:MOST_CHARACTERS], tokens, len(text), len(numbers)))
    return found


def _pieces(stage: Tokenizer, text: str, numbers: Sequence[int]) -> list[str]:
    """What each token stands for."""
    pieces: list[str] = []
    if isinstance(stage, TokenizeCharacters):
        pieces = [stage.alphabet[number - 1] for number in numbers]
    elif isinstance(stage, Words):
        pieces = stage.words(text)[: len(numbers)]
    elif isinstance(stage, TokenizeJson):
        from tokenizers import Tokenizer as Saved

        saved = Saved.from_file(stage.path)
        pieces = [saved.id_to_token(number) or "" for number in numbers]
    elif isinstance(stage, TokenizeSentencePiece):
        from sentencepiece import SentencePieceProcessor

        pieces = SentencePieceProcessor(model_file=stage.path).id_to_piece(list(numbers))
    return pieces if len(pieces) == len(numbers) else [""] * len(numbers)

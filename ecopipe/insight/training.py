"""Training a tokenizer of parts of words on a pipeline's corpus. The same corpus gives the same file.

==============  =====================================================================  =============================
kind            text is brought into                                                   words are cut
==============  =====================================================================  =============================
``bpe``         NFC; bytes stand for characters, so that nothing is unknown            as GPT-2 cuts them
``wordpiece``   NFC without control characters, lower case without accents if asked    at white space and punctuation
``unigram``     NFKC                                                                   at white space
==============  =====================================================================  =============================

Only words and their counts are held, never the texts. ``tokenizers`` alone would not give the same file twice: it
numbers WordPiece's inner characters, and adds up Unigram's scores, in the order of a hash table with a random seed. So
the characters are collected first and named in their order, and Unigram's pieces and scores are SentencePiece's, which
counts in order.
"""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any, Literal, get_args

from ecopipe.formats.counts import TokenCounts
from ecopipe.insight.vocabulary import CorpusText
from ecopipe.vocabulary.errors import ConfigError, DataError, MissingDependency, nearest

Kind = Literal["bpe", "wordpiece", "unigram"]

PAD, UNKNOWN = "<pad>", "<unk>"
SPECIALS = (PAD, UNKNOWN)
"""The first two tokens of every tokenizer that is trained here: number 0 pads, and 1 is for what is unknown."""

_INNER = "##"
_SPACE = "\u2581"
_BATCH = 256


def train_tokenizer(
    text: CorpusText, kind: Kind, size: int, *, specials: Sequence[str] = (), lowercase: bool = False
) -> Any:
    """Trains a tokenizer; its ``save`` writes what :class:`~ecopipe.stages.subwords.TokenizeJson` reads.

    Args:
        text: The corpus. It is read once; twice for WordPiece.
        kind: See above.
        size: Tokens at most, :data:`SPECIALS` and ``specials`` among them.
        specials: Further tokens that are never made of a text's parts, numbered from 2.
        lowercase: Lower-case the text; for WordPiece, take the accents off too.

    Returns:
        A ``tokenizers.Tokenizer``.

    Raises:
        ConfigError: An unknown kind; ``size`` is too small for the characters that there are.
        DataError: The texts hold no word.
        MissingDependency: ``tokenizers`` is not there, or for Unigram ``sentencepiece``.
    """
    if kind not in get_args(Kind):
        raise ConfigError(f"train-tokenizer: unknown kind {kind!r}. {nearest(str(kind), get_args(Kind))}")
    try:
        import tokenizers
    except ImportError as error:
        raise MissingDependency("Training needs tokenizers. Install it: pip install tokenizers") from error
    named = (*SPECIALS, *specials)
    if len(set(named)) != len(named):
        raise ConfigError(f"train-tokenizer: the special tokens {', '.join(named)} are not all different.")
    train = {"bpe": _bpe, "wordpiece": _wordpiece, "unigram": _unigram}[kind]
    tokenizer = train(tokenizers, text, size, named, lowercase)
    tokenizer.add_special_tokens(list(named))
    return tokenizer


def _bpe(library: Any, text: CorpusText, size: int, specials: tuple[str, ...], lowercase: bool) -> Any:
    tokenizer = library.Tokenizer(library.models.BPE())
    tokenizer.normalizer = _normalizers(library, library.normalizers.NFC(), lowercase)
    tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = library.decoders.ByteLevel()
    alphabet = library.pre_tokenizers.ByteLevel.alphabet()
    _check_size(size, len(specials) + len(alphabet), f"{len(specials)} special tokens and {len(alphabet)} bytes")
    trainer = library.trainers.BpeTrainer(
        vocab_size=size, special_tokens=list(specials), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(_batches(text.texts()), trainer)
    return tokenizer


def _wordpiece(library: Any, text: CorpusText, size: int, specials: tuple[str, ...], lowercase: bool) -> Any:
    def fresh(vocabulary: dict[str, int]) -> Any:
        tokenizer = library.Tokenizer(library.models.WordPiece(vocabulary, unk_token=UNKNOWN))
        bert = library.normalizers.BertNormalizer(lowercase=lowercase, strip_accents=lowercase)
        tokenizer.normalizer = library.normalizers.Sequence([library.normalizers.NFC(), bert])
        tokenizer.pre_tokenizer = library.pre_tokenizers.BertPreTokenizer()
        tokenizer.decoder = library.decoders.WordPiece(prefix=_INNER)
        return tokenizer

    tokenizer = fresh({})
    first: set[str] = set()
    inner: set[str] = set()
    for found in text.texts():
        for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(tokenizer.normalizer.normalize_str(found)):
            first.add(word[0])
            inner.update(word[1:])
    if not first:
        raise _no_text()
    known = [*sorted(first | inner), *(_INNER + character for character in sorted(inner))]
    _check_size(size, len(specials) + len(known), f"{len(specials)} special tokens and {len(known)} characters")
    trainer = library.trainers.WordPieceTrainer(
        vocab_size=size, special_tokens=[*specials, *known], show_progress=False
    )
    tokenizer.train_from_iterator(_batches(text.texts()), trainer)
    return fresh(json.loads(tokenizer.to_str())["model"]["vocab"])


def _unigram(library: Any, text: CorpusText, size: int, specials: tuple[str, ...], lowercase: bool) -> Any:
    tokenizer = library.Tokenizer(library.models.Unigram())
    tokenizer.normalizer = _normalizers(library, library.normalizers.NFKC(), lowercase)
    tokenizer.pre_tokenizer = library.pre_tokenizers.Metaspace(replacement=_SPACE)
    tokenizer.decoder = library.decoders.Metaspace(replacement=_SPACE)
    with text.count(_NormalWords(tokenizer.normalizer)) as counts:
        if not counts.total:
            raise _no_text()
        pieces = _pieces(counts, size - len(specials))
    scored = [*((token, 0.0) for token in specials), *pieces]
    tokenizer.model = library.models.Unigram(scored, unk_id=specials.index(UNKNOWN), byte_fallback=False)
    return tokenizer


class _NormalWords:
    """Words as Unigram is trained on them; picklable, for workers."""

    def __init__(self, normalizer: Any) -> None:
        self._normalizer = normalizer

    def __call__(self, text: str) -> list[str]:
        words: list[str] = self._normalizer.normalize_str(text).split()
        return words


def _pieces(counts: TokenCounts, size: int) -> list[tuple[str, float]]:
    """Unigram's pieces and their log probabilities, by SentencePiece, from words and their counts."""
    try:
        import sentencepiece
    except ImportError as error:
        raise MissingDependency("Unigram is trained by sentencepiece. Install it: pip install sentencepiece") from error
    if size < 1:
        raise ConfigError("train-tokenizer: size leaves no room beside the special tokens. Raise it.")
    written = io.BytesIO()
    with tempfile.NamedTemporaryFile("w", suffix=".tsv", encoding="utf-8") as file:
        file.writelines(f"{word}\t{count}\n" for word, count in sorted(counts.items()))
        file.flush()
        try:
            sentencepiece.SentencePieceTrainer.train(
                input=file.name, input_format="tsv", model_writer=written, model_type="unigram", vocab_size=size + 1,
                hard_vocab_limit=False, normalization_rule_name="identity", num_threads=1, minloglevel=2,
                bos_id=-1, eos_id=-1, pad_id=-1, unk_id=0,
            )  # fmt: skip
        except RuntimeError as error:
            raise ConfigError(f"train-tokenizer: size={size} beside the special tokens: {error}") from error
    model = sentencepiece.SentencePieceProcessor()
    model.LoadFromSerializedProto(written.getvalue())
    return [(model.id_to_piece(number), model.get_score(number)) for number in range(1, model.get_piece_size())]


def _normalizers(library: Any, form: Any, lowercase: bool) -> Any:
    return library.normalizers.Sequence([form, *([library.normalizers.Lowercase()] if lowercase else [])])


def _batches(texts: Iterator[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    for text in texts:
        batch.append(text)
        if len(batch) == _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _check_size(size: int, least: int, what: str) -> None:
    if size <= least:
        raise ConfigError(f"train-tokenizer: size must be above {least:,} for {what}, got {size:,}.")


def _no_text() -> DataError:
    return DataError("train-tokenizer: the texts of the pipeline hold no word. Check its source and the field.")

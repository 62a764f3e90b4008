"""The same tokens, vocabularies and numbers as the real torchtext's, over all of IMDB and AG_NEWS."""

from __future__ import annotations

import itertools
from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torchtext

torchtext.disable_torchtext_deprecation_warning()

from torchtext.data import functional  # noqa: E402
from torchtext.data.utils import get_tokenizer, ngrams_iterator  # noqa: E402
from torchtext.vocab import build_vocab_from_iterator  # noqa: E402
from torchtext.vocab import vocab as vocab_of_counts  # noqa: E402

import ecopipe  # noqa: E402
from ecopipe.formats.text import basic_english, with_ngrams  # noqa: E402
from ecopipe.formats.vocab import Vocab  # noqa: E402
from ecopipe.insight.vocabulary import count_words  # noqa: E402
from ecopipe.stages.subwords import TokenizeSentencePiece  # noqa: E402
from ecopipe.stages.text import TokenizeBasicEnglish, TokenizeWhitespace  # noqa: E402
from ecopipe.vocabulary.randomness import Chance  # noqa: E402
from ecopipe.vocabulary.sample import Sample  # noqa: E402

from ..conftest import ROOT, real  # noqa: E402

CHANCE = Chance(0, 0, "test")
SPECIALS: list[list[str]] = [[], ["<unk>"], ["<pad>", "<unk>", "the"]]


def tokens(stage: Any, text: str) -> list[int]:
    found: list[int] = stage.apply(Sample("a", {"txt": text}), CHANCE)["tokens"].tolist()
    return found


def test_basic_english_over_all_of_both_corpora(reviews: list[str], news: list[str]) -> None:
    theirs = get_tokenizer("basic_english")
    for text in [*reviews, *news]:
        assert basic_english(text) == theirs(text)


def test_every_character_of_the_basic_plane_alone_and_between_words() -> None:
    theirs = get_tokenizer("basic_english")
    for code in itertools.chain(range(0xD800), range(0xE000, 0x10000)):
        text = f"A{chr(code)}b {chr(code)}"
        assert basic_english(text) == theirs(text)


def test_whitespace_over_all_of_both_corpora(reviews: list[str], news: list[str]) -> None:
    theirs = get_tokenizer(None)
    for text in [*reviews, *news]:
        assert TokenizeWhitespace().words(text) == theirs(text)
        assert TokenizeWhitespace(lower=True).words(text) == [word.lower() for word in theirs(text)]
    assert list(functional.simple_space_split(news)) == [TokenizeWhitespace().words(text) for text in news]


@pytest.mark.parametrize("n", [1, 2, 3])
def test_ngrams(news: list[str], n: int) -> None:
    for text in ["", "one", *news]:
        words = basic_english(text)
        assert with_ngrams(words, n) == list(ngrams_iterator(words, n))
        assert TokenizeBasicEnglish(ngrams=n).words(text) == list(ngrams_iterator(words, n))


def grid() -> list[dict[str, Any]]:
    keys = ("min_freq", "specials", "special_first", "max_tokens")
    values = itertools.product((1, 2, 10), SPECIALS, (True, False), (None, 5, 1000))
    return [dict(zip(keys, each, strict=True)) for each in values]


@pytest.fixture(scope="module")
def split_news(news: list[str]) -> list[list[str]]:
    return [basic_english(text) for text in news]


@pytest.mark.parametrize("settings", grid(), ids=str)
def test_vocabularies(split_news: list[list[str]], settings: dict[str, Any]) -> None:
    theirs = build_vocab_from_iterator(split_news, **settings)
    ours = Vocab.build(split_news, **settings)
    assert list(ours.tokens) == theirs.get_itos()
    assert len(ours) == len(theirs)


def test_the_vocabulary_of_all_reviews(reviews: list[str]) -> None:
    split = [basic_english(review) for review in reviews]
    theirs = build_vocab_from_iterator(split, specials=["<pad>", "<unk>"])
    ours = Vocab.build(split, specials=["<pad>", "<unk>"])
    assert len(ours) > 50_000
    assert list(ours.tokens) == theirs.get_itos()
    counts = Counter(itertools.chain.from_iterable(split))
    ordered = OrderedDict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))
    assert list(Vocab.from_counts(counts.items(), min_freq=3).tokens) == vocab_of_counts(ordered, min_freq=3).get_itos()


def test_there_and_back(split_news: list[list[str]]) -> None:
    theirs = build_vocab_from_iterator(split_news, specials=["<pad>", "<unk>"], min_freq=2)
    theirs.set_default_index(theirs["<unk>"])
    ours = Vocab.from_torchtext(theirs)
    assert ours == Vocab.build(split_news, specials=["<pad>", "<unk>"], min_freq=2).with_default("<unk>")
    back = ours.to_torchtext()
    assert isinstance(back, torchtext.vocab.Vocab)
    assert back.get_itos() == theirs.get_itos()
    assert back.get_default_index() == 1
    assert Vocab(("a",)).to_torchtext().get_default_index() is None
    for words in split_news[:200]:
        assert ours(words) == ours.lookup_indices(words) == theirs(words)
        numbers = theirs.lookup_indices(words)
        assert ours.lookup_tokens(numbers) == theirs.lookup_tokens(numbers)
    for word in ("the", "<pad>", "no such word"):
        assert (word in ours) == (word in theirs)
        assert ours[word] == theirs[word]
    assert ours.lookup_token(7) == theirs.lookup_token(7)


def test_what_torchtext_refuses_is_refused() -> None:
    ours, theirs = Vocab(("a",)), Vocab(("a",)).to_torchtext()
    for error, look in ((KeyError, ours), (RuntimeError, theirs)):
        with pytest.raises(error):
            look["b"]
    for error, look in ((IndexError, ours), (RuntimeError, theirs)):
        with pytest.raises(error):
            look.lookup_token(1)


def test_stages_number_as_torchtext_does(news: list[str], split_news: list[list[str]], tmp_path: Path) -> None:
    theirs = build_vocab_from_iterator(split_news, specials=["<unk>"], max_tokens=2000)
    theirs.set_default_index(0)
    path = tmp_path / "vocab.json"
    Vocab.from_torchtext(theirs).save(path)
    stage = TokenizeBasicEnglish(vocabulary=str(path))
    pipeline = get_tokenizer("basic_english")
    assert stage.vocabulary_size == len(theirs) == 2000
    for text in news:
        assert tokens(stage, text) == theirs(pipeline(text))


def test_counted_from_shards_in_workers(tmp_path: Path) -> None:
    """ecopipe itself, its loader and its workers, beside torch 2.3."""
    from ecopipe.datasets.corpus import open_corpus
    from ecopipe.sharding.limits import Limits
    from ecopipe.sharding.write import write_corpus

    with open_corpus("imdb", real("aclImdb_v1.tar.gz")) as corpus:
        write_corpus(corpus, tmp_path, splits=["train"], limits=Limits(max_count=700))
    pipe = ecopipe.load(ROOT / "pipelines" / "imdb.toml", {"source.path": str(tmp_path / "train")})
    with open_corpus("imdb", real("aclImdb_v1.tar.gz")) as corpus:
        texts = [sample.members["txt"].decode() for sample in corpus.samples("train")]
    theirs = build_vocab_from_iterator(map(get_tokenizer("basic_english"), texts), specials=["<unk>"], min_freq=2)
    with count_words(pipe, workers=2) as counts:
        ours = Vocab.from_counts(counts.items(), specials=["<unk>"], min_freq=2)
    assert list(ours.tokens) == theirs.get_itos()
    epochs = []
    for workers in (0, 2):
        with pipe.loader(workers=workers) as loader:
            epochs.append([(batch["keys"], batch["tokens"].sum().item()) for batch in loader])
    assert epochs[0] == epochs[1]
    assert sum(len(keys) for keys, _ in epochs[0]) == len(texts)


def test_sentencepiece(news: list[str], tmp_path: Path) -> None:
    pytest.importorskip("sentencepiece", reason="the extra is not installed")
    (tmp_path / "news.txt").write_text("\n".join(news), encoding="utf-8")
    functional.generate_sp_model(
        str(tmp_path / "news.txt"), vocab_size=2000, model_type="unigram", model_prefix=str(tmp_path / "news")
    )
    theirs = functional.sentencepiece_numericalizer(functional.load_sp_model(str(tmp_path / "news.model")))
    stage = TokenizeSentencePiece(str(tmp_path / "news.model"))
    assert stage.vocabulary_size == 2000
    for text, numbers in zip(news, theirs(news), strict=True):
        np.testing.assert_array_equal(tokens(stage, text), numbers)

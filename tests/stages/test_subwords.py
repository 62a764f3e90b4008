"""Saved tokenizers: JSON of ``tokenizers``, SentencePiece models; training; no deadlock after a fork."""

from __future__ import annotations

import io
import multiprocessing
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest

from ecopipe.stages.subwords import TokenizeJson, TokenizeSentencePiece
from ecopipe.vocabulary.errors import ConfigError, MissingDependency
from ecopipe.vocabulary.randomness import Chance
from ecopipe.vocabulary.sample import Sample

CHANCE = Chance(0, 0, "test")


def tokens(stage, text, **fields):
    return stage.apply(Sample("a", {"txt": text, **fields}), CHANCE)["tokens"]


@pytest.fixture
def tokenizer(tmp_path):
    library = pytest.importorskip("tokenizers")
    made = library.Tokenizer(library.models.WordLevel({"[UNK]": 0, "hello": 1, "world": 2}, unk_token="[UNK]"))
    made.pre_tokenizer = library.pre_tokenizers.Whitespace()
    made.post_processor = library.processors.TemplateProcessing(
        single="$A [UNK]", special_tokens=[("[UNK]", 0)], pair=None
    )
    path = tmp_path / "tokenizer.json"
    made.save(str(path))
    return str(path)


def test_json(tokenizer):
    stage = TokenizeJson(tokenizer)
    assert tokens(stage, b"hello world again").tolist() == [1, 2, 0, 0]
    assert tokens(stage, b"hello world again").dtype == np.int64
    assert tokens(TokenizeJson(tokenizer, special_tokens=False), b"hello world again").tolist() == [1, 2, 0]


def test_json_holds_its_path_only(tokenizer):
    stage = TokenizeJson(tokenizer)
    stage.encode("hello")
    assert len(pickle.dumps(stage)) < 400
    assert pickle.loads(pickle.dumps(stage)) == stage


def _encode_in_child(stage, queue):
    queue.put(stage.encode("hello world").tolist())


def in_a_forked_child(stage):
    stage.encode("hello")
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_encode_in_child, args=(stage, queue))
    child.start()
    try:
        return queue.get(timeout=30)
    finally:
        child.join(5)
        child.kill()
        child.join()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_json_after_a_fork(tokenizer):
    assert in_a_forked_child(TokenizeJson(tokenizer)) == [1, 2, 0]


def test_json_that_is_none(tmp_path):
    with pytest.raises(ConfigError, match=r"TokenizeJson: there is no file '.*absent.json'"):
        TokenizeJson(str(tmp_path / "absent.json")).encode("a")
    path = tmp_path / "wrong.json"
    path.write_text("{}")
    with pytest.raises(ConfigError, match=r"TokenizeJson: '.*wrong.json' is not a saved tokenizer: "):
        TokenizeJson(str(path)).encode("a")


def test_missing_tokenizers_is_said_in_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(MissingDependency, match=r"^TokenizeJson needs tokenizers. Install it: pip install tokenizers$"):
        TokenizeJson("x").encode("a")


def test_json_that_was_trained_again_in_the_same_process(tokenizer):
    library = pytest.importorskip("tokenizers")
    stage = TokenizeJson(tokenizer, special_tokens=False)
    assert (tokens(stage, "hello").tolist(), stage.vocabulary_size) == ([1], 3)
    library.Tokenizer(library.models.WordLevel({"?": 0, "x": 1, "hello": 2}, unk_token="?")).save(tokenizer)
    assert tokens(stage, "hello").tolist() == [2]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_json_after_threads_and_a_fork(tokenizer, monkeypatch):
    """The library's own threads have run here, in training and in a batch; a child must still get its answer."""
    library = pytest.importorskip("tokenizers")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    trained = library.Tokenizer(library.models.BPE())
    trained.train_from_iterator(["some words"] * 500, library.trainers.BpeTrainer(show_progress=False))
    trained.encode_batch(["some words"] * 500)
    assert in_a_forked_child(TokenizeJson(tokenizer)) == [1, 2, 0]


# -- SentencePiece ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> str:
    library = pytest.importorskip("sentencepiece")
    written = io.BytesIO()
    words = ["hello", "world", "help", "word", "hold", "wold", "a naïve film", "the end of it"]
    library.SentencePieceTrainer.train(
        sentence_iterator=iter(words * 20), model_writer=written, vocab_size=40, minloglevel=2, hard_vocab_limit=False
    )
    path: Path = tmp_path_factory.mktemp("pieces") / "m.model"
    path.write_bytes(written.getvalue())
    return str(path)


def test_sentencepiece(pieces):
    library = pytest.importorskip("sentencepiece")
    model = library.SentencePieceProcessor(model_file=pieces)
    stage = TokenizeSentencePiece(pieces)
    for text in ("hello world", "a naïve film, 日本", "", "  "):
        found = tokens(stage, text.encode())
        assert found.dtype == np.int64
        assert found.tolist() == model.encode(text)
    assert len(tokens(stage, "hello world")) > 2
    whole = tokens(TokenizeSentencePiece(pieces, bos=True, eos=True), "hello").tolist()
    assert whole == [model.bos_id(), *model.encode("hello"), model.eos_id()]
    assert stage.vocabulary_size == model.get_piece_size()
    assert len(tokens(TokenizeSentencePiece(pieces, max_tokens=2), "hello world")) == 2
    assert len(pickle.dumps(stage)) < 600
    assert pickle.loads(pickle.dumps(stage)) == stage


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_sentencepiece_after_a_fork(pieces):
    stage = TokenizeSentencePiece(pieces)
    assert in_a_forked_child(stage) == stage.encode("hello world").tolist()


def test_a_model_that_is_none(tmp_path):
    pytest.importorskip("sentencepiece")
    with pytest.raises(ConfigError, match=r"TokenizeSentencePiece: there is no file '.*absent.model'"):
        TokenizeSentencePiece(str(tmp_path / "absent.model")).encode("a")
    path = tmp_path / "wrong.model"
    path.write_bytes(b"no model")
    with pytest.raises(ConfigError, match=r"TokenizeSentencePiece: '.*wrong.model' is no SentencePiece model: "):
        TokenizeSentencePiece(str(path)).encode("a")


def test_missing_sentencepiece_is_said_in_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    message = r"^TokenizeSentencePiece needs sentencepiece. Install it: pip install sentencepiece$"
    with pytest.raises(MissingDependency, match=message):
        TokenizeSentencePiece("x").encode("a")

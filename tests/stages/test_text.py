"""Tokenizers."""

from __future__ import annotations

import multiprocessing
import pickle
import subprocess
import sys
import tarfile
import zlib

import numpy as np
import pytest

from ecopipe.formats.text import basic_english
from ecopipe.stages.text import LIBRISPEECH_ALPHABET, TokenizeBasicEnglish, TokenizeCharacters, TokenizeJson
from ecopipe.vocabulary.errors import ConfigError, MissingDependency
from ecopipe.vocabulary.randomness import Chance
from ecopipe.vocabulary.sample import Sample

from ..conftest import real

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


# -- characters ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [b"IT'S A B\n", "IT'S A B"])
def test_characters(text):
    found = tokens(TokenizeCharacters(), text)
    assert found.dtype == np.int64
    assert found.tolist() == [11, 22, 2, 21, 1, 3, 1, 4]


def test_every_character_of_the_alphabet_has_its_own_number():
    stage = TokenizeCharacters()
    assert tokens(stage, "'" + LIBRISPEECH_ALPHABET + "'").tolist()[1:-1] == list(range(1, 29))
    assert stage.vocabulary_size == 29


def test_empty_text_has_no_tokens():
    for stage in (TokenizeCharacters(), TokenizeBasicEnglish()):
        assert tokens(stage, b"").shape == (0,)
        assert tokens(stage, b"").dtype == np.int64


@pytest.mark.parametrize("character", ["a", "É", "中", "\U0001f600", "["])
def test_unknown_characters(character):
    with pytest.raises(ValueError, match=r"character '.' at 1 is not in the alphabet") as caught:
        tokens(TokenizeCharacters(), f"A{character}B")
    assert repr(character) in str(caught.value)
    assert str(caught.value).endswith("add it, or set unknown='skip' to leave such characters out")
    assert tokens(TokenizeCharacters(unknown="skip"), f"A{character}B").tolist() == [3, 4]


def test_any_alphabet():
    assert tokens(TokenizeCharacters(alphabet="中a😀"), "😀a中").tolist() == [3, 2, 1]


def test_real_transcripts_are_all_known():
    count = 0
    for path in real("LibriSpeech").rglob("*.trans.txt"):
        for line in path.read_text().splitlines():
            text = line.partition(" ")[2]
            assert len(tokens(TokenizeCharacters(), text)) == len(text)
            count += 1
    assert count


# -- basic English ------------------------------------------------------------------------------------------------


def test_hashed_words():
    stage = TokenizeBasicEnglish(buckets=1000)
    assert stage.vocabulary_size == 1001
    expected = [1 + zlib.crc32(word.encode()) % 1000 for word in ("it", "'", "s", "naïve", ".")]
    assert tokens(stage, "It's naïve.".encode()).tolist() == expected


def test_hashed_words_are_the_same_in_another_process():
    code = "from ecopipe.stages.text import TokenizeBasicEnglish as T; print(T().encode('some words').tolist())"
    made = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout for _ in "12"
    ]
    assert made[0] == made[1] == f"{TokenizeBasicEnglish().encode('some words').tolist()}\n"


def test_hashing_does_not_grow_without_end(monkeypatch):
    from ecopipe.stages import text

    table = text._Hashed(10)
    monkeypatch.setattr(text._Hashed, "__len__", lambda self: 1 << 20)
    assert table["a"] == 1 + zlib.crc32(b"a") % 10
    assert table["b"] == 1 + zlib.crc32(b"b") % 10
    assert list(table) == ["b"]


def test_vocabulary_file(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("the\nfilm\n.\n")
    stage = TokenizeBasicEnglish(vocabulary=str(path))
    assert tokens(stage, b"The film, the END.").tolist() == [2, 3, 1, 2, 1, 4]
    assert stage.vocabulary_size == 5


def test_real_vocabulary_and_reviews():
    with tarfile.open(real("aclImdb_v1.tar.gz")) as archive:
        names = (m for m in archive if m.isfile() and "/train/pos/" in m.name)
        reviews = [archive.extractfile(member).read() for member, _ in zip(names, range(50), strict=False)]
    stage = TokenizeBasicEnglish()
    for review in reviews:
        found = tokens(stage, review)
        assert len(found) == len(basic_english(review.decode()))
        assert found.min() >= 1
        assert found.max() < stage.vocabulary_size


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "TokenizeBasicEnglish: the vocabulary '.*' cannot be read: .*No such file"),
        (b"a\xff", "TokenizeBasicEnglish: the vocabulary '.*' cannot be read: not UTF-8: byte 0xff at offset 1 of 2"),
        (b"a\nb\na\n", "TokenizeBasicEnglish: the vocabulary '.*' has 'a' in lines 1 and 3"),
    ],
)
def test_wrong_vocabulary(tmp_path, content, message):
    path = tmp_path / "words.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        tokens(TokenizeBasicEnglish(vocabulary=str(path)), "a")


# -- saved tokenizers ---------------------------------------------------------------------------------------------


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


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_json_after_a_fork(tokenizer):
    stage = TokenizeJson(tokenizer)
    stage.encode("hello")
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_encode_in_child, args=(stage, queue))
    child.start()
    assert queue.get(timeout=30) == [1, 2, 0]
    child.join(30)
    assert child.exitcode == 0


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


# -- all ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", [TokenizeCharacters, TokenizeBasicEnglish])
def test_fields_and_truncation(stage):
    made = stage(field="text", into="ids", max_tokens=2)
    assert (made.needs(), made.gives(), made.takes_away()) == (("text",), ("ids",), ())
    sample = made.apply(Sample("a", {"text": "A B C"}), CHANCE)
    assert len(sample["ids"]) == 2
    assert sample["text"] == "A B C"
    assert pickle.loads(pickle.dumps(made)) == made


@pytest.mark.parametrize("stage", [TokenizeCharacters(), TokenizeBasicEnglish()])
def test_a_sample_that_cannot_be_processed(stage):
    with pytest.raises(ValueError, match="no field 'txt'; it has flac"):
        stage.apply(Sample("a", {"flac": b""}), CHANCE)
    with pytest.raises(ValueError, match="not UTF-8: byte 0xff at offset 1 of 2"):
        stage.apply(Sample("a", {"txt": b"a\xff"}), CHANCE)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TokenizeCharacters(max_tokens=0), "TokenizeCharacters: max_tokens must be a positive int, got 0"),
        (lambda: TokenizeCharacters(alphabet=""), "TokenizeCharacters: alphabet is empty"),
        (lambda: TokenizeCharacters(alphabet="ABA"), "TokenizeCharacters: alphabet has 'A' twice"),
        (lambda: TokenizeCharacters(unknown="drop"), "TokenizeCharacters: unknown='drop' is not known. Known: error, "),
        (lambda: TokenizeBasicEnglish(buckets=0), "TokenizeBasicEnglish: buckets must be a positive int, got 0"),
        (lambda: TokenizeJson("x", max_tokens=-1), "TokenizeJson: max_tokens must be a positive int, got -1"),
    ],
)
def test_wrong_settings(make, message):
    with pytest.raises(ConfigError) as caught:
        make()
    assert str(caught.value).startswith(message)

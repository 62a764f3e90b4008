"""Tokenizers."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
import tarfile
import zlib

import numpy as np
import pytest

from ecopipe.formats.text import basic_english
from ecopipe.formats.vocab import Vocab
from ecopipe.pipeline.bad_samples import BadSamples
from ecopipe.pipeline.pipeline import Pipeline
from ecopipe.stages.collate import Collate
from ecopipe.stages.plan import Batch
from ecopipe.stages.source import TarShards
from ecopipe.stages.text import LIBRISPEECH_ALPHABET, TokenizeBasicEnglish, TokenizeCharacters, TokenizeWhitespace
from ecopipe.vocabulary.errors import ConfigError, SampleError
from ecopipe.vocabulary.randomness import Chance
from ecopipe.vocabulary.sample import Sample

from ..conftest import real

CHANCE = Chance(0, 0, "test")


def tokens(stage, text, **fields):
    return stage.apply(Sample("a", {"txt": text, **fields}), CHANCE)["tokens"]


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
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert made == f"{TokenizeBasicEnglish().encode('some words').tolist()}\n"


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


@pytest.mark.parametrize("stage", [TokenizeBasicEnglish, TokenizeWhitespace])
def test_a_saved_vocabulary_decides_every_number(tmp_path, stage):
    path = tmp_path / "vocab.json"
    vocab = Vocab(("the", "<unk>", "film", "the film"))
    vocab.with_default("<unk>").save(path)
    made = stage(vocabulary=str(path), ngrams=2)
    assert tokens(made, b"the film ends").tolist() == [0, 2, 1, 3, 1]
    assert tokens(made, b"").shape == (0,)
    assert made.vocabulary_size == 4
    vocab.save(path)  # another file under that name, in the same process
    assert tokens(stage(vocabulary=str(path)), "the film").tolist() == [0, 2]
    with pytest.raises(ValueError, match="the word 'ends' is not in the vocabulary, which has no default index"):
        tokens(made, b"the film ends")


def test_a_file_that_is_no_vocabulary(tmp_path):
    path = tmp_path / "vocab.json"
    path.write_text("{}")
    with pytest.raises(ConfigError, match=r"^TokenizeWhitespace: .*vocab\.json: Vocab: is no vocabulary"):
        tokens(TokenizeWhitespace(vocabulary=str(path)), "a")


# -- white space --------------------------------------------------------------------------------------------------


def test_whitespace():
    stage = TokenizeWhitespace()
    assert stage.words(" It's\tFINE,\u2003really.\n") == ["It's", "FINE,", "really."]
    lower = TokenizeWhitespace(lower=True)
    assert lower.words("It's FINE, İ") == ["it's", "fine,", "i\u0307"]
    assert tokens(lower, "FINE").tolist() == tokens(stage, "fine").tolist() == [1 + zlib.crc32(b"fine") % 65535]


def test_ngrams_follow_the_words():
    stage = TokenizeWhitespace(ngrams=3)
    assert stage.words("here we are") == ["here", "we", "are", "here we", "we are", "here we are"]
    assert stage.words("here") == ["here"]
    assert stage.words("") == []
    assert TokenizeBasicEnglish(ngrams=2).words("Here, we") == ["here", ",", "we", "here ,", ", we"]
    assert len(tokens(TokenizeWhitespace(ngrams=3, max_tokens=4), "here we are")) == 4


# -- all ----------------------------------------------------------------------------------------------------------


ALL = (TokenizeCharacters, TokenizeBasicEnglish, TokenizeWhitespace)


def sharded(folder, texts):
    """A pipeline over a tar of these bytes, in a member that is not taken for UTF-8 when it is indexed."""
    folder.mkdir()
    with tarfile.open(folder / "a.tar", "w") as tar:
        for number, text in enumerate(texts):
            member = tarfile.TarInfo(f"{number:02d}.review")
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text))
    return TarShards(str(folder))


@pytest.mark.parametrize("stage", ALL)
def test_encoding_trouble(stage):
    bad = b"A\xffB"
    with pytest.raises(ValueError, match="not UTF-8: byte 0xff at offset 1 of 3"):
        tokens(stage(), bad)
    upper = {"alphabet": "ABÿ\ufffd"} if stage is TokenizeCharacters else {}
    assert tokens(stage(errors="replace", **upper), bad).tolist() == tokens(stage(**upper), "A\ufffdB").tolist()
    assert tokens(stage(encoding="latin-1", **upper), bad).tolist() == tokens(stage(**upper), "AÿB").tolist()
    with pytest.raises(ValueError, match="not ascii: byte 0xff at offset 1 of 3"):
        tokens(stage(encoding="ascii"), bad)


@pytest.mark.parametrize("stage", ALL)
def test_normal_form_and_html_breaks(stage):
    upper = {"alphabet": "ABÉ "} if stage is TokenizeCharacters else {}
    composed, apart = tokens(stage(**upper), "É"), "E\u0301"
    assert tokens(stage(normalize="NFC", **upper), apart).tolist() == composed.tolist()
    if not upper:
        assert tokens(stage(), apart).tolist() != composed.tolist()
    for text in ("A<br />B", "A<BR>B", "A<br/>B", "A<br\t/>B"):
        assert tokens(stage(html_breaks=True, **upper), text).tolist() == tokens(stage(**upper), "A B").tolist()
        assert (
            tokens(stage(html_breaks=True, **upper), text.encode()).tolist() == tokens(stage(**upper), "A B").tolist()
        )


def test_bad_texts_are_skipped_and_counted_and_empty_ones_keep_their_place(tmp_path):
    source = sharded(tmp_path / "s", [b"one two", b"", b"caf\xe9 noir", b"a b c", b" \n"])
    stage = TokenizeWhitespace(field="review")
    layout = Collate("tokens", layout="flat")
    with pytest.raises(SampleError, match="TokenizeWhitespace: sample '02' in .*: not UTF-8: byte 0xe9 at offset 3 of"):
        list(Pipeline(source, Batch(5), stage, layout))
    for workers in (0, 1):
        pipe = Pipeline(source, Batch(5), stage, layout, bad_samples=BadSamples("skip", max_share=1.0))
        with pipe.loader(workers=workers) as loader:
            (batch,) = loader
        assert batch["keys"] == ["00", "01", "03", "04"]
        assert batch["lengths"].tolist() == [2, 0, 3, 0]
        assert batch["offsets"].tolist() == [0, 2, 2, 5]
        ((fault,),) = [batch.place.faults]
        assert (fault.key, fault.stage, fault.position) == ("02", "TokenizeWhitespace", 2)
    mended = TokenizeWhitespace(field="review", errors="replace")
    (batch,) = Pipeline(source, Batch(5), mended, Collate("tokens"))
    assert batch["lengths"].tolist() == [2, 0, 2, 3, 0]


@pytest.mark.parametrize("stage", ALL)
def test_fields_and_truncation(stage):
    made = stage(field="text", into="ids", max_tokens=2)
    assert (made.needs(), made.gives(), made.takes_away()) == (("text",), ("ids",), ())
    sample = made.apply(Sample("a", {"text": "A B C"}), CHANCE)
    assert len(sample["ids"]) == 2
    assert sample["text"] == "A B C"
    assert pickle.loads(pickle.dumps(made)) == made


@pytest.mark.parametrize("stage", [TokenizeCharacters(), TokenizeBasicEnglish(), TokenizeWhitespace()])
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
        (lambda: TokenizeWhitespace(ngrams=0), "TokenizeWhitespace: ngrams must be a positive int, got 0"),
        (
            lambda: TokenizeWhitespace(errors="ignore"),
            "TokenizeWhitespace: unknown errors 'ignore'. Known: replace, st",
        ),
        (lambda: TokenizeWhitespace(normalize="nfc"), "TokenizeWhitespace: unknown normalize 'nfc'. Known: NFC, NFD, "),
        (lambda: TokenizeWhitespace(encoding="utf-9"), "TokenizeWhitespace: unknown encoding 'utf-9'. Name one that"),
        (lambda: TokenizeWhitespace(encoding="base64"), "TokenizeWhitespace: unknown encoding 'base64'. Name one that"),
    ],
)
def test_wrong_settings(make, message):
    with pytest.raises(ConfigError) as caught:
        make()
    assert str(caught.value).startswith(message)


def test_a_vocabulary_as_text_is_numbered_as_it_was_saved(tmp_path):
    words = ("a\x85b", "c", "d\u2028", "e")
    Vocab(words).save(tmp_path / "words.txt")
    stage = TokenizeBasicEnglish(vocabulary=str(tmp_path / "words.txt"))
    assert stage.encode("c e").tolist() == [3, 5]
    assert stage.vocabulary_size == 2 + len(Vocab.load(tmp_path / "words.txt"))


def test_a_vocabulary_that_was_written_to_is_read_again_whatever_its_time_says(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("one\ntwo\n")
    stage = TokenizeBasicEnglish(vocabulary=str(path))
    assert stage.encode("one two").tolist() == [2, 3]
    before = os.stat(path)
    path.write_text("two\none\n")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert stage.encode("one two").tolist() == [3, 2]


@pytest.mark.parametrize(
    "make",
    [
        lambda: TokenizeWhitespace(lower="no"),
        lambda: TokenizeBasicEnglish(html_breaks="no"),
        lambda: Batch(2, drop_last="no"),
    ],
)
def test_a_word_is_no_switch(make):
    with pytest.raises(ConfigError, match="= 'no' has the wrong type; it takes bool"):
        make()

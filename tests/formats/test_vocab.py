"""The vocabulary: its order, its limits, both ways of looking up, its files; counts that do not fit into memory."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecopipe.formats.counts import TokenCounts
from ecopipe.formats.vocab import Vocab
from ecopipe.vocabulary.errors import ConfigError, MissingDependency, OutputError

TEXTS = [["b", "a", "c", "a"], ["<unk>", "b", "<unk>", "<unk>"], ["d"]]
SPECIALS = ("<pad>", "<unk>")


def test_the_most_frequent_first_then_by_the_alphabet() -> None:
    assert Vocab.build(TEXTS).tokens == ("<unk>", "a", "b", "c", "d")
    assert Vocab.build([["é", "Z", "z", "\U0001f600", "中"]]).tokens == ("Z", "z", "é", "中", "\U0001f600")
    assert Vocab.build([]).tokens == ()


def test_specials_stand_first_or_last_and_only_once() -> None:
    assert Vocab.build(TEXTS, specials=SPECIALS).tokens == ("<pad>", "<unk>", "a", "b", "c", "d")
    assert Vocab.build(TEXTS, specials=SPECIALS, special_first=False).tokens == ("a", "b", "c", "d", "<pad>", "<unk>")
    assert Vocab.build([], specials=SPECIALS).tokens == SPECIALS


def test_min_freq_spares_specials() -> None:
    assert Vocab.build(TEXTS, specials=SPECIALS, min_freq=2).tokens == ("<pad>", "<unk>", "a", "b")
    assert Vocab.build(TEXTS, min_freq=4).tokens == ()


def test_the_two_limits() -> None:
    # torchtext's max_tokens counts the specials, and a frequent special takes the place of a word
    assert Vocab.build(TEXTS, specials=SPECIALS, max_tokens=4).tokens == ("<pad>", "<unk>", "a")
    assert Vocab.build(TEXTS, specials=("<pad>",), max_tokens=4).tokens == ("<pad>", "<unk>", "a", "b")
    # Field's max_size does not
    assert Vocab.build(TEXTS, specials=SPECIALS, max_size=2).tokens == ("<pad>", "<unk>", "a", "b")
    assert Vocab.build(TEXTS, specials=SPECIALS, max_size=9).tokens == ("<pad>", "<unk>", "a", "b", "c", "d")


def test_the_notebooks_10002() -> None:
    counts = [(f"word{number}", 10 + number % 3) for number in range(12_000)] + [(f"rare{n}", 9) for n in range(500)]
    built = Vocab.from_counts(counts, specials=("<unk>", "<pad>"), min_freq=10, max_size=10_000)
    assert len(built) == 10_002
    assert not any(token.startswith("rare") for token in built)


@given(st.lists(st.lists(st.text("abcdé", max_size=2), max_size=6), max_size=8), st.integers(1, 3), st.integers(1, 6))
def test_a_limit_is_the_beginning_of_all(texts: list[list[str]], min_freq: int, most: int) -> None:
    everything = Vocab.build(texts, min_freq=min_freq).tokens
    assert Vocab.build(texts, min_freq=min_freq, max_size=most).tokens == everything[:most]
    counts = Counter(token for text in texts for token in text)
    assert everything == tuple(sorted((t for t in counts if counts[t] >= min_freq), key=lambda t: (-counts[t], t)))


def test_looking_up_both_ways() -> None:
    vocab = Vocab(("<unk>", "a", "film"))
    assert (vocab["film"], vocab.lookup_token(2), len(vocab), list(vocab)) == (2, "film", 3, ["<unk>", "a", "film"])
    assert ("a" in vocab, "novel" in vocab) == (True, False)
    assert vocab(["a", "film"]) == vocab.lookup_indices(iter(["a", "film"])) == [1, 2]
    assert vocab.lookup_tokens([2, 0]) == ["film", "<unk>"]
    with_default = vocab.with_default("<unk>")
    assert with_default["novel"] == 0
    assert with_default(["novel", "film"]) == [0, 2]
    assert "novel" not in with_default
    assert vocab.with_default(-1)["novel"] == -1
    assert with_default.with_default(None) == vocab != with_default
    assert hash(pickle.loads(pickle.dumps(vocab))) == hash(vocab)


def test_what_cannot_be_looked_up() -> None:
    vocab = Vocab(("a",))
    for look in (lambda: vocab["b"], lambda: vocab(["a", "b"]), lambda: vocab.with_default("b")):
        with pytest.raises(KeyError, match="token 'b' is not in the vocabulary of 1, which has no default index"):
            look()
    for index in (1, -1):
        with pytest.raises(IndexError, match=f"no token has number {index}: the vocabulary has 0 to 0"):
            vocab.lookup_token(index)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Vocab(("a", "b", "a")), "the token 'a' stands in 2 places. Name each one once."),
        (lambda: Vocab(("a", 1)), "a token is 1, which is no str."),  # type: ignore[arg-type]
        (lambda: Vocab(("a",), "a"), "default_index must be an int or None, got 'a'."),  # type: ignore[arg-type]
        (lambda: Vocab.build([], specials="<unk>"), "specials must be a list of tokens, got '<unk>'."),
        (lambda: Vocab.build([], specials=("a", "a")), "the token 'a' stands in 2 places"),
        (lambda: Vocab.build([], min_freq=0), "min_freq must be a positive int, got 0."),
        (lambda: Vocab.build([], max_size=True), "max_size must be a positive int, got True."),
        (lambda: Vocab.build([], max_size=1, max_tokens=1), "max_tokens counts the specials and max_size does not."),
        (lambda: Vocab.build([], specials=SPECIALS, max_tokens=2), "max_tokens=2 leaves no room beside 2 specials."),
    ],
)
def test_wrong_settings(make, message) -> None:
    with pytest.raises(ConfigError) as caught:
        make()
    assert str(caught.value).startswith(f"Vocab: {message}")


# -- files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tokens", [(), ("",), ("a", "\n", "\u2028", "\ud800", '"', "é")])
def test_json(tmp_path: Path, tokens: tuple[str, ...]) -> None:
    vocab = Vocab(tokens, default_index=0)
    vocab.save(tmp_path / "vocab.json")
    assert Vocab.load(tmp_path / "vocab.json") == vocab == Vocab.loads(vocab.dumps())
    assert json.loads((tmp_path / "vocab.json").read_bytes())["version"] == 1
    assert [left.name for left in tmp_path.iterdir()] == ["vocab.json"]


def test_plain_text(tmp_path: Path) -> None:
    Vocab(("<unk>", "é", "\u2028"), default_index=0).save(tmp_path / "words.txt")
    assert (tmp_path / "words.txt").read_bytes() == "<unk>\né\n\u2028\n".encode()
    assert Vocab.load(tmp_path / "words.txt") == Vocab(("<unk>", "é", "\u2028"))
    Vocab(()).save(tmp_path / "none.txt")
    assert Vocab.load(tmp_path / "none.txt") == Vocab(())
    (tmp_path / "other.txt").write_bytes(b"a\r\nb")
    assert Vocab.load(tmp_path / "other.txt") == Vocab(("a", "b"))
    with pytest.raises(ConfigError, match=r"x\.txt: the token 'a\\rb' does not fit into one line. Save it as .json"):
        Vocab(("a\rb",)).save(tmp_path / "x.txt")
    assert not (tmp_path / "x.txt").exists()


def test_a_file_that_cannot_be_written_stays_what_it_was(tmp_path: Path) -> None:
    path = tmp_path / "vocab.json"
    Vocab(("old",)).save(path)
    code = (
        "import resource, signal, sys; from ecopipe.formats.vocab import Vocab\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "Vocab(tuple(map(str, range(1000)))).save(sys.argv[1])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"OutputError: {path}: cannot be written: File too large. Choose another place." in done.stderr
    assert Vocab.load(path).tokens == ("old",)
    assert [left.name for left in tmp_path.iterdir()] == ["vocab.json"]
    with pytest.raises(OutputError, match="cannot be written: No such file or directory"):
        Vocab(()).save(tmp_path / "absent" / "vocab.json")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "the vocabulary cannot be read: No such file or directory."),
        (b"\xff", "the vocabulary cannot be read: 'utf-8' codec"),
        (b"[]", "Vocab: is no vocabulary"),
        (b"{", "Vocab: is no vocabulary"),
        (b'{"version": 1, "tokens": ["a"]}', "Vocab: is no vocabulary (KeyError('default_index'))."),
        (b'{"version": 2, "tokens": [], "default_index": 0}', "Vocab: is of version 2; this ecopipe reads 1."),
        (b'{"version": 1, "tokens": "ab", "default_index": 0}', "Vocab: tokens must be a list."),
        (b'{"version": 1, "tokens": ["a", "a"], "default_index": 0}', "Vocab: the token 'a' stands in 2 places."),
    ],
)
def test_a_file_that_is_none(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "vocab.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        Vocab.load(path)
    assert str(caught.value).startswith(f"{path}: {message}")


def test_torchtext_is_wanted_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchtext.vocab", None)
    with pytest.raises(MissingDependency, match=r"^Vocab.to_torchtext needs torchtext, which is archived"):
        Vocab(("a",)).to_torchtext()


# -- counts -------------------------------------------------------------------------------------------------------


@given(st.lists(st.lists(st.text("abc\ud800é", max_size=2), max_size=9), max_size=9), st.integers(1, 5))
def test_what_is_spilled_is_counted_all_the_same(texts: list[list[str]], limit: int) -> None:
    everything = [token for text in texts for token in text]
    with TokenCounts(limit=limit) as counts:
        for number, text in enumerate(texts):
            counts.add(Counter(text) if number % 2 else iter(text))
        for _ in "12":
            found = list(counts.items())
            assert len(found) == len(dict(found))
            assert dict(found) == Counter(everything)
        assert counts.total == len(everything)
        assert (counts.spilled > 0) >= (len(set(everything)) > limit)
        assert len(counts._held) <= limit


def test_counts_that_are_closed_hold_nothing() -> None:
    counts = TokenCounts(limit=1)
    counts.add("abc")
    files = list(counts._files)
    counts.close()
    assert all(file.closed for file in files) and files
    assert list(counts.items()) == []
    with pytest.raises(ConfigError, match="TokenCounts: limit must be a positive int, got 0"):
        TokenCounts(limit=0)

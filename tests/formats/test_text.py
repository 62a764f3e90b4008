"""Text bytes and basic English."""

from __future__ import annotations

import csv
import re
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecopipe.formats.text import (
    basic_english,
    decode,
    decode_utf8,
    is_text_encoding,
    normal_form,
    with_ngrams,
    without_breaks,
)

from ..conftest import real

TWELVE = [
    (r"\'", " '  "),
    (r"\"", ""),
    (r"\.", " . "),
    (r"<br \/>", " "),
    (r",", " , "),
    (r"\(", " ( "),
    (r"\)", " ) "),
    (r"\!", " ! "),
    (r"\?", " ? "),
    (r"\;", " "),
    (r"\:", " "),
    (r"\s+", " "),
]


def oracle(text):
    """torchtext's basic_english_normalize, pass by pass."""
    text = text.lower()
    for pattern, replacement in TWELVE:
        text = re.sub(pattern, replacement, text)
    return text.split()


@given(st.text() | st.text(alphabet="ab'\".<br />,()!?;: \t\n\x1c\x85\u00a0\u2003İẞ"))
def test_as_twelve_substitutions(text):
    assert basic_english(text) == oracle(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        '<"br />',
        '<b"r />x',
        "<br' />",
        "<BR />",
        "<br /><br />",
        "a'b\"c.d<br />e,f(g)h!i?j;k:l  m",
        "<br <br />/>",
        "<br. />",
        '""',
        "İ",
    ],
)
def test_as_twelve_substitutions_where_rules_meet(text):
    assert basic_english(text) == oracle(text)


def test_as_twelve_substitutions_on_real_reviews():
    with tarfile.open(real("aclImdb_v1.tar.gz")) as archive:
        reviews = [
            archive.extractfile(member).read().decode()
            for member in archive
            if member.isfile() and ("/pos/" in member.name or "/neg/" in member.name)
        ]
    assert len(reviews) > 1000
    for review in reviews:
        assert basic_english(review) == oracle(review)


def test_as_twelve_substitutions_on_real_news():
    with real("ag_news_csv", "test.csv").open(encoding="utf-8", newline="") as file:
        stories = [" ".join(row[1:]) for row in csv.reader(file)]
    assert len(stories) == 7600
    for story in stories:
        assert basic_english(story) == oracle(story)


@given(st.lists(st.text("ab ", max_size=2), max_size=7), st.integers(1, 4))
def test_ngrams_are_the_runs_of_each_length_in_turn(words, n):
    expected = [" ".join(words[at : at + k]) for k in range(1, n + 1) for at in range(len(words) - k + 1)]
    assert with_ngrams(words, n) == expected


def test_ngrams_do_not_change_the_words():
    words = ["a", "b"]
    assert with_ngrams(words, 2) == ["a", "b", "a b"]
    assert words == ["a", "b"]


def test_html_breaks_and_normal_forms():
    assert without_breaks("a<br />b<BR>c<br/>d<br  />e<brr>f<b>") == "a b c d e<brr>f<b>"
    assert normal_form("e\u0301", "NFC") == "é" == normal_form("\u00e9", "NFC")
    assert normal_form("ﬁ", "NFKC") == "fi"


@pytest.mark.parametrize(
    ("name", "known"),
    [("utf-8", True), ("latin-1", True), ("CP1252", True), ("base64", False), ("rot13", False), ("", False)],
)
def test_which_encodings_make_text(name, known):
    assert is_text_encoding(name) is known


def test_other_encodings():
    assert decode(b"na\xefve", encoding="latin-1") == "naïve"
    assert decode("\ufeffabc".encode("utf-16-le"), encoding="utf-16-le") == "abc"
    with pytest.raises(
        ValueError, match=re.escape("not ascii: byte 0xef at offset 2 of 5 (ordinal not in range(128))")
    ):
        decode(b"na\xefve", encoding="ascii")
    assert decode(b"na\xefve", encoding="ascii", errors="replace") == "na\ufffdve"


def test_utf8():
    assert decode_utf8("naïve".encode()) == "naïve"
    assert decode_utf8(b"\xef\xbb\xbfabc") == "abc"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"abc\xff", "not UTF-8: byte 0xff at offset 3 of 4 (invalid start byte)"),
        (b"na\xefve", "not UTF-8: byte 0xef at offset 2 of 5 (invalid continuation byte)"),
        (b"abc\xc3", "not UTF-8: byte 0xc3 at offset 3 of 4 (unexpected end of data)"),
    ],
)
def test_what_is_not_utf8_is_refused_with_its_offset(data, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        decode_utf8(data)
    assert decode_utf8(data, "ignore") == data.decode("utf-8", "ignore")
    assert "\ufffd" in decode_utf8(data, "replace")

"""Text bytes and basic English."""

from __future__ import annotations

import re
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecopipe.formats.text import basic_english, decode_utf8

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

"""Generated words."""

from __future__ import annotations

import statistics

from ecopipe.datasets import prose
from ecopipe.vocabulary.randomness import Chance

CHANCE = Chance(0, 0, "test")


def test_word_lists_are_clean() -> None:
    for words in (prose.SPOKEN, prose.NEUTRAL, prose.LIKED, prose.DISLIKED):
        assert len(set(words)) == len(words)
        assert all(word == word.lower() and word.replace("'", "").isalpha() for word in words)
    assert not set(prose.LIKED) & set(prose.DISLIKED) and not set(prose.NEUTRAL) & {*prose.LIKED, *prose.DISLIKED}


def test_reviews_and_transcripts_have_the_words_asked_for() -> None:
    for count in (1, 2, 7, 30, 333):
        text = prose.review(count, True, CHANCE.draws(count))
        assert len(text.replace("<br /><br />", " ").split()) == count
        assert text[0].isupper() and text[-1] in ".!?"
        assert len(prose.transcript(count, CHANCE.draws(count)).split()) == count


def test_lengths_are_skewed_and_bounded() -> None:
    values = prose.lengths(4000, 6.0, 0.65, 1.5, 20.0, CHANCE.draws("lengths"))
    assert min(values) == 1.5 and max(values) == 20.0
    assert 5.7 < statistics.median(values) < 6.3 < 6.8 < statistics.mean(values)

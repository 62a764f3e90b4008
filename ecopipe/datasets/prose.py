"""Words for generated transcripts and reviews: plain English ones, drawn with the skew of natural text."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ecopipe.vocabulary.randomness import Draws


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


SPOKEN = _words(
    """the and of to a in that he was it his i with as had for you not be but her she at is on him my they have all
    which so were this me from by one there we said no them who what would an if are when been or out their will up
    could more do then into now very some your time has upon man our about down little like than over before such
    after own good see two know great can old must well come came never first any made other way only long might day
    again life here back how these himself just thought much off went through where hand away yes house night every
    don't last young eyes still under heart head place work men nothing people most even world father left without
    water looked too took found few door white river morning against stood friend small knew fire once mother light
    began going always something seemed between three whole half voice side nor land face quite answered things room
    church turned until enough country captain silence summer garden winter letter journey mountain forest village
    children twenty thousand believe beneath quickly vessel harbor shadow"""
)
NEUTRAL = _words(
    """the a and of to is it in i this that was as for with movie but film on not you he are his have be one all at by
    an who they from so like there her or just about out has if some what can more when very up no time she even my
    would which story only really see their had we were me than much been get do will also into people other because
    how first most then its made make them could way too after characters character think watch two seen being where
    plot acting scene scenes actors director show many little off over does life while never know ever end still man
    here say old role between these young minutes music world family part years set screen camera script audience
    house night girl town war doctor brother car city train hotel letter dinner river street phone winter school
    performance dialogue cast ending version series original book picture sequence beginning half moment side
    television comedy drama thriller western horror documentary"""
)
LIKED = _words(
    """great wonderful excellent brilliant superb moving perfect beautiful loved amazing favorite touching memorable
    charming delightful masterpiece fantastic enjoyed powerful clever funny fresh gripping stunning best warm subtle
    gem rewarding heartfelt hilarious recommended captivating marvelous outstanding"""
)
DISLIKED = _words(
    """bad awful terrible boring worst waste poor stupid dull horrible lame ridiculous pointless predictable wooden
    annoying mess disappointing cheap tedious badly fails unfunny weak laughable avoid painful bland clumsy garbage
    pathetic mediocre forgettable lifeless unwatchable"""
)


def skewed(words: tuple[str, ...], chances: npt.NDArray[np.float64]) -> list[str]:
    """One word for each of ``chances`` (float64 [N] in [0, 1)); word number r has a share like 1 / (r + 8)."""
    shares = np.cumsum(1.0 / (np.arange(len(words)) + 8.0))
    places = np.searchsorted(shares / shares[-1], chances, side="right")
    return [words[place] for place in np.minimum(places, len(words) - 1).tolist()]


def review(words: int, liked: bool, draws: Draws) -> str:
    """A review of ``words`` words in one line, with sentences, commas and now and then ``<br /><br />``."""
    pick, feel, side, shape = draws.uniform(4 * words).reshape(4, words)
    plain = skewed(NEUTRAL, pick)
    warm, cold = skewed(LIKED, pick), skewed(DISLIKED, pick)
    parts: list[str] = []
    left, sentences = 0, 0
    for at in range(words):
        word = plain[at]
        if feel[at] < 0.12:  # one word in eight tells, and one in seven of those misleads
            word = (warm if (side[at] < 0.86) == liked else cold)[at]
        if left == 0:
            left = min(6 + int(shape[at] * 18), words - at)
            word = word[0].upper() + word[1:]
        elif word == "i":
            word = "I"
        left -= 1
        if left == 0:
            sentences += 1
            word += "!" if shape[at] < 0.08 else "?" if shape[at] < 0.13 else "."
            if sentences % 5 == 0 and shape[at] < 0.55 and at + 1 < words:
                word += "<br /><br />"
        elif shape[at] < 0.07:
            word += ","
        parts.append(word if word.endswith(">") else f"{word} ")
    return "".join(parts).rstrip()


def transcript(words: int, draws: Draws) -> str:
    """``words`` words in upper case without punctuation, as LibriSpeech writes them."""
    return " ".join(skewed(SPOKEN, draws.uniform(words))).upper()


def lengths(count: int, median: float, spread: float, low: float, high: float, draws: Draws) -> list[float]:
    """``count`` log-normal numbers around ``median``, within [low, high]; ``spread`` is that of the logarithm."""
    first, second = draws.uniform(2 * count).reshape(2, count)
    normal = np.sqrt(-2.0 * np.log(1.0 - first)) * np.cos(2.0 * np.pi * second)
    values: list[float] = np.clip(median * np.exp(spread * normal), low, high).tolist()
    return values

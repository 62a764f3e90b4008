"""Speech-like audio from text."""

from __future__ import annotations

import numpy as np
import pytest

from ecopipe.datasets.voice import RATE_HZ, Voice, speak
from ecopipe.vocabulary.randomness import Chance

LOW, HIGH = Voice(110.0, 1.0, 0.001), Voice(210.0, 1.15, 0.001)
CHANCE = Chance(0, 0, "test")


@pytest.mark.parametrize("duration_s", [0.3, 1.5, 1.50004, 7.3])
@pytest.mark.parametrize("text", ["OR HATH HE GIVEN US ANY GIFT", "A", "DON'T", "'"])
def test_the_audio_has_the_length_asked_for_and_never_clips(text: str, duration_s: float) -> None:
    audio = speak(text, duration_s, LOW, CHANCE.draws("a"))
    assert audio.dtype == np.int16 and audio.shape == (round(duration_s * RATE_HZ),)
    assert 1000 < np.abs(audio.astype(int)).max() < 20_000


def test_it_begins_and_ends_in_near_silence() -> None:
    audio = speak("THE SUMMER MORNING", 3.0, LOW, CHANCE.draws("a")).astype(float)
    loud = np.sqrt((audio**2).mean())
    assert np.sqrt((audio[:800] ** 2).mean()) < loud / 20 and np.sqrt((audio[-800:] ** 2).mean()) < loud / 20


def test_pitch_is_that_of_the_voice() -> None:
    for voice in (LOW, HIGH):
        audio = speak("ALL OUR OLD ALLIES", 4.0, voice, CHANCE.draws("a")).astype(float)[20_000:40_000]
        audio -= audio.mean()
        spectrum = np.abs(np.fft.rfft(audio, 65536)) ** 2
        rhythm = np.fft.irfft(spectrum)
        lags = np.arange(RATE_HZ // 300, RATE_HZ // 80)
        assert voice.pitch_hz == pytest.approx(RATE_HZ / lags[rhythm[lags].argmax()], rel=0.2)


def test_sounds_follow_the_text() -> None:
    hiss, hum = (speak(text, 2.0, LOW, CHANCE.draws("a")).astype(float) for text in ("SSS SSS SSS", "OOO OOO OOO"))
    high = [
        float((np.abs(np.fft.rfft(audio))[8000:] ** 2).sum() / (np.abs(np.fft.rfft(audio)) ** 2).sum())
        for audio in (hiss, hum)
    ]
    assert high[0] > 0.5 > 0.05 > high[1]

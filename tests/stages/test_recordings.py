"""Recordings: a stretch of one lies anywhere in it, and goes round where it is shorter."""

from __future__ import annotations

import io

import numpy as np
import pytest
import soundfile

from ecopipe.stages.recordings import Recording
from ecopipe.vocabulary.errors import ShardError


def recording(audio, kind="wav"):
    stream = io.BytesIO()
    soundfile.write(stream, audio, 8000, format=kind.upper(), subtype="PCM_16")
    return Recording(stream.getvalue(), kind, len(audio), 8000, "AddNoise: noise 'n' of n.tar")


PLACES = np.linspace(0, 1, 100, endpoint=False)


@pytest.mark.parametrize("kind", ["wav", "flac"])
def test_a_stretch_of_a_long_recording_lies_anywhere_in_it(kind):
    made = recording(np.arange(10, dtype=np.int16), kind)
    assert {tuple(made.stretch(8, at)[:, 0]) for at in PLACES} == {tuple(range(at, at + 8)) for at in (0, 1, 2)}
    assert made.stretch(10, 0.999)[:, 0].tolist() == list(range(10))


@pytest.mark.parametrize("kind", ["wav", "flac"])
def test_a_stretch_of_a_short_recording_goes_round(kind):
    made = recording(np.arange(6, dtype=np.int16).reshape(3, 2), kind)
    found = {tuple(made.stretch(7, at)[:, 0]) for at in PLACES}
    assert found == {(0, 2, 4, 0, 2, 4, 0), (2, 4, 0, 2, 4, 0, 2), (4, 0, 2, 4, 0, 2, 4)}
    assert made.stretch(7, 0.0).shape == (7, 2)


def test_a_recording_that_is_damaged_behind_its_header():
    made = recording(np.arange(100, dtype=np.int16))
    cut = Recording(made.data[:-50], "wav", 100, 8000, made.place)
    for read in (cut.piece, lambda: cut.stretch(10, 0.0), lambda: cut.stretch(200, 0.0)):
        with pytest.raises(ShardError, match=r"AddNoise: noise 'n' of n.tar: .*Mend it, or leave it out of the shards"):
            read()

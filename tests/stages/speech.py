"""Made-up speech in batches, for the tests of features."""

from __future__ import annotations

import numpy as np
import torch

from ecopipe.stages.collate import Collate
from ecopipe.vocabulary.randomness import Chance
from ecopipe.vocabulary.sample import Sample

CHANCE = Chance(7, 1, "test")


def speechlike(frames, *, rate_hz=16000, seed=0):
    """float32 [frames] in [-1, 1]: a gliding harmonic tone in noise, louder and softer."""
    rng = np.random.default_rng((seed, frames))
    t = np.arange(frames) / rate_hz
    tone = sum(np.sin(2 * np.pi * k * (110 + 40 * np.sin(t)) * t) / k for k in range(1, 20))
    audio = (0.1 * tone + 0.01 * rng.standard_normal(frames)) * (0.55 + 0.45 * np.sin(3 * t))
    return audio.clip(-1, 1).astype(np.float32)


def batch(audios, *, rate_hz=16000, wider=0, rubbish=0.0, keys=None):
    """The audios as a padded batch, ``wider`` than it need be, with ``rubbish`` in the padding."""
    keys = keys or [f"k{n}" for n in range(len(audios))]
    made = Collate("audio").apply(
        [Sample(key, {"audio": audio, "rate_hz": rate_hz}) for key, audio in zip(keys, audios, strict=True)]
    )
    audio = torch.nn.functional.pad(made["audio"], (0, wider))
    behind = torch.arange(audio.shape[1]) >= made["lengths"][:, None]
    return made.with_fields(audio=audio.masked_fill(behind, rubbish))


def features(stage, *args, device="cpu", **settings):
    made = stage.apply(batch(*args, **settings).to(device), CHANCE)
    return [row[:length].cpu() for row, length in zip(made["features"], made["lengths"].tolist(), strict=True)]

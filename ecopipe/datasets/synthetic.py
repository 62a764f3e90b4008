"""Small generated corpora in the exact layouts of the real ones, for the demo and for tests.

The same settings and seed give the same files. Where a real corpus says where it is from, these say that they are
generated.
"""

from __future__ import annotations

import collections
import importlib
import io
import os
import struct
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ecopipe.datasets import prose, voice
from ecopipe.storage.publish import publish_folder
from ecopipe.vocabulary.errors import ConfigError, MissingDependency, OutputError
from ecopipe.vocabulary.randomness import Chance, Draws

_WORDS_A_SECOND = 2.7
_SPEAKERS_HEAD = (
    "; Generated, in the layout of LibriSpeech's SPEAKERS.TXT.\n;ID  |SEX| SUBSET           |MINUTES| NAME\n"
)
_CHAPTERS_HEAD = (
    "; Generated, in the layout of LibriSpeech's CHAPTERS.TXT.\n"
    ";ID    |READER|MINUTES| SUBSET           | PROJ.|BOOK ID| CH. TITLE | PROJECT TITLE\n"
)
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def write_librispeech(
    root: str | os.PathLike[str],
    *,
    subsets: Sequence[str] = ("train-clean-100",),
    utterances: int = 48,
    speakers: int = 6,
    shortest_s: float = 1.5,
    longest_s: float = 20.0,
    seed: int = 0,
) -> Path:
    """Write ``root/LibriSpeech`` and return its path.

    Each subset has ``utterances`` utterances by ``speakers`` speakers of its own, two chapters each: FLAC, 16 kHz mono
    16 bit, from ``shortest_s`` to ``longest_s`` with the skew of real ones, and transcripts of 2.7 words a second.
    """
    if isinstance(subsets, str) or not subsets:
        raise ConfigError(f'subsets={subsets!r} is not a list of names. Write for instance subsets=("dev-clean",).')
    _require_positive(utterances=utterances, speakers=speakers)
    if not 0.5 <= shortest_s <= longest_s:
        raise ConfigError(f"shortest_s={shortest_s}, longest_s={longest_s}: 0.5 <= shortest_s <= longest_s is wanted.")
    try:
        soundfile: Any = importlib.import_module("soundfile")
    except ImportError as error:
        raise MissingDependency(
            'FLAC is written through soundfile, which is not installed. Run "pip install soundfile".'
        ) from error
    chance = Chance(seed, 0, "synthetic librispeech")
    readers, books = [_SPEAKERS_HEAD], [_CHAPTERS_HEAD]
    with _publish(root, "LibriSpeech") as folder:
        for part, subset in enumerate(subsets):
            durations = prose.lengths(utterances, 6.0, 0.65, shortest_s, longest_s, chance.draws(subset, "durations"))
            for number in range(min(speakers, utterances)):
                speaker = 9001 + 7 * (part * speakers + number)
                own = durations[number::speakers]
                person = _voice(number % 2 == 0, chance.draws(subset, speaker))
                spoken = _write_speaker(soundfile, folder / subset, speaker, own, person, chance)
                minutes = sum(spoken.values()) / 60
                readers.append(f"{speaker} | {'FM'[number % 2]} | {subset:<16} | {minutes:.2f} | Generated {speaker}\n")
                books += [
                    f"{chapter} | {speaker} | {seconds / 60:.2f} | {subset:<16} | 0 | 0 | Chapter | Generated\n"
                    for chapter, seconds in spoken.items()
                ]
        (folder / "SPEAKERS.TXT").write_text("".join(readers))
        (folder / "CHAPTERS.TXT").write_text("".join(books))
        (folder / "README.TXT").write_text("Generated audio and text in the layout of LibriSpeech. It is not speech.\n")
    return Path(root) / "LibriSpeech"


def _voice(female: bool, draws: Draws) -> voice.Voice:
    pitch, tract, breath = draws.uniform(3).tolist()
    return voice.Voice(
        pitch_hz=(205.0 if female else 115.0) * (0.88 + 0.24 * pitch),
        tract=(1.14 if female else 1.0) * (0.96 + 0.08 * tract),
        breath=0.0008 + 0.0016 * breath,
    )


def _write_speaker(
    soundfile: Any, subset: Path, speaker: int, durations: Sequence[float], person: voice.Voice, chance: Chance
) -> dict[int, float]:
    """Write the folder of one speaker; returns the seconds of each chapter."""
    seconds: dict[int, float] = {}
    half = -(-len(durations) // 2)
    for chapter, own in ((speaker * 10 + 1, durations[:half]), (speaker * 10 + 2, durations[half:])):
        if not own:
            continue
        folder = subset / str(speaker) / str(chapter)
        folder.mkdir(parents=True)
        lines = []
        for number, duration_s in enumerate(own):
            key = f"{speaker}-{chapter}-{number:04d}"
            draws = chance.draws(subset.name, key)
            text = prose.transcript(max(1, round(duration_s * _WORDS_A_SECOND)), draws)
            audio = voice.speak(text, duration_s, person, draws)
            encoded = io.BytesIO()
            soundfile.write(encoded, audio, voice.RATE_HZ, format="FLAC", subtype="PCM_16")
            (folder / f"{key}.flac").write_bytes(encoded.getvalue())
            lines.append(f"{key} {text}\n")
        (folder / f"{speaker}-{chapter}.trans.txt").write_text("".join(lines))
        seconds[chapter] = sum(own)
    return seconds


def write_imdb(
    root: str | os.PathLike[str],
    *,
    reviews: int = 400,
    unsup: int = 0,
    median_words: int = 170,
    seed: int = 0,
) -> Path:
    """Write ``root/aclImdb`` and return its path.

    ``reviews`` reviews in each of train and test, half of them positive, of 30 to 1,000 words; ``unsup`` unlabelled
    ones. Positive and negative ones differ in their words, so that a model can learn to tell them apart.
    """
    _require_positive(reviews=reviews, median_words=median_words)
    if reviews % 2 or unsup < 0:
        raise ConfigError(f"reviews={reviews} must be even, half of them positive, and unsup={unsup} not below 0.")
    chance = Chance(seed, 0, "synthetic imdb")
    seen: collections.Counter[str] = collections.Counter()
    parts = [(f"{split}/{side}", reviews // 2) for split in ("train", "test") for side in ("pos", "neg")]
    with _publish(root, "aclImdb") as folder:
        for part, count in [*parts, ("train/unsup", unsup)]:
            if not count:
                continue
            (folder / part).mkdir(parents=True)
            sizes = prose.lengths(count, median_words, 0.65, 30, 1000, chance.draws(part))
            for number, size in enumerate(sizes):
                draws = chance.draws(part, number)
                liked = draws.integer(2) == 1 if part.endswith("unsup") else part.endswith("pos")
                rating = 0 if part.endswith("unsup") else draws.integer(4) + (7 if liked else 1)
                text = prose.review(round(size), liked, draws)
                (folder / part / f"{number}_{rating}.txt").write_text(text)
                seen.update(text.replace("<br /><br />", " ").lower().translate(_NO_MARKS).split())
        ranked = sorted(seen, key=lambda word: (-seen[word], word))
        (folder / "imdb.vocab").write_text("".join(f"{word}\n" for word in ranked))
        (folder / "README").write_text("Generated reviews in the layout of the Large Movie Review Dataset.\n")
    return Path(root) / "aclImdb"


_NO_MARKS = str.maketrans("", "", ".,!?")


def write_cifar10(root: str | os.PathLike[str], *, rows: int = 200, seed: int = 0) -> Path:
    """Write ``root/cifar-10-batches-py`` and return its path: five batches and a test batch of ``rows`` images each.

    An image is a shape in the colours of its class before a shaded background, with noise. The pickles have the opcodes
    of the upstream ones (protocol 2, from Python 2), so every reader takes them for what it knows.
    """
    _require_positive(rows=rows)
    chance = Chance(seed, 0, "synthetic cifar10")
    batches = [(f"data_batch_{number}", f"training batch {number} of 5") for number in range(1, 6)]
    with _publish(root, "cifar-10-batches-py") as folder:
        for file, title in [*batches, ("test_batch", "testing batch 1 of 1")]:
            draws = chance.draws(file)
            labels = (draws.permutation(rows) % len(CIFAR10_CLASSES)).tolist()
            images = _shapes(np.array(labels), draws)
            names = [f"{CIFAR10_CLASSES[label]}_{file}_{row:06d}.png".encode() for row, label in enumerate(labels)]
            fields = {b"batch_label": title.encode(), b"labels": labels, b"data": images, b"filenames": names}
            (folder / file).write_bytes(_old_pickle(fields))
        about = {
            b"num_cases_per_batch": rows,
            b"label_names": [name.encode() for name in CIFAR10_CLASSES],
            b"num_vis": 3072,
        }
        (folder / "batches.meta").write_bytes(_old_pickle(about))
        (folder / "readme.html").write_text("Generated images in the layout of CIFAR-10.\n")
    return Path(root) / "cifar-10-batches-py"


def _shapes(labels: npt.NDArray[np.int64], draws: Draws) -> npt.NDArray[np.uint8]:
    """uint8 [N, 3072]: one image a row, its red plane first, then green, then blue."""
    count = len(labels)
    down, across = np.mgrid[0:32, 0:32].astype(np.float64)
    middle, size, shade = draws.uniform(2 * count).reshape(2, count), draws.uniform(count), draws.uniform(3 * count)
    y = down[None] - (12.0 + 8.0 * middle[0])[:, None, None]
    x = across[None] - (12.0 + 8.0 * middle[1])[:, None, None]
    radius = (6.0 + 5.0 * size)[:, None, None]
    distance = np.hypot(x, y)
    kinds = np.stack(
        [
            distance < radius,
            np.maximum(np.abs(x), np.abs(y)) < radius * 0.85,
            np.abs(x) + np.abs(y) < radius * 1.2,
            (distance < radius) & (distance > radius * 0.55),
            (np.abs(x) < (y + radius) * 0.5) & (y < radius * 0.8),
        ]
    )
    mask = kinds[labels % 5, np.arange(count)][:, None]
    hue = labels / 10.0 * 2 * np.pi
    colour = 140.0 + 90.0 * np.cos(hue[:, None] + np.array([0.0, 2.1, 4.2])[None, :])
    colour = (colour + 50.0 * (shade.reshape(count, 3) - 0.5))[:, :, None, None]
    ground = (60.0 + 120.0 * shade.reshape(count, 3))[:, :, None, None] + 1.5 * (down - 16.0)
    noise = 24.0 * (draws.uniform(count * 3072).reshape(count, 3, 32, 32) - 0.5)
    image = np.where(mask, colour, ground) + noise
    return np.asarray(np.clip(image, 0, 255).astype(np.uint8).reshape(count, 3072))


def _old_pickle(value: Any) -> bytes:
    """The pickle of a value as Python 2 writes it with protocol 2: Python 3 has no way to write its byte strings."""
    return b"\x80\x02" + _opcodes(value) + b"."


def _opcodes(value: Any) -> bytes:
    if isinstance(value, bytes):
        short = len(value) < 256
        return (b"U" + bytes([len(value)]) if short else b"T" + struct.pack("<i", len(value))) + value
    if isinstance(value, bool):
        return b"\x88" if value else b"\x89"
    if isinstance(value, int):
        return b"K" + bytes([value]) if 0 <= value < 256 else b"J" + struct.pack("<i", value)
    if value is None:
        return b"N"
    if isinstance(value, tuple):
        return b"(" + b"".join(map(_opcodes, value)) + b"t"
    if isinstance(value, list):
        return b"](" + b"".join(map(_opcodes, value)) + b"e"
    if isinstance(value, Mapping):
        return b"}(" + b"".join(_opcodes(key) + _opcodes(item) for key, item in value.items()) + b"u"
    array: npt.NDArray[np.uint8] = value
    made = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n" + _opcodes((0,)) + _opcodes(b"b") + b"tR"
    order = _opcodes((3, b"|", None, None, None, -1, -1, 0))
    dtype = b"cnumpy\ndtype\n" + _opcodes((b"u1", 0, 1)) + b"R" + order + b"b"
    state = b"(K\x01" + _opcodes(array.shape) + dtype + _opcodes(False) + _opcodes(array.tobytes()) + b"t"
    return made + state + b"b"


def _publish(root: str | os.PathLike[str], name: str) -> AbstractContextManager[Path]:
    place = Path(root) / name
    if place.exists():
        raise OutputError(f"{place} is there already. Choose another folder, or remove it if it may go.")
    return publish_folder(place)


def _require_positive(**settings: int) -> None:
    for name, value in settings.items():
        if value < 1:
            raise ConfigError(f"{name}={value} must be at least 1.")

"""What a corpus becomes: sharded, then streamed by a pipeline, and compared with what the reader gave."""

from __future__ import annotations

import io
import pickle
import wave
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ecopipe.datasets.corpus import Corpus, RawSample
from ecopipe.pipeline.pipeline import Pipeline
from ecopipe.sharding.limits import Limits
from ecopipe.sharding.write import write_corpus
from ecopipe.stages.collate import Collate
from ecopipe.stages.foreign import Map
from ecopipe.stages.plan import Batch, Shuffle
from ecopipe.stages.source import TarShards
from ecopipe.vocabulary.errors import DataError

Streamed = dict[str, dict[str, dict[str, Any]]]


def whole(sample: Mapping[str, Any]) -> dict[str, Any]:
    """All fields of a sample in one array."""
    fields = {name: value for name, value in sample.items() if value is not None}
    return {"whole": np.frombuffer(pickle.dumps(fields), np.uint8)}


def round_trip(corpus: Corpus, out: Path) -> Streamed:
    """Split -> key -> fields, as a shuffling pipeline over the shards delivers them; equal to what the corpus gave."""
    write_corpus(corpus, out, limits=Limits(max_count=7))
    found: Streamed = {}
    for split in corpus.splits():
        given = list(corpus.samples(split))
        check_contract(corpus, split, given)
        pipeline = Pipeline(
            TarShards(str(out / split)), Shuffle(), Batch(4), Map(whole, into="whole"), Collate("whole", layout="flat")
        )
        samples: dict[str, dict[str, Any]] = {}
        for batch in pipeline:
            places = zip(batch["keys"], batch["offsets"].tolist(), batch["lengths"].tolist(), strict=True)
            for key, offset, length in places:
                assert key not in samples
                samples[key] = pickle.loads(batch["whole"][offset : offset + length].numpy().tobytes())
        assert samples.keys() == {sample.key for sample in given}
        for sample in given:
            wanted: dict[str, Any] = {**sample.members, **sample.extras}
            fields = samples[sample.key]
            assert {name: fields.get(name) for name in wanted} == wanted
            assert {name for name, value in fields.items() if isinstance(value, bytes)} == set(sample.members)
        found[split] = samples
    return found


def check_contract(corpus: Corpus, split: str, given: list[RawSample]) -> None:
    """Samples are counted, sorted by key, and the same when they are read again."""
    keys = [sample.key for sample in given]
    assert len(keys) == corpus.count(split) > 0
    assert keys == sorted(set(keys))
    assert given == list(corpus.samples(split))
    assert given == list(pickle.loads(pickle.dumps(corpus)).samples(split))
    assert all(line.endswith(".") for line in corpus.report())
    assert [corpus.key(split, place) for place in range(len(keys))] == keys
    assert [corpus.sample(split, place) for place in reversed(range(len(keys)))] == given[::-1]
    corpus.check(split)
    sizes, true = corpus.sizes(split), sum(len(data) for sample in given for data in sample.members.values())
    assert sizes.shape == (len(keys),) and sizes.dtype == np.int64 and (sizes >= 0).all()
    assert true / 3 - 64 * len(keys) <= sizes.sum() <= true * 3 + 64 * len(keys) + 1024


def wav(frames: int, rate_hz: int) -> bytes:
    """A WAV of silence, 16 bit mono."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes(bytes(2 * frames))
    return buffer.getvalue()


def write(root: Path, files: Mapping[str, bytes | str]) -> Path:
    """Files under a folder, which is returned."""
    for name, payload in files.items():
        place = root / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(payload.encode() if isinstance(payload, str) else payload)
    return root


def read_all(corpus: Corpus, split: str) -> tuple[dict[str, RawSample], dict[str, str]]:
    """The samples of a split by key, and the messages of those that cannot be read; each is asked for by its place."""
    good: dict[str, RawSample] = {}
    bad: dict[str, str] = {}
    for place in reversed(range(corpus.count(split))):
        key = corpus.key(split, place)
        try:
            good[key] = corpus.sample(split, place)
        except DataError as error:
            bad[key] = str(error)
    return good, bad

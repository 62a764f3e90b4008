"""Hostile ledgers, statistics, checkpoints and descriptions: one error that names the file, or what is good of it."""

from __future__ import annotations

import contextlib
import json
import random
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from ecopipe.pipeline.pipeline import Pipeline
from ecopipe.run.checkpoint import Checkpoint, _digest, load_state
from ecopipe.run.ledger import METADATA, SCHEMA, ledger_files, read_ledger
from ecopipe.run.loader import Loader
from ecopipe.run.state import _check_sum
from ecopipe.sharding.description import read_description
from ecopipe.stages.collate import Collate
from ecopipe.stages.image import DecodeImage
from ecopipe.stages.normalization import Statistics
from ecopipe.stages.plan import Batch
from ecopipe.stages.source import TarShards
from ecopipe.vocabulary.errors import ConfigError, DataError, EcopipeError, OutputError, StateError

DEEP = ["[" * 200_000, '{"a":' * 200_000]
BYTES = 64 << 20
"""Memory that a record of some kilobytes may not take."""


@pytest.fixture
def pipeline(shards: Path) -> Pipeline:
    source = TarShards(str(shards / "cifar10" / "train"))
    return Pipeline(source, Batch(4), DecodeImage(), Collate("image", layout="stack"))


@pytest.fixture
def ledger(pipeline: Pipeline, tmp_path: Path) -> Path:
    with Loader(pipeline, ledger=tmp_path / "ledger") as loader:
        list(loader)
    (path,) = ledger_files(tmp_path / "ledger")
    return path


def damaged(data: bytes, chance: random.Random) -> bytes:
    """Some bytes changed, cut out, doubled, or set to what looks like a large number."""
    found = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 8))):
        at = chance.randrange(len(found))
        kind = chance.randrange(4)
        if kind == 0:
            found[at] = chance.randrange(256)
        elif kind == 1:
            found[at : at + 8] = chance.choice((b"\xff" * 8, b"\x7f" + b"\xff" * 7, b"\xff" * 7 + b"\x7f", bytes(8)))
        elif kind == 2:
            del found[at : at + chance.randrange(1, 64)]
        else:
            found[at:at] = found[at : at + 64]
        if not found:
            break
    return bytes(found)


@contextlib.contextmanager
def named(path: Path, kind: type[EcopipeError]) -> Iterator[list[str]]:
    """What goes well, or is refused by an error of this kind that names the file: then that is listed."""
    said: list[str] = []
    try:
        yield said
    except kind as error:
        said.append(str(error))
    assert all(str(path) in text for text in said)


@pytest.mark.parametrize("seed", range(4))
def test_a_damaged_ledger_is_read_or_named(ledger: Path, seed: int) -> None:
    chance, good = random.Random(seed), ledger.read_bytes()
    whole, refused = read_ledger(ledger).num_rows, 0
    tracemalloc.start()
    try:
        for _ in range(150):
            ledger.write_bytes(damaged(good, chance))
            with named(ledger, DataError) as said:
                assert read_ledger(ledger).num_rows <= 2 * whole + 16
            refused += len(said)
        assert tracemalloc.get_traced_memory()[1] < BYTES
    finally:
        tracemalloc.stop()
    assert refused > 20


def test_a_ledger_cut_anywhere_gives_what_is_whole(ledger: Path) -> None:
    good, whole = ledger.read_bytes(), read_ledger(ledger).num_rows
    for size in random.Random(0).sample(range(len(good)), 100):
        ledger.write_bytes(good[:size])
        assert read_ledger(ledger).num_rows <= whole


@pytest.mark.parametrize("header", [*DEEP, "7", "null", "[]", "{}", '{"version": []}', '{"version": 1e999}', "\ud800"])
def test_a_ledger_whose_header_is_nonsense_is_named(tmp_path: Path, header: str) -> None:
    path = tmp_path / "x.arrows"
    told = header.encode("utf-8", "surrogatepass")
    path.write_bytes(SCHEMA.with_metadata({METADATA: told}).serialize().to_pybytes())
    with pytest.raises(DataError, match="is no ledger of ecopipe|has version"):
        read_ledger(path)


def test_a_ledger_of_other_columns_is_named(tmp_path: Path, ledger: Path) -> None:
    header = pa.ipc.read_schema(pa.py_buffer(ledger.read_bytes())).metadata[METADATA]
    path = tmp_path / "x.arrows"
    path.write_bytes(pa.schema([("epoch", pa.string())], {METADATA: header}).serialize().to_pybytes())
    with pytest.raises(DataError, match="its columns are others"):
        read_ledger(path)


STATISTICS = Statistics(field="features", bins=2, mean=(0.0, 1.0), std=(1.0, 1.0), frames=9, samples=3).dumps()


@pytest.mark.parametrize("text", [*DEEP, "7", "null", "[]", "{}", '"x"', "\x00", "NaN"])
def test_statistics_that_are_nonsense_are_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "stats.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match="stats.json"):
        Statistics.read(path)


@pytest.mark.parametrize("seed", range(2))
def test_damaged_statistics_are_good_or_named(tmp_path: Path, seed: int) -> None:
    path, chance, refused = tmp_path / "stats.json", random.Random(seed), 0
    for _ in range(300):
        path.write_bytes(damaged(STATISTICS.encode(), chance))
        with named(path, ConfigError) as said:
            assert Statistics.read(path).bins == 2
        refused += len(said)
    assert refused > 100


@pytest.mark.parametrize("value", ["x", None, [1], {"a": 1}, 1e400, -1, True, "9" * 5000])
@pytest.mark.parametrize("name", ["bins", "mean", "std", "frames", "version", "pipeline", "field"])
def test_statistics_of_other_types_are_named(tmp_path: Path, name: str, value: Any) -> None:
    path = tmp_path / "stats.json"
    path.write_text(json.dumps(json.loads(STATISTICS) | {name: value}))
    with contextlib.suppress(ConfigError):
        found = Statistics.read(path)
        assert len(found.mean) == len(found.std) == found.bins == 2


@pytest.fixture
def checkpoint(pipeline: Pipeline, tmp_path: Path) -> Path:
    with Loader(pipeline) as loader:
        next(iter(loader))
        Checkpoint(tmp_path / "loader.json", loader).save(step=1)
    return tmp_path / "loader.json"


@pytest.mark.parametrize("seed", range(2))
def test_a_damaged_checkpoint_is_refused(checkpoint: Path, pipeline: Pipeline, seed: int) -> None:
    chance, good = random.Random(seed), checkpoint.read_bytes()
    with Loader(pipeline) as loader:
        for _ in range(200):
            bad = damaged(good, chance)
            if bad.strip() == good.strip():
                continue
            checkpoint.write_bytes(bad)
            with contextlib.suppress(StateError):
                assert Checkpoint(checkpoint, loader).load() == {"step": 1}  # a key that nobody reads was changed
                assert loader.state_dict()["batch"] == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text[:-2] + "[" * 200_000,
        lambda text: text[:20],
        lambda text: json.dumps(json.loads(text) | {"content": [1], "check": _digest([1])}),
        lambda text: json.dumps(json.loads(text) | {"content": {"loader": 7}, "check": _digest({"loader": 7})}),
        lambda text: json.dumps(
            json.loads(text) | {"content": {"loader": 7, "extra": {}}, "check": _digest({"loader": 7, "extra": {}})}
        ),
        lambda text: json.dumps(json.loads(text) | {"version": {"a": []}}),
    ],
)
def test_a_checkpoint_that_was_made_up_is_refused(
    checkpoint: Path, pipeline: Pipeline, change: Callable[[str], str]
) -> None:
    checkpoint.write_text(change(checkpoint.read_text()))
    with Loader(pipeline) as loader, pytest.raises(StateError):
        Checkpoint(checkpoint, loader).load()


def test_states_that_were_made_up_are_refused(checkpoint: Path, pipeline: Pipeline) -> None:
    state = (load_state(checkpoint) or {})["loader"]
    with Loader(pipeline) as loader:
        for name in state:
            for value in (None, "x", -1, [], {}, [[1]], 1e300):
                if value != state[name]:
                    changed = {**state, name: value}
                    with pytest.raises(StateError):
                        loader.load_state_dict(changed)
                    if name not in ("check", "version") and (name != "lanes" or value):  # without any it is a begin
                        with pytest.raises(StateError):
                            loader.load_state_dict({**changed, "check": _check_sum(changed)})
        assert [len(batch["keys"]) for batch in loader]


@pytest.mark.parametrize(
    "text",
    [*DEEP, "7", "[]", '"x"', "{", '{"splits": 7}', '{"splits": [1]}', '{"splits": {"train": 7}}',
     '{"splits": {"train": {"provenance": 7}}}'],
)  # fmt: skip
def test_a_description_that_is_nonsense_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(OutputError, match=r"dataset\.json: is no readable JSON"):
        read_description(str(tmp_path))

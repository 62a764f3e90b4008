"""Bad samples: real damage in real tars, under each policy."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ecopipe.formats.index import FILE_NAME, IndexFile
from ecopipe.pipeline.bad_samples import BadSamples, Policy
from ecopipe.pipeline.pipeline import Pipeline
from ecopipe.plan.blocks import Slice
from ecopipe.run.loader import Loader
from ecopipe.stages.audio import DecodeAudio
from ecopipe.stages.collate import Collate
from ecopipe.stages.foreign import Map
from ecopipe.stages.plan import Batch, Bucket, Shuffle
from ecopipe.stages.source import TarShards
from ecopipe.vocabulary.errors import DataError, OutputError, SampleError, ShardError
from ecopipe.vocabulary.sample import Batch as Delivered
from ecopipe.vocabulary.sample import Sample

SPLIT = "train-clean-100"


@pytest.fixture
def folder(shards: Path, tmp_path: Path) -> Path:
    """24 utterances in five tars, to be damaged."""
    return Path(shutil.copytree(shards / "librispeech" / SPLIT, tmp_path / SPLIT))


def flip(folder: Path, count: int, seed: int = 0) -> set[str]:
    """Flips a byte in the audio of some samples; gives their keys."""
    rows = listed(folder)
    chosen = np.random.default_rng(seed).permutation(len(rows))[:count]
    for row in (rows[int(at)] for at in chosen):
        member = next(member for member in row["members"] if member["extension"] == "flac")
        with open(folder / row["shard"], "r+b") as tar:
            tar.seek(member["offset"] + member["size"] // 2)
            byte = tar.read(1)
            tar.seek(-1, os.SEEK_CUR)
            tar.write(bytes([byte[0] ^ 0x55]))
    return {rows[int(at)]["key"] for at in chosen}


def listed(folder: Path) -> list[dict[str, Any]]:
    index = IndexFile(str(folder / FILE_NAME))
    tables = [index.read(number, 0, shard.rows) for number, shard in enumerate(index.shards)]
    index.close()
    return [row for table in tables for row in table.to_pylist()]


def speech(folder: Path, policy: Policy | BadSamples, size: int | None = None) -> Pipeline:
    tolerance = BadSamples(policy, max_share=1) if isinstance(policy, str) else policy
    batching = Bucket("frames", max_count=4) if size is None else Batch(size)
    return Pipeline(TarShards(str(folder)), Shuffle(), batching, DecodeAudio(), Collate("audio"), bad_samples=tolerance)


def stream(pipeline: Pipeline, **settings: Any) -> list[Delivered]:
    with Loader(pipeline, **settings) as loader:
        return list(loader)


def planned_keys(folder: Path, size: int | None = None, seed: int = 0) -> list[list[str]]:
    """What the batches would hold if nothing were bad: from the plan, which reads no payload."""
    pipeline = speech(folder, "skip", size)
    with Loader(pipeline, seed=seed) as loader:
        return [task.rows["key"].to_pylist() for task in loader._tasks()]


def test_raise_is_the_default_and_names_the_sample(folder: Path) -> None:
    (key,) = flip(folder, 1)
    with pytest.raises(ShardError, match=f"sample '{key}' member 'flac' is not what was indexed .its CRC-32 differs"):
        stream(speech(folder, BadSamples()))


@pytest.mark.parametrize("workers", [0, 2])
def test_skip_leaves_out_the_bad_and_moves_nothing_else(folder: Path, tmp_path: Path, workers: int) -> None:
    expected = planned_keys(folder)
    bad = flip(folder, 5)
    quarantine = tmp_path / "bad.jsonl"
    batches = stream(speech(folder, "skip"), workers=workers, quarantine=quarantine)
    assert len(batches) == len(expected)
    for batch, keys in zip(batches, expected, strict=True):
        if good := [key for key in keys if key not in bad]:
            assert batch["keys"] == good
        else:
            assert len(batch["keys"]) == 1  # every rank makes every step
            assert batch["keys"][0] not in bad
        assert batch["audio"].shape[0] == len(batch["keys"])
    lines = [json.loads(line) for line in quarantine.read_text().splitlines()]
    assert {line["key"] for line in lines} == bad
    assert len(lines) == 5
    assert all(line["stage"] == "read" and "CRC-32 differs" in line["error"] for line in lines)
    assert all(expected[line["batch"]][line["position"]] == line["key"] for line in lines)


@pytest.mark.parametrize("workers", [0, 2])
def test_substitute_fills_the_place_with_a_neighbour_of_the_bucket(folder: Path, workers: int) -> None:
    frames = {row["key"]: row["frames"] for row in listed(folder)}
    expected = planned_keys(folder)
    bad = flip(folder, 5)
    batches = stream(speech(folder, "substitute"), workers=workers)
    again = stream(speech(folder, "substitute"))
    found = set()
    for batch, same, keys in zip(batches, again, expected, strict=True):
        assert batch.place is not None
        assert batch["keys"] == same["keys"]
        assert len(batch["keys"]) == len(keys)
        faults = {fault.position: fault for fault in batch.place.faults}
        for position, (key, delivered) in enumerate(zip(keys, batch["keys"], strict=True)):
            assert (position in faults) == (key in bad)
            if position not in faults:
                assert delivered == key
                continue
            found.add(key)
            assert faults[position].substitute == delivered != key
            assert delivered not in bad
            assert frames[delivered] <= max(frames[key] for key in keys)  # the padded budget holds
    assert found == bad


def test_ranks_make_equal_steps_and_resume_is_exact_around_bad_samples(folder: Path) -> None:
    flip(folder, 6)
    for policy in ("skip", "substitute"):
        pipeline = speech(folder, policy)  # type: ignore[arg-type]
        whole = [(batch.place.number, batch["keys"]) for batch in stream(pipeline) if batch.place]
        ranks = [stream(pipeline, rank=rank, world_size=3) for rank in range(3)]
        assert len({len(rank) for rank in ranks}) == 1
        steps = [batch for step in zip(*ranks, strict=True) for batch in step]
        assert [
            (batch.place.number, batch["keys"]) for batch in steps if batch.place and not batch.place.repeat
        ] == whole
        for at in range(len(whole)):
            with Loader(pipeline) as loader:
                batches = iter(loader)
                for _ in range(at):
                    next(batches)
                state = json.loads(json.dumps(loader.state_dict()))
            with Loader(pipeline, workers=1) as loader:
                loader.load_state_dict(state)
                assert [(batch.place.number, batch["keys"]) for batch in loader if batch.place] == whole[at:]


def test_the_policy_is_no_part_of_a_states_identity(folder: Path) -> None:
    bad = flip(folder, 1)
    expected = planned_keys(folder)
    at = next(number for number, keys in enumerate(expected) if set(keys) & bad)
    with Loader(speech(folder, BadSamples())) as loader:
        with pytest.raises(ShardError):
            for batch in loader:
                taken = batch.place
        state = loader.state_dict()
    assert taken is not None
    assert state["batch"] == at == taken.number + 1
    with Loader(speech(folder, "skip")) as loader:
        loader.load_state_dict(state)
        assert [batch["keys"] for batch in loader] == [
            [key for key in keys if key not in bad] for keys in expected[at:]
        ]


def test_a_truncated_and_a_missing_shard_are_bad_samples_each(folder: Path, tmp_path: Path) -> None:
    expected = planned_keys(folder)
    rows = listed(folder)
    names = sorted({row["shard"] for row in rows})
    cut = (folder / names[1]).stat().st_size // 2
    os.truncate(folder / names[1], cut)
    (folder / names[3]).unlink()
    ends = {row["key"]: max(member["offset"] + member["size"] for member in row["members"]) for row in rows}
    lost = {row["key"] for row in rows if row["shard"] == names[3]}
    lost |= {row["key"] for row in rows if row["shard"] == names[1] and ends[row["key"]] > cut}
    assert len(lost) > 6
    with pytest.raises(ShardError, match="is truncated or was replaced"):
        stream(speech(folder, BadSamples()))
    quarantine = tmp_path / "bad.jsonl"
    batches = stream(speech(folder, "substitute"), quarantine=quarantine)
    assert [len(batch["keys"]) for batch in batches] == [len(keys) for keys in expected]
    lines = [json.loads(line) for line in quarantine.read_text().splitlines()]
    assert Counter(line["key"] for line in lines) == Counter(lost)
    assert {line["error"].split(": ")[1].split(":")[0] for line in lines if line["shard"] == names[3]} == {
        "the shard is missing. Put it back, or index the folder again."
    }
    assert not lost & {key for batch in batches for key in batch["keys"]}


def test_a_shard_that_vanishes_in_mid_run_keeps_its_state_good(folder: Path) -> None:
    expected = planned_keys(folder)
    with Loader(speech(folder, "skip")) as loader:
        batches = iter(loader)
        next(batches)
        state = loader.state_dict()
    name = sorted(path.name for path in folder.glob("*.tar"))[0]
    (folder / name).unlink()
    gone = {row["key"] for row in listed(folder) if row["shard"] == name}
    with Loader(speech(folder, "skip")) as loader:
        loader.load_state_dict(state)
        rest = [batch["keys"] for batch in loader]
    assert len(rest) == len(expected) - 1
    assert {key for keys in rest for key in keys} == {key for keys in expected[1:] for key in keys} - gone


def fails_on(sample: np.ndarray) -> np.ndarray:
    if len(sample) % 3 == 0:
        raise RuntimeError("a third of all lengths")
    return sample


def test_a_stage_that_fails_makes_a_bad_sample_too(folder: Path, tmp_path: Path) -> None:
    frames = {row["key"]: row["frames"] for row in listed(folder)}
    pipeline = Pipeline(
        TarShards(str(folder)), Batch(4), DecodeAudio(), Map(fails_on, field="audio"), Collate("audio"),
        bad_samples=BadSamples("skip", max_share=1),
    )  # fmt: skip
    quarantine = tmp_path / "deep" / "bad.jsonl"
    stream(pipeline, quarantine=quarantine)
    lines = [json.loads(line) for line in quarantine.read_text().splitlines()]
    assert {line["key"] for line in lines} == {key for key, count in frames.items() if count % 3 == 0} != set()
    assert {line["stage"] for line in lines} == {"Map"}
    assert {line["error"] for line in lines} == {"RuntimeError: a third of all lengths"}


def shorten_shape(sample: np.ndarray) -> np.ndarray:
    return sample[:300].reshape(3, 100) if len(sample) % 3 == 0 else sample


def test_a_sample_that_does_not_go_with_the_others_of_its_batch_is_bad(folder: Path) -> None:
    frames = {row["key"]: row["frames"] for row in listed(folder)}
    odd = {key for key, count in frames.items() if count % 3 == 0}
    pipeline = Pipeline(
        TarShards(str(folder)), Batch(8), DecodeAudio(), Map(shorten_shape, field="audio"), Collate("audio"),
        bad_samples=BadSamples("skip", max_share=1),
    )  # fmt: skip
    batches = stream(pipeline)
    faults = {fault.key: fault for batch in batches if batch.place for fault in batch.place.faults}
    assert {key for batch in batches for key in batch["keys"]} | faults.keys() == frames.keys()
    assert {fault.stage for fault in faults.values()} == {"Collate"}
    keys = [row["key"] for row in listed(folder)]
    for at in range(0, len(keys), 8):
        batch = set(keys[at : at + 8])
        few = min(batch & odd, batch - odd, key=len)
        assert batch & faults.keys() == few or len(few) == 4


def test_too_many_in_a_row_and_too_large_a_share_end_it(folder: Path, tmp_path: Path) -> None:
    flip(folder, 24)
    quarantine = tmp_path / "bad.jsonl"
    with pytest.raises(
        SampleError, match="All 4 samples of its batch are bad, and those that could stand in. Mend the"
    ):
        stream(speech(folder, BadSamples("skip", max_share=1)))
    flip(folder, 12)  # twice is mended
    policy = BadSamples("substitute", max_share=1, max_consecutive=1)
    with pytest.raises(DataError, match=r"bad samples: 2 in a row, over max_consecutive 1. The last is .* listed in"):
        stream(speech(folder, policy, 24), quarantine=quarantine)
    assert len(quarantine.read_text().splitlines()) == 12
    with (
        Loader(speech(folder, BadSamples("skip", max_share=0.005, max_consecutive=24))) as loader,
        pytest.raises(DataError, match=r"bad samples: [6-9] of \d+ samples, over max_share 0.005"),
    ):
        for _ in range(2):
            for _batch in loader:
                state = loader.state_dict()
    assert loader.state_dict() == state


def test_bad_samples_are_told(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (key,) = flip(folder, 1)
    with caplog.at_level(logging.WARNING, logger="ecopipe"):
        stream(speech(folder, "skip"))
    assert f"bad sample '{key}' in " in caplog.text
    assert ", left out: read: " in caplog.text


def test_without_verify_only_what_cannot_be_decoded_is_bad(folder: Path) -> None:
    with Loader(speech(folder, "skip"), verify="off") as loader:
        slices = [Slice(number, 0, rows) for number, rows in enumerate(loader.shards.parts[""].rows_per_shard)]
        row = loader.shards.read(slices).to_pylist()[0]
        member = next(member for member in row["members"] if member["extension"] == "flac")
        with open(folder / row["shard"], "r+b") as tar:
            tar.seek(member["offset"])
            tar.write(bytes(64))
        faults = [fault for batch in loader if batch.place for fault in batch.place.faults]
    assert [(fault.key, fault.stage) for fault in faults] == [(row["key"], "DecodeAudio")]


def test_a_quarantine_that_cannot_be_written_is_said_at_once(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="a file stands where a folder is needed"):
        Loader(speech(folder, "skip"), quarantine=tmp_path / "file" / "bad.jsonl")


def test_a_batch_of_nothing_but_bad_samples_is_filled_from_other_batches(folder: Path) -> None:
    expected = planned_in_order(folder, 12)
    bad = set(expected[0])
    for policy in ("skip", "substitute"):
        made = Pipeline(
            TarShards(str(folder)), Batch(12), DecodeAudio(), Map(Refuse(bad), into=("audio",)), Collate("audio"),
            bad_samples=BadSamples(policy, max_share=1),
        )  # fmt: skip
        first, second = stream(made)
        assert second["keys"] == expected[1]
        assert set(first["keys"]) <= set(expected[1])
        assert len(first["keys"]) == (1 if policy == "skip" else 2)  # no more than could stand in
        assert first.place is not None
        assert [fault.key for fault in first.place.faults] == expected[0]


class Refuse:
    """Fails on some keys."""

    def __init__(self, keys: set[str]) -> None:
        self.keys = keys

    def __call__(self, sample: Sample) -> dict[str, Any]:
        if sample.key in self.keys:
            raise ValueError("refused")
        return {"audio": sample["audio"]}


def planned_in_order(folder: Path, size: int) -> list[list[str]]:
    keys = [row["key"] for row in listed(folder)]
    return [keys[at : at + size] for at in range(0, len(keys), size)]


def test_one_odd_sample_in_the_first_place_is_the_bad_one(folder: Path) -> None:
    expected = planned_in_order(folder, 8)
    made = Pipeline(
        TarShards(str(folder)), Batch(8), DecodeAudio(), Map(Odd({expected[0][0]}), into=("audio",)), Collate("audio"),
        bad_samples=BadSamples("skip", max_share=1),
    )  # fmt: skip
    batches = stream(made)
    assert [batch["keys"] for batch in batches] == [expected[0][1:], *expected[1:]]


class Odd(Refuse):
    """Gives another shape for some keys."""

    def __call__(self, sample: Sample) -> dict[str, Any]:
        audio = sample["audio"]
        return {"audio": audio[:300].reshape(3, 100) if sample.key in self.keys else audio}

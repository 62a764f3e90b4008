"""What batches of another size would give: planned as the real loader then plans it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ecopipe.insight.predictions import Model
from ecopipe.insight.profile import Profile
from ecopipe.insight.profile_budgets import budget_of, budgets, with_budget
from ecopipe.insight.profile_words import told
from ecopipe.pipeline.pipeline import Pipeline
from ecopipe.run.loader import Loader
from ecopipe.stages.audio import DecodeAudio
from ecopipe.stages.collate import Collate
from ecopipe.stages.plan import Batch, Bucket
from ecopipe.stages.source import TarShards


def profiled(pipeline: Pipeline) -> tuple[Profile, list[dict[str, Any]]]:
    with Loader(pipeline) as loader, loader.profile() as profile:
        list(loader)
        rows = budgets(loader, profile.model, profile.recording)
    return profile, rows


@pytest.mark.parametrize("batching", [Bucket("frames", max_padded=240_000.0), Bucket("frames", max_count=3), Batch(4)])
def test_samples_and_padding_are_those_of_the_batches_that_then_come(shards: Path, batching: Any) -> None:
    source = TarShards(str(shards / "librispeech" / "train-clean-100"))
    pipeline = Pipeline(source, batching, DecodeAudio(), Collate("audio"))
    _, rows = profiled(pipeline)
    assert rows
    for row in rows:
        changed = with_budget(pipeline, row["factor"])
        assert changed is not None and budget_of(changed) == (row["setting"], row["value"])
        with Loader(changed) as loader:
            batches = list(loader)
        samples = sum(len(batch["keys"]) for batch in batches)
        true = sum(int(batch["lengths"].sum()) for batch in batches)
        padded = sum(batch["audio"].numel() for batch in batches)
        assert row["samples_per_batch"] == pytest.approx(samples / len(batches), abs=0.01)
        if isinstance(batching, Bucket):
            assert row["padding"] == pytest.approx(1 - true / padded, abs=1e-4)


def test_what_is_paid_for_each_batch_is_what_larger_ones_save(shards: Path) -> None:
    source = TarShards(str(shards / "librispeech" / "train-clean-100"))
    pipeline = Pipeline(source, Batch(2), DecodeAudio(), Collate("audio"))
    with Loader(pipeline) as loader, loader.profile() as profile:
        list(loader)
        dear = profile.model.scaled({"plan": 1000.0})
        rates = {row["factor"]: row["samples_per_s"] for row in budgets(loader, dear, profile.recording)}
        now = profile.as_json()["run"]["samples_per_s"]
        free = Model(tuple(replace(step, main={}) for step in dear.steps), 2).scaled({"rest of the worker": 0.0})
        same = {row["factor"]: row["samples_per_s"] for row in budgets(loader, free, profile.recording)}
    assert rates[0.5] == pytest.approx(now / 2, rel=0.1)
    assert rates[2.0] == pytest.approx(2 * now, rel=0.1)
    assert all(value == pytest.approx(now, rel=0.01) for value in same.values())


def test_a_budget_that_is_less_than_a_sample_is_left_out(shards: Path) -> None:
    source = TarShards(str(shards / "librispeech" / "train-clean-100"))
    pipeline = Pipeline(source, Bucket("frames", max_padded=100_000.0), DecodeAudio(), Collate("audio"))
    assert [row["factor"] for row in profiled(pipeline)[1]] == [2.0, 4.0]


def test_a_budget_that_helps_is_told(shards: Path) -> None:
    source = TarShards(str(shards / "librispeech" / "train-clean-100"))
    profile, rows = profiled(Pipeline(source, Bucket("frames", max_padded=240_000.0), DecodeAudio(), Collate("audio")))
    document = profile.as_json()
    rows[0]["samples_per_s"] = 10 * document["run"]["samples_per_s"]
    words = told(document | {"budgets": rows})
    (sentence,) = [one for one in words if one.startswith("Bucket.max_padded=120000 would")]
    assert sentence.endswith("if the consumer's step grows as the batch does.")
    assert "of padding instead of" in sentence


def test_the_words_say_whose_lock_it_takes(shards: Path) -> None:
    source = TarShards(str(shards / "librispeech" / "train-clean-100"))
    document = profiled(Pipeline(source, Batch(4), DecodeAudio(), Collate("audio")))[0].as_json()
    found = {}
    for workers, threads in ((0, 0), (0, 2), (2, 0)):
        settings = document["settings"] | {"workers": workers, "threads": threads}
        predictions = document["predictions"] | {"workers": {"0": 1.0, "1": 1.0, "2": 1.0}}
        words = told(document | {"settings": settings, "predictions": predictions})
        found[workers, threads] = next(one for one in words if one.startswith("Batches are made in"))
    assert "the thread that trains" in found[0, 0]
    assert "share its interpreter lock" in found[0, 2]
    assert "leave the training process's interpreter lock alone" in found[2, 0]

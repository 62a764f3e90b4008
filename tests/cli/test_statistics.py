"""``ecopipe stats`` as a user runs it: exact, the same however the corpus is streamed, and what CMVN makes of it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ecopipe
from ecopipe.cli.statistics import measure
from ecopipe.insight.statistics import Accumulation, up_to_features
from ecopipe.pipeline.pipeline import Pipeline
from ecopipe.stages.collate import Collate
from ecopipe.stages.normalization import CMVN, Statistics
from ecopipe.vocabulary.errors import ConfigError, DataError, OutputError, SampleError
from ecopipe.vocabulary.sample import Batch, Sample

from ..conftest import ROOT, SPLITS
from .test_cli import call, fails, run

SPEECH = ROOT / "pipelines" / "librispeech.toml"
CMVN_STAGE = '\n[[stages]]\nstage = "CMVN"\nstats = "{path}"\n'


def settings(shards: Path, *more: str) -> list[str]:
    """Options for the pipeline file: 24 utterances in several small batches."""
    given = (f"source.path={shards / 'librispeech' / SPLITS['librispeech']}", "Bucket.max_padded=16", *more)
    return [part for setting in given for part in ("--set", setting)]


def measured(shards: Path, out: Path, *arguments: str, sets: tuple[str, ...] = ()) -> Statistics:
    call("stats", SPEECH, *settings(shards, *sets), "-o", out, *arguments)
    return Statistics.read(out)


def numbers(found: Statistics) -> tuple[Any, ...]:
    return found.samples, found.frames, found.mean, found.std


def pipeline(shards: Path) -> Pipeline:
    """The pipeline up to its features."""
    given = {"source.path": str(shards / "librispeech" / SPLITS["librispeech"]), "Bucket.max_padded": 16}
    return up_to_features(ecopipe.load(SPEECH, given))[0]


def all_frames(batches: Iterable[Batch]) -> np.ndarray:
    rows = [
        row[:length].double().numpy()
        for batch in batches
        for row, length in zip(batch["features"], batch["lengths"].tolist(), strict=True)
    ]
    return np.concatenate(rows)


def test_the_file_holds_what_numpy_finds_and_of_what(shards: Path, tmp_path: Path) -> None:
    found = measured(shards, tmp_path / "new" / "stats.json")
    pipe = pipeline(shards)
    frames = all_frames(pipe)
    assert (found.field, found.bins, found.samples, found.frames) == ("features", 80, 24, len(frames))
    np.testing.assert_allclose(found.mean, frames.mean(axis=0), rtol=0, atol=1e-8)
    np.testing.assert_allclose(found.std, frames.std(axis=0), rtol=1e-7)
    with pipe.loader() as loader:
        assert found.index == loader.shards.fingerprint
    assert found.pipeline == pipe.identity
    assert (found.version, found.epochs, found.limit_batches, found.seed) == (1, 1, None, 0)
    assert [left.name for left in (tmp_path / "new").iterdir()] == ["stats.json"]


def test_no_worker_bucket_lane_or_layout_has_a_say(shards: Path, tmp_path: Path) -> None:
    found = measured(shards, tmp_path / "stats.json")
    for workers in ("1", "2"):
        measured(shards, tmp_path / workers, "--workers", workers)
        assert (tmp_path / workers).read_bytes() == (tmp_path / "stats.json").read_bytes()
    others = (("Bucket.max_padded=400",), ("Bucket.max_count=1", "source.lanes=3"))
    for number, sets in enumerate(others):
        other = measured(shards, tmp_path / f"other{number}", sets=sets)
        assert numbers(other) == numbers(found)
        assert other.pipeline != found.pipeline
        assert other.index == found.index
    twice = measured(shards, tmp_path / "twice", "--epochs", "2")
    assert (twice.samples, twice.frames, twice.epochs) == (2 * found.samples, 2 * found.frames, 2)
    assert (twice.mean, twice.std) == (found.mean, found.std)


def test_flat_batches_any_order_and_repeats(shards: Path) -> None:
    pipe = pipeline(shards)
    batches = list(pipe)
    padded, flat, ranks = Accumulation(), Accumulation(), Accumulation()
    for batch in batches:
        padded.add(batch)
    for batch in batches[::-1]:
        samples = [
            Sample(key, {"features": row[:length].numpy()})
            for key, row, length in zip(batch["keys"], batch["features"], batch["lengths"].tolist(), strict=True)
        ]
        flat.add(Collate("features", layout="flat").apply(samples))
    repeats = 0
    for rank in range(len(batches) - 1):
        with pipe.loader(rank=rank, world_size=len(batches) - 1) as loader:
            for batch in loader:
                assert batch.place is not None
                repeats += batch.place.repeat
                ranks.add(batch)
    assert repeats == len(batches) - 2 > 0
    for other in (flat, ranks):
        assert other.result() == padded.result()
        assert (other.samples, other.frames) == (padded.samples, padded.frames) == (24, padded.frames)


def test_cmvn_over_the_corpus_has_mean_0_and_variance_1(shards: Path, tmp_path: Path) -> None:
    out, file = tmp_path / "stats.json", tmp_path / "normalised.toml"
    kept, augment = SPEECH.read_text().split('\n[[stages]]\nstage = "SpecAugment"')
    file.write_text(kept + CMVN_STAGE.format(path=out) + '\n[[stages]]\nstage = "SpecAugment"' + augment)
    fails("stream", file, *settings(shards), message=r"CMVN: .*stats\.json: there is no such file. Make it with")
    shown, _ = call("stats", file, *settings(shards), "--out", out)
    assert "left out: CMVN, SpecAugment" in shown
    assert f"wrote {out}" in shown
    normalised = ecopipe.load(file, {"source.path": pipeline(shards).source.paths[0], "Bucket.max_padded": 16})
    assert isinstance(normalised.stages[-2], CMVN)
    frames = all_frames(Pipeline(normalised.source, *normalised.stages[:-1]))
    assert np.abs(frames.mean(axis=0)).max() < 1e-5
    assert np.abs(frames.var(axis=0) - 1).max() < 1e-5
    call("stream", file, *settings(shards))


def test_what_follows_the_first_cmvn_or_mask_is_left_out(shards: Path) -> None:
    pipe = pipeline(shards)
    own = ecopipe.OnDevice("torchaudio.transforms.AmplitudeToDB", name="own")
    assert up_to_features(pipe) == (pipe, [])
    mended = Pipeline(pipe.source, *pipe.stages, bad_samples="substitute")  # who stands in is a matter of the order
    assert up_to_features(mended)[0].bad_samples.policy == "skip"
    assert up_to_features(pipe | own | CMVN() | ecopipe.SpecAugment()) == (pipe | own, [CMVN(), ecopipe.SpecAugment()])
    assert up_to_features(pipe | ecopipe.SpecAugment() | own)[0] == pipe
    tolerant = Pipeline(pipe.source, *pipe.stages, CMVN(), bad_samples="skip")
    assert up_to_features(tolerant)[0].bad_samples == tolerant.bad_samples


def test_a_part_of_the_corpus_is_told_and_a_file_is_not_replaced_unasked(shards: Path, tmp_path: Path) -> None:
    out = tmp_path / "stats.json"
    done = run("stats", SPEECH, *settings(shards), "--limit-batches", "1", cwd=tmp_path)  # stats.json by default
    assert done.stdout.startswith("left out: SpecAugment\n")
    part = Statistics.read(out)
    assert part.limit_batches == 1
    assert 0 < part.samples < 24
    for word in ("samples", "frames", "mean, least to greatest", "deviation, least to greatest"):
        assert word in done.stdout
    before = out.read_bytes()
    taken = r"stats\.json: already exists\. Choose another place with -o, or replace it with --overwrite"
    fails("stats", SPEECH, *settings(shards), "-o", out, message=taken)
    assert out.read_bytes() == before
    assert measured(shards, out, "--overwrite").samples == 24


def test_features_that_are_none(shards: Path, tmp_path: Path) -> None:
    out = tmp_path / "stats.json"
    images = ["--set", f"source.path={shards / 'cifar10' / SPLITS['cifar10']}", "-o", out]
    fails(
        "stats", SPEECH, *settings(shards), "--field", "feature", "-o", out, message="holds no 'feature'. Did you mean"
    )
    fails("stats", SPEECH, *settings(shards), "--field", "targets", "-o", out, message="targets must be float.*int64")
    fails(
        "stats", ROOT / "pipelines" / "cifar10.toml", *images, message=r"must be float \[B, frames, bins\] with lengths"
    )
    fails("stats", tmp_path / "none.toml", message="there is no such file")
    assert not out.exists()


def features(values: list[list[float]]) -> Batch:
    frames = torch.tensor(values)[:, :, None].expand(-1, -1, 3).clone()
    return Batch({"keys": ["a", "b"], "features": frames, "lengths": torch.tensor([2, 3])})


def test_what_is_not_finite_is_an_error_that_names_the_sample() -> None:
    found = Accumulation()
    found.add(features([[1.0, 2.0, math.nan], [3.0, 4.0, 5.0]]))  # in the padding
    assert found.result() == ((3.0,) * 3, (math.sqrt(2.0),) * 3)
    with pytest.raises(SampleError, match=r"stats: sample 'b': bin 0 of its features holds NaN or infinity"):
        found.add(features([[1.0, 2.0, 0.0], [3.0, -math.inf, 5.0]]))


def test_nothing_to_measure() -> None:
    found = Accumulation()
    with pytest.raises(DataError, match="gave no frame of features"):
        found.result()
    found.add(Batch({"keys": ["a"], "features": torch.zeros(1, 0, 3), "lengths": torch.tensor([0])}))
    with pytest.raises(DataError, match="gave no frame of features"):
        found.result()
    with pytest.raises(ConfigError, match="features has 4 bins, and had 3 before"):
        found.add(Batch({"keys": ["a"], "features": torch.zeros(1, 2, 4), "lengths": torch.tensor([2])}))


def test_the_file_is_json_that_others_can_read(shards: Path, tmp_path: Path) -> None:
    measured(shards, tmp_path / "stats.json")
    found = json.loads((tmp_path / "stats.json").read_text())
    assert found["version"] == 1
    assert len(found["mean"]) == len(found["std"]) == found["bins"] == 80
    assert [stage["stage"] for stage in found["pipeline"]["stages"]][-1] == "LogMel"


def test_statistics_of_other_features_are_refused(shards: Path, tmp_path: Path) -> None:
    """They have as many bins, and say of which pipeline they are."""
    path = tmp_path / "stats.json"
    source = ecopipe.TarShards(str(shards / "librispeech" / "train-clean-100"))
    front = [ecopipe.Bucket("frames", max_count=8), ecopipe.DecodeAudio(), ecopipe.Collate("audio")]
    file = tmp_path / "mel.toml"
    file.write_text(ecopipe.dumps(ecopipe.Pipeline(source, *front, ecopipe.LogMel(n_mels=40))))
    measure(
        file, [], out=path, field="features", workers=0, epochs=1, limit_batches=1, device="cpu", overwrite=False
    )  # fmt: skip
    cmvn = ecopipe.CMVN(stats=str(path))
    for good in (ecopipe.LogMel(n_mels=40), ecopipe.LogMel(n_mels=40, engine="matmul", pad_value=-3.0)):
        next(iter(ecopipe.Pipeline(source, *front, good, cmvn)))
    for other, told in (
        (ecopipe.LogMel(n_mels=40, log="db"), r"behind other device stages: .* \(LogMel\).log was 'ln' and is 'db'"),
        (ecopipe.Fbank(n_mels=40), r"behind other device stages: device stage 1 \(LogMel\) is gone"),
    ):
        with pytest.raises(ConfigError, match=f"CMVN: .*stats.json was measured {told}.*ecopipe stats"):
            next(iter(ecopipe.Pipeline(source, *front, other, cmvn)))


def test_a_place_that_cannot_be_written_is_told_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"file/stats.json: cannot be written \(Not a directory|File exists\)"):
        measure(
            tmp_path / "no-such.toml", [], out=tmp_path / "file" / "stats.json", field="features", workers=0,
            epochs=1, limit_batches=None, device="cpu", overwrite=False,
        )  # fmt: skip

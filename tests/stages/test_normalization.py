"""CMVN: against a reference in float64, and independent of batch, padding, layout and threads."""

from __future__ import annotations

import dataclasses
import json
import math
import pickle

import numpy as np
import pytest
import torch

from ecopipe.pipeline.identity import describe
from ecopipe.stages.collate import Collate
from ecopipe.stages.normalization import CMVN, Statistics
from ecopipe.vocabulary.errors import ConfigError
from ecopipe.vocabulary.randomness import Chance
from ecopipe.vocabulary.sample import Batch, Sample

CHANCE = Chance(7, 1, "test")
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
LENGTHS = (300, 1, 1000, 2, 50)
STAGES = {
    "own": CMVN(),
    "nemo": CMVN.preset("nemo"),
    "kaldi": CMVN.preset("kaldi"),
    "plain": CMVN(eps=0.0, ddof=1),
}


def utterance(length, bins=6):
    """float32 [length, bins] with the last bin constant, as a log-mel of silence is."""
    values = np.random.default_rng(length).standard_normal((length, bins)) * 3 - np.arange(bins) * 4
    values[:, -1] = -23.02585
    return values.astype(np.float32)


def batch(lengths, *, layout="pad", wider=0, rubbish=0.0, device="cpu", dtype=torch.float32):
    samples = [Sample(f"k{length}", {"features": utterance(length)}) for length in lengths]
    made = Collate("features", layout=layout).apply(samples)
    values = made["features"].to(dtype)
    if layout == "pad":
        values = torch.nn.functional.pad(values, (0, 0, 0, wider))
        behind = torch.arange(values.shape[1]) >= made["lengths"][:, None]
        values = values.masked_fill(behind[:, :, None], rubbish)
    return made.with_fields(features=values).to(device)


def rows(made):
    if "offsets" in made:
        return list(torch.split(made["features"].cpu(), made["lengths"].tolist()))
    return [row[:length].cpu() for row, length in zip(made["features"], made["lengths"].tolist(), strict=True)]


def reference(length, stage):
    values = utterance(length).astype(np.float64)
    values -= values.mean(axis=0)
    if not stage.norm_vars:
        return values
    std = np.sqrt((values**2).sum(axis=0) / max(length - stage.ddof, 1))
    std[-1] = 0
    values[:, -1] = 0
    return np.divide(values, std + stage.eps, out=np.zeros_like(values), where=std > 0)


@pytest.fixture
def statistics(tmp_path):
    """The statistics of all utterances, in a file."""
    everything = np.concatenate([utterance(length) for length in LENGTHS]).astype(np.float64)
    mean, std = tuple(everything.mean(axis=0).tolist()), tuple(everything.std(axis=0)[:-1].tolist())
    path = tmp_path / "stats.json"
    path.write_text(Statistics("features", 6, len(LENGTHS), len(everything), mean, (*std, 0.0)).dumps())
    return path


@pytest.mark.parametrize("name", STAGES)
def test_own_statistics_are_those_of_the_true_frames(name):
    stage = STAGES[name]
    for length, row in zip(LENGTHS, rows(stage.apply(batch(LENGTHS), CHANCE)), strict=True):
        assert row.isfinite().all()
        np.testing.assert_allclose(row.numpy(), reference(length, stage), rtol=2e-6, atol=4e-6)


def test_presets_are_those_of_nemo_and_kaldi():
    nemo, kaldi = CMVN.preset("nemo"), CMVN.preset("kaldi")
    assert (nemo.norm_vars, nemo.ddof, nemo.eps) == (True, 1, 1e-5)
    assert (kaldi.norm_vars, kaldi.stats) == (False, None)
    assert CMVN.preset("nemo", field="mel").field == "mel"
    small = Batch({"keys": ["a"], "features": torch.tensor([[[0.0], [1e-5]]]), "lengths": torch.tensor([2])})
    (made,) = rows(nemo.apply(small, CHANCE))  # std is 1e-5 / sqrt(2), and eps no longer small beside it
    np.testing.assert_allclose(made[:, 0].numpy(), [-0.5 / (1 + 0.5**0.5), 0.5 / (1 + 0.5**0.5)], rtol=1e-6)


@pytest.mark.parametrize("name", [*STAGES, "corpus"])
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_same_bits_alone_and_among_others_padded_or_flat(name, device, dtype, statistics):
    stage = STAGES.get(name) or CMVN(stats=str(statistics))
    alone = [rows(stage.apply(batch([length], dtype=dtype), CHANCE))[0] for length in LENGTHS]
    assert {row.dtype for row in alone} == {dtype}
    settings = {"device": device, "dtype": dtype}
    threads = torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            for lengths, expected in ((LENGTHS, alone), (LENGTHS[::-1], alone[::-1])):
                together = rows(stage.apply(batch(lengths, wider=9, rubbish=math.nan, **settings), CHANCE))
                flat = rows(stage.apply(batch(lengths, layout="flat", **settings), CHANCE))
                for one, other, row in zip(together, flat, expected, strict=True):
                    assert torch.equal(one, row)
                    assert torch.equal(other, row)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("name", [*STAGES, "corpus"])
def test_padding_becomes_zero_and_the_input_stays(name, statistics):
    stage = STAGES.get(name) or CMVN(stats=str(statistics))
    given = batch((40, 9, 0), wider=3, rubbish=math.nan)
    before = given["features"].clone()
    made = stage.apply(given, CHANCE)["features"]
    assert torch.equal(given["features"].nan_to_num(9), before.nan_to_num(9))
    assert made.isfinite().all()
    for at, length in enumerate((40, 9, 0)):
        assert not made[at, length:].any()
        assert made[at, : length - 1 if length else 0].any() == bool(length)


def test_one_frame_gives_zeros_and_a_batch_of_nothing_stays():
    for stage in STAGES.values():
        assert not stage.apply(batch((1,)), CHANCE)["features"].any()
        nothing = Batch({"keys": ["a"], "features": torch.zeros(1, 0, 6), "lengths": torch.tensor([0])})
        assert stage.apply(nothing, CHANCE) is nothing


def test_the_corpus_has_mean_0_and_variance_1(statistics):
    stage = CMVN(stats=str(statistics))
    made = torch.cat(rows(stage.apply(batch(LENGTHS), CHANCE))).double()
    assert made.mean(dim=0).abs().max() < 1e-5
    assert (made[:, :-1].var(dim=0, correction=0) - 1).abs().max() < 1e-5
    assert not made[:, -1].any()  # it does not vary
    means_only = torch.cat(rows(CMVN(stats=str(statistics), norm_vars=False).apply(batch(LENGTHS), CHANCE))).double()
    assert means_only.mean(dim=0).abs().max() < 1e-5
    assert means_only[:, 0].std() > 2


def test_what_the_file_holds_is_the_identity(statistics, tmp_path):
    other = tmp_path / "elsewhere.json"
    other.write_text(statistics.read_text())
    one, two = CMVN(stats=str(statistics)), CMVN(stats=str(other))
    assert describe(one) == describe(two) != describe(CMVN())
    other.write_text(dataclasses.replace(Statistics.read(other), mean=(0.0,) * 6).dumps())
    assert describe(one) != describe(two)
    one.apply(batch((9,)), CHANCE)
    assert pickle.loads(pickle.dumps(one)) == one
    assert hash(pickle.loads(pickle.dumps(one))) == hash(one)


def test_a_file_is_read_once(statistics):
    stage = CMVN(stats=str(statistics))
    before = rows(stage.apply(batch((9,)), CHANCE))[0]
    statistics.write_text(dataclasses.replace(Statistics.read(statistics), mean=(0.0,) * 6).dumps())
    assert torch.equal(rows(stage.apply(batch((9,)), CHANCE))[0], before)
    assert not torch.equal(rows(CMVN(stats=str(statistics)).apply(batch((9,)), CHANCE))[0], before)


def test_statistics_through_their_file(statistics):
    found = Statistics.read(statistics)
    assert Statistics.read(statistics) == found
    assert found.mean == tuple(json.loads(statistics.read_text())["mean"])
    assert hash(found) == hash(Statistics.read(statistics))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda found: "{", "cannot be read as JSON"),
        (lambda found: "[]", "is no file of 'ecopipe stats'"),
        (lambda found: json.dumps(found | {"version": 7}), "is of version 7, and 1 is wanted"),
        (lambda found: json.dumps({**found, "mean": None}), "is damaged"),
        (lambda found: json.dumps(found | {"more": 1}), "is damaged"),
        (lambda found: json.dumps(found | {"index": [1]}), r"is damaged: index is \[1\], and should be str"),
        (lambda found: json.dumps(found | {"samples": "x"}), "is damaged: samples is 'x', and should be int"),
        (lambda found: json.dumps(found | {"mean": "123456"}), "is damaged: mean is"),
        (lambda found: json.dumps(found | {"mean": [1e300, *found["mean"][1:]]}), "is damaged: a mean is not finite"),
        (lambda found: json.dumps({key: found[key] for key in found if key != "std"}), "is no file of 'ecopipe stats'"),
        (lambda found: json.dumps(found | {"mean": [0.0]}), "it has bins = 6, 1 means and 6 deviations"),
        (lambda found: json.dumps(found | {"std": [math.nan] * 6}), "a mean is not finite, or a deviation not 0 or"),
        (lambda found: json.dumps(found | {"std": [-1.0] * 6}), "a mean is not finite, or a deviation not 0 or"),
        (lambda found: None, "there is no such file"),
    ],
)
def test_a_file_that_cannot_be_used(statistics, change, message):
    text = change(json.loads(statistics.read_text()))
    statistics.unlink() if text is None else statistics.write_text(text)
    stage = CMVN(stats=str(statistics), name="global")
    remedy = "Make it with 'ecopipe stats PIPELINE -o .*'|ecopipe stats PIPELINE -o FILE"
    with pytest.raises(ConfigError, match=f"^global: {statistics}: .*{message}.*({remedy})"):
        stage.apply(batch((9,)), CHANCE)


def test_a_file_of_other_bins(statistics):
    given = Batch({"keys": ["a"], "features": torch.zeros(1, 4, 80), "lengths": torch.tensor([4])})
    with pytest.raises(
        ConfigError, match=r"CMVN: .*holds 6 bins \(of 'features'\), and features has 80.*ecopipe stats"
    ):
        CMVN(stats=str(statistics)).apply(given, CHANCE)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CMVN(ddof=2), "ddof must be 0 or 1, got 2"),
        (lambda: CMVN(stats="s.json", ddof=1), "ddof is a matter of a sample's own statistics"),
        (lambda: CMVN(eps=-1.0), "eps must be at least 0, got -1.0"),
        (lambda: CMVN(eps=math.nan), "eps must be finite, got nan"),
        (lambda: CMVN.preset("nem"), "unknown preset 'nem'. Did you mean 'nemo'? Known: kaldi, nemo."),
        (
            lambda: CMVN().apply(batch((3,), dtype=torch.float64), CHANCE),
            "features must be float32, bfloat16 or float16 [B, frames, bins], got float64 [1, 3, 6]",
        ),
        (
            lambda: CMVN().apply(batch((3,)).with_fields(offsets=torch.tensor([0])), CHANCE),
            "features must be float32, bfloat16 or float16 [frames, bins] (there are offsets), got float32 [1, 3, 6]",
        ),
    ],
)
def test_wrong_settings_of_cmvn(make, message):
    with pytest.raises(ConfigError) as caught:
        make()
    assert str(caught.value).startswith(f"CMVN: {message}")

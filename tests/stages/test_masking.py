"""SpecAugment: masks within true lengths, the same alone and in any batch."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ecopipe.stages.collate import Collate
from ecopipe.stages.masking import SpecAugment
from ecopipe.vocabulary.errors import ConfigError
from ecopipe.vocabulary.randomness import Chance
from ecopipe.vocabulary.sample import Batch, Sample

CHANCE = Chance(7, 1, "test")
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def test_fields():
    assert (SpecAugment().needs(), SpecAugment().gives()) == (("features", "lengths"), ("features",))


def feature_batch(lengths, *, bins=80, keys=None, wider=0, rubbish=0.0, device="cpu"):
    rows = [np.random.default_rng(length).standard_normal((length, bins)).astype(np.float32) for length in lengths]
    keys = keys or [f"k{length}" for length in lengths]
    made = Collate("features").apply([Sample(k, {"features": row}) for k, row in zip(keys, rows, strict=True)])
    values = torch.nn.functional.pad(made["features"], (0, 0, 0, wider))
    behind = torch.arange(values.shape[1]) >= made["lengths"][:, None]
    return made.with_fields(features=values.masked_fill(behind[:, :, None], rubbish)).to(device)


def rows(made):
    return [row[:n].cpu() for row, n in zip(made["features"], made["lengths"].tolist(), strict=True)]


@pytest.mark.parametrize("fill", ["mean", "zero"])
@pytest.mark.parametrize("device", DEVICES)
def test_masks_alone_and_among_others_bit_for_bit(fill, device):
    stage = SpecAugment(fill=fill)
    lengths = (300, 1, 1000, 50, 7)
    together = rows(stage.apply(feature_batch(lengths, wider=9, rubbish=math.nan, device=device), CHANCE))
    backwards = rows(stage.apply(feature_batch(lengths[::-1], device=device), CHANCE))[::-1]
    for length, one, other in zip(lengths, together, backwards, strict=True):
        (alone,) = rows(stage.apply(feature_batch([length]), CHANCE))  # on the CPU, whatever the device
        assert torch.equal(alone, one)
        assert torch.equal(alone, other)


def test_padding_and_input_stay():
    given = feature_batch([400, 100], wider=5, rubbish=3.0)
    before = given["features"].clone()
    made = SpecAugment().apply(given, CHANCE)
    assert torch.equal(given["features"], before)
    assert torch.equal(made["features"][1, 100:], before[1, 100:])
    assert not torch.equal(made["features"], before)


@pytest.mark.parametrize("fill", ["mean", "zero"])
def test_masked_places_hold_the_fill(fill):
    given = feature_batch([400])
    made = SpecAugment(fill=fill).apply(given, CHANCE)["features"]
    changed = made != given["features"]
    expected = given["features"].double().mean().item() if fill == "mean" else 0.0
    torch.testing.assert_close(made[changed], torch.full_like(made[changed], expected), rtol=1e-6, atol=1e-7)
    whole_bins, whole_frames = changed[0].all(dim=0), changed[0].all(dim=1)
    assert torch.equal(changed[0], whole_bins[None, :] | whole_frames[:, None])


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1.0, 1e6, 1e30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_mean_at_any_scale(scale, dtype):
    given = feature_batch([400])
    given["features"] = ((given["features"] + 3) * scale).to(dtype)
    made = SpecAugment(freq_masks=0, time_masks=1, time_mask_width=400).apply(given, CHANCE)["features"]
    filled = made[made != given["features"]]
    assert filled.numel()
    assert made.dtype == dtype
    torch.testing.assert_close(filled[0], given["features"].double().mean().to(dtype), rtol=1e-5, atol=0)


def widths(stage, count, length=400, bins=80):
    """For each of ``count`` samples: how many bins and frames are masked wholly."""
    keys = [f"s{n}" for n in range(count)]
    values = torch.ones(count, length, bins)
    given = Batch({"keys": keys, "features": values, "lengths": torch.full((count,), length)})
    masked = stage.apply(given, CHANCE)["features"] == 0
    return masked.all(dim=1).sum(dim=1), masked.all(dim=2).sum(dim=1), masked


def test_widths_reach_from_nothing_to_the_greatest():
    bins, _, masked = widths(SpecAugment(freq_masks=1, freq_mask_width=5, time_masks=0, fill="zero"), 600, length=4)
    assert sorted(set(bins.tolist())) == [0, 1, 2, 3, 4, 5]
    counts = torch.bincount(bins, minlength=6)
    assert (counts - 100).abs().max() < 40  # uniform: 100 +- 9 each
    assert masked.any(dim=0).any(dim=0).all()  # every bin is masked now and then
    _, frames, masked = widths(
        SpecAugment(freq_masks=0, time_masks=1, time_mask_width=5, fill="zero"), 600, length=20, bins=2
    )
    assert sorted(set(frames.tolist())) == [0, 1, 2, 3, 4, 5]
    assert masked.any(dim=0).any(dim=1).all()  # the first and the last frame too


def test_time_masks_are_limited_by_the_length():
    _, frames, _ = widths(SpecAugment(freq_masks=0, time_masks=1, max_time_fraction=0.05, fill="zero"), 300, length=100)
    assert frames.max() == 5
    _, frames, _ = widths(SpecAugment(freq_masks=0, time_masks=1, max_time_fraction=0.7, fill="zero"), 900, length=10)
    assert frames.max() == 7
    _, frames, _ = widths(SpecAugment(freq_masks=0, time_masks=1, fill="zero"), 300, length=3)
    assert sorted(set(frames.tolist())) == [0, 1, 2, 3]


def test_draws_depend_on_key_epoch_seed_and_stage():
    stage = SpecAugment(fill="zero")
    made = {
        (chance, key): rows(stage.apply(feature_batch([400], keys=[key]), chance))[0].numpy().tobytes()
        for chance in (CHANCE, Chance(8, 1, "test"), Chance(7, 2, "test"), Chance(7, 1, "other"))
        for key in ("a", "b")
    }
    assert len(set(made.values())) == 8
    again = rows(stage.apply(feature_batch([400], keys=["a"]), CHANCE))[0].numpy().tobytes()
    assert again == made[CHANCE, "a"]


def test_nothing_to_mask():
    given = feature_batch([5])
    assert SpecAugment(freq_masks=0, time_masks=0).apply(given, CHANCE) is given
    assert torch.equal(
        SpecAugment(freq_mask_width=0, time_mask_width=0).apply(given, CHANCE)["features"], given["features"]
    )


def test_narrow_features_and_a_field_of_another_name():
    given = feature_batch([50], bins=3)
    renamed = given.without("features").with_fields(mel=given["features"])
    made = SpecAugment(field="mel", fill="zero").apply(renamed, CHANCE)
    assert made["mel"].shape == (1, 50, 3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SpecAugment(freq_masks=-1), "freq_masks must be an int of at least 0, got -1"),
        (lambda: SpecAugment(time_mask_width=0.5), "time_mask_width must be an int of at least 0, got 0.5"),
        (lambda: SpecAugment(max_time_fraction=1.5), "max_time_fraction must be in 0..1, got 1.5"),
        (lambda: SpecAugment(fill="men"), "unknown fill 'men'. Did you mean 'mean'? Known: mean, zero."),
        (
            lambda: SpecAugment().apply(Batch({"keys": ["a"], "features": torch.zeros(1, 2), "lengths": None}), CHANCE),
            "features must be float [B, frames, bins], got [1, 2]",
        ),
    ],
)
def test_wrong_settings_of_specaugment(make, message):
    with pytest.raises(ConfigError) as caught:
        make()
    assert str(caught.value).startswith(f"SpecAugment: {message}")

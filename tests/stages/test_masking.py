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


def feature_batch(lengths, *, bins=80, keys=None, wider=0, rubbish=0.0, device="cpu", layout="pad"):
    rows = [np.random.default_rng(length).standard_normal((length, bins)).astype(np.float32) for length in lengths]
    keys = keys or [f"k{length}" for length in lengths]
    samples = [Sample(k, {"features": row}) for k, row in zip(keys, rows, strict=True)]
    made = Collate("features", layout=layout).apply(samples)
    if layout == "flat":
        return made.to(device)
    values = torch.nn.functional.pad(made["features"], (0, 0, 0, wider))
    behind = torch.arange(values.shape[1]) >= made["lengths"][:, None]
    return made.with_fields(features=values.masked_fill(behind[:, :, None], rubbish)).to(device)


def rows(made):
    if "offsets" in made:
        return list(torch.split(made["features"].cpu(), made["lengths"].tolist()))
    return [row[:n].cpu() for row, n in zip(made["features"], made["lengths"].tolist(), strict=True)]


@pytest.mark.parametrize(
    "stage",
    [
        SpecAugment(),
        SpecAugment(fill="zero"),
        SpecAugment(time_warp=3),
        SpecAugment(freq_masks=0, time_masks=0, time_warp=80),
        SpecAugment.preset("adaptive", fill="zero"),
        SpecAugment.preset("SM"),
    ],
    ids=["mean", "zero", "warp", "only-warp", "adaptive", "SM"],
)
@pytest.mark.parametrize("device", DEVICES)
def test_alone_and_among_others_padded_or_flat_bit_for_bit(stage, device):
    lengths = (300, 1, 1000, 50, 7)
    together = rows(stage.apply(feature_batch(lengths, wider=9, rubbish=math.nan, device=device), CHANCE))
    backwards = rows(stage.apply(feature_batch(lengths[::-1], device=device), CHANCE))[::-1]
    flat = rows(stage.apply(feature_batch(lengths, layout="flat", device=device), CHANCE))
    for length, one, other, third in zip(lengths, together, backwards, flat, strict=True):
        (alone,) = rows(stage.apply(feature_batch([length]), CHANCE))  # on the CPU, whatever the device
        assert torch.equal(alone, one)
        assert torch.equal(alone, other)
        assert torch.equal(alone, third)


@pytest.mark.parametrize(
    "stage",
    [SpecAugment(), SpecAugment(fill="zero"), SpecAugment.preset("LD"), SpecAugment.preset("adaptive", time_warp=0)],
    ids=["mean", "zero", "LD", "adaptive"],
)
@pytest.mark.parametrize("layout", ["pad", "flat"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sample_by_sample_and_all_at_once_bit_for_bit(stage, layout, dtype):
    given = feature_batch((300, 1, 0, 1000, 50), layout=layout)
    given = given.with_fields(features=given["features"].to(dtype))
    at_once = given.with_fields(features=given["features"].clone().requires_grad_())  # taken at once, as on a GPU
    one, other = (stage.apply(batch, CHANCE)["features"] for batch in (given, at_once))
    assert one.dtype == other.dtype == dtype
    assert other.requires_grad and not one.requires_grad
    assert torch.equal(one, other.detach())


def test_features_that_are_no_contiguous_memory():
    given = feature_batch([400, 200])
    turned = given.with_fields(features=given["features"].transpose(1, 2).contiguous().transpose(1, 2))
    once = given.with_fields(features=given["features"][:, :1].expand(-1, 400, -1))
    for batch in (turned, once):
        before = batch["features"].clone()
        made = SpecAugment().apply(batch, CHANCE)["features"]
        plain = SpecAugment().apply(batch.with_fields(features=before), CHANCE)["features"]
        assert torch.equal(made, plain)
        assert torch.equal(batch["features"], before)


@pytest.mark.parametrize("stage", [SpecAugment(), SpecAugment.preset("adaptive"), SpecAugment.preset("LB")])
def test_padding_and_input_stay(stage):
    given = feature_batch([400, 200, 0], wider=5, rubbish=3.0)
    before = given["features"].clone()
    made = stage.apply(given, CHANCE)
    assert torch.equal(given["features"], before)
    for row, length in enumerate((400, 200, 0)):
        assert torch.equal(made["features"][row, length:], before[row, length:])
        assert torch.equal(made["features"][row, :length], before[row, :length]) == (length == 0)


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


def test_presets_are_those_of_the_papers():
    paper = {  # W, F, mF, T, p, mT: table 1 of Park et al. 2019
        "LB": (80, 27, 1, 100, 1.0, 1),
        "LD": (80, 27, 2, 100, 1.0, 2),
        "SM": (40, 15, 2, 70, 0.2, 2),
        "SS": (40, 27, 2, 70, 0.2, 2),
    }
    names = ("time_warp", "freq_mask_width", "freq_masks", "time_mask_width", "max_time_fraction", "time_masks")
    for name, numbers in paper.items():
        stage = SpecAugment.preset(name)
        assert tuple(getattr(stage, field) for field in names) == numbers
        assert stage.adaptive_masks == 0
    stage = SpecAugment.preset("adaptive")
    assert (stage.adaptive_masks, stage.max_time_fraction, stage.max_time_masks) == (0.04, 0.04, 20)
    assert (stage.time_warp, stage.freq_masks, stage.freq_mask_width) == (80, 2, 27)
    assert SpecAugment.preset("LD", time_warp=0) == SpecAugment()


def spans_of(stage, lengths, *, bins=80):
    """The spans of one sample for each of some lengths."""
    keys = [f"s{n}" for n in range(len(lengths))]
    return stage.spans(stage.drawn(keys, CHANCE), torch.tensor(lengths), bins)


def test_spans_are_what_is_masked():
    stage = SpecAugment.preset("adaptive", fill="zero", time_warp=0)
    lengths = [0, 1, 30, 400, 2000]
    keys = [f"s{n}" for n in range(len(lengths))]
    bands, times = spans_of(stage, lengths)
    assert (bands.dtype, bands.shape) == (torch.int32, (5, 2, 2))
    assert (times.dtype, times.shape) == (torch.int32, (5, 20, 2))
    given = Batch({"keys": keys, "features": torch.ones(5, 2000, 80), "lengths": torch.tensor(lengths)})
    expected = torch.ones(5, 2000, 80)
    for row, length in enumerate(lengths):
        for begin, end in bands[row].tolist():
            expected[row, :length, begin:end] = 0
        for begin, end in times[row].tolist():
            assert 0 <= begin <= end <= length
            expected[row, begin:end] = 0
    assert torch.equal(stage.apply(given, CHANCE)["features"], expected)


def test_adaptive_masks_grow_with_the_sample():
    stage = SpecAugment.preset("adaptive")
    for length, count, widest in ((24, 0, 0), (25, 1, 1), (130, 5, 5), (500, 20, 20), (3000, 20, 120)):
        _, times = spans_of(stage, [length] * 400)
        width = times[..., 1] - times[..., 0]
        assert not width[:, count:].any()
        assert sorted(set(width.flatten().tolist())) == list(range(widest + 1))
        drawn = width[:, :count].flatten().double()
        assert not count or abs(drawn.mean() - widest / 2) < 5 * (widest + 1) / (12 * drawn.numel()) ** 0.5
        assert times.max() == (length if count else 0)
        if length == 3000:  # each frame is masked about as often, but for the ends
            middle = torch.arange(200, 2800)
            covered = ((middle[:, None] >= times[..., 0].flatten()) & (middle[:, None] < times[..., 1].flatten())).sum(
                1
            )
            assert (covered / covered.double().mean() - 1).abs().max() < 0.4


def test_a_draw_does_not_depend_on_what_else_is_drawn():
    plain = spans_of(SpecAugment(), [400] * 3)
    warped = spans_of(SpecAugment(time_warp=80), [400] * 3)
    more_bands = spans_of(SpecAugment(freq_masks=5), [400] * 3)
    more_times = spans_of(SpecAugment(time_masks=5), [400] * 3)
    assert all(map(torch.equal, plain, warped))
    assert torch.equal(plain[0], more_bands[0][:, :2]) and torch.equal(plain[1], more_bands[1])
    assert torch.equal(plain[0], more_times[0]) and torch.equal(plain[1], more_times[1][:, :2])
    adaptive = spans_of(SpecAugment(adaptive_masks=0.04), [400] * 3)
    assert torch.equal(plain[0], adaptive[0]) and torch.equal(plain[1], adaptive[1][:, :2])


def warp(width, values, key="a", *, lengths=None):
    """The features of one sample after a warp alone, and the point that was moved and where to."""
    stage = SpecAugment(freq_masks=0, time_masks=0, time_warp=width)
    length = torch.tensor([len(values) if lengths is None else lengths])
    point, moved = stage.warps(stage.drawn([key], CHANCE), length)
    given = Batch({"keys": [key], "features": values[None], "lengths": length})
    return stage.apply(given, CHANCE)["features"][0], int(point), int(moved)


def test_warp_is_linear_on_both_sides_of_the_point():
    values = torch.from_numpy(np.random.default_rng(0).standard_normal((60, 4)).astype(np.float32))
    for number in range(40):
        made, point, moved = warp(20, values, f"k{number}")
        time = np.arange(60.0)
        if 0 < moved < 59:
            source = np.interp(time, [0, moved, 59], [0, point, 59])
        else:  # the point is moved onto an end, and the frames on that side are gone
            source = np.interp(time, [moved, 59], [point, 59]) if moved == 0 else np.interp(time, [0, 59], [0, point])
        expected = np.stack([np.interp(source, time, values[:, bin]) for bin in range(4)], axis=1)
        np.testing.assert_allclose(made.numpy(), expected, rtol=0, atol=1e-5)
        assert torch.equal(made[moved], values[point])
        assert torch.equal(made, values) == (point == moved)


def test_warp_draws_every_point_and_every_distance():
    stage = SpecAugment(time_warp=4)
    point, moved = stage.warps(stage.drawn([f"k{n}" for n in range(3000)], CHANCE), torch.full((3000,), 20))
    assert sorted(set(point.tolist())) == list(range(4, 16))
    assert sorted(set((moved - point).tolist())) == list(range(-4, 5))
    assert (torch.bincount(point)[4:] - 250).abs().max() < 90
    assert (torch.bincount(moved - point + 4) - 333).abs().max() < 100
    assert moved.min() == 1 and moved.max() == 18  # the first and the last frame stay


def test_warp_leaves_short_samples_and_padding():
    values = torch.randn(30, 4)
    for length, still in ((0, True), (1, True), (7, True), (8, True), (9, False), (30, False)):
        changed = []
        for number in range(20):
            given = values.clone()
            given[length:] = math.nan
            made, point, moved = warp(4, given, f"k{number}", lengths=length)
            assert made[length:].isnan().all()
            assert made[:length].isfinite().all()
            assert torch.equal(made[:length], values[:length]) == (point == moved)
            changed.append(point != moved)
        assert any(changed) != still


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_warp_keeps_the_dtype(dtype):
    values = torch.from_numpy(np.random.default_rng(0).standard_normal((300, 4))).to(dtype)
    made, point, moved = warp(80, values)
    assert point != moved
    assert made.dtype == dtype
    exact, *_ = warp(80, values.double())
    torch.testing.assert_close(made.double(), exact, rtol=0, atol=2e-2 if dtype == torch.bfloat16 else 1e-12)


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
        (lambda: SpecAugment(time_mask_width=0.5), "time_mask_width = 0.5 has the wrong type; it takes int"),
        (lambda: SpecAugment(max_time_fraction=1.5), "max_time_fraction must be in 0..1, got 1.5"),
        (lambda: SpecAugment(adaptive_masks=4.0), "adaptive_masks must be in 0..1, got 4.0"),
        (lambda: SpecAugment(time_warp=-1), "time_warp must be an int of at least 0, got -1"),
        (lambda: SpecAugment.preset("LE"), "unknown preset 'LE'. Did you mean"),
        (
            lambda: SpecAugment().apply(feature_batch([3]).with_fields(offsets=torch.tensor([0])), CHANCE),
            "features must be float [frames, bins] (there are offsets), got [1, 3, 80]",
        ),
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

"""Stages that change images: each sample by its own draws, as torchvision does it with the same parameters."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

import ecopipe
from ecopipe.pipeline.pipeline import Pipeline
from ecopipe.stages.blending import ImageColorJitter, ImageCutMix, ImageMixup
from ecopipe.stages.collate import Collate
from ecopipe.stages.image import DecodeImage, Normalize
from ecopipe.stages.imaging import (
    ImageCenterCrop,
    ImageCenterCropOnSample,
    ImageCutout,
    ImageRandomCrop,
    ImageRandomHorizontalFlip,
    ImageRandomResizedCrop,
    ImageRandomResizedCropOnSample,
    ImageResize,
    ImageResizeOnSample,
)
from ecopipe.stages.plan import Batch as BatchOf
from ecopipe.stages.plan import Shuffle
from ecopipe.stages.source import TarShards
from ecopipe.vocabulary.errors import ConfigError
from ecopipe.vocabulary.randomness import Chance
from ecopipe.vocabulary.sample import Batch, Sample

CHANCE = Chance(7, 1, "test")
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]

RANDOM = [
    ImageRandomCrop(24, 4),
    ImageRandomCrop((20, 32), (2, 3), mode="reflect"),
    ImageRandomCrop(32, (1, 2, 3, 4), fill=(1, 2, 3)),
    ImageRandomResizedCrop(28),
    ImageRandomResizedCrop((17, 40), scale=(0.3, 0.9), ratio=(0.5, 2.0), interpolation="bicubic"),
    ImageRandomHorizontalFlip(),
    ImageCutout(8),
    ImageCutout((5, 9), count=3, fill=(100, 110, 120)),
    ImageColorJitter(0.4, 0.4, 0.4, 0.1),
    ImageColorJitter(contrast=(0.5, 2.0), hue=(-0.5, 0.5)),
]
PLAIN = [ImageResize(20), ImageResize((40, 25), interpolation="bicubic"), ImageCenterCrop((24, 40))]
MIXING = [ImageMixup(), ImageMixup(0.2), ImageCutMix()]
TWINS = [ImageRandomResizedCropOnSample(28), ImageResizeOnSample(20), ImageCenterCropOnSample(24)]


@pytest.fixture
def v2():
    return pytest.importorskip("torchvision.transforms.v2.functional", reason="torchvision is not installed")


def pixels(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def batch(count=12, *, height=32, width=36, channels=3, dtype=torch.uint8):
    images = pixels(count, channels, height, width)
    images = images if dtype == torch.uint8 else images.to(dtype) / 255
    return Batch({"keys": [f"k{n}" for n in range(count)], "image": images, "targets": torch.arange(count)})


def taken(given, rows):
    """Some samples of a batch, in another order."""
    keys = [given["keys"][row] for row in rows]
    return Batch({"keys": keys, "image": given["image"][rows], "targets": given["targets"][rows]})


def blank(count, height, width):
    """A batch of samples of other keys, all pixels numbered."""
    numbered = torch.arange(height * width, dtype=torch.float32).view(1, 1, height, width).repeat(count, 1, 1, 1)
    return Batch({"keys": [f"s{n}" for n in range(count)], "image": numbered})


# -- the laws ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", [*RANDOM, *PLAIN], ids=repr)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("device", DEVICES)
def test_alone_and_among_others_bit_for_bit(stage, dtype, device):
    given = batch(dtype=dtype)
    before = given["image"].clone()
    together = stage.apply(given.to(device), CHANCE)["image"]
    assert together.dtype == dtype
    assert together.device.type == device
    assert torch.equal(given["image"], before)
    others = [5, 11, 0, 3]
    few = stage.apply(taken(given, others).to(device), CHANCE)["image"]
    for place, row in enumerate(others):
        alone = stage.apply(taken(given, [row]), CHANCE)["image"]  # on the CPU, whatever the device
        assert torch.equal(alone[0], together[row].cpu())
        assert torch.equal(alone[0], few[place].cpu())


@pytest.mark.parametrize("stage", [*RANDOM, *PLAIN, *MIXING], ids=repr)
def test_threads_have_no_say(stage):
    given = batch(64, dtype=torch.float32)
    threads = torch.get_num_threads()
    made = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        made.append(stage.apply(given, CHANCE)["image"])
    torch.set_num_threads(threads)
    assert torch.equal(made[0], made[1]) and torch.equal(made[0], made[2])


@pytest.mark.parametrize("stage", [*RANDOM, *MIXING], ids=repr)
def test_draws_depend_on_key_epoch_seed_and_stage(stage):
    chances = (CHANCE, Chance(8, 1, "test"), Chance(7, 2, "test"), Chance(7, 1, "other"))
    made = [stage.apply(batch(), chance)["image"] for chance in (*chances, CHANCE)]
    assert torch.equal(made[0], made[4])
    assert len({one.numpy().tobytes() for one in made[:4]}) == 4
    same = batch().with_fields(image=batch()["image"][:1].expand(12, -1, -1, -1))
    each = {one.numpy().tobytes() for one in stage.apply(same, CHANCE)["image"]}
    assert len(each) > 1 or isinstance(stage, (ImageMixup, ImageCutMix))


@pytest.mark.parametrize("stage", PLAIN, ids=repr)
def test_validation_draws_nothing(stage):
    assert torch.equal(stage.apply(batch(), CHANCE)["image"], stage.apply(batch(), Chance(8, 2, "other"))["image"])


@pytest.mark.parametrize("stage", [*RANDOM, *PLAIN, *MIXING, *TWINS], ids=repr)
def test_a_stage_is_a_value(stage, shards: Path):
    assert pickle.loads(pickle.dumps(stage)) == stage
    assert hash(stage) == hash(pickle.loads(pickle.dumps(stage)))
    source, collate = TarShards(str(shards / "cifar10" / "train")), Collate("image", target="label", layout="stack")
    stages = [stage, collate] if stage in TWINS else [collate, stage]
    pipeline = Pipeline(source, BatchOf(5), DecodeImage(), *stages)
    assert ecopipe.loads(ecopipe.dumps(pipeline)) == pipeline
    with pipeline.loader() as loader:
        assert next(iter(loader))["image"].dim() == 4


def test_lists_are_tuples():
    assert ImageRandomCrop([4, 5], [1, 2], fill=[1, 2, 3]) == ImageRandomCrop((4, 5), (1, 2), fill=(1, 2, 3))
    assert ImageRandomResizedCrop(4, scale=[0.5, 1]) == ImageRandomResizedCrop(4, scale=(0.5, 1.0))
    assert ImageColorJitter([0.5, 1]) == ImageColorJitter((0.5, 1.0))


# -- parity -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["constant", "edge", "reflect", "symmetric"])
def test_random_crop_is_torchvisions(v2, mode):
    given, stage = batch(), ImageRandomCrop((30, 31), (1, 2, 3, 4), mode=mode, fill=9)
    made = stage.apply(given, CHANCE)["image"]
    top, left = stage.places(given["keys"], CHANCE, 32 + 2 + 4, 36 + 1 + 3)
    for number, image in enumerate(given["image"]):
        whole = v2.pad(image, [1, 2, 3, 4], padding_mode=mode, fill=9)
        assert torch.equal(made[number], v2.crop(whole, int(top[number]), int(left[number]), 30, 31))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize(
    "stage", [ImageRandomResizedCrop(28), ImageRandomResizedCrop((9, 50), interpolation="bicubic")]
)
def test_random_resized_crop_is_torchvisions(v2, stage, dtype):
    given = batch(dtype=dtype)
    made = stage.apply(given, CHANCE)["image"]
    boxes = stage.boxes(given["keys"], CHANCE, 32, 36).tolist()
    size = [stage.size] * 2 if isinstance(stage.size, int) else list(stage.size)
    for number, image in enumerate(given["image"]):
        mode = v2.InterpolationMode(stage.interpolation)
        expected = v2.resized_crop(image, *boxes[number], size, interpolation=mode, antialias=True)
        assert (
            torch.equal(made[number], expected)
            if dtype == torch.uint8
            else (made[number] - expected).abs().max() < 1e-4
        )


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("size", [20, 64, 32, (40, 25), (32, 36), (1, 5)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("antialias", [True, False])
def test_resize_is_torchvisions(v2, dtype, size, interpolation, antialias):
    for height, width in ((32, 36), (37, 33), (32, 32)):
        given = batch(3, height=height, width=width, dtype=dtype)
        made = ImageResize(size, interpolation=interpolation, antialias=antialias).apply(given, CHANCE)["image"]
        mode = v2.InterpolationMode(interpolation)
        wanted = [size] if isinstance(size, int) else list(size)
        expected = v2.resize(given["image"], wanted, interpolation=mode, antialias=antialias)
        assert made.shape == expected.shape
        assert torch.equal(made, expected) if dtype == torch.uint8 else (made - expected).abs().max() < 1e-4


@pytest.mark.parametrize("size", [20, (31, 33), (40, 25), (20, 51), (41, 43), (32, 36)])
def test_center_crop_is_torchvisions(v2, size):
    for dtype in (torch.uint8, torch.float32):
        given = batch(3, dtype=dtype)
        made = ImageCenterCrop(size).apply(given, CHANCE)["image"]
        assert torch.equal(made, v2.center_crop(given["image"], [size] * 2 if isinstance(size, int) else list(size)))


def test_flip_is_torchvisions(v2):
    given = batch()
    made = ImageRandomHorizontalFlip().apply(given, CHANCE)["image"]
    same = [torch.equal(made[n], given["image"][n]) for n in range(12)]
    mirrored = [torch.equal(made[n], v2.horizontal_flip(given["image"][n])) for n in range(12)]
    assert any(same) and any(mirrored)
    assert all(one != other for one, other in zip(same, mirrored, strict=True))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("channels", [3, 1])
def test_color_jitter_is_torchvisions_changes_in_the_drawn_order(v2, dtype, channels):
    given = batch(40, dtype=dtype, channels=channels)
    for stage in (ImageColorJitter(0.4, 0.4, 0.4, 0.1), ImageColorJitter(hue=0.5, brightness=(0.5, 0.9))):
        made = stage.apply(given, CHANCE)["image"]
        factors, order = stage.factors(given["keys"], CHANCE)
        assert len({tuple(row) for row in order.tolist()}) > 1
        names = list(factors)
        for number, image in enumerate(given["image"]):
            for turn in order[number]:
                image = getattr(v2, f"adjust_{names[turn]}")(image, float(factors[names[turn]][number]))
            apart = (made[number].double() - image.double()).abs() * (1 if dtype == torch.uint8 else 255)
            # a whole number that is cut down one way by one rounding and the other by another grows on the way
            assert (apart > 1).double().mean() < 0.01
            assert dtype == torch.uint8 or apart.max() < 0.5


def test_color_jitter_of_a_batch_in_several_pieces():
    given, stage = batch(24, height=200, width=200), ImageColorJitter(0.4, 0.4, 0.4, 0.1)
    made = stage.apply(given, CHANCE)["image"]
    for row in (0, 9, 23):
        assert torch.equal(made[row], stage.apply(taken(given, [row]), CHANCE)["image"][0])


def test_cutout_fills_its_squares():
    given, stage = batch(), ImageCutout((5, 9), count=2, fill=(100, 110, 120))
    made, expected = stage.apply(given, CHANCE)["image"], given["image"].clone()
    for number, squares in enumerate(stage.boxes(given["keys"], CHANCE, 32, 36).tolist()):
        for top, left, bottom, right in squares:
            assert 0 <= top < bottom <= 32 and 0 <= left < right <= 36
            assert bottom - top <= 5 and right - left <= 9
            expected[number, :, top:bottom, left:right] = torch.tensor([100, 110, 120], dtype=torch.uint8)[
                :, None, None
            ]
    assert torch.equal(made, expected)


# -- distributions ----------------------------------------------------------------------------------------------------


def even(counts, of):
    """Whether as often as even chances say, to five deviations."""
    expected = np.sum(counts) / of
    return len(counts) == of and np.abs(counts - expected).max() < 5 * expected**0.5


def test_every_place_is_as_likely():
    made = ImageRandomCrop(8, 2).apply(blank(5000, 8, 8), CHANCE)["image"]
    _, counts = np.unique(made[:, 0].flatten(1).numpy(), axis=0, return_counts=True)
    assert even(counts, 25)  # four pixels of room each way: every corner is reached
    top, left = ImageRandomCrop(6).places([f"s{n}" for n in range(5000)], CHANCE, 8, 6)
    assert even(np.bincount(top), 3) and not left.any()


def test_flips_are_as_likely_as_p():
    given = blank(4000, 2, 3)
    for p in (0.0, 0.2, 0.5, 1.0):
        made = ImageRandomHorizontalFlip(p).apply(given, CHANCE)["image"]
        share = (made != given["image"]).flatten(1).any(dim=1).double().mean().item()
        assert abs(share - p) <= 5 * (p * (1 - p) / 4000) ** 0.5


def test_cutout_reaches_everywhere():
    stage = ImageCutout(3)
    boxes = stage.boxes([f"s{n}" for n in range(6000)], CHANCE, 6, 5)[:, 0]
    top, left, bottom, right = boxes.T
    middle = np.where(top == 0, bottom - 2, top + 1) * 5 + np.where(left == 0, right - 2, left + 1)
    assert even(np.bincount(middle), 30)
    assert boxes.min(axis=0).tolist() == [0, 0, 2, 2] and boxes.max(axis=0).tolist() == [4, 3, 6, 5]


def test_areas_shapes_and_places_of_resized_crops():
    stage = ImageRandomResizedCrop(10, scale=(0.1, 0.3), ratio=(0.5, 2.0))
    top, left, height, width = stage.boxes([f"s{n}" for n in range(5000)], CHANCE, 1000, 900).T
    assert (top >= 0).all() and (left >= 0).all() and (top + height <= 1000).all() and (left + width <= 900).all()
    area, shape = height * width / 9e5, np.log2(width / height)
    assert even(np.histogram(area, bins=8, range=(0.1, 0.3))[0], 8)
    assert even(np.histogram(shape, bins=8, range=(-1, 1))[0], 8)
    assert even(np.histogram(top / (1000 - height + 1), bins=10, range=(0, 1))[0], 10)
    assert even(np.histogram(left / (900 - width + 1), bins=10, range=(0, 1))[0], 10)


@pytest.mark.parametrize("shape", [(10, 100), (100, 10), (30, 30)])
def test_where_no_part_fits_it_is_the_middle(shape):
    stage = ImageRandomResizedCrop(10, scale=(1.0, 1.0), ratio=(0.9, 1.1) if shape != (30, 30) else (1.05, 1.1))
    boxes = stage.boxes(["a", "b"], CHANCE, *shape).tolist()
    expected = {(10, 100): [0, 44, 10, 11], (100, 10): [44, 0, 11, 10], (30, 30): [0, 0, 29, 30]}[shape]
    assert boxes == [expected] * 2  # torchvision's rule


def test_factors_and_orders_of_color_jitter():
    stage = ImageColorJitter(0.4, 1.5, (0.2, 0.3), 0.1)
    factors, order = stage.factors([f"s{n}" for n in range(4800)], CHANCE)
    spans = {"brightness": (0.6, 1.4), "contrast": (0.0, 2.5), "saturation": (0.2, 0.3), "hue": (-0.1, 0.1)}
    for name, (least, most) in spans.items():
        assert stage.span(name) == pytest.approx((least, most))
        assert even(np.histogram(factors[name], bins=10, range=(least, most))[0], 10)
    _, counts = np.unique(order, axis=0, return_counts=True)
    assert even(counts, 24)
    only = ImageColorJitter(saturation=(0.2, 0.3)).factors([f"s{n}" for n in range(4800)], CHANCE)
    assert list(only[0]) == ["saturation"]
    np.testing.assert_array_equal(only[0]["saturation"], factors["saturation"])


# -- pairs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", MIXING, ids=repr)
def test_each_is_the_partner_of_one_other_whatever_the_order(stage):
    given = batch(50)
    partner, share, _ = stage.drawn(given["keys"], CHANCE)
    assert sorted(partner.tolist()) == list(range(50))
    assert (partner != np.arange(50)).all()
    assert ((share >= 0) & (share <= 1)).all()
    made = stage.apply(given, CHANCE)
    assert torch.equal(made["targets"], given["targets"])
    assert made["partner_targets"].tolist() == partner.tolist()
    assert made["own_share"].dtype == torch.float32
    rows = np.random.default_rng(0).permutation(50).tolist()
    again = stage.apply(taken(given, rows), CHANCE)
    for name in ("image", "partner_targets", "own_share"):
        assert torch.equal(again[name], made[name][rows])
    assert torch.equal(stage.apply(taken(given, [3]), CHANCE)["image"], given["image"][3:4])


def test_mixup_is_torchvisions_sum():
    given = batch(8, dtype=torch.float32)
    made, stage = ImageMixup().apply(given, CHANCE), ImageMixup()
    partner, share, _ = stage.drawn(given["keys"], CHANCE)
    share = torch.from_numpy(share).view(-1, 1, 1, 1)
    expected = given["image"][partner] * (1 - share) + given["image"] * share
    torch.testing.assert_close(made["image"].double(), expected, rtol=0, atol=1e-6)
    assert torch.equal(made["own_share"], share.flatten().float())
    whole = ImageMixup().apply(batch(8), CHANCE)["image"]
    assert (whole.double() - expected * 255).abs().max() <= 0.5 + 1e-3


def test_cutmix_puts_in_a_rectangle_and_counts_what_stayed():
    given = batch(40).with_fields(image=torch.arange(40.0).view(-1, 1, 1, 1).expand(-1, 3, 32, 36))
    made = ImageCutMix().apply(given, CHANCE)
    stayed = made["image"] == given["image"]
    torch.testing.assert_close(stayed[:, 0].flatten(1).float().mean(dim=1), made["own_share"])
    for number in range(40):
        rows, columns = (~stayed[number, 0]).any(dim=1), (~stayed[number, 0]).any(dim=0)
        assert torch.equal(~stayed[number, 0], rows[:, None] & columns)
        for line in (rows, columns):
            assert (line.int().diff().abs().sum() + line[0].int() + line[-1].int()).item() in (0, 2)
        assert (made["image"][number][~stayed[number]] == made["partner_targets"][number]).all()


@pytest.mark.parametrize("alpha", [0.2, 0.5, 1.0, 2.0, 30.0])
def test_shares_are_of_a_beta_distribution(alpha):
    stats = pytest.importorskip("scipy.stats", reason="scipy is not installed")
    _, share, _ = ImageMixup(alpha).drawn([f"s{n}" for n in range(4000)], CHANCE)
    assert stats.kstest(share, stats.beta(alpha, alpha).cdf).pvalue > 1e-3


# -- before Collate ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("twin", "stage"),
    [
        (ImageRandomResizedCropOnSample(28, scale=(0.2, 0.8)), ImageRandomResizedCrop(28, scale=(0.2, 0.8))),
        (ImageResizeOnSample(20, interpolation="bicubic"), ImageResize(20, interpolation="bicubic")),
        (ImageCenterCropOnSample((40, 20)), ImageCenterCrop((40, 20))),
    ],
)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_on_a_sample_as_on_a_batch(twin, stage, dtype):
    given = batch(4, dtype=dtype)
    expected = stage.apply(given, CHANCE)["image"]
    for number, key in enumerate(given["keys"]):
        image = given["image"][number].numpy().copy()
        image.flags.writeable = False
        sample = Sample(key, {"image": image, "label": 3})
        made = twin.apply(sample, CHANCE)
        assert made["label"] == 3 and sample["image"] is image
        assert made["image"].flags.c_contiguous
        np.testing.assert_array_equal(made["image"], expected[number].numpy())


@pytest.mark.parametrize(
    ("image", "found"),
    [
        (b"abc", "bytes"),
        (np.zeros((4, 4), np.uint8), "uint8 [4, 4]"),
        (np.zeros((3, 4, 4)), "float64 [3, 4, 4]"),
        (np.zeros((3, 0, 4), np.uint8), "uint8 [3, 0, 4]"),
    ],
)
def test_a_sample_that_holds_no_image(image, found):
    with pytest.raises(ValueError) as caught:
        ImageResizeOnSample(4).apply(Sample("a", {"image": image}), CHANCE)
    assert f"its image is {found}; uint8 or float32 [C, H, W] wanted, as DecodeImage gives it" in str(caught.value)


# -- training augments, validation does not ---------------------------------------------------------------------------


def epochs(pipeline, count=2):
    """For each epoch, the features by key."""
    found = []
    with pipeline.loader(seed=3) as loader:
        for _ in range(count):
            rows = {}
            for part in loader:
                rows.update(zip(part["keys"], part["features"], strict=True))
            found.append(rows)
    return found


def test_training_augments_and_validation_does_not(shards: Path):
    base = [TarShards(str(shards / "cifar10" / "train"), block_rows=20), Shuffle(), BatchOf(7), DecodeImage()]
    collate, last = Collate("image", target="label", layout="stack"), Normalize((0.5,) * 3, (0.25,) * 3)
    augment = [ImageRandomCrop(32, 4), ImageRandomHorizontalFlip(), ImageCutout(8), ImageColorJitter(0.2)]
    training = Pipeline(*base, collate, *augment, last)
    validation = Pipeline(*base, collate, ImageResize(40), ImageCenterCrop(32), last)
    first, second = epochs(training)
    assert first.keys() == second.keys()
    assert not any(torch.equal(first[key], second[key]) for key in first)
    again = epochs(training)
    assert all(torch.equal(again[0][key], first[key]) and torch.equal(again[1][key], second[key]) for key in first)
    plain, same = epochs(validation)
    assert plain.keys() == same.keys() == first.keys()
    assert all(torch.equal(plain[key], same[key]) for key in plain)
    assert all(torch.equal(one[key], plain[key]) for one in epochs(validation) for key in plain)
    assert not any(torch.equal(plain[key], first[key]) for key in plain)


# -- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ImageRandomCrop(0), "size must be a positive int, or two as (height, width), got 0"),
        (lambda: ImageResize((1, 2, 3)), "size must be a positive int, or two as (height, width), got (1, 2, 3)"),
        (lambda: ImageCenterCrop(True), "size must be a positive int, or two as (height, width), got True"),
        (lambda: ImageRandomCrop(4, -1), "padding must be one, two or four ints of at least 0, got -1"),
        (lambda: ImageRandomCrop(4, (1, 2, 3)), "padding must be one, two or four ints of at least 0, got (1, 2, 3)"),
        (lambda: ImageRandomCrop(4, mode="mirror"), "unknown mode 'mirror'."),
        (lambda: ImageRandomCrop(4, fill="black"), "fill must be a number, or one for each channel, got 'black'"),
        (lambda: ImageRandomHorizontalFlip(1.5), "p must be a number in [0, 1], got 1.5"),
        (lambda: ImageCutout(4, count=0), "count must be a positive int, got 0"),
        (lambda: ImageRandomResizedCrop(4, scale=(0.5, 0.1)), "scale must be two numbers in [0, 1], the lesser first"),
        (lambda: ImageRandomResizedCrop(4, scale=(0, 1)), "scale must be above 0, got (0.0, 1.0)"),
        (lambda: ImageRandomResizedCrop(4, ratio=2.0), "ratio must be two numbers of at least 0, the lesser first"),
        (lambda: ImageResize(4, interpolation="nearest"), "unknown interpolation 'nearest'."),
        (lambda: ImageColorJitter(-1), "brightness must be a number of at least 0, or two as (least, most), got -1"),
        (lambda: ImageColorJitter(hue=0.6), "hue must be a number in [0, 0.5], or two as (least, most), got 0.6"),
        (lambda: ImageColorJitter(hue=(-0.6, 0)), "hue must be two numbers in [-0.5, 0.5], the lesser first"),
        (lambda: ImageMixup(0), "alpha must be a number above 0 and at most 100, got 0"),
        (
            lambda: ImageRandomCrop(40, 3).apply(batch(), CHANCE),
            "a part of 40x40 pixels does not fit in padded images of 38x42; set a smaller size or more padding",
        ),
        (
            lambda: ImageRandomCrop(4, 32, mode="reflect").apply(batch(), CHANCE),
            "padding 32 is too much for mode 'reflect' and images 32x36",
        ),
        (
            lambda: ImageCutout(4, fill=0.5).apply(batch(), CHANCE),
            "fill must be whole and in 0..255 for uint8 images, got 0.5",
        ),
        (
            lambda: ImageCutout(4, fill=(1, 2)).apply(batch(), CHANCE),
            "fill has 2 numbers, and the images have 3 channels",
        ),
        (
            lambda: ImageCutMix().apply(ImageMixup().apply(batch(), CHANCE), CHANCE),
            "the batch is mixed already, and a second partner would hide the first; take one of both",
        ),
        (
            lambda: ImageColorJitter(1).apply(batch(channels=2), CHANCE),
            "images of 1 or 3 channels wanted, got [12, 2, 32, 36]",
        ),
        (
            lambda: ImageResize(4).apply(batch().with_fields(image=torch.zeros(3, 4, 4, dtype=torch.int64)), CHANCE),
            "image must be uint8 or float [B, C, H, W], got torch.int64 [3, 4, 4]; Collate(..., layout='stack')",
        ),
    ],
)
def test_refused(make, message):
    with pytest.raises(ConfigError) as caught:
        make()
    assert message in str(caught.value)


def test_fields():
    assert (ImageCutout(4, field="pixels").needs(), ImageCutout(4).gives()) == (("pixels",), ("image",))
    mixup = ImageMixup(field="features")
    assert (mixup.needs(), mixup.gives()) == (
        ("features", "targets"),
        ("features", "partner_targets", "own_share"),
    )

"""Decode and normalise images."""

from __future__ import annotations

import io
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from ecopipe.formats.image import IMAGE_EXTENSIONS
from ecopipe.stages.columns import Columns
from ecopipe.stages.image import DecodeImage, Normalize
from ecopipe.vocabulary.errors import ConfigError
from ecopipe.vocabulary.randomness import Chance
from ecopipe.vocabulary.sample import Batch, Sample

CHANCE = Chance(0, 0, "test")
PIXELS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


def png(pixels=PIXELS):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="PNG")
    return stream.getvalue()


def test_rgb():
    sample = DecodeImage().apply(Sample("a", {"png": png(), "label": 3}, shard="s"), CHANCE)
    assert set(sample) == {"image", "label"}
    assert sample["image"].flags.c_contiguous
    np.testing.assert_array_equal(sample["image"], PIXELS.transpose(2, 0, 1))


def test_grey_image_as_rgb_is_repeated():
    image = DecodeImage().apply(Sample("a", {"png": png(PIXELS[:, :, 0])}), CHANCE)["image"]
    np.testing.assert_array_equal(image, np.stack([PIXELS[:, :, 0]] * 3))


def test_grey_mode():
    stage = DecodeImage(mode="grey")
    image = stage.apply(Sample("a", {"png": png()}), CHANCE)["image"]
    exact = PIXELS @ np.array([0.299, 0.587, 0.114])
    assert image.shape == (1, 5, 7)
    assert np.abs(image[0] - exact).max() <= 0.5 + 1e-9
    grey = stage.apply(Sample("a", {"png": png(PIXELS[:, :, 0])}), CHANCE)["image"]
    np.testing.assert_array_equal(grey[0], PIXELS[:, :, 0])


def test_fields():
    stage = DecodeImage()
    assert (stage.needs(), stage.gives(), stage.takes_away()) == (
        ("|".join(IMAGE_EXTENSIONS),),
        ("image",),
        IMAGE_EXTENSIONS,
    )
    named = DecodeImage(field="left.png")
    assert (named.needs(), named.takes_away()) == (("left.png",), ("left.png",))
    assert set(named.apply(Sample("a", {"left.png": png(), "png": b""}), CHANCE)) == {"image", "png"}
    assert pickle.loads(pickle.dumps(named)) == named


def npy(array):
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("stage", "fields", "message"),
    [
        (DecodeImage(), {"txt": b""}, r"no field of images \(png, jpg, jpeg, npy\); it has txt"),
        (DecodeImage(), {"png": b"", "jpg": b""}, r"several fields of images \(png, jpg\); name the one"),
        (DecodeImage(field="png"), {"jpg": b""}, "no field 'png'; it has jpg"),
        (DecodeImage(), {"png": b"1234"}, "not readable as png: it begins with b'1234'"),
        (DecodeImage(), {"npy": npy(np.zeros((2, 2, 2), np.uint8))}, r"2 channels; 1 \(grey\) or 3"),
    ],
)
def test_a_sample_that_cannot_be_processed(stage, fields, message):
    with pytest.raises(ValueError, match=message):
        stage.apply(Sample("a", fields), CHANCE)


# -- normalise ----------------------------------------------------------------------------------------------------

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


def batch(images):
    return Batch({"keys": ["a"] * len(images), "image": images, "targets": torch.zeros(len(images))})


def test_as_torchvision():
    v2 = pytest.importorskip("torchvision.transforms.v2", reason="torchvision is not installed")
    images = torch.randint(0, 256, (4, 3, 8, 9), dtype=torch.uint8)
    before = images.clone()
    made = Normalize(MEAN, STD).apply(batch(images), CHANCE)
    assert set(made) == {"keys", "features", "targets"}
    expected = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)])(images)
    torch.testing.assert_close(made["features"], expected, rtol=0, atol=1e-6)
    assert torch.equal(images, before)


def test_alone_as_in_a_batch():
    images = torch.randint(0, 256, (4, 3, 8, 9), dtype=torch.uint8)
    stage = Normalize(MEAN, STD)
    assert torch.equal(
        stage.apply(batch(images), CHANCE)["features"][2:3], stage.apply(batch(images[2:3]), CHANCE)["features"]
    )


def test_float_images_are_taken_as_they_are():
    images = torch.rand(2, 1, 3, 3)
    before = images.clone()
    made = Normalize((0.5,), (0.25,), field="pixels").apply(Batch({"keys": ["a", "b"], "pixels": images}), CHANCE)
    torch.testing.assert_close(made["features"], (before - 0.5) / 0.25)
    assert torch.equal(images, before)


def test_normalize_fields():
    stage = Normalize([0.5], [0.5])
    assert (stage.needs(), stage.gives(), stage.takes_away()) == (("image",), ("features",), ("image",))
    assert Normalize((0.5,), (0.5,), field="features").takes_away() == ()
    assert stage == Normalize((0.5,), (0.5,))
    assert pickle.loads(pickle.dumps(stage)) == stage


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DecodeImage(mode="gray"), "DecodeImage: unknown mode 'gray'. Did you mean 'grey'"),
        (lambda: Normalize((), ()), r"Normalize: mean must hold one number for each channel, got \(\)"),
        (lambda: Normalize((0.5,), 1.0), "Normalize: std must hold one number for each channel, got 1.0"),
        (lambda: Normalize((0.5,), (1, 1)), "Normalize: mean has 1 numbers and std has 2"),
        (lambda: Normalize((0.5,), (0,)), "Normalize: std must be positive, got 0.0"),
        (
            lambda: Normalize((0.5,), (1,)).apply(batch(torch.zeros(1, 3, 2, 2)), CHANCE),
            r"Normalize: images of \[B, 1, H, W\] wanted, got \[1, 3, 2, 2\]",
        ),
    ],
)
def test_wrong_settings(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


# -- by columns ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["rgb", "grey"])
@pytest.mark.parametrize("count", [1, 64, 65, 200])
def test_many_at_once_as_one_by_one(monkeypatch, count, mode):
    monkeypatch.setattr("ecopipe.stages.image._AT_ONCE", 40 * PIXELS.nbytes)  # several pieces
    images = np.random.default_rng(1).integers(0, 256, (count, *PIXELS.shape), dtype=np.uint8)
    stage = DecodeImage(mode=mode)
    rows = np.stack([np.frombuffer(npy(image), np.uint8) for image in images])
    keys = [str(number) for number in range(count)]
    made = stage.apply_columns(Columns(keys, {"npy": rows, "label": keys}), CHANCE)
    assert set(made.fields) == {"image", "label"}
    expected = [
        stage.apply(Sample(key, {"npy": npy(image)}), CHANCE)["image"] for key, image in zip(keys, images, strict=True)
    ]
    np.testing.assert_array_equal(made.fields["image"], np.stack(expected))
    assert made.fields["image"].flags.c_contiguous and made.fields["image"].flags.writeable


def test_columns_that_have_to_be_looked_at_one_by_one():
    other = png(PIXELS[:4])
    for fields in (
        {"txt": ["", ""]},
        {"png": [png(), png()], "jpg": [b"", b""]},
        {"png": [png(), other]},
    ):
        assert DecodeImage().apply_columns(Columns(["a", "b"], fields), CHANCE) is None
    many = Columns([str(number) for number in range(65)], {"png": [png()] * 64 + [other]})  # in another piece
    assert DecodeImage().apply_columns(many, CHANCE) is None
    assert DecodeImage(field="png").apply_columns(Columns(["a"], {"jpg": [b""]}), CHANCE) is None

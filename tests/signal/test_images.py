"""Images cut, filled, resized, recoloured and normalised: as torchvision does each alone, and the same in any batch."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image

from ecopipe.signal import colours
from ecopipe.signal.images import blended, cropped, either, filled, flipped, inside, normalized, padded, pieces
from ecopipe.signal.resizing import by_taps, resized

DTYPES = [torch.uint8, torch.float32, torch.bfloat16]
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.fixture
def v2():
    return pytest.importorskip("torchvision.transforms.v2.functional", reason="torchvision is not installed")


def pixels(*shape, dtype=torch.uint8, seed=0):
    made = torch.from_numpy(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))
    return made if dtype == torch.uint8 else made.to(dtype) / 255


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64])
@pytest.mark.parametrize("device", DEVICES)
def test_either_takes_pixels_as_they_are(dtype, device):
    one, other = pixels(5, 3, 4, 7, dtype=dtype).to(device), pixels(5, 1, 4, 7, dtype=dtype, seed=1).to(device)
    if dtype.is_floating_point:
        one[0, 0, 0] = math.nan
        other[0, 0, 1] = math.inf
    mask = torch.rand(5, 1, 4, 7, device=device) < 0.5
    made = either(mask, one, other)
    assert made.dtype == dtype
    torch.testing.assert_close(made, torch.where(mask, one, other), rtol=0, atol=0, equal_nan=True)


def test_pieces_are_all_images_in_order():
    for count, side in ((0, 8), (1, 2000), (7, 400), (300, 32)):
        images = torch.empty(count, 3, side, side, dtype=torch.uint8)
        runs = [images[piece] for piece in pieces(images)]
        assert sum(map(len, runs)) == count
        assert all(run.data_ptr() == images[sum(map(len, runs[:at]))].data_ptr() for at, run in enumerate(runs))
        assert all(run.numel() <= 2**20 or len(run) == 1 for run in runs)


@pytest.mark.parametrize("mode", ["constant", "edge", "reflect", "symmetric"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_padding_is_torchvisions(v2, mode, dtype):
    images = pixels(2, 3, 5, 6, dtype=dtype)
    for padding in ((0, 0, 0, 0), (1, 2, 3, 4), (4, 0, 0, 4), (0, 3, 5, 0)):
        expected = v2.pad(images, list(padding), padding_mode=mode, fill=7)
        assert torch.equal(padded(images, padding, mode, (7.0,)), expected)
    by_channel = padded(images, (1, 1, 1, 1), "constant", (1.0, 2.0, 3.0))
    assert by_channel[0, :, 0, 0].tolist() == [1, 2, 3]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("device", DEVICES)
def test_each_image_is_cropped_at_its_own_place(v2, dtype, device):
    images = pixels(6, 3, 11, 13, dtype=dtype)
    top, left = np.array([0, 1, 2, 6, 6, 0]), np.array([0, 9, 3, 9, 0, 9])
    made = cropped(images.to(device), top, left, 5, 4)
    assert made.shape == (6, 3, 5, 4)
    for number, (above, beside) in enumerate(zip(top.tolist(), left.tolist(), strict=True)):
        assert torch.equal(made[number].cpu(), v2.crop(images[number], above, beside, 5, 4))
    sliced = torch.cat([images, images], dim=3)[..., :13]  # not contiguous
    assert torch.equal(cropped(sliced.to(device), top, left, 5, 4), made)


def test_flip_and_fill(v2):
    images = pixels(4, 3, 6, 5)
    made = flipped(images, np.array([True, False, True, False]))
    assert torch.equal(made[0], v2.horizontal_flip(images[0])) and torch.equal(made[1], images[1])
    boxes = np.array(
        [[[0, 0, 2, 3], [4, 4, 6, 5]], [[1, 1, 1, 5], [0, 0, 6, 0]], [[0, 0, 6, 5]] * 2, [[2, 1, 5, 4]] * 2]
    )
    made = filled(images, boxes, (9.0, 8.0, 7.0))
    expected = images.clone()
    for number, row in enumerate(boxes.tolist()):
        for top, left, bottom, right in row:
            expected[number, :, top:bottom, left:right] = torch.tensor([9, 8, 7], dtype=torch.uint8)[:, None, None]
    assert torch.equal(made, expected)
    assert torch.equal(inside(boxes, 6, 5, images.device)[1], torch.zeros(1, 6, 5, dtype=torch.bool))


def test_blended():
    images, others = pixels(3, 3, 8, 8), pixels(3, 3, 8, 8, seed=1)
    share = np.array([0.0, 1.0, 0.3])
    exact = share[:, None, None, None] * images.numpy() + (1 - share[:, None, None, None]) * others.numpy()
    rounded = blended(images, others, share, rounding=True)
    assert rounded.dtype == torch.uint8
    assert np.abs(rounded.numpy() - exact).max() <= 0.5 + 1e-4
    assert torch.equal(rounded[1], images[1]) and torch.equal(rounded[0], others[0])
    np.testing.assert_allclose(blended(images.float(), others, share).numpy(), exact, rtol=0, atol=1e-4)


# -- resize -----------------------------------------------------------------------------------------------------------

BOXES = np.array(
    [[0, 0, 97, 131], [3, 5, 20, 17], [10, 100, 80, 31], [96, 130, 1, 1], [2, 2, 2, 128], [50, 0, 40, 131]]
)
SIZES = [(32, 32), (224, 200), (40, 13), (97, 131), (2, 3)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("device", DEVICES)
def test_uint8_is_resized_to_the_bits_of_torchvision(v2, size, interpolation, antialias, device):
    images = pixels(len(BOXES), 3, 97, 131)
    mode = v2.InterpolationMode(interpolation)
    expected = torch.cat(
        [
            v2.resized_crop(images[number : number + 1], *box, list(size), interpolation=mode, antialias=antialias)
            for number, box in enumerate(BOXES.tolist())
        ]
    )
    for make in (resized, by_taps):
        made = make(images.to(device), BOXES, size, interpolation=interpolation, antialias=antialias)
        assert made.dtype == torch.uint8
        assert torch.equal(made.cpu(), expected), make


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("antialias", [True, False])
def test_floats_are_resized_as_torchvision_does(v2, size, interpolation, antialias):
    images = pixels(len(BOXES), 1, 97, 131, dtype=torch.float32)
    mode = v2.InterpolationMode(interpolation)
    made = resized(images, BOXES, size, interpolation=interpolation, antialias=antialias)
    for number, box in enumerate(BOXES.tolist()):
        expected = v2.resized_crop(images[number], *box, list(size), interpolation=mode, antialias=antialias)
        assert (made[number] - expected).abs().max() < 1e-4


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("device", DEVICES)
def test_resized_alone_as_among_others(dtype, device):
    images = pixels(len(BOXES), 3, 97, 131, dtype=dtype)
    together = resized(images.to(device), BOXES, (50, 60))
    for number in range(len(BOXES)):
        alone = resized(images[number : number + 1], BOXES[number : number + 1], (50, 60))  # on the CPU
        assert torch.equal(together[number].cpu(), alone[0])


@pytest.mark.parametrize("size", [(1, 1), (3, 1), (1, 2)])
@pytest.mark.parametrize("channels", [1, 3])
def test_one_pixel_wide(size, channels):
    """As Pillow resizes, in float64; torch fails, or is wrong, where all that is left is one pixel wide."""
    images, boxes = pixels(2, channels, 40, 30), np.array([[0, 0, 40, 30], [8, 9, 4, 6]])
    whole, exact = resized(images, boxes, size), resized(images.double(), boxes, size)
    for number, (top, left, height, width) in enumerate(boxes.tolist()):
        for channel in range(channels):
            part = images[number, channel, top : top + height, left : left + width].numpy().astype(np.float32)
            expected = np.asarray(Image.fromarray(part).resize(size[::-1], Image.Resampling.BILINEAR))
            np.testing.assert_allclose(exact[number, channel], expected, rtol=0, atol=1e-3)
            assert np.abs(whole[number, channel].numpy() - expected).max() <= 1


def test_what_lies_outside_the_box_has_no_say():
    images = torch.full((1, 1, 20, 20), math.nan)
    images[:, :, 5:10, 6:12] = 1.0
    made = resized(images, np.array([[5, 6, 5, 6]]), (9, 4), interpolation="bicubic")
    torch.testing.assert_close(made, torch.ones(1, 1, 9, 4))


# -- colours ----------------------------------------------------------------------------------------------------------

CHANGES = [
    (colours.brightened, "adjust_brightness", [0.0, 0.4, 1.0, 1.7]),
    (colours.contrasted, "adjust_contrast", [0.0, 0.4, 1.0, 1.7]),
    (colours.saturated, "adjust_saturation", [0.0, 0.4, 1.0, 1.7]),
    (colours.hued, "adjust_hue", [-0.5, -0.11, 0.0, 0.37]),
]


def every_colour():
    """uint8 [4, 3, 64, 64]: greys, pure colours, pairs of equal channels, and noise."""
    noise = pixels(4, 3, 64, 64, seed=3)
    noise[0] = noise[0, :1].clone()
    noise[1, :2] = noise[1, 1:].clone()
    noise[2] = noise[2] // 128 * 255
    noise[2, 1, :32] = noise[2, 0, :32]
    return noise


@pytest.mark.parametrize(("change", "name", "factors"), CHANGES, ids=[name for _, name, _ in CHANGES])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("channels", [3, 1])
def test_each_change_is_torchvisions(v2, change, name, factors, dtype, channels):
    images = every_colour()[:, :channels]
    images = images if dtype == torch.uint8 else images / 255
    before = images.clone()
    made = change(images, np.array(factors))
    assert made.dtype == dtype
    assert torch.equal(images, before)
    one = 1 if dtype == torch.uint8 else 1 / 255
    for number, factor in enumerate(factors):
        expected = getattr(v2, name)(images[number], factor)
        apart = (made[number].double() - expected.double()).abs()
        assert apart.max() <= one
        assert (apart > one / 4).double().mean() < 0.01  # of uint8, only where it is a toss-up


@pytest.mark.parametrize(("change", "name", "factors"), CHANGES, ids=[name for _, name, _ in CHANGES])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("device", DEVICES)
def test_each_change_is_the_same_alone(change, name, factors, dtype, device):
    images = every_colour()[..., :61, :37]
    images = images if dtype == torch.uint8 else (images / 255).to(dtype)
    together = change(images.to(device), np.array(factors)).cpu()
    for number, factor in enumerate(factors):
        alone = change(images[number : number + 1], np.array([factor]))
        assert torch.equal(together[number : number + 1], alone), name


# -- normalise --------------------------------------------------------------------------------------------------------

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("given", [torch.uint8, torch.float32])
def test_normalized_is_torchvisions_in_any_dtype_and_layout(v2, dtype, channels_last, given):
    images = pixels(4, 3, 9, 10, dtype=given)
    before = images.clone()
    made = normalized(images, MEAN, STD, dtype=dtype, channels_last=channels_last)
    assert torch.equal(images, before)
    assert made.dtype == dtype
    assert made.is_contiguous(memory_format=torch.channels_last) == channels_last
    assert made.is_contiguous() != channels_last
    expected = v2.normalize(v2.to_dtype(images, torch.float32, scale=True), list(MEAN), list(STD))
    torch.testing.assert_close(made, expected.to(dtype), rtol=0, atol=1e-6 if dtype == torch.float32 else 2e-2)
    assert torch.equal(made, normalized(images, MEAN, STD).to(dtype))
    many = images.repeat(3, 1, 40, 30)  # several pieces
    whole = normalized(many, MEAN, STD, dtype=dtype, channels_last=channels_last)
    assert torch.equal(whole, made.repeat(3, 1, 40, 30))

"""Stages that blend the images of a batch with something: with black or grey (ColorJitter), or with each other."""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ecopipe.signal.colours import Factors, brightened, contrasted, hued, saturated
from ecopipe.signal.images import Ints, blended, either, inside, on, pieces
from ecopipe.stages.of_images import ImagesInBatch, OfImages, check_span, is_number
from ecopipe.stages.stage import DeviceStage
from ecopipe.vocabulary.philox import uniforms
from ecopipe.vocabulary.randomness import Chance
from ecopipe.vocabulary.sample import Batch

Range = float | tuple[float, float]

_CHANGES: dict[str, Callable[[Tensor, Factors], Tensor]] = {
    "brightness": brightened,
    "contrast": contrasted,
    "saturation": saturated,
    "hue": hued,
}


@dataclass(frozen=True)
class ImageColorJitter(ImagesInBatch):
    """Brightness, contrast, saturation and hue of each image changed by factors drawn for each, in an order drawn too.

    Each change is that of torchvision's transforms v2, in float32: images times the factor; the difference from the
    mean luma of the image times the factor; the difference from each pixel's luma times the factor; the hue turned.
    After each, uint8 is cut down to whole numbers in 0..255, and float kept in [0, 1]. A change of 0 is not made.

    Args:
        brightness: The factor is uniform in [max(0, 1 - brightness), 1 + brightness], or in (least, most).
        contrast: As brightness.
        saturation: As brightness. Grey images have none.
        hue: The turn is uniform in [-hue, hue], or in (least, most), within [-0.5, 0.5]: a half is the opposite colour.
        field: The images: uint8, or float in [0, 1], [B, 1 or 3, H, W].
    """

    brightness: Range = 0.0
    contrast: Range = 0.0
    saturation: Range = 0.0
    hue: Range = 0.0

    def __post_init__(self) -> None:
        for name in _CHANGES:
            most = 0.5 if name == "hue" else float("inf")
            value = getattr(self, name)
            if isinstance(value, (tuple, list)):
                check_span(self, name, -most if name == "hue" else 0.0, most)
            elif not is_number(value) or not 0 <= value <= most:
                bounds = "in [0, 0.5]" if name == "hue" else "of at least 0"
                raise self.refuse(f"{name} must be a number {bounds}, or two as (least, most), got {value!r}")
        super().__post_init__()

    def span(self, change: str) -> tuple[float, float]:
        """The least and the greatest factor of a change."""
        value = getattr(self, change)
        if isinstance(value, tuple):
            least, most = value
            return least, most
        return (-value, value) if change == "hue" else (max(0.0, 1.0 - value), 1.0 + value)

    def factors(self, keys: Sequence[str], chance: Chance) -> tuple[dict[str, Factors], Ints]:
        """The factors of each change that is made, float64 [B] each, and their order: int64 [B, changes], by number."""
        drawn = uniforms(chance, keys, 2 * len(_CHANGES))
        made = [number for number, name in enumerate(_CHANGES) if getattr(self, name) not in (0, (1, 1))]
        factors = {}
        for number in made:
            name = list(_CHANGES)[number]
            least, most = self.span(name)
            factors[name] = least + drawn[:, number] * (most - least)
        order = drawn[:, [len(_CHANGES) + number for number in made]].argsort(axis=1, kind="stable")
        return factors, order.astype(np.int64)

    def changed(self, images: Tensor, keys: Sequence[str], chance: Chance) -> Tensor:
        if images.shape[1] not in (1, 3):
            raise self.refuse(f"images of 1 or 3 channels wanted, got {list(images.shape)}")
        factors, order = self.factors(keys, chance)
        made = torch.empty_like(images)
        for piece in pieces(images):
            of_piece = {name: factor[piece] for name, factor in factors.items()}
            made[piece] = _in_turn(images[piece], of_piece, order[piece])
        return made


def _in_turn(images: Tensor, factors: dict[str, Factors], order: Ints) -> Tensor:
    """Each image changed in its own order: of each turn, all at once those whose turn is for the same change."""
    for turn in range(order.shape[1]):
        before, images = images, torch.empty_like(images)
        for number, (name, factor) in enumerate(factors.items()):
            which = np.flatnonzero(order[:, turn] == number)
            if which.size:
                rows = on(which, images.device)
                images.index_copy_(0, rows, _CHANGES[name](before.index_select(0, rows), factor[which]))
    return images


@dataclass(frozen=True)
class _Pairing(OfImages, DeviceStage, abc.ABC):
    alpha: float = 1.0

    def __post_init__(self) -> None:
        if not is_number(self.alpha) or not 0 < self.alpha <= 100:
            raise self.refuse(f"alpha must be a number above 0 and at most 100, got {self.alpha!r}")
        super().__post_init__()

    def needs(self) -> tuple[str, ...]:
        return (self.field, "targets")

    def gives(self) -> tuple[str, ...]:
        return (self.field, "partner_targets", "own_share")

    def drawn(self, keys: Sequence[str], chance: Chance) -> tuple[Ints, Factors, Factors]:
        """The partner of each sample, int64 [B]; what it keeps of itself, float64 [B]; and a place, float64 [B, 2]."""
        drawn = uniforms(chance, keys, 5)
        ring = np.lexsort((np.array(keys), drawn[:, 0]))
        partner = np.empty(len(keys), dtype=np.int64)
        partner[ring] = np.roll(ring, -1)
        return partner, _beta(drawn[:, 1], drawn[:, 2], self.alpha), drawn[:, 3:]

    @abc.abstractmethod
    def mixed(self, images: Tensor, others: Tensor, share: Factors, place: Factors) -> tuple[Tensor, Factors]:
        """The images with something of the others in them, and how much of themselves they kept: float64 [B]."""

    def apply(self, batch: Batch, chance: Chance) -> Batch:
        if "partner_targets" in batch:
            raise self.refuse("the batch is mixed already, and a second partner would hide the first; take one of both")
        images, targets = self.images(batch), batch["targets"]
        partner, share, place = self.drawn(batch.sample_keys, chance)
        others = images.index_select(0, on(partner, images.device))
        made, share = self.mixed(images, others, share, place)
        beside = {
            "partner_targets": targets.index_select(0, on(partner, targets.device)),
            "own_share": on(share.astype(np.float32), images.device),
        }
        return batch.with_fields(**{self.field: made, **beside})


def _beta(one: Factors, other: Factors, alpha: float) -> Factors:
    """Beta(alpha, alpha) of uniform numbers in [0, 1): Devroye, "Random variate generation in one line of code", 1996,
    by Student's t as Bailey makes it of two."""
    cosine = np.cos(2 * np.pi * other)
    with np.errstate(over="ignore", divide="ignore"):
        square = np.expm1(-np.log1p(-one) / alpha) * cosine**2
        made: Factors = 0.5 + np.copysign(0.5, cosine) / np.sqrt(1 + 1 / square)
    return made


@dataclass(frozen=True)
class ImageMixup(_Pairing):
    """Each image of the batch mixed with another of the batch, in shares drawn for each pair.

    Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018. The share that a sample keeps of itself and
    its place in a ring are drawn by its key; its partner is the next in the ring. So each sample is the partner of one,
    none of itself (unless it is alone), and the order within the batch has no say. **Who the partner is depends on who
    is in the batch**: of all stages only this and :class:`ImageCutMix` do not give a sample the same result alone. The
    same batch gives the same result, on any rank and after any restart.

    Beside ``targets`` come ``partner_targets``, of the same shape and dtype, and ``own_share``: float32 [B] in [0, 1]::

        loss = own_share * cross_entropy(scores, targets, reduction="none")
        loss += (1 - own_share) * cross_entropy(scores, partner_targets, reduction="none")

    Args:
        alpha: The share is drawn by a Beta(alpha, alpha) distribution: 1 is uniform, less is nearer to 0 and 1.
        field: The images: uint8, rounded, or float [B, C, H, W].
    """

    def mixed(self, images: Tensor, others: Tensor, share: Factors, place: Factors) -> tuple[Tensor, Factors]:
        return blended(images, others, share, rounding=True), share


@dataclass(frozen=True)
class ImageCutMix(_Pairing):
    """A rectangle of each image of the batch replaced by what another of the batch has there.

    Yun et al., "CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features", ICCV 2019. The
    rectangle has the shape of the image and, until it passes an edge, the area that the drawn share leaves; its middle
    is drawn among all pixels. Partners and what comes beside ``targets`` are those of :class:`ImageMixup`, with the
    same warning; ``own_share`` is the area that stayed.

    Args:
        alpha: The share is drawn by a Beta(alpha, alpha) distribution.
        field: The images: uint8 or float [B, C, H, W].
    """

    def boxes(self, share: Factors, place: Factors, height: int, width: int) -> Ints:
        """Each sample's rectangle: int64 [B, 1, 4], top, left, bottom, right, within the image."""
        size = np.array([height, width])
        half = (0.5 * np.sqrt(1.0 - share)[:, None] * size).astype(np.int64)
        middle = np.floor(place * size).astype(np.int64)
        return np.concatenate([(middle - half).clip(0), np.minimum(middle + half, size)], axis=1)[:, None]

    def mixed(self, images: Tensor, others: Tensor, share: Factors, place: Factors) -> tuple[Tensor, Factors]:
        height, width = images.shape[-2:]
        boxes = self.boxes(share, place, height, width)
        left = 1.0 - (boxes[:, 0, 2:] - boxes[:, 0, :2]).prod(axis=1) / (height * width)
        return either(inside(boxes, height, width, images.device), others, images), left

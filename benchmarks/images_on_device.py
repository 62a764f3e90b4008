"""Training transforms of images: each sample's own draws on the batch, against torchvision's v2, in interleaved runs.

Three ways for the same chain: ecopipe's stages on the batch; torchvision on each image in a loop, whose results are
stacked; and torchvision on the batch, which is **not the same thing**: it gives all images one and the same draw.

"CIFAR" is crop 32 with padding 4, flip, cutout 8 and normalise, of 32x32; "crop 224" the same of 224x224 with padding
28 and cutout 56; "resized crop 224" random resized crop of 256x256 to 224, flip and normalise; "jitter 224" brightness,
contrast, saturation and hue alone. Cutout in torchvision is RandomErasing of a square of that area.

Speed is in images per second. uint8 goes in, normalised float32 comes out, except that of "jitter 224", uint8.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import v2

from ecopipe.stages.blending import ImageColorJitter
from ecopipe.stages.image import Normalize
from ecopipe.stages.imaging import ImageCutout, ImageRandomCrop, ImageRandomHorizontalFlip, ImageRandomResizedCrop
from ecopipe.stages.stage import DeviceStage
from ecopipe.vocabulary.randomness import Chance
from ecopipe.vocabulary.sample import Batch

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
WAYS = ("ecopipe", "torchvision, image by image", "torchvision, one draw for all")
FLOATS = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]


def erasing(part: float) -> v2.Transform:
    """A square of that part of the area, always."""
    return v2.RandomErasing(p=1.0, scale=(part, part), ratio=(1.0, 1.0))


CHAINS: dict[str, tuple[int, int, list[DeviceStage], list[v2.Transform]]] = {
    "CIFAR": (
        256,
        32,
        [ImageRandomCrop(32, 4), ImageRandomHorizontalFlip(), ImageCutout(8), Normalize(MEAN, STD)],
        [v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip(), erasing(1 / 16), *FLOATS],
    ),
    "crop 224": (
        64,
        224,
        [ImageRandomCrop(224, 28), ImageRandomHorizontalFlip(), ImageCutout(56), Normalize(MEAN, STD)],
        [v2.RandomCrop(224, padding=28), v2.RandomHorizontalFlip(), erasing(1 / 16), *FLOATS],
    ),
    "resized crop 224": (
        64,
        256,
        [ImageRandomResizedCrop(224), ImageRandomHorizontalFlip(), Normalize(MEAN, STD)],
        [v2.RandomResizedCrop(224), v2.RandomHorizontalFlip(), *FLOATS],
    ),
    "jitter 224": (64, 224, [ImageColorJitter(0.4, 0.4, 0.4, 0.1)], [v2.ColorJitter(0.4, 0.4, 0.4, 0.1)]),
}
"""Images in a batch, their side in pixels, our stages, and torchvision's transforms."""


def by_stages(stages: list[DeviceStage], keys: list[str], images: Tensor) -> Tensor:
    batch = Batch({"keys": keys, "image": images})
    for stage in stages:
        batch = stage.apply(batch, Chance(0, 0, stage.label))
    made: Tensor = batch["features" if "features" in batch else "image"]
    return made


def one_by_one(transform: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    return torch.stack([transform(image) for image in images])


def timed(make: Callable[[Tensor], Tensor], images: Tensor) -> float:
    """Seconds that a batch takes."""
    began = time.perf_counter()
    make(images)
    if images.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - began


def measure(name: str, repeats: int, device: torch.device) -> dict[str, list[float]]:
    """Images per second by way, run by run."""
    count, side, stages, transforms = CHAINS[name]
    images = torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, device=device)
    keys = [f"train-{number:06d}" for number in range(count)]
    transform = v2.Compose(transforms)
    makes = (functools.partial(by_stages, stages, keys), functools.partial(one_by_one, transform), transform)
    speeds: dict[str, list[float]] = {way: [] for way in WAYS}
    for number in range(repeats + 1):
        for way, make in zip(WAYS, makes, strict=True):
            taken = timed(make, images)
            if number:
                speeds[way].append(count / taken)
    return speeds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    settings = parser.parse_args()
    torch.set_num_threads(settings.threads)
    found: dict[str, Any] = {name: measure(name, settings.repeats, torch.device(settings.device)) for name in CHAINS}
    if settings.json:
        print(json.dumps(found))
        return
    print("images per second, median (range)\n")
    print(f"| chain | {' | '.join(WAYS)} | ecopipe against image by image |\n|---|{'---|' * (len(WAYS) + 1)}")
    for name, speeds in found.items():
        cells = [f"{statistics.median(runs):,.0f} ({min(runs):,.0f}-{max(runs):,.0f})" for runs in speeds.values()]
        ratio = statistics.median(speeds[WAYS[0]]) / statistics.median(speeds[WAYS[1]])
        print(f"| {name} | {' | '.join(cells)} | {ratio:.1f} x |")


if __name__ == "__main__":
    main()

"""CIFAR-10 with a ResNet-18 whose body is frozen: only the last layer, of ten classes, is trained.

    ecopipe shard cifar10 cifar-10-python.tar.gz shards/cifar10
    python examples/cifar_resnet.py shards/cifar10 --device cuda

Training images are cropped and flipped, each by its own draw, and enlarged on the device; validation images are not
changed. ``--pretrained`` takes torchvision's ImageNet weights where they can be fetched; otherwise they are random.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torchvision.models import ResNet18_Weights, resnet18

from ecopipe import (
    Batch,
    Collate,
    DecodeImage,
    ImageRandomCrop,
    ImageRandomHorizontalFlip,
    ImageResize,
    Normalize,
    Pipeline,
    Shuffle,
    TarShards,
)


def pipeline(shards: Path, batch: int, size: int, *, train: bool) -> Pipeline:
    """uint8 images from the shards to normalised ones of size x size."""
    augment = [ImageRandomCrop(32, 4), ImageRandomHorizontalFlip()] if train else []
    return Pipeline(
        TarShards(str(shards)),
        *([Shuffle()] if train else []),
        Batch(batch),
        DecodeImage(),
        Collate("image", target="label", layout="stack"),
        *augment,
        ImageResize(size),
        Normalize(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), channels_last=True),
    )


def build(pretrained: bool) -> nn.Module:
    """A ResNet-18 of which only the last layer can learn."""
    model = resnet18(weights=ResNet18_Weights.DEFAULT if pretrained else None)
    for parameter in model.parameters():
        parameter.requires_grad = False
    model.fc = nn.Linear(512, 10)
    return model.to(memory_format=torch.channels_last)


def accuracy(model: nn.Module, pipe: Pipeline, device: str) -> float:
    """The share of images that the model tells right."""
    right = count = 0
    model.eval()
    with torch.no_grad(), pipe.loader(device=device) as loader:
        for batch in loader:
            right += int((model(batch["features"]).argmax(1) == batch["targets"]).sum())
            count += len(batch["keys"])
    return right / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", type=Path, help="what 'ecopipe shard cifar10' wrote: train and test")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--size", type=int, default=224, help="of the enlarged images")
    parser.add_argument("--pretrained", action="store_true")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    torch.manual_seed(0)
    model = build(given.pretrained).to(given.device)
    optimizer = torch.optim.Adam(model.fc.parameters(), lr=1e-2)
    train = pipeline(given.shards / "train", given.batch, given.size, train=True)
    with train.loader(workers=given.workers, device=given.device) as loader:
        while loader.epoch < given.epochs:
            model.eval()  # the body is frozen, its running statistics too
            for step, batch in enumerate(loader):
                loss = cross_entropy(model(batch["features"]), batch["targets"])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                print(f"epoch {batch.place.epoch} step {step}: loss {loss.item():.3f}", flush=True)
    test = pipeline(given.shards / "test", given.batch, given.size, train=False)
    print(f"accuracy {accuracy(model, test, given.device):.3f}")


if __name__ == "__main__":
    main()

"""MNIST with a network of two layers.

ecopipe shard mnist data/MNIST shards/mnist --storage raw
python examples/mnist.py shards/mnist
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from ecopipe import Batch, Collate, DecodeImage, Normalize, Pipeline, Shuffle, TarShards


def pipeline(shards: Path, batch: int, *, train: bool) -> Pipeline:
    """Images float32 [B, 1, 28, 28], normalised, with their digit; shuffled for training only."""
    return Pipeline(
        TarShards(str(shards)),
        *([Shuffle()] if train else []),
        Batch(batch),
        DecodeImage(mode="grey"),
        Collate("image", target="label", layout="stack"),
        Normalize(mean=(0.1307,), std=(0.3081,)),
    )


def accuracy(model: nn.Module, shards: Path) -> float:
    """The share of digits that the model tells right."""
    right = count = 0
    with torch.no_grad(), pipeline(shards, 512, train=False).loader() as loader:
        for batch in loader:
            right += int((model(batch["features"]).argmax(1) == batch["targets"]).sum())
            count += len(batch["keys"])
    return right / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", type=Path, help="what 'ecopipe shard mnist' wrote: train and test, or one of them")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    train, test = (given.shards / split if (given.shards / split).exists() else None for split in ("train", "test"))
    if not (train or test):
        parser.error(f"{given.shards}: holds neither train nor test; give the folder that 'ecopipe shard mnist' wrote")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    with pipeline(train or test, given.batch, train=True).loader(workers=given.workers) as loader:
        while loader.epoch < given.epochs:
            for step, batch in enumerate(loader):
                loss = cross_entropy(model(batch["features"]), batch["targets"])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                if step % 10 == 0:
                    print(f"epoch {batch.place.epoch} step {step}: loss {loss.item():.3f}", flush=True)
    print(f"accuracy {accuracy(model, test or train):.3f}")


if __name__ == "__main__":
    main()

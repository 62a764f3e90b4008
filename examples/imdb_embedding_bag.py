"""Sentiment of IMDB's reviews with an EmbeddingBag: words to numbers by a vocabulary of the training reviews.

ecopipe shard imdb aclImdb_v1.tar.gz shards/imdb
python examples/imdb_embedding_bag.py shards/imdb --vocab runs/vocab.json
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from ecopipe import Batch, Collate, Pipeline, Shuffle, TarShards, TokenizeBasicEnglish, Vocab, count_words


def pipeline(shards: Path, batch: int, vocabulary: Path | None, *, train: bool) -> Pipeline:
    """Reviews as flat tokens with offsets, and 1 for a good one. IMDB comes sorted by label: training is shuffled."""
    return Pipeline(
        TarShards(str(shards)),
        *([Shuffle()] if train else []),
        Batch(batch),
        TokenizeBasicEnglish(vocabulary=None if vocabulary is None else str(vocabulary)),
        Collate("tokens", target="label", layout="flat"),
    )


class Sentiment(nn.Module):
    """The mean of the words' vectors, and a layer."""

    def __init__(self, words: int, width: int = 64) -> None:
        super().__init__()
        self.words = nn.EmbeddingBag(words, width)
        self.out = nn.Linear(width, 1)

    def forward(self, tokens: Tensor, offsets: Tensor) -> Tensor:
        return self.out(self.words(tokens, offsets))[:, 0]


def accuracy(model: nn.Module, pipe: Pipeline) -> float:
    """The share of reviews that the model tells right."""
    right = count = 0
    with torch.no_grad(), pipe.loader() as loader:
        for batch in loader:
            right += int(((model(batch["tokens"], batch["offsets"]) > 0) == (batch["targets"] == 1)).sum())
            count += len(batch["keys"])
    return right / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", type=Path, help="what 'ecopipe shard imdb' wrote: train and test")
    parser.add_argument("--vocab", type=Path, default=Path("vocab.json"), help="made of the training reviews if absent")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    if not given.vocab.exists():
        given.vocab.parent.mkdir(parents=True, exist_ok=True)
        with count_words(pipeline(given.shards / "train", 256, None, train=False)) as counts:
            words = Vocab.from_counts(counts.items(), specials=("<pad>", "<unk>"), min_freq=2, max_tokens=30_000)
        words.with_default("<unk>").save(given.vocab)
    torch.manual_seed(0)
    train = pipeline(given.shards / "train", given.batch, given.vocab, train=True)
    model = Sentiment(len(Vocab.load(given.vocab)))
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    with train.loader(workers=given.workers) as loader:
        while loader.epoch < given.epochs:
            for step, batch in enumerate(loader):
                scores = model(batch["tokens"], batch["offsets"])
                loss = binary_cross_entropy_with_logits(scores, batch["targets"].float())
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                if step % 10 == 0:
                    print(f"epoch {batch.place.epoch} step {step}: loss {loss.item():.3f}", flush=True)
    print(f"accuracy {accuracy(model, pipeline(given.shards / 'test', 256, given.vocab, train=False)):.3f}")


if __name__ == "__main__":
    main()

"""IMDB from shards to padded batches of token numbers: ecopipe beside webdataset with torchtext's twelve substitutions.

Both read the same tars in the same number of worker processes, tokenize, look words up in the same vocabulary, and
deliver padded int64 tensors in the main process; ecopipe buckets by length, webdataset shuffles and pads what comes.
Tokens that are padding are not counted. Interleaved rounds, medians.

    python benchmarks/reviews.py shards/imdb/train --workers 2
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks.text import twelve
from ecopipe import Batch, Bucket, Collate, Pipeline, Shuffle, TarShards, TokenizeBasicEnglish, Vocab, count_words

BATCH = 32


class Numbers:
    """Bytes of a review to its numbers, as webdataset maps them."""

    def __init__(self, vocab: Vocab) -> None:
        self.numbers = {word: number for number, word in enumerate(vocab)}

    def __call__(self, payload: bytes) -> torch.Tensor:
        return torch.tensor([self.numbers.get(word, 1) for word in twelve(payload.decode())], dtype=torch.int64)


def padded(samples: list[tuple[torch.Tensor, bytes]]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A padded batch, its lengths and its labels."""
    texts, labels = zip(*samples, strict=True)
    lengths = torch.tensor([len(text) for text in texts])
    return torch.nn.utils.rnn.pad_sequence(texts, batch_first=True), lengths, torch.tensor([int(one) for one in labels])


def of_webdataset(tars: list[str], vocab: Vocab, workers: int) -> Iterator[tuple[int, int]]:
    """Tokens and padded tokens of each batch."""
    import webdataset

    data = (
        webdataset.WebDataset(tars, shardshuffle=100, workersplitter=webdataset.split_by_worker, empty_check=False)
        .shuffle(1000)
        .to_tuple("txt", "cls")
        .map_tuple(Numbers(vocab), lambda label: label)
        .batched(BATCH, collation_fn=padded)
    )
    for tokens, lengths, _ in webdataset.WebLoader(data, batch_size=None, num_workers=workers):
        yield int(lengths.sum()), tokens.numel()


def of_ecopipe(loader: Any) -> Iterator[tuple[int, int]]:
    """Tokens and padded tokens of each batch."""
    for batch in loader:
        yield int(batch["lengths"].sum()), batch["tokens"].numel()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    source = TarShards(str(given.shards))
    plain = Pipeline(source, Batch(256), TokenizeBasicEnglish(), Collate("tokens"))
    with count_words(plain) as counts:
        vocab = Vocab.from_counts(counts.items(), specials=("<pad>", "<unk>"), max_tokens=30_000).with_default("<unk>")
    tars = sorted(str(path) for path in given.shards.glob("*.tar"))
    with TemporaryDirectory() as folder:
        path = Path(folder) / "vocab.json"
        vocab.save(path)
        pipe = Pipeline(
            source, Shuffle(), Bucket("tokens", max_count=BATCH), TokenizeBasicEnglish(vocabulary=str(path)),
            Collate("tokens", target="label"),
        )  # fmt: skip
        with pipe.loader(workers=given.workers) as loader:
            ways: dict[str, Callable[[], Iterator[tuple[int, int]]]] = {
                "webdataset, twelve substitutions": lambda: of_webdataset(tars, vocab, given.workers),
                "ecopipe": lambda: of_ecopipe(loader),
            }
            found: dict[str, list[float]] = {name: [] for name in ways}
            padding = {}
            for round_ in range(given.rounds + 1):
                for name, way in ways.items():
                    began = time.perf_counter()
                    true, whole = map(sum, zip(*way(), strict=True))
                    if round_:  # the first one warms up
                        found[name].append(true / (time.perf_counter() - began))
                    padding[name] = 1 - true / whole
    first = statistics.median(next(iter(found.values())))
    print(f"{given.workers} workers, {len(tars)} tars\n\n| | tokens/s, median (range) | padding | |\n|---|---|---|---|")
    for name, rates in found.items():
        median = statistics.median(rates)
        spread = f"{min(rates):,.0f}-{max(rates):,.0f}"
        print(f"| {name} | {median:,.0f} ({spread}) | {100 * padding[name]:.1f} % | {median / first:.2f} |")


if __name__ == "__main__":
    main()

"""Images and texts: the ways of ``benchmarks/images.py`` and ``benchmarks/reviews.py``, one in a process."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

IMAGES = "images"
REVIEWS = "reviews"
IMAGE_BATCH = 512
IMAGE_COPIES = 11
"""Of each of the 4,660 images that are there: CIFAR-10 has 50,000, and a short epoch measures how epochs start."""


def image_ways() -> list[str]:
    """The names of those that are measured here."""
    named = [f"{who}, {kind}, {workers} workers" for workers in (0, 1, 2) for who, kind in _KINDS]
    return [*named, "DALI, PNG, 2 threads", "gather from memory, numpy"]


_KINDS = [(who, kind) for who in ("ecopipe", "webdataset") for kind in ("raw", "PNG")]
REVIEW_WAYS = [f"{who}, {workers} workers" for workers in (0, 1, 2) for who in ("ecopipe", "webdataset")]


def run(task: dict[str, Any]) -> dict[str, Any]:
    """Prepares (``way`` is empty), or measures one way: images/s, or true tokens/s and the share of padding."""
    import torch

    torch.set_num_threads(1)
    folder, source, way = Path(task["folder"]), task["source"], task["way"]
    if not way:
        return _prepare_images(source, folder) if task["set"] == IMAGES else _prepare_reviews(source, folder)
    return _images(folder, way, task["seconds"]) if task["set"] == IMAGES else _reviews(folder, way, task["seconds"])


def _prepare_images(source: str, folder: Path) -> dict[str, Any]:
    from benchmarks import images

    return {"images": images.prepare(source, folder, IMAGE_COPIES)}


def _images(folder: Path, way: str, seconds: float) -> dict[str, Any]:
    from benchmarks import images

    epoch = images.ways(folder, IMAGE_BATCH)[way]()
    images.rate(epoch, 0.01)
    return {"rate": images.rate(epoch, seconds)}


def _prepare_reviews(source: str, folder: Path) -> dict[str, Any]:
    from ecopipe import Batch, Collate, Pipeline, TarShards, TokenizeBasicEnglish, Vocab, count_words
    from ecopipe.datasets.corpus import open_corpus
    from ecopipe.sharding.limits import Limits
    from ecopipe.sharding.write import write_corpus

    with open_corpus("imdb", source) as corpus:
        write_corpus(corpus, folder, splits=["train"], limits=Limits(shards=8))
    plain = Pipeline(TarShards(str(folder / "train")), Batch(256), TokenizeBasicEnglish(), Collate("tokens"))
    with count_words(plain) as counts:
        vocab = Vocab.from_counts(counts.items(), specials=("<pad>", "<unk>"), max_tokens=30_000).with_default("<unk>")
    vocab.save(folder / "vocab.json")
    return {"words": len(vocab)}


def _reviews(folder: Path, way: str, seconds: float) -> dict[str, Any]:
    from benchmarks import reviews
    from ecopipe import Bucket, Collate, Pipeline, Shuffle, TarShards, TokenizeBasicEnglish, Vocab

    who, workers = way.split(", ")[0], int(way.split(", ")[1].split()[0])
    shards = folder / "train"
    if who == "webdataset":
        vocab, tars = Vocab.load(folder / "vocab.json"), sorted(str(path) for path in shards.glob("*.tar"))
        return _tokens(lambda: reviews.of_webdataset(tars, vocab, workers), seconds)
    pipe = Pipeline(
        TarShards(str(shards)), Shuffle(), Bucket("tokens", max_count=reviews.BATCH),
        TokenizeBasicEnglish(vocabulary=str(folder / "vocab.json")), Collate("tokens", target="label"),
    )  # fmt: skip
    with pipe.loader(workers=workers) as loader:
        return _tokens(lambda: reviews.of_ecopipe(loader), seconds)


def _tokens(epoch: Any, seconds: float) -> dict[str, Any]:
    next(iter(epoch()))
    true = whole = epochs = 0
    began = time.perf_counter()
    while (taken := time.perf_counter() - began) < seconds or not epochs:
        for tokens, padded in epoch():
            true, whole = true + tokens, whole + padded
        epochs += 1
    return {"rate": true / taken, "padding": 1 - true / whole}

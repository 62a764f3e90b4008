"""Images per second into batches: CIFAR-10 from raw and PNG shards, beside other loaders and what bounds them.

Every way gives batches of uint8 [B, 3, 32, 32] and labels in this process, shuffled; ecopipe's also keys, a place in
the sequence, and bytes that were compared with the index (but for "unchecked"). The ways take turns, each in every
round; workers start once. webdataset and DALI are left out where they are not installed.

    python benchmarks/images.py cifar-10-python.tar.gz
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ecopipe import Batch, Collate, DecodeImage, Pipeline, Shuffle, TarShards
from ecopipe.datasets.cifar10 import Cifar10
from ecopipe.datasets.corpus import Corpus, RawSample
from ecopipe.formats import image as codec
from ecopipe.sharding.limits import Limits
from ecopipe.sharding.write import write_corpus

Epoch = Callable[[], Iterable[Any]]
"""Gives the batches of the next epoch; the number of images in each is asked of ``size``."""

SHARDS = 4


def ecopipe(folder: Path, size: int, **settings: Any) -> Epoch:
    """This project's loader."""
    pipe = Pipeline(
        TarShards(str(folder)),
        Shuffle(),
        Batch(size),
        DecodeImage(),
        Collate("image", target="label", layout="stack"),
    )
    loader = pipe.loader(**settings)
    return lambda: (batch["image"] for batch in loader)


def webdataset(folder: Path, size: int, extension: str, workers: int) -> Epoch:
    """webdataset's loader: its decoder, its shuffle, its batches."""
    import webdataset as wds

    def planes(sample: tuple[Any, int]) -> tuple[torch.Tensor, int]:
        return torch.from_numpy(np.ascontiguousarray(np.asarray(sample[0]).transpose(2, 0, 1))), sample[1]

    tars = sorted(str(path) for path in folder.glob("*.tar"))
    samples = wds.WebDataset(tars, shardshuffle=SHARDS).shuffle(1000).decode("rgb8").to_tuple(extension, "cls")
    batches = samples.map(planes).batched(size)
    loader = wds.WebLoader(batches, batch_size=None, num_workers=workers, persistent_workers=workers > 0)
    return lambda: (batch[0] for batch in loader)


class Mapped(torch.utils.data.Dataset[Any]):
    """A mapped array of images [N, 3, 32, 32], as one writes it for torch's DataLoader."""

    def __init__(self, path: Path) -> None:
        self.images: Any = np.load(path, mmap_mode="r")
        self.labels = np.zeros(len(self.images), dtype=np.int64)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, number: int) -> tuple[torch.Tensor, int]:
        return torch.from_numpy(np.array(self.images[number])), int(self.labels[number])


def dataloader(path: Path, size: int, workers: int) -> Epoch:
    """torch's DataLoader over the mapped array."""
    loader = torch.utils.data.DataLoader(
        Mapped(path), size, shuffle=True, num_workers=workers, persistent_workers=workers > 0
    )
    return lambda: (images for images, _ in loader)


def gather(path: Path, size: int) -> Epoch:
    """A gather from memory, by numpy: what any loader that copies is bounded by."""
    images = np.load(path)
    rng = np.random.default_rng(0)

    def epoch() -> Iterator[Any]:
        order = rng.permutation(len(images))
        for at in range(0, len(order), size):
            yield torch.from_numpy(images[order[at : at + size]])

    return epoch


def decoder(payloads: list[bytes], decode: Callable[[bytes], Any]) -> Epoch:
    """The decoder alone, in one process."""
    return lambda: ([decode(payload)] for payload in payloads)


def dali(folder: Path, size: int, threads: int) -> Epoch:
    """DALI's CPU pipeline."""
    from nvidia.dali import fn, pipeline_def, types

    tars = sorted(str(path) for path in folder.glob("*.tar"))

    @pipeline_def(batch_size=size, num_threads=threads, device_id=None)  # type: ignore[untyped-decorator]
    def decoded() -> Any:
        images, labels = fn.readers.webdataset(paths=tars, ext=["png", "cls"], random_shuffle=True, initial_fill=1000)
        images = fn.decoders.image(images, device="cpu", output_type=types.RGB)
        return fn.transpose(images, perm=[2, 0, 1]), labels

    pipe = decoded()
    pipe.build()
    return lambda: (torch.from_numpy(pipe.run()[0].as_array()) for _ in range(8))  # it knows no epochs


def pillow(data: bytes) -> Any:
    """PNG by Pillow."""
    from PIL import Image

    return np.array(Image.open(io.BytesIO(data)))


def ways(folder: Path, size: int) -> dict[str, Callable[[], Epoch]]:
    """Every way, to be made when all are known."""
    raw, png, array = folder / "raw" / "train", folder / "png" / "train", folder / "images.npy"
    made: dict[str, Callable[[], Epoch]] = {}
    for workers in (0, 1, 2):
        made[f"ecopipe, raw, {workers} workers"] = partial(ecopipe, raw, size, workers=workers)
        made[f"ecopipe, PNG, {workers} workers"] = partial(ecopipe, png, size, workers=workers)
    made["ecopipe, raw, 0 workers, unchecked"] = partial(ecopipe, raw, size, verify="off")
    for workers in (0, 1, 2):
        made[f"webdataset, raw, {workers} workers"] = partial(webdataset, raw, size, "npy", workers)
        made[f"webdataset, PNG, {workers} workers"] = partial(webdataset, png, size, "png", workers)
        made[f"torch DataLoader, mapped array, {workers} workers"] = partial(dataloader, array, size, workers)
    made["DALI, PNG, 2 threads"] = partial(dali, png, size, 2)
    payloads = _payloads(png)
    made["PNG decoder alone, ours"] = partial(decoder, payloads, partial(codec.decode, kind="png"))
    made["PNG decoder alone, Pillow"] = partial(decoder, payloads, pillow)
    made["gather from memory, numpy"] = partial(gather, array, size)
    return made


def _payloads(folder: Path) -> list[bytes]:
    from ecopipe.formats.tar import scan

    found = []
    for path in sorted(folder.glob("*.tar")):
        with open(path, "rb") as file:
            found += [entry.payloads["png"] for entry in scan(file, str(path))]
    return found


class Copies(Corpus):
    """The images of a corpus several times, under keys of their own: as many as the real one has, of its parts."""

    name = "cifar10"

    def __init__(self, corpus: Cifar10, copies: int) -> None:
        self._corpus, self._copies, self.columns = corpus, copies, corpus.columns

    def splits(self) -> tuple[str, ...]:
        return self._corpus.splits()

    def count(self, split: str) -> int:
        return self._corpus.count(split) * self._copies

    def key(self, split: str, place: int) -> str:
        copy, inner = divmod(place, self._corpus.count(split))
        return f"{self._corpus.key(split, inner)}-{copy}"

    def sizes(self, split: str) -> np.ndarray[Any, np.dtype[np.int64]]:
        return np.tile(self._corpus.sizes(split), self._copies)

    def sample(self, split: str, place: int) -> RawSample:
        return replace(self._corpus.sample(split, place % self._corpus.count(split)), key=self.key(split, place))

    def report(self) -> list[str]:
        return []

    def close(self) -> None:
        self._corpus.close()


def prepare(corpus: str, folder: Path, copies: int) -> int:
    """Writes the shards and the array; gives the number of images."""
    for storage in ("raw", "png"):
        reader = Copies(Cifar10(corpus, storage=storage), copies)
        count = reader.count("train")
        write_corpus(reader, folder / storage, splits=["train"], limits=Limits(max_count=-(-count // SHARDS)))
        reader.close()
    pipe = Pipeline(
        TarShards(str(folder / "raw" / "train")), Batch(4096), DecodeImage(), Collate("image", layout="stack")
    )
    np.save(folder / "images.npy", torch.cat([batch["image"] for batch in pipe]).numpy())
    return count


def rate(epoch: Epoch, least_s: float) -> float:
    """Images per second of whole epochs that take so many seconds together."""
    images, began = 0, time.perf_counter()
    while (taken := time.perf_counter() - began) < least_s:
        images += sum(len(batch) for batch in epoch())
    return images / taken


def compared(medians: dict[str, float]) -> list[str]:
    """Ours against webdataset's, with as many workers, and the fastest of each."""
    told = []
    for kind in ("raw", "PNG"):
        found = {
            who: {way: rate for way, rate in medians.items() if way.startswith(f"{who}, {kind}, ")}
            for who in ("ecopipe", "webdataset")
        }
        ours = {way: rate for way, rate in found["ecopipe"].items() if not way.endswith("unchecked")}
        pairs = [(way, way.replace("ecopipe", "webdataset")) for way in ours]
        if ours and found["webdataset"]:
            best = [max(rates, key=lambda way, rates=rates: rates[way]) for rates in (ours, found["webdataset"])]
            pairs.append((best[0], best[1]))
        told += [f"{one} / {other}: {medians[one] / medians[other]:.1f}" for one, other in pairs if other in medians]
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", help="cifar-10-python.tar.gz")
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--copies", type=int, default=1, help="of each image: 11 of 4,660 make the 50,000 of CIFAR-10")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each way in a round, at least")
    parser.add_argument("--only", default="", help="ways whose names hold this: raw")
    parser.add_argument("--json", help="write the figures to this file")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        count = prepare(given.corpus, Path(name), given.copies)
        epochs: dict[str, Epoch] = {}
        for way, make in ways(Path(name), given.batch).items():
            if given.only not in way:
                continue
            try:
                epochs[way] = make()
                rate(epochs[way], 0.01)
            except ImportError as error:
                print(f"left out: {way} ({error})")
                epochs.pop(way, None)
        found: dict[str, list[float]] = {way: [] for way in epochs}
        for _ in range(given.rounds):
            for way, epoch in epochs.items():
                found[way].append(rate(epoch, given.seconds))
    print(f"{count:,} images, batches of {given.batch}; medians of {given.rounds} interleaved rounds\n")
    print("| | images/s | least to most |\n|---|---|---|")
    medians = {way: statistics.median(rates) for way, rates in found.items()}
    for way, rates in sorted(found.items(), key=lambda item: -medians[item[0]]):
        print(f"| {way} | {medians[way]:,.0f} | {min(rates):,.0f} to {max(rates):,.0f} |")
    print()
    print(*compared(medians), sep="\n")
    if given.json:
        Path(given.json).write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()

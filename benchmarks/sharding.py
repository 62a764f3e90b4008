"""Sharding a tree of FLAC files, and many small images: ecopipe against webdataset.ShardWriter and GNU tar.

    python benchmarks/sharding.py ../shared/data [--size-mb 400] [--images 50000] [--workers 2] [--repeats 5]

The tree is the LibriSpeech utterances of the folder, copied under other speakers until it is large enough; the images
are CIFAR-10's, as PNG files in folders of their classes, repeated. All runs read from a warm page cache and write to
one folder on the same disk; they are interleaved, and medians are told, with their ranges. ``tar`` copies bytes, and is
the limit; ShardWriter writes the same samples (bytes as they are), rolled at the same size; so does ecopipe, with
measures, CRC-32, SHA-256 and an index.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import webdataset

from ecopipe.datasets.cifar10 import Cifar10
from ecopipe.datasets.corpus import open_corpus
from ecopipe.sharding.limits import Limits
from ecopipe.sharding.write import write_corpus

SHARD = 64 * 2**20


def make_speech(data: Path, tree: Path, size: int) -> None:
    """Utterances of the sample under made-up speakers, until there are so many bytes."""
    chapters = sorted((data / "LibriSpeech" / "test-clean").glob("*/*"))
    written, speaker = 0, 10_000
    while written < size:
        for chapter in chapters:
            speaker += 1
            target = tree / "LibriSpeech" / "train-clean-100" / str(speaker) / chapter.name
            target.mkdir(parents=True)
            for file in chapter.iterdir():
                name = file.name.replace(chapter.parent.name, str(speaker), 1)
                if file.suffix == ".flac":
                    shutil.copyfile(file, target / name)
                else:
                    text = file.read_text(encoding="utf-8").splitlines()
                    lines = [line.replace(chapter.parent.name, str(speaker), 1) for line in text]
                    (target / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
                written += file.stat().st_size


def make_images(data: Path, tree: Path, count: int) -> None:
    """PNG files in folders of their classes."""
    with Cifar10(data / "cifar-10-python.tar.gz") as corpus:
        found = [
            (sample.members["png"], corpus.classes[int(sample.members["cls"])]) for sample in corpus.samples("train")
        ]
    for number in range(count):
        png, label = found[number % len(found)]
        folder = tree / label
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number:06d}.png").write_bytes(png)


def with_ecopipe(name: str, tree: Path, out: Path, workers: int) -> None:
    with open_corpus(name, tree) as corpus:
        write_corpus(corpus, out, limits=Limits(SHARD), workers=workers)


def speech_with_webdataset(tree: Path, out: Path) -> None:
    """As its users write it: walk the tree, one dict a sample."""
    out.mkdir()
    with webdataset.ShardWriter(str(out / "%06d.tar"), maxsize=SHARD, maxcount=10**9, verbose=0) as sink:
        for script in sorted(tree.rglob("*.trans.txt")):
            for line in script.read_text(encoding="utf-8").splitlines():
                key, _, text = line.partition(" ")
                speaker, chapter, utterance = key.split("-")
                about = {"speaker": int(speaker), "chapter": int(chapter), "utterance": int(utterance)}
                flac = (script.parent / f"{key}.flac").read_bytes()
                sink.write({"__key__": key, "flac": flac, "txt": text, "json": about})


def images_with_webdataset(tree: Path, out: Path) -> None:
    out.mkdir()
    classes = sorted(folder.name for folder in tree.iterdir())
    with webdataset.ShardWriter(str(out / "%06d.tar"), maxsize=SHARD, maxcount=10**9, verbose=0) as sink:
        for label, folder in enumerate(classes):
            for path in sorted((tree / folder).iterdir()):
                sink.write({"__key__": f"{folder}/{path.stem}", "png": path.read_bytes(), "cls": label})


def with_tar(tree: Path, out: Path) -> None:
    out.mkdir()
    subprocess.run(["tar", "cf", str(out / "all.tar"), "-C", str(tree), "."], check=True)


def measured(runs: dict[str, Callable[[Path], None]], folder: Path, repeats: int) -> dict[str, list[float]]:
    """Seconds of each run, in turns; what was written is read back as bytes on the disk, then removed."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            out = folder / "out"
            os.sync()  # what the run before it wrote is not this one's to wait for
            began = time.perf_counter()
            run(out)
            seconds[name].append(time.perf_counter() - began)
            shutil.rmtree(out)
    return seconds


def told(title: str, seconds: dict[str, list[float]], size: int, samples: int) -> dict[str, object]:
    print(f"\n{title}: {samples:,} samples, {size / 1e6:,.0f} MB")
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    for name, times in seconds.items():
        rates = sorted(size / 1e6 / one for one in times)
        print(
            f"  {name:24} {size / 1e6 / medians[name]:8,.0f} MB/s ({rates[0]:,.0f} to {rates[-1]:,.0f}), "
            f"{samples / medians[name]:10,.0f} samples/s"
        )
    ours = [name for name in medians if name.startswith("ecopipe")][-1]
    ratios = {name: medians[name] / medians[ours] for name in medians if not name.startswith("ecopipe")}
    for name, ratio in ratios.items():
        goal = {"webdataset.ShardWriter": 4.0, "GNU tar": 0.7 if "FLAC" in title else None}[name]
        verdict = "" if goal is None else f"   goal {goal}: {'reached' if ratio >= goal else 'not reached'}"
        print(f"  {ours} is {ratio:.2f} times {name}{verdict}")
    return {"title": title, "MB/s": {name: size / 1e6 / one for name, one in medians.items()}, "ratios": ratios}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--size-mb", type=int, default=400)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="Where to write; a temporary folder unless given.")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory(dir=asked.folder) as name:
        folder = Path(name)
        kinds = []
        if asked.size_mb:
            make_speech(asked.data, folder / "speech", asked.size_mb * 10**6)
            kinds.append(("a LibriSpeech tree of FLAC files", "librispeech", folder / "speech", speech_with_webdataset))
        if asked.images:
            make_images(asked.data, folder / "images", asked.images)
            kinds.append(("small images (PNG)", "images", folder / "images", images_with_webdataset))
        for title, corpus, tree, peer in kinds:
            found = [path for path in tree.rglob("*") if path.is_file()]
            size = sum(len(path.read_bytes()) for path in found)
            samples = sum(path.suffix in (".flac", ".png") for path in found)
            runs: dict[str, Callable[[Path], None]] = {
                "GNU tar": lambda out, tree=tree: with_tar(tree, out),
                "webdataset.ShardWriter": lambda out, tree=tree, peer=peer: peer(tree, out),
                "ecopipe, 0 workers": lambda out, tree=tree, corpus=corpus: with_ecopipe(corpus, tree, out, 0),
                f"ecopipe, {asked.workers} workers": lambda out, tree=tree, corpus=corpus: with_ecopipe(
                    corpus, tree, out, asked.workers
                ),
            }
            results.append(told(title, measured(runs, folder, asked.repeats), size, samples))
    if asked.json:
        json.dump(results, sys.stdout, indent=2)


if __name__ == "__main__":
    main()

"""Every reader, by places: in any order, in a forked process, in threads, and pickled into a new process."""

from __future__ import annotations

import concurrent.futures
import gzip
import json
import multiprocessing
import pickle
import random
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ecopipe.datasets import synthetic
from ecopipe.datasets.corpus import CORPORA, Corpus, RawSample, open_corpus
from ecopipe.vocabulary.errors import ConfigError
from tests.datasets.streamed import check_contract, wav, write
from tests.datasets.test_tree import zip_bytes

Made = tuple[Path, dict[str, Any]]


def idx(array: Any) -> bytes:
    head = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return gzip.compress(head + array.astype(np.uint8).tobytes())


def mnist(root: Path, name: str) -> Made:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 28, 28))
    files = {"train-images-idx3-ubyte.gz": idx(pixels), "train-labels-idx1-ubyte.gz": idx(np.arange(40) % 10)}
    return write(root / name, files), {}


def cifar100(root: Path) -> Made:
    rows = np.random.default_rng(0).integers(0, 20, (30, 3074), np.uint8)
    names = {"fine_label_names.txt": "\n".join(map(str, range(100))), "coarse_label_names.txt": "a\n" * 20}
    return write(root / "cifar-100-binary", {"train.bin": rows.tobytes(), **names}), {"storage": "raw"}


def csv(root: Path) -> Made:
    rows = "".join(f'"row {row}\n""é"" and\r more",{row % 3}\n\n' for row in range(200))
    return write(root / "csv", {"a.csv": b"\xef\xbb\xbft,l\n" + rows.encode(), "b.csv": "t,l\nx,1\n"}), {
        "text": "t",
        "label": "l",
    }


def jsonl(root: Path) -> Made:
    lines = "\n\n".join(json.dumps({"t": "é" * row, "f": f"{row % 4}.wav"}) for row in range(100))
    clips = {f"{number}.wav": wav(10 * number, 8000) for number in range(4)}
    return write(root / "jsonl", {"a.jsonl.gz": gzip.compress(lines.encode()), **clips}), {"text": "t", "file": "f"}


def parquet(root: Path) -> Made:
    (root / "parquet").mkdir()
    for part in range(2):
        table = pa.table({"image": [bytes([row]) * (50 + row) for row in range(150)], "label": [part] * 150})
        pq.write_table(table, root / "parquet" / f"train-0000{part}-of-00002.parquet", row_group_size=70)
    return root / "parquet", {"members": ("bin=image",), "label": "label"}


def libritts(root: Path) -> Made:
    files: dict[str, Any] = {}
    for number in range(9):
        stem = f"LibriTTS/dev-clean/84/1/84_1_000000_00000{number}"
        files |= {f"{stem}.wav": wav(100 * number, 24_000), f"{stem}.normalized.txt": "a", f"{stem}.original.txt": "b"}
    return write(root, files), {}


def ljspeech(root: Path) -> Made:
    clips = {f"wavs/LJ{number}.wav": wav(50 * number, 8000) for number in range(9)}
    return write(root / "lj", {"metadata.csv": "".join(f"LJ{n}|a|b\n" for n in range(9)), **clips}), {}


def commands(root: Path) -> Made:
    return write(root / "words", {f"w{n % 3}/a_nohash_{n}.wav": wav(30 * n, 8000) for n in range(20)}), {}


def yesno(root: Path) -> Made:
    return write(root / "waves_yesno", {f"0_1_0_1_0_1_{n // 2}_{n % 2}.wav": wav(9, 8000) for n in range(4)}), {}


def images(root: Path) -> Made:
    (root / "images.zip").write_bytes(zip_bytes({f"c{n % 3}/{n}.png": bytes([n]) * n * 40 for n in range(1, 30)}))
    return root / "images.zip", {}


MAKERS: dict[str, Callable[[Path], Made]] = {
    "ag_news": lambda root: (
        write(root, {"test.csv": "".join(f'"{n % 4 + 1}","t{n}","d\n"\n' for n in range(50))}),
        {},
    ),
    "cifar10": lambda root: (synthetic.write_cifar10(root, rows=9), {}),
    "cifar100": cifar100,
    "csv": csv,
    "fashion-mnist": lambda root: mnist(root, "FashionMNIST"),
    "folder": lambda root: (write(root / "f", {f"{n // 9}/{n}.{e}": e * n for n in range(30) for e in ("a", "b")}), {}),
    "images": images,
    "imdb": lambda root: (synthetic.write_imdb(root, reviews=12, unsup=3, median_words=30), {}),
    "jsonl": jsonl,
    "kmnist": lambda root: mnist(root, "KMNIST"),
    "librispeech": lambda root: (synthetic.write_librispeech(root, utterances=9, speakers=2, longest_s=2.0), {}),
    "libritts": libritts,
    "ljspeech": ljspeech,
    "mnist": lambda root: mnist(root, "MNIST"),
    "parquet": parquet,
    "speech_commands": commands,
    "yesno": yesno,
}


def test_there_is_a_corpus_for_every_reader() -> None:
    assert set(MAKERS) == set(CORPORA)


@pytest.fixture(params=CORPORA)
def corpus(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    path, settings = MAKERS[request.param](tmp_path)
    with open_corpus(request.param, path, **settings) as opened:
        yield opened


def read(corpus: Corpus, split: str, places: list[int]) -> list[RawSample]:
    return [corpus.sample(split, place) for place in places]


def test_the_contract(corpus: Corpus) -> None:
    assert corpus.splits() == tuple(sorted(corpus.splits()))
    for split in corpus.splits():
        check_contract(corpus, split, list(corpus.samples(split)))


@pytest.fixture(scope="module")
def new_process() -> Iterator[concurrent.futures.Executor]:
    """A process that inherits nothing, and has seen none of the corpora that it is sent."""
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        pool.submit(len, "").result(timeout=120)  # it starts with the first task: before there is a corpus
        yield pool


def test_a_forked_process_threads_and_a_new_process_read_the_same_at_once(
    new_process: concurrent.futures.Executor, corpus: Corpus
) -> None:
    split = corpus.splits()[0]
    orders = [random.Random(seed).sample(range(count := corpus.count(split)), count) for seed in range(4)]
    corpus.sample(split, orders[0][0])  # what it opens is open in the parent, too
    wanted = list(corpus.samples(split))
    with concurrent.futures.ProcessPoolExecutor(2, multiprocessing.get_context("fork")) as forked:
        for pool, workers in ((forked, 2), (new_process, 1)):
            found = [pool.submit(read, corpus, split, order) for order in orders[:workers]]
            here = read(corpus, split, orders[2])
            for order, future in zip(orders, found, strict=False):
                assert future.result(timeout=120) == [wanted[place] for place in order]
            assert here == [wanted[place] for place in orders[2]]
    with concurrent.futures.ThreadPoolExecutor(3) as threads:
        for order, samples in zip(orders, threads.map(lambda order: read(corpus, split, order), orders), strict=True):
            assert samples == [wanted[place] for place in order]


def forked(corpus: Corpus, split: str, connection: Any) -> None:
    connection.send(read(corpus, split, list(range(corpus.count(split)))))


def test_a_corpus_that_a_fork_inherits_is_read_there(corpus: Corpus) -> None:
    context = multiprocessing.get_context("fork")
    for split in corpus.splits():
        wanted = list(corpus.samples(split))
        ours, theirs = context.Pipe()
        child = context.Process(target=forked, args=(corpus, split, theirs))  # inherits the corpus, and pickles nothing
        child.start()
        assert corpus.sample(split, 0) == wanted[0]
        assert ours.poll(60) and ours.recv() == wanted
        child.join(60)
        assert child.exitcode == 0
        assert list(corpus.samples(split)) == wanted


def test_a_copy_knows_what_was_listed(corpus: Corpus) -> None:
    again: Corpus = pickle.loads(pickle.dumps(corpus))
    assert again.splits() == corpus.splits() and again.classes == corpus.classes
    for split in corpus.splits():
        assert np.array_equal(again.sizes(split), corpus.sizes(split))


def test_places_outside_are_refused(corpus: Corpus) -> None:
    split = corpus.splits()[0]
    for place in (-1, corpus.count(split)):
        for call in (corpus.key, corpus.sample):
            with pytest.raises(ConfigError, match=r"has [\d,]+ samples, from 0 on, and so none at"):
                call(split, place)
    for ask in (corpus.count, corpus.sizes, corpus.check):
        with pytest.raises(ConfigError, match="has no split 'trian'"):
            ask("trian")
    with pytest.raises(ConfigError, match="has no split 'trian'"):
        corpus.sample("trian", 0)

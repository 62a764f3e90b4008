"""Corpora at URLs are those of the same files on disk: folders, archives and tables."""

from __future__ import annotations

import functools
import http.server
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ecopipe.datasets import synthetic
from ecopipe.datasets.corpus import open_corpus
from ecopipe.vocabulary.errors import CorpusError
from tests.datasets.streamed import write
from tests.datasets.test_tree import zip_bytes


class Silent(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("served")
    synthetic.write_imdb(root, reviews=4, median_words=30)
    with tarfile.open(root / "imdb.tar.gz", "w:gz") as tar:
        tar.add(root / "aclImdb", "aclImdb")
    (root / "f.zip").write_bytes(zip_bytes({"a.txt": b"1", "b.txt": b"2"}))
    write(root, {"t/train.csv": "t\na\nb\n", "t/test.csv": "t\nc\n", "j.jsonl": '{"t": 1}\n{"t": 2}\n'})
    pq.write_table(pa.table({"t": ["a", "b"]}), root / "p.parquet")
    return root


@pytest.fixture(scope="module", params=["http", "memory", "file"])
def url(request: pytest.FixtureRequest, place: Path) -> Iterator[str]:
    if request.param == "file":
        yield f"file://{place}"
    elif request.param == "memory":
        memory = fsspec.filesystem("memory")
        for file in place.rglob("*"):
            if file.is_file():
                memory.pipe(f"/served/{file.relative_to(place)}", file.read_bytes())
        yield "memory://served"
        memory.rm("/served", recursive=True)
    else:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Silent, directory=str(place)))
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    ("name", "part", "settings"),
    [
        ("imdb", "aclImdb", {}),
        ("imdb", "imdb.tar.gz", {}),
        ("folder", "f.zip", {}),
        ("csv", "t", {"text": "t"}),
        ("jsonl", "j.jsonl", {"text": "t"}),
        ("parquet", "p.parquet", {"text": "t"}),
    ],
)
def test_a_corpus_at_a_url_is_the_same(url: str, place: Path, name: str, part: str, settings: dict[str, Any]) -> None:
    with open_corpus(name, f"{url}/{part}", **settings) as far, open_corpus(name, place / part, **settings) as near:
        assert far.splits() == near.splits()
        for split in near.splits():
            assert list(far.samples(split)) == list(near.samples(split))
            assert far.sizes(split).tolist() == near.sizes(split).tolist()


def test_what_is_not_there_is_named(url: str) -> None:
    for name, part in (("imdb", "nothing"), ("csv", "nothing.csv")):
        with pytest.raises(CorpusError, match=r"nothing.* does not exist\. Check the path"):
            open_corpus(name, f"{url}/{part}")


def test_the_bytes_of_an_archive_are_fetched_once(place: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe("/once/f.zip", (place / "f.zip").read_bytes())
    with open_corpus("folder", "memory://once/f.zip") as corpus:
        memory.rm("/once", recursive=True)
        assert [sample.members["txt"] for sample in corpus.samples("all")] == [b"1", b"2"]

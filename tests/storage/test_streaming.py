"""Shards at URLs stream as local ones do: from a real S3, in worker processes, with any cache or none."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ecopipe import Batch, Collate, DecodeImage, Pipeline, Shuffle, TarShards, Where
from ecopipe.cli.main import app
from ecopipe.datasets.shards import index_tars, not_indexed
from ecopipe.insight.digest import Digest
from ecopipe.plan.blocks import Slice
from ecopipe.plan.shards import open_shards
from ecopipe.storage import files, remote
from ecopipe.vocabulary.errors import ConfigError, StorageError
from tests.conftest import SPLITS
from tests.servers import ACCESS, SECRET, Fault, FaultProxy, http_server


@pytest.fixture
def at_url(bucket: str, shards: Path) -> str:
    """The shards of CIFAR-10 at an S3 URL."""
    for path in (shards / "cifar10" / SPLITS["cifar10"]).iterdir():
        if not files.exists(f"{bucket}/train/{path.name}"):
            remote.put_file(path, f"{bucket}/train/{path.name}")
    return f"{bucket}/train"


def pipeline(path: str, *stages: Where) -> Pipeline:
    return Pipeline(
        TarShards(path, block_rows=32, lanes=2), *stages, Shuffle(), Batch(7), DecodeImage(), Collate("image")
    )


def digest(pipe: Pipeline, epochs: int = 1, **settings: object) -> tuple[str, dict[str, int]]:
    found = Digest()
    with pipe.loader(seed=5, **settings) as loader:
        for _ in range(epochs):
            for batch in loader:
                found.add(batch)
        return found.hexdigest(), loader.cache_counters


def test_s3_streams_as_a_folder_does(at_url: str, shards: Path, tmp_path: Path) -> None:
    folder = shards / "cifar10" / SPLITS["cifar10"]
    size = sum(path.stat().st_size for path in folder.glob("*.tar"))
    local, _ = digest(pipeline(str(folder)), epochs=2)
    assert digest(pipeline(str(folder)), cache=tmp_path / "asked", epochs=2)[0] == local
    there, counters = digest(pipeline(at_url), cache=tmp_path / "a", workers=2, epochs=2)
    assert there == local
    assert counters["bytes_fetched"] == size and counters["bytes_read_through"] == 0
    again, counters = digest(pipeline(at_url), cache=tmp_path / "a", epochs=2)
    assert again == local and counters["bytes_fetched"] == 0 == counters["bytes_read_through"]
    none, counters = digest(pipeline(at_url), cache=False, workers=2, epochs=2)
    assert none == local and counters == {}


@pytest.mark.parametrize("limit", [0, 60_000, 150_000])
def test_a_limit_below_a_block_slows_down_and_no_more(at_url: str, shards: Path, tmp_path: Path, limit: int) -> None:
    local, _ = digest(pipeline(str(shards / "cifar10" / SPLITS["cifar10"])))
    for workers in (0, 2):
        assert digest(pipeline(at_url), cache=tmp_path / "cache", cache_limit=limit, workers=workers)[0] == local
    held = sum(path.stat().st_size for path in (tmp_path / "cache").glob("[0-9a-f]*"))
    assert held <= limit


def test_few_samples_are_read_as_ranges_and_not_as_whole_shards(at_url: str, shards: Path, tmp_path: Path) -> None:
    wanted = Where("label", one_of=(3,))
    local, _ = digest(pipeline(str(shards / "cifar10" / SPLITS["cifar10"]), wanted))
    there, counters = digest(pipeline(at_url, wanted), cache=tmp_path / "cache", cache_limit=200_000)
    assert there == local
    assert counters["bytes_fetched"] == 0 and counters["bytes_read_through"] > 0


def test_a_damaged_entry_is_read_from_the_url_instead(at_url: str, shards: Path, tmp_path: Path) -> None:
    local, _ = digest(pipeline(str(shards / "cifar10" / SPLITS["cifar10"])))
    assert digest(pipeline(at_url), cache=tmp_path)[0] == local
    for entry in tmp_path.glob("[0-9a-f]*"):
        entry.write_bytes(b"\0" * entry.stat().st_size)
    assert digest(pipeline(at_url), cache=tmp_path)[0] == local


def test_credentials_are_in_no_state_ledger_task_or_repr(at_url: str, tmp_path: Path) -> None:
    pipe = pipeline(at_url)
    with pipe.loader(cache=tmp_path / "cache", ledger=tmp_path / "ledger", workers=1) as loader:
        next(iter(loader))
        told = [json.dumps(loader.state_dict()), repr(loader), repr(pipe), repr(pickle.dumps(loader._maker))]
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    for secret in (ACCESS, SECRET):
        assert secret not in "".join(told) and secret.encode() not in written


def test_an_index_in_a_bucket_is_written_anew(at_url: str, shards: Path) -> None:
    there = at_url.replace("/train", "/again")
    tars = sorted((shards / "cifar10" / SPLITS["cifar10"]).glob("*.tar"))
    for path in (*tars[:2], tars[0].with_name("index.arrow")):
        remote.put_file(path, f"{there}/{path.name}")
    remote.put_file(tars[1], f"{there}/{tars[0].name}")
    assert index_tars([f"{there}/{tars[0].name}"]) == [f"{there}/index.arrow"]
    opened = open_shards([there])
    keys = [opened.read([Slice(number, 0, opened.rows_per_shard[number])], ("key",))["key"] for number in (0, 1)]
    opened.close()
    assert keys[0].to_pylist() == keys[1].to_pylist() and not_indexed([there]) == []


def test_an_outage_is_one_error_and_the_state_goes_on_after_it(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, impatient: None
) -> None:
    monkeypatch.setenv("ECOPIPE_RETRY_ATTEMPTS", "2")
    folder = shards / "cifar10" / SPLITS["cifar10"]
    paths = sorted(path.name for path in folder.glob("*.tar"))
    with http_server(folder, tmp_path / "log") as url, FaultProxy(url) as between:
        pipe = Pipeline(
            TarShards(tuple(f"{between.url}/{name}" for name in paths), block_rows=16),
            Shuffle(), Batch(4), DecodeImage(), Collate("image"), bad_samples="skip",
        )  # fmt: skip
        with pipe.loader(cache=False) as loader:
            whole = [batch.place for batch in loader]
        with pipe.loader(cache=False, workers=1) as loader:
            stream = iter(loader)
            taken = [next(stream).place for _ in range(2)]
            between.always = Fault("status", status=503)
            with pytest.raises(StorageError, match="failed 2 times in a row"):
                for batch in stream:
                    taken.append(batch.place)
            between.always = None
            state = loader.state_dict()
            loader.load_state_dict(state)
            taken += [batch.place for batch in loader]
        assert taken == whole  # an outage makes no sample a bad one


def test_a_limit_that_is_none_is_refused(shards: Path, tmp_path: Path) -> None:
    pipe = pipeline(str(shards / "cifar10" / SPLITS["cifar10"]))
    with pytest.raises(ConfigError, match="cache_limit: 'much' is no size"):
        pipe.loader(cache=tmp_path, cache_limit="much")


def test_the_command_line_says_what_the_cache_did(at_url: str, tmp_path: Path) -> None:
    source = ["--set", f"source.path={at_url}", "--set", "Batch.size=8", "--json"]
    told = []
    for cache in (["--cache", str(tmp_path / "cache"), "--cache-limit", "1GB"], ["--cache", "off"]):
        done = CliRunner().invoke(app, ["stream", "pipelines/cifar10.toml", *source, *cache])
        assert done.exit_code == 0, done.output
        told.append(json.loads(done.stdout.splitlines()[-1]))
    kept = sum(path.stat().st_size for path in (tmp_path / "cache").glob("[0-9a-f]*"))
    assert told[0]["cache_bytes_fetched"] == kept > 0 and "cache_bytes_fetched" not in told[1]
    assert told[0]["digest"] == told[1]["digest"]

"""``ecopipe simulate`` as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ecopipe.cli import quantities
from ecopipe.vocabulary.errors import ConfigError

from ..conftest import ROOT
from .test_cli import call, fails, stream

IMDB = ROOT / "pipelines" / "imdb.toml"


@pytest.fixture
def source(shards: Path) -> list[str]:
    return ["--set", f"source.path={shards / 'imdb' / 'train'}"]


def simulated(*arguments: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(call("simulate", IMDB, *arguments, "--json")[0])
    return found


def test_a_real_corpus_is_told_in_words_and_a_table(source: list[str]) -> None:
    shown, _ = call("simulate", IMDB, *source, "--ranks", "16", "--network", "1MBps", "--cache", "2TB", "--epochs", "2")
    lines = shown.splitlines()
    assert lines[0] == str(IMDB)
    assert "each host fetches" in lines[1]
    assert "its share of the corpus" in lines[1]
    assert "at 1.0 MB/s that takes" in lines[1]
    assert "±" not in shown  # all blocks were planned
    for title in ("batches", "steps of each rank", "fetched per host", "padding", "neighbours of one shard", "epoch 1"):
        assert title in shown


def test_the_figures_are_those_of_the_stream(source: list[str], shards: Path) -> None:
    found = simulated(*source, "--ranks", "2", "--epochs", "2", "--network", "8Mbps")
    streamed = stream("imdb", shards / "imdb" / "train")
    epoch = found["epochs"][0]
    assert epoch["batches"] == {"value": streamed["batches"], "error": 0}
    assert epoch["samples"]["value"] == streamed["samples"] == found["samples"]
    assert found["padding_fraction"]["value"] == pytest.approx(streamed["padding_fraction"], abs=1e-6)
    assert epoch["steps"] == -(-streamed["batches"] // 2)
    assert epoch["fetch_s"] == pytest.approx(epoch["most_fetched_bytes"] / 1e6, abs=1e-4)
    assert len(found["epochs"]) == 2
    assert (found["hosts"], found["planned_blocks"]) == (1, found["blocks"])


def test_a_corpus_is_made_up_and_some_of_it_planned(source: list[str]) -> None:
    shown, _ = call(
        "simulate", IMDB, *source, "--samples", "2e6", "--ranks", "512", "--workers", "8", "--network", "10GBps",
        "--cache", "2TB", "--blocks", "4",
    )  # fmt: skip
    text = " ".join(shown.split())
    assert "Planned were 4 of 123 blocks, spread evenly (3.2" in text
    assert "Reads were followed on 4 of 64 hosts." in text
    assert "The corpus is made up: its samples are draws." in text
    assert "±" in shown
    assert "The cache stays empty: a host wants too little of each shard to fetch it whole" in text
    found = simulated("--samples", "1e5", "--shards", "50", "--lengths", "200:0.5", "--sample-bytes", "2kB")
    assert (found["samples"], found["shards"]) == (100_000, 50)
    assert found["corpus_bytes"] == pytest.approx(100_000 * (2000 + 512 + 256), rel=0.02)
    again = simulated("--samples", "1e5", "--shards", "50", "--lengths", "200:0.5", "--sample-bytes", "2kB")
    timed = ("plan_cpu_s", "plan_first_s")
    assert {k: v for k, v in found.items() if k not in timed} == {k: v for k, v in again.items() if k not in timed}


def test_misuse_is_said(source: list[str], tmp_path: Path) -> None:
    cases = [
        (["--network", "10 potatoes"], r"--network '10 potatoes': write a number and a unit, such as 10GBps"),
        (["--network", "10GB"], r"--network '10GB': write a number and a unit"),
        (["--network", "0GBps"], r"--network '0GBps'"),
        (["--cache", "2XB"], r"--cache: '2XB' is no size in bytes"),
        (["--ranks", "0"], r"--ranks must be at least 1, got 0"),
        (["--workers", "-1"], r"--workers must be at least 0, got -1"),
        (["--blocks", "0"], r"--blocks must be at least 1, got 0"),
        (["--samples", "many"], r"--samples 'many': write a whole number"),
        (["--samples", "1.5"], r"--samples '1.5': write a whole number"),
        (["--shards", "5"], r"--shards is for a corpus that is made up\. Give --samples too\."),
        (["--samples", "3", "--shards", "5"], r"3 samples in 5 shards cannot be made up"),
        (["--samples", "9", "--lengths", "5:0.1"], r"--lengths and --sample-bytes go together"),
        (["--samples", "9", "--lengths", "x", "--sample-bytes", "1kB"], r"--lengths 'x': write the median"),
        (["--samples", "9", "--lengths", "5", "--like", "y"], r"--like and --lengths both say"),
        (["--set", "Bucket.max_padded=1"], r"over max_padded 1\. Raise max_padded"),
    ]
    for arguments, message in cases:
        fails("simulate", IMDB, *source, *arguments, message=message)
    fails("simulate", IMDB, "--set", f"source.path={tmp_path / 'none'}", message="none")
    fails("simulate", tmp_path / "none.toml", message="none.toml")


@pytest.mark.parametrize(
    ("text", "bytes_per_s"),
    [
        ("10GBps", 1e10),
        ("800 MB/s", 8e8),
        ("100Gbps", 1.25e10),
        ("100Gbit/s", 1.25e10),
        ("1.5KiB/s", 1536),
        ("9Bps", 9),
    ],
)
def test_rates_are_read_with_their_units(text: str, bytes_per_s: float) -> None:
    assert quantities.rate("--network", text) == bytes_per_s


@pytest.mark.parametrize("text", ["", "GBps", "-1GBps", "1e999GBps", "10gBps2", "10 Gps"])
def test_what_is_no_rate_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="such as 10GBps or 800MB/s"):
        quantities.rate("--network", text)

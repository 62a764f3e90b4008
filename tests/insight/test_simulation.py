"""What is predicted of a run is what the run then does: order, bytes, steps, padding; and some blocks tell of all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ecopipe
from ecopipe import Batch, Bucket, Collate, Pipeline, Shuffle, TarShards, TokenizeBasicEnglish, Where
from ecopipe.insight.simulation import PERFECT_DISTANCE, Forecast, simulate
from ecopipe.insight.simulation_blocks import Corpus, Epoch
from ecopipe.insight.simulation_cache import Host
from ecopipe.insight.simulation_corpus import MadeUpShards, like, log_normal
from ecopipe.insight.simulation_order import World, sequence_of
from ecopipe.insight.summary import StreamSummary
from ecopipe.pipeline.plan import Plan
from ecopipe.pipeline.toml import dumps
from ecopipe.plan.blocks import Slice
from ecopipe.plan.sequence import sequence
from ecopipe.run.ranks import Tail, deal
from ecopipe.run.worth import EpochPieces, HostRanks, ShardFigures, Wants
from ecopipe.storage.sizes import parse_bytes
from ecopipe.vocabulary.errors import ConfigError, SampleError

from ..conftest import ROOT, SPLITS


def texts(path: Path | str, lanes: int = 1, block_rows: int = 16, **settings: object) -> Pipeline:
    bucket = Bucket("tokens", max_padded=1000.0, **settings)  # type: ignore[arg-type]
    source = TarShards(str(path), lanes=lanes, block_rows=block_rows)
    return Pipeline(source, Shuffle(), bucket, TokenizeBasicEnglish(), Collate("tokens", target="label"))


def made_up(samples: int, shards: int, lanes: int, *, block_rows: int = 512, shuffle: bool = True) -> Forecast:
    """The forecast of 8 ranks on 2 hosts, all planned, of samples of about 1 kB."""
    pool = log_normal(["tokens"], "txt", median=100, sigma=0.4, sample_bytes=1000)
    pipeline = texts("nowhere", lanes, block_rows)
    if not shuffle:
        pipeline = Pipeline(pipeline.source, *pipeline.stages[1:])
    pipeline = Pipeline(pipeline.source, *(replace(s, max_padded=4000.0) if isinstance(s, Bucket) else s
                                           for s in pipeline.stages))  # fmt: skip
    return simulate(pipeline, MadeUpShards(pool, samples, shards), World(8, 4), cache_bytes=10**9, blocks=10**6)


@settings(deadline=None)
@given(
    counts=st.lists(st.lists(st.integers(0, 7), min_size=1, max_size=4), min_size=1, max_size=5),
    group=st.integers(1, 4),
    ranks=st.integers(1, 9),
    per_host=st.integers(1, 4),
    tail=st.sampled_from(["repeat", "drop"]),
)
def test_the_order_of_all_batches_at_once_is_that_of_the_sequence(
    counts: list[list[int]], group: int, ranks: int, per_host: int, tail: str
) -> None:
    recipe = _Counted(counts, group)
    planned = list(sequence(recipe, recipe.read))
    lane = np.repeat(np.arange(len(counts)), [len(one) for one in counts])
    block, within = sequence_of(lane, np.array([count for one in counts for count in one], dtype=np.int64), group)
    named = [(one.block.planned["block"][0].as_py(), one.batch) for one in planned]
    assert list(zip(block.tolist(), within.tolist(), strict=True)) == named

    world = World(ranks, per_host, tail)  # type: ignore[arg-type]
    number, host = world.taken(len(planned))
    streams = [list(deal(iter(planned), rank, ranks, world.tail)) for rank in range(ranks)]
    dealt = [
        (one.planned.number, rank // per_host) for step in zip(*streams, strict=True) for rank, one in enumerate(step)
    ]
    assert list(zip(number.tolist(), host.tolist(), strict=True)) == dealt
    assert world.steps(len(planned)) == len(streams[0])
    assert set(host.tolist()) <= set(range(world.hosts))


class _Counted:
    """A recipe of lanes whose blocks give so many batches of one row."""

    def __init__(self, counts: list[list[int]], group: int) -> None:
        self.group, self._counts = group, counts

    def lanes(self) -> list[object]:
        numbers = iter(range(10**6))
        return [_CountedLane([(next(numbers), count) for count in one]) for one in self._counts]

    def cut(self, block: pa.Table, order: object, lane: int, number: int) -> object:
        from ecopipe.plan.parts import Cut

        return Cut([np.array([0])] * self._counts[lane][number], block)

    @staticmethod
    def read(slices: list[Slice], columns: Sequence[str] | None = None) -> pa.Table:
        return pa.table({"block": [slices[0].shard]})


class _CountedLane:
    def __init__(self, blocks: list[tuple[int, int]]) -> None:
        self._blocks = blocks
        self.blocks = len(blocks)

    def block(self, number: int) -> list[Slice]:
        return [Slice(self._blocks[number][0], 0, 1)]

    def order(self, number: int) -> None:
        return None


def corpus_by_url(shards: Path) -> str:
    return (shards / "imdb" / SPLITS["imdb"]).as_uri()


@pytest.mark.parametrize("lanes", [1, 3])
@pytest.mark.parametrize("tail", ["repeat", "drop"])
@pytest.mark.parametrize(("limit", "workers"), [("1GB", 0), ("1kB", 0), ("1kB", 2)])
def test_two_real_ranks_on_two_hosts_fetch_pad_and_step_as_predicted(
    shards: Path, tmp_path: Path, lanes: int, tail: Tail, limit: str, workers: int
) -> None:
    """A cache that holds everything, and one that holds nothing, so that all is read by ranges."""
    pipeline = texts(corpus_by_url(shards), lanes)
    opened = pipeline.open()
    found = simulate(pipeline, opened, World(2, 1, tail), seed=5, epochs=2, cache_bytes=parse_bytes(limit, "limit"))
    opened.close()
    assert found.whole
    assert found.blocks > 3
    for rank in range(2):
        with pipeline.loader(
            rank=rank, world_size=2, seed=5, tail=tail, cache=tmp_path / f"{rank}", cache_limit=limit, workers=workers
        ) as loader:
            before, hits, asked = dict.fromkeys(loader.cache_counters, 0), 0, 0
            for number in range(2):
                steps = sum(1 for _ in loader)
                counted = {name: value - before[name] for name, value in loader.cache_counters.items()}
                told = found.epochs[number].hosts[rank].figures()
                hits, asked = hits + counted.pop("hits"), asked + told.pop("hits")
                assert hits <= asked  # what was asked for ahead and no longer wanted is not
                assert counted == told
                assert steps == found.epochs[number].steps
                before = loader.cache_counters
    first = found.epochs[0].hosts[0]
    assert first.bytes_fetched if limit == "1GB" else first.bytes_read_through
    summary = StreamSummary()
    with pipeline.loader(seed=5, cache=False) as loader:
        for batch in loader:
            summary.add(batch)
    assert found.padding is not None
    assert found.padding.value == pytest.approx(summary.padding_fraction, abs=1e-12)
    assert 0 < summary.padding_fraction < 1
    assert (found.epochs[0].batches.value, found.epochs[0].samples.value) == (summary.batches, summary.samples)


def test_two_real_ranks_on_one_host_share_a_cache_as_predicted(shards: Path, tmp_path: Path) -> None:
    pipeline = texts(corpus_by_url(shards), 2)
    opened = pipeline.open()
    found = simulate(pipeline, opened, World(2, 2), epochs=2, cache_bytes=10**9)
    opened.close()
    (tmp_path / "p.toml").write_text(dumps(pipeline), encoding="utf-8")
    code = (
        "import json, sys, ecopipe\n"
        "with ecopipe.load(sys.argv[1]).loader(cache=sys.argv[2], cache_limit='1GB') as loader:\n"
        "    steps = [sum(1 for _ in loader) for _ in range(2)]\n"
        "    print(json.dumps({'steps': steps, **loader.cache_counters}))\n"
    )
    arguments = [sys.executable, "-c", code, str(tmp_path / "p.toml"), str(tmp_path / "cache")]
    ranks = [
        subprocess.Popen(
            arguments,
            stdout=subprocess.PIPE,
            env={**os.environ, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(2)
    ]
    told = [json.loads(rank.communicate(timeout=120)[0]) for rank in ranks]
    assert [one.pop("steps") for one in told] == [[epoch.steps for epoch in found.epochs]] * 2
    hosts = [epoch.hosts[0].figures() for epoch in found.epochs]
    for name in hosts[0]:
        real, expected = sum(one[name] for one in told), sum(host[name] for host in hosts)
        assert real == expected or (name == "hits" and 0 < real < expected)
    assert hosts[0]["bytes_fetched"] == found.corpus_bytes
    assert hosts[1]["bytes_fetched"] == 0 < hosts[1]["hits"]


def test_a_cache_that_is_too_small_gives_up_what_the_real_one_does(shards: Path, tmp_path: Path) -> None:
    """Four shards read one after the other, and room for two."""
    pipeline = texts(corpus_by_url(shards))
    pipeline = Pipeline(pipeline.source, *pipeline.stages[1:])
    opened = pipeline.open()
    limit = 2 * int(opened.shards["size"].to_numpy().max())  # type: ignore[union-attr]
    told = simulate(pipeline, opened, World(1), cache_bytes=limit).epochs[0].hosts[0].figures()
    opened.close()
    with pipeline.loader(cache=tmp_path / "cache", cache_limit=limit) as loader:
        assert sum(1 for _ in loader)
        real = loader.cache_counters
    assert told["evictions"] > 0
    through = told.pop("bytes_read_through"), real.pop("bytes_read_through")  # a race with a shard that goes decides
    assert max(through) < told["bytes_fetched"]
    assert real == told


def test_padding_of_audio_is_that_of_the_stream_but_for_rounding_to_frames(shards: Path) -> None:
    pipeline = ecopipe.load(
        ROOT / "pipelines" / "librispeech.toml",
        {"source.path": str(shards / "librispeech" / SPLITS["librispeech"]), "Bucket.max_padded": 20.0},
    )
    found = simulate(pipeline, pipeline.open(), World(1))
    summary = StreamSummary()
    for batch in pipeline:
        summary.add(batch)
    assert found.padding is not None
    assert found.padding.value == pytest.approx(summary.padding_fraction, abs=0.002)
    assert summary.padding_fraction > 0.004


def test_some_blocks_tell_of_all() -> None:
    """Of 64 blocks 16 are planned: what they say lies within four standard errors of what all say."""
    pool = log_normal(["tokens"], "txt", median=100, sigma=0.4, sample_bytes=1000)
    opened = MadeUpShards(pool, 16_384, 64)
    pipeline = Pipeline(
        TarShards("nowhere", lanes=4, block_rows=256), Shuffle(), Bucket("tokens", max_padded=2000.0),
        TokenizeBasicEnglish(), Collate("tokens"),
    )  # fmt: skip
    world = World(8, 2)
    whole = simulate(pipeline, opened, world, cache_bytes=10**9, blocks=64)
    part = simulate(pipeline, opened, world, cache_bytes=10**9, blocks=16)
    assert (whole.whole, part.whole, part.planned_blocks, part.blocks) == (True, False, 16, 64)
    assert part.planned_samples == pytest.approx(16_384 / 4, rel=0.02)
    for one, other in (
        (part.epochs[0].batches, whole.epochs[0].batches),
        (part.padding, whole.padding),
        (part.distance, whole.distance),
        (part.neighbours, whole.neighbours),
    ):
        assert one is not None
        assert other is not None
        assert other.error == 0 < one.error
        assert abs(one.value - other.value) < 4 * one.error
    assert part.epochs[0].fetched_bytes == pytest.approx(whole.epochs[0].fetched_bytes, rel=0.1)
    through = [simulate(pipeline, opened, world, blocks=blocks).epochs[0].fetched_bytes for blocks in (16, 64)]
    assert through[0] == pytest.approx(through[1], rel=0.05)


def test_a_shuffle_is_told_from_none() -> None:
    shuffled, straight = (made_up(8192, 64, 1, shuffle=shuffle) for shuffle in (True, False))
    assert shuffled.distance.value == pytest.approx(PERFECT_DISTANCE, abs=0.03)
    assert straight.distance.value < 0.04
    assert straight.neighbours.value > 0.2 > 2 * shuffled.neighbours.value
    assert shuffled.neighbours.value > shuffled.perfect_neighbours == pytest.approx(127 / 8191)


def test_lanes_for_each_rank_fetch_less() -> None:
    one, each = (made_up(8192, 64, lanes, block_rows=256) for lanes in (1, 8))
    assert one.hosts_per_lane == 2
    assert one.epochs[0].fetched_bytes == one.corpus_bytes  # both hosts read every shard
    assert each.epochs[0].samples == one.epochs[0].samples


class _Lane:
    """A lane of blocks of some shards each, all of them of 6 rows."""

    def __init__(self, blocks: list[list[int]]) -> None:
        self._blocks, self.blocks = blocks, len(blocks)

    def block(self, number: int) -> list[Slice]:
        return [Slice(shard, 0, 6) for shard in self._blocks[number]]

    def place_of(self, block: int) -> tuple[int, int]:
        return (0, block) if block < self.blocks else (-1, 0)

    @staticmethod
    def kept_of(block: int) -> float:
        return 1.0


class _Finite:
    endless = False


@given(
    blocks=st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=4, unique=True), min_size=1, max_size=12),
    limit=st.integers(0, 130),
    ranks=st.sampled_from([1, 2, 100]),
)
def test_a_host_fetches_within_its_limits(blocks: list[list[int]], limit: int, ranks: int) -> None:
    sizes = [9, 10, 11, 12, 13, 60]
    lane: Any = _Lane(blocks)
    rows = np.full(6, 6, dtype=np.int64)
    figures = ShardFigures(np.array(sizes), rows, np.array(sizes) / 6)
    pieces = EpochPieces(_Finite(), [lane], rows)  # type: ignore[arg-type]
    host = Host(sizes, limit)
    host.follow(lane, Wants(HostRanks(0, 1, ranks), [lane], 1, figures, pieces, limit))
    wanted = 0
    for number, shards in enumerate(blocks):
        host.take(0, 0, number, lambda shards=shards: [(shard, 3) for shard in shards])  # type: ignore[misc]
        wanted += 3 * len(shards)
    counters = host.counters
    assert counters.bytes_read_through <= wanted
    assert counters.hits + counters.misses <= sum(map(len, blocks))
    used = {shard for shards in blocks for shard in shards}
    if limit >= sum(sizes) and ranks < 8:
        assert counters.bytes_fetched == sum(sizes[shard] for shard in used)
        assert (counters.misses, counters.evictions, counters.bytes_read_through) == (len(used), 0, 0)
    if ranks == 100 or limit < 9:  # too little of a shard is wanted, or none has room
        assert (counters.bytes_fetched, counters.bytes_read_through) == (0, wanted)


@given(
    lanes=st.integers(1, 12), group=st.integers(1, 4), world=st.integers(1, 24), count=st.integers(1, 8),
    start=st.integers(0, 30),
)  # fmt: skip
def test_the_share_of_a_host_is_what_its_ranks_take_of_a_lane(
    lanes: int, group: int, world: int, count: int, start: int
) -> None:
    """Counted over as many turns as it takes until all is as at the beginning."""
    count = min(count, world)
    first = start % (world - count + 1)
    numbers = [start + turn * lanes * group + place for turn in range(world) for place in range(group)]
    taken = sum(first <= number % world < first + count for number in numbers)
    assert HostRanks(first, count, world).share(start % world, lanes, group) == pytest.approx(taken / len(numbers))


def test_a_lane_for_each_rank_is_fetched_whole_and_a_lane_for_all_by_ranges() -> None:
    """512 ranks on 64 hosts, with a cache for a tenth of the corpus: with a lane for each rank every host fetches its
    64th of the shards, and never more."""
    pool = log_normal(["tokens"], "txt", median=100, sigma=0.4, sample_bytes=1000)
    pipeline = Pipeline(
        TarShards("nowhere", lanes=512, block_rows=128), Shuffle(), Batch(16), TokenizeBasicEnglish(), Collate("tokens")
    )
    opened = MadeUpShards(pool, 131_072, 16_384)
    limit = int(opened.shards["size"].to_numpy().sum()) // 10
    found = simulate(pipeline, opened, World(512, 8), cache_bytes=limit, blocks=10**6)
    for host in found.epochs[0].hosts:
        assert host.bytes_fetched == pytest.approx(found.share_bytes, rel=0.05)
        assert host.bytes_read_through < 0.05 * found.share_bytes
    one = Pipeline(replace(pipeline.source, lanes=1), *pipeline.stages)  # type: ignore[type-var]
    told = simulate(one, opened, World(512, 8), cache_bytes=limit).epochs[0]
    assert told.whole_bytes == 0 < told.fetched_bytes < 3 * found.share_bytes


@settings(deadline=None, max_examples=25)
@given(samples=st.integers(1, 400), shards=st.integers(1, 20), low=st.integers(0, 399), rows=st.integers(1, 50))
def test_rows_that_are_made_up_are_the_same_however_they_are_read(
    samples: int, shards: int, low: int, rows: int
) -> None:
    shards = min(shards, samples)
    pool = log_normal(["tokens"], "txt", median=30, sigma=0.5, sample_bytes=700)
    made = MadeUpShards(pool, samples, shards)
    pieces = [Slice(shard, 0, count) for shard, count in enumerate(made.rows_per_shard)]
    whole = made.read(pieces)
    assert whole.num_rows == samples == made.rows
    assert len(set(whole["key"].to_pylist())) == samples
    shard = min(low // 20, shards - 1)
    piece = Slice(shard, min(low % 20, made.rows_per_shard[shard]), min(low % 20 + rows, made.rows_per_shard[shard]))
    first = sum(made.rows_per_shard[:shard])
    again = MadeUpShards(pool, samples, shards).read([piece], ("key", "tokens", "members"))
    assert again.to_pylist() == whole.slice(first + piece.start, len(piece)).select(again.column_names).to_pylist()
    for shard, count in enumerate(made.rows_per_shard):  # members follow one another and fill the tar
        members = [row[0] for row in made.read([Slice(shard, 0, count)])["members"].to_pylist()]
        ends = [512 + -(-(one["offset"] + one["size"]) // 512) * 512 for one in members]
        assert [one["offset"] for one in members] == [512, *ends[:-1]]
        assert made.shards["size"][shard].as_py() == ends[-1] - 512 + 1024


def test_a_corpus_like_a_real_one_has_its_rows(shards: Path) -> None:
    real = TarShards(str(shards / "librispeech" / SPLITS["librispeech"])).open()
    made = MadeUpShards(like(real), 5000, 10)
    assert (made.columns, made.fields) == (real.columns, real.fields)
    rows = made.read([Slice(shard, 0, 500) for shard in range(10)])
    known = real.read([Slice(at, 0, count) for at, count in enumerate(real.rows_per_shard)])
    pairs = {(row["frames"], row["tokens"], sum(m["size"] for m in row["members"])) for row in known.to_pylist()}
    drawn = [(row["frames"], row["tokens"], sum(m["size"] for m in row["members"])) for row in rows.to_pylist()]
    assert set(drawn) == pairs  # 24 rows, 5,000 draws
    assert np.bincount([sorted(pairs).index(one) for one in drawn]).min() > 100
    real.close()


def test_batches_of_a_block_are_counted_by_rows_where_they_tell(shards: Path) -> None:
    path = str(shards / "imdb" / SPLITS["imdb"])
    fixed = Pipeline(TarShards(path, block_rows=8), Shuffle(), Batch(4), TokenizeBasicEnglish(), Collate("tokens"))
    opened = fixed.open()
    found = simulate(fixed, opened, World(2), blocks=2)
    assert found.epochs[0].batches == simulate(fixed, opened, World(2)).epochs[0].batches
    assert Epoch(Corpus(fixed, opened), 0, 0).told
    filtered = Pipeline(TarShards(path, block_rows=8), Where("label", one_of=(1,)), *fixed.stages[1:])
    assert not Epoch(Corpus(filtered, opened), 0, 0).told
    assert simulate(filtered, opened, World(2)).epochs[0].samples.value == 30
    assert isinstance(filtered.plan(opened, 0, 0), Plan)


def test_what_cannot_be_predicted_is_said(shards: Path) -> None:
    path = str(shards / "imdb" / SPLITS["imdb"])
    pipeline = texts(path)
    opened = pipeline.open()
    with pytest.raises(ConfigError, match=r"--ranks must be at least 1, got 0"):
        World(0)
    with pytest.raises(ConfigError, match=r"--ranks-per-host must be at least 1, got -2"):
        World(4, -2)
    with pytest.raises(ConfigError, match=r"--blocks must be at least 1, got 0"):
        simulate(pipeline, opened, World(1), blocks=0)
    with pytest.raises(ConfigError, match=r"--epochs must be at least 1, got 0"):
        simulate(pipeline, opened, World(1), epochs=0)
    none = Pipeline(pipeline.source, Where("tokens", at_least=1e9), *pipeline.stages)
    with pytest.raises(ConfigError, match=r"delivers no batch: Where leaves out every sample\. Widen it\."):
        simulate(none, opened, World(1))
    endless = Pipeline(ecopipe.Mix((TarShards(path),), weights=(1,), stop="forever"), *pipeline.stages)
    with pytest.raises(ConfigError, match=r"stop='forever' has no epoch to predict"):
        simulate(endless, endless.open(), World(1))
    items = Pipeline(ecopipe.Items(lambda: [{"tokens": 3}]), *pipeline.stages)
    with pytest.raises(ConfigError, match=r"\(Items\) gives has no index to plan\. Simulate shards\."):
        simulate(items, items.open(), World(1))
    short = texts(path, block_rows=16)
    tight = Pipeline(short.source, Bucket("tokens", max_padded=1.0), *short.stages[2:])
    with pytest.raises(SampleError, match=r"over max_padded 1\. Raise max_padded"):
        simulate(tight, opened, World(1))
    for samples, count in ((3, 4), (3, 0), (0, 1)):
        with pytest.raises(ConfigError, match=r"cannot be made up\. Give --samples and --shards of at least 1"):
            MadeUpShards(like(opened), samples, count)
    with pytest.raises(ConfigError, match=r"median -1 and sigma 0\.5, 10 bytes a sample: give a median above 0"):
        log_normal(["tokens"], "txt", median=-1, sigma=0.5, sample_bytes=10)
    opened.close()


def test_a_mixture_is_predicted_as_it_is_delivered(shards: Path) -> None:
    root = shards / "imdb"
    mix = ecopipe.Mix(
        (TarShards(str(root / "train")), TarShards(str(root / "test"))), weights=(3, 1), stop="cycle", block_rows=16
    )
    pipeline = Pipeline(mix, *texts("nowhere").stages)
    found = simulate(pipeline, pipeline.open(), World(1))
    summary = StreamSummary()
    for batch in pipeline:
        summary.add(batch)
    assert (found.epochs[0].batches.value, found.epochs[0].samples.value) == (summary.batches, summary.samples)
    assert summary.samples > 120
    assert found.padding is not None
    assert found.padding.value == pytest.approx(summary.padding_fraction, abs=1e-12)

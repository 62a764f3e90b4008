"""``ecopipe simulate``."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from rich.console import Console
from rich.table import Table

from ecopipe.cli import quantities
from ecopipe.cli.progress import stderr
from ecopipe.cli.sharding import counted, human_bytes
from ecopipe.cli.streaming import open_source
from ecopipe.insight.simulation import PERFECT_DISTANCE, Forecast, simulate
from ecopipe.insight.simulation_blocks import Estimate
from ecopipe.insight.simulation_corpus import MadeUpShards, like, log_normal
from ecopipe.insight.simulation_order import World
from ecopipe.pipeline.pipeline import Pipeline
from ecopipe.pipeline.toml import load, parse_override
from ecopipe.plan.mixed import Opened
from ecopipe.plan.shards import Shards, open_shards
from ecopipe.run.ranks import Tail
from ecopipe.storage.sizes import parse_bytes
from ecopipe.vocabulary.errors import ConfigError

SHARD_BYTES = 256 * 2**20
"""Mean bytes of a shard of a made-up corpus, unless it is said how many shards it has."""


def simulated(
    file: Path,
    overrides: Sequence[str],
    *,
    ranks: int,
    ranks_per_host: int,
    workers: int,
    tail: Tail,
    cache: str | None,
    network: str | None,
    epochs: int,
    seed: int,
    blocks: int,
    samples: str | None,
    shards: str | None,
    like_: str | None,
    lengths: str | None,
    sample_bytes: str | None,
    as_json: bool,
) -> None:
    """Predicts a run of a pipeline file and prints what is to be expected."""
    world = World(ranks, ranks_per_host, tail)
    if workers < 0:
        raise ConfigError(f"simulate: --workers must be at least 0, got {workers}.")
    cache_bytes = parse_bytes(cache, "--cache") if cache is not None else 0
    bytes_per_s = quantities.rate("--network", network) if network is not None else None
    pipeline = load(file, dict(parse_override(text) for text in overrides))
    with stderr.status("planning ..."):
        opened = _opened(pipeline, samples, shards, like_, lengths, sample_bytes)
        found = simulate(
            pipeline, opened, world, cache_bytes=cache_bytes, epochs=epochs, seed=seed, blocks=blocks, workers=workers
        )
    if as_json:
        print(json.dumps({"pipeline": str(file), "seed": seed, **figures(found, bytes_per_s)}))
        return
    print(file)
    for sentence in words(found, bytes_per_s, made_up=samples is not None):
        print(sentence)
    Console().print(_table(found, bytes_per_s))


def _opened(
    pipeline: Pipeline,
    samples: str | None,
    shards: str | None,
    like_: str | None,
    lengths: str | None,
    sample_bytes: str | None,
) -> Opened:
    """The pipeline's own source, or a corpus that is made up."""
    made_of = {"--shards": shards, "--like": like_, "--lengths": lengths, "--sample-bytes": sample_bytes}
    if samples is None:
        if given := [name for name, value in made_of.items() if value is not None]:
            raise ConfigError(f"simulate: {given[0]} is for a corpus that is made up. Give --samples too.")
        opened = open_source(pipeline)
        pipeline.check_fields(opened)
        return opened
    if lengths is not None and like_ is not None:
        raise ConfigError("simulate: --like and --lengths both say how long samples are. Give one of them.")
    if (lengths is None) != (sample_bytes is None):
        raise ConfigError("simulate: --lengths and --sample-bytes go together: give both, or --like.")
    if lengths is not None and sample_bytes is not None:
        median, sigma = _distribution(lengths)
        columns = [name for name in pipeline.plan_columns() if name not in ("key", "shard")]
        mean = parse_bytes(sample_bytes, "--sample-bytes")
        read = min(pipeline.reads() or {"data"})
        return _made_up(log_normal(columns, read, median=median, sigma=sigma, sample_bytes=mean), samples, shards)
    real = open_shards([like_]) if like_ is not None else open_source(pipeline)
    if not isinstance(real, Shards):
        raise ConfigError("simulate: a corpus like a mixture cannot be made up. Name one of its sources with --like.")
    try:
        made = _made_up(like(real), samples, shards)
    finally:
        real.close()
    pipeline.check_fields(made)
    return made


def _made_up(pool: pa.Table, samples: str, shards: str | None) -> MadeUpShards:
    total = quantities.count("--samples", samples)
    if shards is not None:
        return MadeUpShards(pool, total, quantities.count("--shards", shards))
    return MadeUpShards.of_shards_of(pool, total, SHARD_BYTES)


def _distribution(text: str) -> tuple[float, float]:
    """``MEDIAN:SIGMA`` as numbers."""
    median, colon, sigma = text.partition(":")
    try:
        found = float(median), float(sigma) if colon else 0.0
    except ValueError:
        found = math.nan, math.nan
    if not all(map(math.isfinite, found)):
        raise ConfigError(
            f"--lengths {text!r}: write the median and the deviation of the logarithm, such as 12.5:0.4, in the units "
            "of the pipeline's measure."
        )
    return found


def words(found: Forecast, bytes_per_s: float | None, *, made_up: bool = False) -> list[str]:
    """What is to be expected, in sentences; the first says what limits."""
    world, epoch = found.world, found.epochs[0]
    told = [_limit(found, bytes_per_s)]
    if found.cache_bytes and not any(host.hits + host.misses for host in epoch.hosts):
        told.append(
            "The cache stays empty: a host wants too little of each shard to fetch it whole, or the cache has no room "
            "for the shards of two blocks; ranges are read for each batch."
        )
    elif len(found.epochs) > 1:
        last, number = found.epochs[-1], len(found.epochs) - 1
        if last.fetched_bytes:
            told.append(f"In epoch {number} each host fetches {human_bytes(last.fetched_bytes)}.")
        else:
            told.append(f"In epoch {number} nothing is fetched: the cache holds what a host reads.")
    if epoch.fetched_bytes > 1.5 * found.share_bytes and found.hosts_per_lane > 1.5:
        lanes = world.ranks // found.group
        better = f" Try --set source.lanes={lanes}." if world.ranks % found.group == 0 and found.lanes != lanes else ""
        told.append(
            f"Hosts read the same shards: the batches of {counted(found.lanes, 'lane')} go to {world.ranks:,} ranks in "
            f"turn, and those of one lane to {found.hosts_per_lane:.1f} hosts.{better}"
        )
    if not found.whole:
        told.append(
            f"Planned were {found.planned_blocks:,} of {found.blocks:,} blocks, spread evenly "
            f"({found.planned_samples / found.samples:.2%} of the samples); what was estimated from them has its "
            f"standard error behind ±. Reads were followed on {len(epoch.hosts)} of {counted(world.hosts, 'host')}."
        )
    if made_up:
        told.append("The corpus is made up: its samples are draws.")
    return told


def _limit(found: Forecast, bytes_per_s: float | None) -> str:
    epoch = found.epochs[0]
    over = epoch.fetched_bytes / found.share_bytes - 1
    than = f"{over:.0%} more than" if over >= 0.005 else f"{-over:.0%} less than" if over <= -0.005 else "just"
    if over > 2:
        than = f"{over + 1:.1f} times"
    fetched = (
        f"each host fetches {human_bytes(epoch.fetched_bytes)} in the first epoch, {than} its share of the corpus "
        f"({human_bytes(found.share_bytes)})"
    )
    if bytes_per_s is None:
        return fetched[0].upper() + fetched[1:] + "."
    takes = epoch.most_fetched_bytes / bytes_per_s
    at = f"{fetched}; at {human_bytes(bytes_per_s)}/s that takes {quantities.spoken_time(takes)}"
    plans = f"planning takes {quantities.spoken_time(found.plan.cpu_s)} of a core in each rank"
    if takes >= found.plan.cpu_s:
        per_rank = epoch.samples.value / found.world.ranks / takes
        return f"The network limits: {at}, or {per_rank:,.0f} samples/s in each rank at most; {plans}."
    return f"The network does not limit: {at}, and {plans}."


def figures(found: Forecast, bytes_per_s: float | None) -> dict[str, Any]:
    """The forecast as JSON."""
    world = found.world
    told: dict[str, Any] = {
        "ranks": world.ranks, "hosts": world.hosts, "ranks_per_host": world.ranks_per_host, "tail": world.tail,
        "samples": found.samples, "shards": found.shards, "corpus_bytes": found.corpus_bytes,
        "cache_bytes": found.cache_bytes, "lanes": found.lanes,
        "blocks": found.blocks, "planned_blocks": found.planned_blocks, "planned_samples": found.planned_samples,
        "hosts_followed": len(found.epochs[0].hosts), "share_bytes": round(found.share_bytes),
        "length": found.length,
        "padding_fraction": _json(found.padding), "distance": _json(found.distance),
        "perfect_distance": PERFECT_DISTANCE, "same_shard_neighbours": _json(found.neighbours),
        "perfect_same_shard_neighbours": found.perfect_neighbours,
        "plan_cpu_s": round(found.plan.cpu_s, 4), "plan_first_s": round(found.plan.first_s, 4),
        "plan_held_bytes": found.plan.held_bytes, "ahead_bytes": round(found.ahead_bytes),
    }  # fmt: skip
    told["epochs"] = [
        {
            "batches": _json(epoch.batches), "samples": _json(epoch.samples), "steps": epoch.steps,
            "fetched_bytes": round(epoch.fetched_bytes), "most_fetched_bytes": epoch.most_fetched_bytes,
            "hits": sum(host.hits for host in epoch.hosts), "misses": sum(host.misses for host in epoch.hosts),
            "whole_bytes": round(epoch.whole_bytes),
            "evictions": sum(host.evictions for host in epoch.hosts), "hit_fraction": epoch.hit_fraction,
            **({} if bytes_per_s is None else {"fetch_s": round(epoch.most_fetched_bytes / bytes_per_s, 4)}),
        }
        for epoch in found.epochs
    ]  # fmt: skip
    return told


def _json(estimate: Estimate | None) -> dict[str, float] | None:
    return None if estimate is None else {"value": estimate.value, "error": estimate.error}


def _shown(estimate: Estimate | None, form: str) -> str:
    if estimate is None:
        return "-"
    error = f" ± {estimate.error:{form}}" if estimate.error else ""
    return f"{estimate.value:{form}}{error}"


def _table(found: Forecast, bytes_per_s: float | None) -> Table:
    table = Table()
    table.add_column("")
    for number in range(len(found.epochs)):
        table.add_column(f"epoch {number}", justify="right")
    rows: list[tuple[str, list[str]]] = [
        ("batches", [_shown(epoch.batches, ",.0f") for epoch in found.epochs]),
        ("samples", [_shown(epoch.samples, ",.0f") for epoch in found.epochs]),
        ("steps of each rank", [f"{epoch.steps:,}" for epoch in found.epochs]),
        ("fetched per host", [human_bytes(epoch.fetched_bytes) for epoch in found.epochs]),
        ("of that, whole shards", [human_bytes(epoch.whole_bytes) for epoch in found.epochs]),
        ("by the host that fetches most", [human_bytes(epoch.most_fetched_bytes) for epoch in found.epochs]),
        ("shards wanted whole that were in the cache", [f"{epoch.hit_fraction:.1%}" for epoch in found.epochs]),
        ("shards evicted per host", [f"{epoch.evicted:,.0f}" for epoch in found.epochs]),
    ]
    if bytes_per_s is not None:
        times = [quantities.spoken_time(epoch.most_fetched_bytes / bytes_per_s) for epoch in found.epochs]
        rows.append(("time to fetch it", times))
    single = [
        ("padding", _shown(found.padding, ".2%")),
        ("distance in corpus and stream (perfect 0.333)", _shown(found.distance, ".3f")),
        (f"neighbours of one shard (perfect {found.perfect_neighbours:.2%})", _shown(found.neighbours, ".2%")),
        ("planning an epoch, CPU in each rank", quantities.spoken_time(found.plan.cpu_s)),
        ("planning before the first step", quantities.spoken_time(found.plan.first_s)),
        ("memory of the plan in each rank", human_bytes(found.plan.held_bytes)),
        ("payload made ahead per host", human_bytes(found.ahead_bytes)),
    ]
    for title, values in rows:
        table.add_row(title, *values)
    for title, value in single:
        table.add_row(title, value)
    return table

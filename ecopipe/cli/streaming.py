"""``ecopipe stream``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ecopipe.cli.progress import bytes_bar, count_bar
from ecopipe.datasets.shards import not_indexed
from ecopipe.insight.digest import Digest
from ecopipe.insight.summary import StreamSummary
from ecopipe.pipeline.pipeline import Pipeline
from ecopipe.pipeline.toml import load, parse_override
from ecopipe.plan.mixed import Opened
from ecopipe.run.loader import Loader
from ecopipe.run.maker import Verify
from ecopipe.run.ranks import Tail
from ecopipe.storage import files


def stream(
    file: Path,
    overrides: Sequence[str],
    *,
    workers: int | None,
    threads: int | None = None,
    epochs: int,
    epoch: int,
    seed: int,
    device: str,
    rank: int | None,
    world_size: int | None,
    tail: Tail,
    limit_batches: int | None,
    ledger: Path | None,
    quarantine: Path | None,
    verify: Verify,
    with_digest: bool,
    as_json: bool,
    cache: str | None = None,
    cache_limit: str | None = None,
) -> None:
    """Streams a pipeline file and prints what came."""
    pipeline = load(file, dict(parse_override(text) for text in overrides))
    shards = open_source(pipeline)
    summary = StreamSummary()
    digest = Digest() if with_digest else None
    with Loader(
        pipeline,
        workers=workers,
        threads=threads,
        device=device,
        rank=rank,
        world_size=world_size,
        seed=seed,
        epoch=epoch,
        tail=tail,
        ledger=ledger,
        quarantine=quarantine,
        verify=verify,
        shards=shards,
        cache=False if cache == "off" else cache,
        cache_limit=cache_limit,
    ) as loader:
        run(loader, summary, epochs=epochs, limit_batches=limit_batches, digest=digest)
    figures = {
        "pipeline": str(file), "seed": seed, "epoch": epoch, "epochs": epochs, "workers": loader.workers,
        "threads": loader.threads, "device": str(loader.device), "rank": loader.rank, "world_size": loader.world_size,
        **summary.figures(), "digest": digest.hexdigest() if digest else None,
        **{f"cache_{name}": count for name, count in loader.cache_counters.items()},
    }  # fmt: skip
    if as_json:
        print(json.dumps(figures))
    else:
        print(file)
        Console().print(_table(figures))


def open_source(pipeline: Pipeline) -> Opened:
    """Opens a pipeline's shards, with a progress bar if they have to be indexed first."""
    todo = not_indexed(pipeline.source.shard_paths)
    if not todo:
        return pipeline.open()
    with bytes_bar(f"indexing {len(todo):,} tars", sum(files.size_of(tar) for tar in todo)) as advance:
        return pipeline.open(advance)


def run(
    loader: Loader,
    summary: StreamSummary,
    *,
    epochs: int = 1,
    limit_batches: int | None = None,
    digest: Digest | None = None,
) -> None:
    """Takes the batches of some epochs and enters them where they are to be entered."""
    with count_bar("streaming samples", loader.shards.rows * epochs // loader.world_size) as advance:
        for _ in range(epochs):
            for batch in loader:
                summary.add(batch)
                advance(len(batch.sample_keys))
                if digest is not None:
                    digest.add(batch)
                if limit_batches is not None and summary.batches >= limit_batches:
                    summary.finish()
                    return
    summary.finish()


_TITLES = {
    "samples": "samples",
    "batches": "batches",
    "repeated_batches": "batches repeated to fill the last step",
    "skipped": "bad samples left out",
    "substituted": "bad samples replaced",
    "wall_s": "time, s",
    "first_batch_s": "time to the first batch, s",
    "samples_per_s": "samples/s",
    "audio_s_per_s": "audio seconds/s",
    "tokens_per_s": "tokens/s",
    "padding_fraction": "padding",
    "cache_hits": "shards that were in the cache",
    "cache_misses": "shards that were not",
    "cache_evictions": "shards removed from the cache",
    "cache_bytes_fetched": "bytes fetched into the cache",
    "cache_bytes_read_through": "bytes read past the cache",
    "digest": "digest",
}

_RARE = ("repeated_batches", "skipped", "substituted", "cache_evictions", "cache_bytes_read_through")
"""Figures that are told only where there is something to tell."""


def _table(figures: dict[str, Any]) -> Table:
    table = Table(show_header=False)
    for key, title in _TITLES.items():
        value = figures.get(key)
        if value is None or (key in _RARE and not value):
            continue
        if key == "padding_fraction":
            shown = f"{value:.1%}"
        elif key == "digest":
            shown = value[:16]
        else:
            shown = f"{value:,.2f}" if isinstance(value, float) else f"{value:,}"
        table.add_row(title, shown)
    return table

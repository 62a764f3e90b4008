"""``ecopipe stats``."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ecopipe.cli.progress import count_bar
from ecopipe.cli.streaming import open_source
from ecopipe.insight.statistics import Accumulation, up_to_features
from ecopipe.pipeline.toml import load, parse_override
from ecopipe.run.loader import Loader
from ecopipe.stages.normalization import Statistics
from ecopipe.storage.publish import publish_file
from ecopipe.vocabulary.errors import OutputError

SEED = 0


def measure(
    file: Path,
    overrides: Sequence[str],
    *,
    out: Path,
    field: str,
    workers: int,
    epochs: int,
    limit_batches: int | None,
    device: str,
    overwrite: bool,
) -> None:
    """Streams a pipeline file up to its features, and writes their mean and deviation."""
    _check_free(out, overwrite)
    pipeline, left_out = up_to_features(load(file, dict(parse_override(text) for text in overrides)))
    if left_out:
        print(f"left out: {', '.join(stage.label for stage in left_out)}")
    found = Accumulation(field)
    shards = open_source(pipeline)
    with Loader(
        pipeline, workers=workers, device=device, rank=0, world_size=1, seed=SEED, shards=shards
    ) as loader:  # fmt: skip
        _run(loader, found, epochs, limit_batches)
    mean, std = found.result()
    statistics = Statistics(
        field, len(mean), found.samples, found.frames, mean, std,
        epochs=epochs, limit_batches=limit_batches, seed=SEED, index=shards.fingerprint, pipeline=pipeline.identity,
    )  # fmt: skip
    _check_free(out, overwrite)
    with publish_file(out) as temporary:
        temporary.write_text(statistics.dumps(), encoding="utf-8")
    Console().print(_table(statistics))
    print(f"wrote {out}")


def _check_free(out: Path, overwrite: bool) -> None:
    if out.exists() and not overwrite:
        raise OutputError(f"{out}: already exists. Choose another place with -o, or replace it with --overwrite.")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out.parent):
            pass
    except OSError as error:
        raise OutputError(f"{out}: cannot be written ({error.strerror}). Choose another place with -o.") from error


def _run(loader: Loader, found: Accumulation, epochs: int, limit_batches: int | None) -> None:
    left = limit_batches
    with count_bar("measuring samples", loader.shards.rows * epochs) as advance:
        for _ in range(epochs):
            for batch in loader:
                found.add(batch)
                advance(len(batch.sample_keys))
                if left is not None:
                    left -= 1
                    if not left:
                        return


def _table(statistics: Statistics) -> Table:
    table = Table(show_header=False)
    for title, shown in (
        ("samples", f"{statistics.samples:,}"),
        ("frames", f"{statistics.frames:,}"),
        ("bins", f"{statistics.bins:,}"),
        ("mean, least to greatest", f"{min(statistics.mean):.4f} to {max(statistics.mean):.4f}"),
        ("deviation, least to greatest", f"{min(statistics.std):.4f} to {max(statistics.std):.4f}"),
    ):
        table.add_row(title, shown)
    return table

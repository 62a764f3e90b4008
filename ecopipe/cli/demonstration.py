"""``ecopipe demo``: the main job on three small corpora that it makes itself."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

import ecopipe
from ecopipe.cli.progress import stderr
from ecopipe.cli.sharding import human_bytes
from ecopipe.cli.streaming import run
from ecopipe.datasets import synthetic
from ecopipe.datasets.corpus import open_corpus
from ecopipe.insight.digest import Digest
from ecopipe.insight.summary import StreamSummary
from ecopipe.pipeline.toml import load
from ecopipe.run.loader import Loader
from ecopipe.run.writer import write_corpus
from ecopipe.storage.publish import publish_folder
from ecopipe.vocabulary.errors import ConfigError, OutputError

MARK = ".ecopipe-demo"
"""A file in the folder of corpora that says that the demo made it, and may make it again."""


@dataclass(frozen=True)
class Part:
    """One corpus of the demo."""

    name: str
    title: str
    split: str
    write: Callable[[Path], Any]
    gives: str
    field: str


PARTS = (
    Part("librispeech", "LibriSpeech", "train-clean-100", synthetic.write_librispeech, "log-mel", "features"),
    Part("imdb", "IMDB", "train", synthetic.write_imdb, "tokens", "tokens"),
    Part("cifar10", "CIFAR-10", "train", synthetic.write_cifar10, "images", "features"),
)


def pipeline_file(name: str) -> Path:
    """The pipeline file that comes with ecopipe, by name."""
    package = Path(ecopipe.__file__).parent
    for folder in (package / "pipelines", package.parent / "pipelines"):
        if (path := folder / f"{name}.toml").is_file():
            return path
    raise ConfigError(f"pipelines/{name}.toml: is not installed. Install ecopipe again.")


def demo(out: Path, workers: int) -> None:
    """Makes, shards and streams the corpora below ``out``, and prints a table of what came."""
    began = time.perf_counter()
    raw = out / "corpora"
    if raw.exists() and not (raw / MARK).exists():
        raise OutputError(f"{raw}: is there and was not made by the demo. Choose another place with --out.")
    with stderr.status("making three small corpora ..."), publish_folder(raw, replace=True) as folder:
        (folder / MARK).touch()
        for part in PARTS:
            part.write(folder / part.name)
    table = Table(title="ecopipe demo: raw corpora -> tar shards -> batches", title_justify="left", title_style="bold")
    table.add_column("corpus", style="bold")
    for heading in ("samples", "batches", "samples/s", "audio h/s", "padding", "first batch"):
        table.add_column(heading, justify="right")
    table.add_column("the first batch")
    table.add_column("digest")
    for part in PARTS:
        with stderr.status(f"sharding and streaming {part.title} ..."):
            table.add_row(*_row(part, raw, out, workers))
    console = Console()
    console.print(table)
    size = sum(path.stat().st_size for path in out.glob("*/*/*.tar"))
    names = ",".join(part.name for part in PARTS)
    console.print(f"{human_bytes(size)} of shards lie in {out}/{{{names}}}; any WebDataset reader opens them.")
    console.print("The order is a value: run it again with any --workers, and the digests stay as they are.")
    console.print(f"{time.perf_counter() - began:.1f} s in all, {workers} workers.")


def _row(part: Part, raw: Path, out: Path, workers: int) -> list[str]:
    with open_corpus(part.name, raw / part.name) as corpus:
        write_corpus(corpus, out / part.name, overwrite=True)
    pipeline = load(pipeline_file(part.name), {"source.path": str(out / part.name / part.split)})
    summary, digest = StreamSummary(), Digest()
    with Loader(pipeline, workers=workers) as loader:
        run(loader, summary, digest=digest)
    figures = summary.figures()
    audio = figures.get("audio_s_per_s")
    return [
        part.title,
        f"{summary.samples:,}",
        f"{summary.batches:,}",
        f"{figures['samples_per_s']:,.0f}",
        f"{audio / 3600:.2f}" if audio else "-",
        f"{summary.padding_fraction:.1%}" if summary.padded_length else "-",
        f"{summary.first_batch_s:.2f} s",
        f"{part.gives} {summary.shapes.get(part.field, '')}",
        digest.hexdigest()[:8],
    ]


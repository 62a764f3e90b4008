"""``ecopipe demo``: the main job on three small corpora that it makes itself."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
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
from ecopipe.sharding.write import write_corpus
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
    Part("librispeech", "LibriSpeech", "train-clean-100", synthetic.write_librispeech, "log-mel frames", "features"),
    Part("imdb", "IMDB", "train", synthetic.write_imdb, "token ids", "tokens"),
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
    if out.exists() and not (raw / MARK).exists() and (not out.is_dir() or any(out.iterdir())):
        raise OutputError(f"{out}: is there and was not made by the demo. Choose another place with --out.")
    with stderr.status("making three small corpora ..."), publish_folder(raw, replace=True) as folder:
        (folder / MARK).touch()
        for part in PARTS:
            part.write(folder / part.name)
    columns = []
    for part in PARTS:
        with stderr.status(f"sharding and streaming {part.title} ..."):
            columns.append(_column(part, raw, out, workers))
    table = Table(box=box.SIMPLE_HEAD, title="raw corpora -> tar shards -> batches", title_style="bold")
    table.add_column("")
    for part in PARTS:
        table.add_column(part.title, justify="right", style="cyan")
    for title in columns[0]:
        table.add_row(title, *(column[title] for column in columns))
    console = Console()
    console.print(table)
    size = sum(path.stat().st_size for path in out.glob("*/*/*.tar"))
    print(f"The shards ({human_bytes(size)}) lie here; any WebDataset reader opens them:")
    for part in PARTS:
        print(f"  {out / part.name / part.split}")
    print("The order is a value: run this again with other --workers, and the digests stay as they are.")
    print(f"{time.perf_counter() - began:.1f} s in all, {workers} workers.")


def _column(part: Part, raw: Path, out: Path, workers: int) -> dict[str, str]:
    with open_corpus(part.name, raw / part.name) as corpus:
        write_corpus(corpus, out / part.name, overwrite=True)
    pipeline = load(pipeline_file(part.name), {"source.path": str(out / part.name / part.split)})
    summary, digest = StreamSummary.of(pipeline), Digest()
    with Loader(pipeline, workers=workers) as loader:
        run(loader, summary, digest=digest)
    figures = summary.figures()
    audio = figures.get("audio_s_per_s")
    return {
        "samples": f"{summary.samples:,}",
        "batches": f"{summary.batches:,}",
        "samples/s": f"{figures['samples_per_s']:,.0f}",
        "audio hours/s": f"{audio / 3600:.2f}" if audio else "-",
        "padding": f"{summary.padding_fraction:.1%}" if summary.padded_length else "-",
        "first batch after": f"{summary.first_batch_s:.2f} s",
        "first batch": summary.shapes.get(part.field, "").replace(", ", "x").replace("[", "").replace("]", ""),
        "of": part.gives,
        "digest": digest.hexdigest()[:16],
    }

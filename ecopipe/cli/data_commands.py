"""Commands that make shards and look at them. What they do is imported when it is asked for."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Optional

import typer

from ecopipe.cli.app import EXIT_PROBLEMS, app


class Storage(str, Enum):
    """How images are stored."""

    png = "png"
    raw = "raw"


class Engine(str, Enum):
    """Where shards are written."""

    local = "local"
    ray = "ray"


class OnBad(str, Enum):
    """What becomes of a bad sample."""

    raise_ = "raise"
    skip = "skip"


MaxBytes = Annotated[str, typer.Option(help="Bytes per shard, such as 256MiB or 1GB; shards come out nearly equal.")]
MaxCount = Annotated[Optional[int], typer.Option(help="Samples per shard at most.")]
MaxDuration = Annotated[Optional[str], typer.Option(help="Audio per shard, such as 90s, 30min or 1h.")]
Shards = Annotated[Optional[int], typer.Option(help="So many shards, whatever their size.")]
Shuffled = Annotated[bool, typer.Option("--shuffle", help="Write each split in random order.")]
Seed = Annotated[int, typer.Option(help="Seed of the shuffling, and of random stages.")]
Stages = Annotated[Optional[Path], typer.Option(help="A TOML file of [[stages]] that samples pass through.")]
Workers = Annotated[Optional[int], typer.Option(min=0, help="Processes; as many as there are cores unless given.")]
BadSamplesPolicy = Annotated[OnBad, typer.Option(help="End at a bad sample, or leave it out and list it.")]
MaxBadShare = Annotated[float, typer.Option(help="Share of bad samples that ends the run, of at least 1,000 samples.")]
Sha256 = Annotated[bool, typer.Option("--sha256", help="Note the SHA-256 of each tar in dataset.json.")]
Overwrite = Annotated[bool, typer.Option(help="Replace splits that are there already.")]


@app.command()
def shard(
    corpus: Annotated[str, typer.Argument(help="What it is, such as librispeech; 'ecopipe datasets' lists them.")],
    source: Annotated[
        str, typer.Argument(help="The corpus: its folder, its archive as downloaded, its file; or a URL.")
    ],
    out: Annotated[str, typer.Argument(help="The folder to write to, one folder per split; or a URL.")],
    split: Annotated[Optional[list[str]], typer.Option(help="Only this split. May be repeated.")] = None,
    max_bytes: MaxBytes = "256MiB",
    max_count: MaxCount = None,
    max_duration: MaxDuration = None,
    shards: Shards = None,
    shuffle: Shuffled = False,
    seed: Seed = 0,
    stages: Stages = None,
    workers: Workers = None,
    engine: Annotated[Engine, typer.Option(help="Processes of this machine, or a Ray cluster (ecopipe[ray]).")] = (
        Engine.local
    ),
    ray_address: Annotated[
        Optional[str], typer.Option(help="Of a running cluster, such as auto; else one is started here.")
    ] = None,
    bad_samples: BadSamplesPolicy = OnBad.raise_,
    max_bad_share: MaxBadShare = 0.01,
    option: Annotated[
        Optional[list[str]],
        typer.Option(metavar="KEY=VALUE", help="A setting of the corpus's reader. May be repeated."),
    ] = None,
    storage: Annotated[
        Optional[Storage], typer.Option(help="Arrays of pixels: store PNG (default), or the raw array (.npy).")
    ] = None,
    overwrite: Overwrite = False,
    sha256: Sha256 = False,
) -> None:
    """Write a raw corpus as WebDataset tars with an index. Interrupted, even killed, the same command goes on."""
    from ecopipe.cli import sharding

    sharding.shard(
        corpus,
        source,
        out,
        splits=split,
        options=option or [],
        storage=storage.value if storage else None,
        how=sharding.How(
            max_bytes=max_bytes,
            max_count=max_count,
            max_duration=max_duration,
            shards=shards,
            shuffle=shuffle,
            seed=seed,
            stages=stages,
            workers=workers,
            engine=engine.value,
            ray_address=ray_address,
            bad_samples=bad_samples.value,
            max_bad_share=max_bad_share,
            overwrite=overwrite,
            sha256=sha256,
        ),
    )


@app.command()
def reshard(
    shards_: Annotated[list[str], typer.Argument(metavar="SHARDS...", help="Folders of shards, tars, or patterns.")],
    out: Annotated[str, typer.Option("--out", "-o", help="The folder to write to, with a folder of the split in it.")],
    split: Annotated[
        Optional[str], typer.Option(help="What the split is called; the folders' name unless given.")
    ] = None,
    where: Annotated[
        Optional[list[str]],
        typer.Option(
            metavar="MEASURE=LOW:HIGH", help="Keep what lies in a range, or is listed: label=0,1. Repeatable."
        ),
    ] = None,
    max_bytes: MaxBytes = "256MiB",
    max_count: MaxCount = None,
    max_duration: MaxDuration = None,
    shards: Shards = None,
    shuffle: Shuffled = False,
    seed: Seed = 0,
    stages: Stages = None,
    workers: Workers = None,
    bad_samples: BadSamplesPolicy = OnBad.raise_,
    max_bad_share: MaxBadShare = 0.01,
    overwrite: Overwrite = False,
    sha256: Sha256 = False,
) -> None:
    """Write shards anew: merged, split, shuffled, filtered, or changed by stages."""
    from ecopipe.cli import sharding

    sharding.reshard(
        shards_,
        out,
        split=split or "",
        where=where or [],
        how=sharding.How(
            max_bytes=max_bytes,
            max_count=max_count,
            max_duration=max_duration,
            shards=shards,
            shuffle=shuffle,
            seed=seed,
            stages=stages,
            workers=workers,
            bad_samples=bad_samples.value,
            max_bad_share=max_bad_share,
            overwrite=overwrite,
            sha256=sha256,
        ),
    )


@app.command()
def download(
    name: Annotated[Optional[str], typer.Argument(help="The corpus; unless given, all are listed.")] = None,
    parts: Annotated[Optional[list[str]], typer.Argument(metavar="PART", help="Its parts; 'all' is all.")] = None,
    to: Annotated[Optional[Path], typer.Option(help="The folder to fetch to; corpora/NAME unless given.")] = None,
    mirror: Annotated[
        Optional[str], typer.Option(metavar="URL", help="Fetch from URL/FILE: another server, a bucket or a folder.")
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="List the parts, their sizes and checksums.")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Fetch nothing; compare what is there.")] = False,
) -> None:
    """Fetch a corpus from where it is published, or go on with that; every file is compared with its checksum."""
    from ecopipe.cli import downloading

    if list_ or name is None:
        downloading.listing([name] if name else [])
    elif not verify:
        downloading.download(name, parts or [], to=to, mirror=mirror)
    elif downloading.verify(name, parts or [], to=to):
        raise typer.Exit(EXIT_PROBLEMS)


@app.command()
def datasets(
    names: Annotated[Optional[list[str]], typer.Argument(help="Say all of these; unless given, some of each.")] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON array.")] = False,
) -> None:
    """List the corpora that can be sharded: what each expects, its members, columns, options and licence."""
    from ecopipe.cli import corpora

    corpora.datasets(names or [], as_json=json_)


@app.command()
def index(
    tars: Annotated[list[str], typer.Argument(help="Tars, folders of tars, or glob patterns.")],
    measure: Annotated[
        Optional[list[str]],
        typer.Option(
            metavar="NAME=STAGE",
            help="Add a column: the number that a stage gives, or the length of what it gives. A stage is written "
            "TokenizeJson(tokenizer='bpe.json'), or is a TOML file of [[stages]]. May be repeated.",
        ),
    ] = None,
    workers: Workers = None,
) -> None:
    """Index WebDataset tars, so that they can be planned. What is known of other tars beside them is kept."""
    from ecopipe.cli import sharding

    if measure:
        sharding.add_columns(tars, measure, workers=workers)
    else:
        sharding.index(tars)


@app.command()
def verify(
    folders: Annotated[list[str], typer.Argument(help="Folders of shards, or of splits.")],
) -> None:
    """Compare every member with the CRC in the index. Exits with 1 and a list if one differs."""
    from ecopipe.cli import sharding

    if sharding.verify(folders):
        raise typer.Exit(EXIT_PROBLEMS)


@app.command()
def show(
    path: Annotated[str, typer.Argument(metavar="SHARDS", help="A folder of shards, or of splits; or its URL.")],
    samples: Annotated[int, typer.Option(min=0, help="Samples of each split to show.")] = 2,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show what shards hold: splits, lengths, labels, columns, where they came from, a few samples."""
    from ecopipe.cli import showing

    showing.show(path, samples=samples, as_json=json_)

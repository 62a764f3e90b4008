"""Commands that run pipelines, or plan them. What they do is imported when it is asked for."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Optional

import typer

from ecopipe.cli.app import EXIT_PROBLEMS, app
from ecopipe.pipeline.document import check_file

PipelineFile = Annotated[
    Path, typer.Argument(help="A pipeline file, such as pipelines/librispeech.toml.", callback=check_file)
]


class Verify(str, Enum):
    """Whether what is read is compared with the index."""

    crc = "crc"
    off = "off"


class Subwords(str, Enum):
    """How a tokenizer makes parts of words."""

    bpe = "bpe"
    wordpiece = "wordpiece"
    unigram = "unigram"


class Tail(str, Enum):
    """What ranks without a batch in the last step do."""

    repeat = "repeat"
    drop = "drop"


@app.command()
def stream(
    pipeline: PipelineFile,
    set_: Annotated[
        Optional[list[str]], typer.Option("--set", metavar="NAME.KEY=VALUE", help="Replace a setting. May be repeated.")
    ] = None,
    workers: Annotated[
        Optional[int], typer.Option(help="Worker processes; 0 works in this one. Default: what the file says, or 0.")
    ] = None,
    threads: Annotated[
        Optional[int],
        typer.Option(help="Threads in each worker, or in this process. Default: what the file says, or none."),
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs to stream.")] = 1,
    epoch: Annotated[int, typer.Option(min=0, help="The first epoch.")] = 0,
    seed: Annotated[int, typer.Option(help="Seed of the order and of augmentation.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    rank: Annotated[Optional[int], typer.Option(min=0, help="This rank; default from torchrun's environment.")] = None,
    world_size: Annotated[Optional[int], typer.Option(min=1, help="Number of ranks.")] = None,
    tail: Annotated[
        Tail, typer.Option(help="Last step without a batch for every rank: repeat one, or drop it.")
    ] = Tail.repeat,
    limit_batches: Annotated[Optional[int], typer.Option(min=1, help="Stop after so many batches.")] = None,
    ledger: Annotated[
        Optional[Path], typer.Option(help="Enter what is delivered in the ledger of this folder, for 'ecopipe audit'.")
    ] = None,
    quarantine: Annotated[
        Optional[Path],
        typer.Option(help="Append the bad samples that [bad_samples] lets pass to this file (JSON lines)."),
    ] = None,
    verify: Annotated[
        Verify, typer.Option(help="Compare what is read with the CRC in the index, or do not.")
    ] = Verify.crc,
    cache: Annotated[
        Optional[str],
        typer.Option(
            metavar="DIR",
            help="Keep shards at URLs here, for all processes of the host; default the user's cache. 'off' keeps none.",
        ),
    ] = None,
    cache_limit: Annotated[
        Optional[str], typer.Option(help="Bytes kept at most: 200GB. Default ECOPIPE_CACHE_LIMIT, or 20GB.")
    ] = None,
    digest: Annotated[bool, typer.Option(help="Hash what is delivered.")] = True,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line.")] = False,
) -> None:
    """Stream a pipeline and say what came and how fast."""
    from ecopipe.cli import streaming

    streaming.stream(
        pipeline,
        set_ or [],
        workers=workers,
        threads=threads,
        epochs=epochs,
        epoch=epoch,
        seed=seed,
        device=device,
        rank=rank,
        world_size=world_size,
        tail=tail.value,
        limit_batches=limit_batches,
        ledger=ledger,
        quarantine=quarantine,
        verify=verify.value,
        with_digest=digest,
        as_json=json_,
        cache=cache,
        cache_limit=cache_limit,
    )


@app.command()
def profile(
    pipeline: PipelineFile,
    set_: Annotated[
        Optional[list[str]], typer.Option("--set", metavar="NAME.KEY=VALUE", help="Replace a setting. May be repeated.")
    ] = None,
    workers: Annotated[
        Optional[int], typer.Option(help="Worker processes; 0 works in this one. Default: what the file says, or 0.")
    ] = None,
    threads: Annotated[
        Optional[int],
        typer.Option(help="Threads in each worker, or in this process. Default: what the file says, or none."),
    ] = None,
    prefetch: Annotated[
        Optional[int], typer.Option(help="Batches per worker and thread made ahead. Default: what the file says, or 2.")
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="To run, a quarter of it cold.")] = 10.0,
    consumer: Annotated[float, typer.Option(min=0, metavar="MS", help="Imitate a training step of so many ms.")] = 0.0,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    trace: Annotated[
        Optional[Path], typer.Option(help="Write Chrome trace events, for Perfetto (ui.perfetto.dev), to this file.")
    ] = None,
    html: Annotated[
        Optional[Path], typer.Option(help="Write a report with charts and examples: one HTML file, for any browser.")
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say what limits a pipeline, and what would make it faster: from measured times, part by part."""
    from ecopipe.cli import profiling

    profiling.profile(
        pipeline,
        set_ or [],
        workers=workers,
        threads=threads,
        prefetch=prefetch,
        seconds=seconds,
        consumer_ms=consumer,
        device=device,
        trace=trace,
        html=html,
        as_json=json_,
    )


@app.command()
def tune(
    pipeline: PipelineFile,
    set_: Annotated[
        Optional[list[str]],
        typer.Option("--set", metavar="NAME.KEY=VALUE", help="Replace a setting, for measuring. May be repeated."),
    ] = None,
    memory: Annotated[Optional[str], typer.Option(help="What all processes may take: 4GB. Default no limit.")] = None,
    seconds: Annotated[float, typer.Option(min=1, help="To spend, about.")] = 30.0,
    consumer: Annotated[float, typer.Option(min=0, metavar="MS", help="Imitate a training step of so many ms.")] = 0.0,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    out: Annotated[Optional[Path], typer.Option("--out", "-o", help="The pipeline file to write, tuned.")] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Find the fastest workers, threads and prefetch by measurement. The identity stays: checkpoints are valid."""
    from ecopipe.cli import profiling

    profiling.tuned(
        pipeline,
        set_ or [],
        memory=memory,
        seconds=seconds,
        consumer_ms=consumer,
        device=device,
        out=out,
        as_json=json_,
    )


@app.command()
def audit(
    ledgers: Annotated[list[Path], typer.Argument(help="Ledger folders or files, of all ranks and restarts.")],
    index_: Annotated[
        list[str],
        typer.Option("--index", metavar="[NAME=]PATH", help="The shards that were streamed. NAME= for each of a Mix."),
    ],
    epochs: Annotated[Optional[int], typer.Option(min=1, help="So many epochs must be finished.")] = None,
    most: Annotated[int, typer.Option(min=0, help="Problems to list.")] = 50,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Compare what the trainer took with the plan, over all ranks and restarts. Exits with 1 if they differ."""
    from ecopipe.cli import auditing

    if auditing.audited(ledgers, index_, epochs=epochs, most=most, as_json=json_):
        raise typer.Exit(EXIT_PROBLEMS)


@app.command()
def stats(
    pipeline: PipelineFile,
    set_: Annotated[
        Optional[list[str]], typer.Option("--set", metavar="NAME.KEY=VALUE", help="Replace a setting. May be repeated.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The JSON file to write.")] = Path("stats.json"),
    field: Annotated[str, typer.Option(help="The features to measure.")] = "features",
    workers: Annotated[int, typer.Option(help="Worker processes; 0 works in this one.")] = 0,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs to stream; more than one if features are random.")] = 1,
    limit_batches: Annotated[Optional[int], typer.Option(min=1, help="Stop after so many batches.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    overwrite: Annotated[bool, typer.Option(help="Replace the file if it is there already.")] = False,
) -> None:
    """Measure mean and deviation of a pipeline's features, before any CMVN or SpecAugment, for CMVN(stats=...)."""
    from ecopipe.cli import statistics

    statistics.measure(
        pipeline,
        set_ or [],
        out=out,
        field=field,
        workers=workers,
        epochs=epochs,
        limit_batches=limit_batches,
        device=device,
        overwrite=overwrite,
    )


@app.command()
def vocab(
    pipeline: Annotated[
        Path,
        typer.Argument(help="A pipeline file with a tokenizer of words: pipelines/imdb.toml.", callback=check_file),
    ],
    set_: Annotated[
        Optional[list[str]], typer.Option("--set", metavar="NAME.KEY=VALUE", help="Replace a setting. May be repeated.")
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The file to write: JSON, or a word a line if its name is not .json.")
    ] = Path("vocab.json"),
    special: Annotated[
        Optional[list[str]], typer.Option(help="A token that is there anyway; default <pad>, <unk>. May be repeated.")
    ] = None,
    specials_last: Annotated[bool, typer.Option(help="Number the specials last instead of first.")] = False,
    default: Annotated[str, typer.Option(help="The special that stands for unknown words; '' for an error.")] = "<unk>",
    min_freq: Annotated[int, typer.Option(min=1, help="Leave out words that occur less often.")] = 1,
    max_tokens: Annotated[Optional[int], typer.Option(min=1, help="Entries at most, specials among them.")] = None,
    max_size: Annotated[Optional[int], typer.Option(min=1, help="Entries at most, beside the specials.")] = None,
    workers: Annotated[int, typer.Option(min=0, help="Worker processes; 0 works in this one.")] = 0,
    overwrite: Annotated[bool, typer.Option(help="Replace the file if it is there already.")] = False,
) -> None:
    """Count the words of a pipeline's corpus, and write their vocabulary, the most frequent first."""
    from ecopipe.cli import vocabularies

    vocabularies.build(
        pipeline,
        set_ or [],
        out=out,
        specials=special if special is not None else ["<pad>", "<unk>"],
        specials_last=specials_last,
        default=default,
        min_freq=min_freq,
        max_tokens=max_tokens,
        max_size=max_size,
        workers=workers,
        overwrite=overwrite,
    )


@app.command("train-tokenizer")
def train_tokenizer(
    pipeline: Annotated[
        Path,
        typer.Argument(help="A pipeline file with any tokenizer, which says where the text is.", callback=check_file),
    ],
    set_: Annotated[
        Optional[list[str]], typer.Option("--set", metavar="NAME.KEY=VALUE", help="Replace a setting. May be repeated.")
    ] = None,
    kind: Annotated[Subwords, typer.Option(help="How words are taken apart.")] = Subwords.bpe,
    size: Annotated[int, typer.Option(min=1, help="Tokens at most, special ones among them.")] = 8000,
    out: Annotated[Path, typer.Option("--out", "-o", help="The JSON file to write.")] = Path("tokenizer.json"),
    special: Annotated[
        Optional[list[str]], typer.Option(help="A special token beside <pad> (0) and <unk> (1). May be repeated.")
    ] = None,
    lowercase: Annotated[bool, typer.Option(help="Lower-case the text.")] = False,
    workers: Annotated[int, typer.Option(min=0, help="Worker processes; 0 works in this one.")] = 0,
    overwrite: Annotated[bool, typer.Option(help="Replace the file if it is there already.")] = False,
) -> None:
    """Train BPE, WordPiece or Unigram on the texts of a pipeline's corpus, for TokenizeJson."""
    from ecopipe.cli import vocabularies

    vocabularies.train(
        pipeline,
        set_ or [],
        kind=kind.value,
        size=size,
        out=out,
        specials=special or [],
        lowercase=lowercase,
        workers=workers,
        overwrite=overwrite,
    )


@app.command()
def simulate(
    pipeline: PipelineFile,
    set_: Annotated[
        Optional[list[str]], typer.Option("--set", metavar="NAME.KEY=VALUE", help="Replace a setting. May be repeated.")
    ] = None,
    ranks: Annotated[int, typer.Option(help="Ranks of the run.")] = 1,
    ranks_per_host: Annotated[int, typer.Option(help="Ranks that share a host, its network and its cache.")] = 8,
    workers: Annotated[int, typer.Option(help="Worker processes of each rank.")] = 0,
    tail: Annotated[
        Tail, typer.Option(help="Last step without a batch for every rank: repeat one, or drop it.")
    ] = Tail.repeat,
    cache: Annotated[
        Optional[str], typer.Option(help="Cache of each host, such as 2TB; without it nothing is kept.")
    ] = None,
    network: Annotated[
        Optional[str], typer.Option(help="What each host receives: 10GBps and 800MB/s are bytes, 100Gbps is bits.")
    ] = None,
    epochs: Annotated[int, typer.Option(help="Epochs, the cache empty before the first.")] = 1,
    seed: Annotated[int, typer.Option(help="Seed of the order.")] = 0,
    blocks: Annotated[int, typer.Option(help="Blocks to plan at most; the rest is estimated from them.")] = 128,
    samples: Annotated[Optional[str], typer.Option(help="Make a corpus up, of so many samples, such as 1e8.")] = None,
    shards: Annotated[Optional[str], typer.Option(help="Its shards; default: of 256 MiB.")] = None,
    like: Annotated[
        Optional[str], typer.Option(help="Shards whose rows its samples are drawn from; default: the pipeline's.")
    ] = None,
    lengths: Annotated[
        Optional[str], typer.Option(metavar="MEDIAN:SIGMA", help="Or draw lengths from a log-normal distribution.")
    ] = None,
    sample_bytes: Annotated[
        Optional[str], typer.Option(help="With --lengths: mean bytes of a sample, such as 200kB.")
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Predict what a run of many ranks fetches, delivers and costs to plan, from the index; no payload is read."""
    from ecopipe.cli import simulating

    simulating.simulated(
        pipeline,
        set_ or [],
        ranks=ranks,
        ranks_per_host=ranks_per_host,
        workers=workers,
        tail=tail.value,
        cache=cache,
        network=network,
        epochs=epochs,
        seed=seed,
        blocks=blocks,
        samples=samples,
        shards=shards,
        like_=like,
        lengths=lengths,
        sample_bytes=sample_bytes,
        as_json=json_,
    )


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="The folder to work in.")] = Path("shards/demo"),
    workers: Annotated[int, typer.Option(min=0, help="Worker processes.")] = 2,
) -> None:
    """Make three small corpora, shard them, stream them, and show what came."""
    from ecopipe.cli import demonstration

    demonstration.demo(out, workers)

"""``ecopipe``: the commands, their options, and how errors are told. What they do is imported when it is asked for."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from enum import Enum
from pathlib import Path
from types import FrameType
from typing import Annotated, Optional

import typer

from ecopipe import __version__
from ecopipe.vocabulary.errors import EcopipeError, SampleError

app = typer.Typer(
    name="ecopipe",
    help="Shard corpora into WebDataset tars, and stream them into device-ready batches whose order is a value.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

EXIT_PROBLEMS = 1
EXIT_ERROR = 2
EXIT_INTERRUPTED = 130


class Storage(str, Enum):
    """How images are stored."""

    png = "png"
    raw = "raw"


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


def _version(value: bool) -> None:
    if value:
        typer.echo(f"ecopipe {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
    show_traceback: Annotated[bool, typer.Option("--traceback", help="Show where an error arose.")] = False,
) -> None:
    """Options of every command. ``--traceback`` is read in :func:`main`, wherever it stands."""


@app.command()
def shard(
    corpus: Annotated[str, typer.Argument(help="What it is, such as librispeech; 'ecopipe datasets' lists them.")],
    source: Annotated[Path, typer.Argument(help="The corpus: its folder, its archive as downloaded, or its file.")],
    out: Annotated[Path, typer.Argument(help="The folder to write to, one folder per split.")],
    split: Annotated[Optional[list[str]], typer.Option(help="Only this split. May be repeated.")] = None,
    max_bytes: Annotated[str, typer.Option(help="Bytes per shard at most, such as 256MiB or 1GB.")] = "256MiB",
    max_count: Annotated[Optional[int], typer.Option(help="Samples per shard at most.")] = None,
    option: Annotated[
        Optional[list[str]],
        typer.Option(metavar="KEY=VALUE", help="A setting of the corpus's reader. May be repeated."),
    ] = None,
    storage: Annotated[
        Optional[Storage], typer.Option(help="Arrays of pixels: store PNG (default), or the raw array (.npy).")
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace splits that are there already.")] = False,
) -> None:
    """Write a raw corpus as WebDataset tars with an index."""
    from ecopipe.cli import sharding

    sharding.shard(
        corpus,
        source,
        out,
        splits=split,
        max_bytes=max_bytes,
        max_count=max_count,
        options=option or [],
        storage=storage.value if storage else None,
        overwrite=overwrite,
    )


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
) -> None:
    """Index WebDataset tars, so that they can be planned. What is known of other tars beside them is kept."""
    from ecopipe.cli import sharding

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
def stream(
    pipeline: Annotated[Path, typer.Argument(help="A pipeline file, such as pipelines/librispeech.toml.")],
    set_: Annotated[
        Optional[list[str]], typer.Option("--set", metavar="NAME.KEY=VALUE", help="Replace a setting. May be repeated.")
    ] = None,
    workers: Annotated[int, typer.Option(help="Worker processes; 0 works in this one.")] = 0,
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
    digest: Annotated[bool, typer.Option(help="Hash what is delivered.")] = True,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line.")] = False,
) -> None:
    """Stream a pipeline and say what came and how fast."""
    from ecopipe.cli import streaming

    streaming.stream(
        pipeline,
        set_ or [],
        workers=workers,
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
    pipeline: Annotated[Path, typer.Argument(help="A pipeline file, such as pipelines/librispeech.toml.")],
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
    pipeline: Annotated[Path, typer.Argument(help="A pipeline file with a tokenizer of words: pipelines/imdb.toml.")],
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
    pipeline: Annotated[Path, typer.Argument(help="A pipeline file with any tokenizer, which says where the text is.")],
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
def demo(
    out: Annotated[Path, typer.Option(help="The folder to work in.")] = Path("shards/demo"),
    workers: Annotated[int, typer.Option(min=0, help="Worker processes.")] = 2,
) -> None:
    """Make three small corpora, shard them, stream them, and show what came."""
    from ecopipe.cli import demonstration

    demonstration.demo(out, workers)


def main() -> None:
    """Runs the command line: an error is one message and exit code 2; ``--traceback`` shows where it arose."""
    show_traceback = "--traceback" in sys.argv
    sys.argv = [argument for argument in sys.argv if argument != "--traceback"]
    signal.signal(signal.SIGTERM, _terminated)
    try:
        app()
    except SystemExit as left:
        if left.code == EXIT_INTERRUPTED:
            print("ecopipe: interrupted.", file=sys.stderr)
        raise
    except EcopipeError as error:
        if show_traceback:
            traceback.print_exc()
            if isinstance(error, SampleError) and error.details:
                print(f"\nIn the worker:\n{error.details}", file=sys.stderr)
        else:
            print(f"ecopipe: {error}", file=sys.stderr)
        _leave(EXIT_ERROR)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        _leave(EXIT_PROBLEMS)
    except OSError as error:
        if show_traceback:
            traceback.print_exc()
        where = f"{error.filename}: " if error.filename else ""
        print(
            f"ecopipe: {where}{error.strerror or error}. Check the disk, the paths and where the output goes.",
            file=sys.stderr,
        )
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        _leave(EXIT_ERROR)


def _terminated(number: int, _frame: FrameType | None) -> None:
    """Ends as if the program had reached its end, so that nothing half-written is left."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler would raise over the workers, which end too
    sys.exit(128 + number)


def _leave(code: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    sys.exit(code)

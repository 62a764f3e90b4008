"""The application that commands are added to, and its own options."""

from __future__ import annotations

from typing import Annotated

import typer

from ecopipe import __version__

app = typer.Typer(
    name="ecopipe",
    help="Shard corpora into WebDataset tars, and stream them into device-ready batches whose order is a value.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # boxes would be a third of the time to an answer
    context_settings={"help_option_names": ["-h", "--help"]},
)

EXIT_PROBLEMS = 1
EXIT_ERROR = 2
EXIT_INTERRUPTED = 130


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

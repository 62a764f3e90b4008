"""``ecopipe download``."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table

from ecopipe.cli.progress import stderr
from ecopipe.datasets.addresses import ALL, PUBLICATIONS, Address, Publication, publication, total_size
from ecopipe.datasets.corpus import reader_of
from ecopipe.storage.fetch import checksum_of, fetch, is_fetched, part_of, remote_size
from ecopipe.storage.files import join
from ecopipe.storage.retries import without_credentials
from ecopipe.vocabulary.errors import CorpusError, OutputError

_NOTE = f"""\
Fetch:  ecopipe download NAME [PART...] [--to DIR]; the part {ALL!r} is every part
Shard:  what to run then is said when it is done; 'ecopipe datasets NAME' tells more of a corpus"""


@dataclass(frozen=True)
class _Item:
    """A file to fetch; ``size`` in bytes, None if even its server does not tell."""

    address: Address
    url: str
    target: Path
    size: int | None


def listing(names: Sequence[str]) -> None:
    """Prints what there is: the parts of each corpus, their sizes, kinds of checksum, and the licence."""
    table = Table(show_lines=True)
    table.add_column("name", no_wrap=True)
    table.add_column("parts (* without naming any), size, checksum; licence")
    for each in [publication(name) for name in names or PUBLICATIONS]:
        lines = []
        for part, files in each.parts.items():
            kinds = dict.fromkeys(_kind(file) for file in files)
            mark = "*" if part in each.default else " "
            lines.append(f"{mark} {part}: {_size(total_size(files), 'size asked of the server')}, {', '.join(kinds)}")
        table.add_row(each.corpus, "\n".join([*lines, f"licence: {_licence(each)}"]))
    Console().print(table)
    print(_NOTE)


def download(name: str, parts: Sequence[str], *, to: Path | None, mirror: str | None) -> None:
    """Fetches what is not there yet, and says what comes next."""
    chosen = publication(name)
    names = chosen.choose(parts)
    folder = to if to is not None else Path("corpora") / name
    files = [file for part in names for file in chosen.parts[part]]
    if all(is_fetched(folder / file.name, file.size) for file in files):
        print(f"{name}: {_count(files)} complete in {folder}.")
        return
    items = [_item(file, folder, mirror) for file in files]
    _announce(chosen, items, folder)
    _check_space(items, folder)
    try:
        for item in items:
            _fetch(item)
    except (KeyboardInterrupt, SystemExit):
        print("What has come is kept; the same command goes on from there.", file=sys.stderr)
        raise
    print(f"{name}: {_count(files)} complete in {folder}. Next:")
    for command in _next(chosen, names, folder):
        print(f"  {command}")


def verify(name: str, parts: Sequence[str], *, to: Path | None) -> int:
    """Compares what is there with its checksum; how many files of the parts that are named or begun are not right.

    Raises:
        CorpusError: Nothing is there.
    """
    chosen = publication(name)
    folder = to if to is not None else Path("corpora") / name
    begun = tuple(part for part, files in chosen.parts.items() if any((folder / file.name).exists() for file in files))
    named = chosen.choose(parts) if parts else begun
    if not named:
        raise CorpusError(f"{folder} holds nothing of {name}. Fetch it without --verify, or give its folder with --to.")
    return sum(not _is_right(file, folder / file.name) for part in named for file in chosen.parts[part])


def _is_right(address: Address, target: Path) -> bool:
    if not target.exists():
        print(f"{target}: missing.")
        return False
    with _bar() as progress:
        task = progress.add_task(address.name, total=address.size)
        found = checksum_of(
            target, address.checksum, lambda done, total: progress.update(task, completed=done, total=total)
        )
    if found == address.checksum:
        print(f"{target}: as published ({_kind(address)}).")
        return True
    print(
        f"{target}: is not the published file: its checksum is {found}, where {address.checksum} was expected. Remove "
        "it, and fetch it again."
    )
    return False


def _item(address: Address, folder: Path, mirror: str | None) -> _Item:
    url = join(mirror, address.name) if mirror else address.url
    target = folder / address.name
    size = address.size
    if size is None:
        size = target.stat().st_size if target.exists() else remote_size(url)
    return _Item(address, url, target, size)


def _announce(chosen: Publication, items: Sequence[_Item], folder: Path) -> None:
    missing = [item for item in items if not item.target.exists()]
    amount = _size(sum(item.size or 0 for item in missing))
    if any(item.size is None for item in missing):
        amount += " and what the server does not tell"
    hosts = dict.fromkeys(without_credentials(item.url).rsplit("/", 1)[0] for item in missing)
    print(f"{chosen.corpus}: {_count(missing)} to fetch, {amount}, from {', '.join(hosts)} to {folder}")
    for item in items:
        kept = _kept(item)
        state = ", is there" if item.target.exists() else f", {_size(kept)} of it came before" if kept else ""
        print(f"  {item.target.name}: {_size(item.size)}, {_kind(item.address)}{state}")
    print(f"licence: {_licence(chosen)}", flush=True)


def _kept(item: _Item) -> int:
    """Bytes that an earlier run has left."""
    part = part_of(item.target)
    return part.stat().st_size if part.exists() else 0


def _check_space(items: Sequence[_Item], folder: Path) -> None:
    needed = sum((item.size or 0) - _kept(item) for item in items if not item.target.exists())
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise OutputError(
            f"{folder}: {_size(needed)} are to be fetched, and the disk has {_size(free)} free. Free some, or choose "
            "another folder with --to, or fewer parts."
        )


def _fetch(item: _Item) -> None:
    with _bar() as progress:
        task = progress.add_task(item.target.name, total=item.size, completed=_kept(item))
        came = fetch(
            item.url,
            item.target,
            size=item.size,
            checksum=item.address.checksum,
            progress=lambda done, total: progress.update(task, completed=done, total=total),
            say=lambda sentence: print(sentence, file=sys.stderr, flush=True),
        )
    if came:
        size = item.target.stat().st_size
        print(f"{item.target.name}: {_size(size)}, {_kind(item.address)} as published.", flush=True)


def _next(chosen: Publication, names: Sequence[str], folder: Path) -> list[str]:
    """The commands that shard what was fetched."""
    shards = f"shards/{chosen.corpus}"
    if chosen.folder:
        places = [(folder, shards)]
    else:
        places = [
            (folder / file.name, f"{shards}-{part}" if chosen.versions and part not in chosen.default else shards)
            for part in names
            for file in chosen.parts[part]
        ]
    return [shlex.join(["ecopipe", "shard", chosen.corpus, str(source), out]) for source, out in places]


def _bar() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=stderr,
        transient=True,
        disable=not stderr.is_terminal,
    )


def _licence(chosen: Publication) -> str:
    return reader_of(chosen.corpus).licence


def _size(size: int | None, unknown: str = "size unknown") -> str:
    return unknown if size is None else decimal(size)


def _kind(address: Address) -> str:
    """The kind of checksum of a file, such as SHA256."""
    return address.checksum.partition(":")[0].upper()


def _count(things: Sequence[object]) -> str:
    return f"{len(things)} file{'' if len(things) == 1 else 's'}"

"""The files of a table: which there are, and which of them are a split together."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from ecopipe.vocabulary.errors import CorpusError

_ENDINGS = re.compile(r"(\.(csv|tsv|jsonl|ndjson|json|parquet|txt|gz))+$", re.IGNORECASE)
_PART = re.compile(r"(?P<split>.+?)-(?P<number>\d+)-of-(?P<total>\d+)")


def find_files(path: Path, endings: tuple[str, ...]) -> list[Path]:
    """The file, or those of the folder and of its ``data/`` that have one of the endings, by split and part.

    Raises:
        CorpusError: There are none, a part of a split is missing, or two files would be the same part of a split.
    """
    if path.is_file():
        return [path]
    if not path.exists():
        raise CorpusError(f"{path} does not exist. Check the path.")
    places = sorted(path.iterdir()) + sorted((path / "data").iterdir() if (path / "data").is_dir() else [])
    files = [place for place in places if place.is_file() and place.name.lower().endswith(endings)]
    if not files:
        shown = ", ".join(place.name for place in places[:8]) or "nothing"
        raise CorpusError(f"{path} holds no file that ends in {' or '.join(endings)}. It holds: {shown}.")
    splits: dict[str, list[Path]] = {}
    for file in sorted(files, key=lambda file: (split_of(file), _part(file), str(file))):
        splits.setdefault(split_of(file), []).append(file)
    for split, parts in splits.items():
        _check(split, parts)
    return [file for parts in splits.values() for file in parts]


def split_of(file: Path) -> str:
    """The split that a file is, or is a part of: ``train`` for ``train.csv.gz`` and ``train-00000-of-00002.csv``."""
    stem = _ENDINGS.sub("", file.name)
    match = _PART.fullmatch(stem)
    return re.sub(r"[^\w-]+", "-", match["split"] if match else stem).strip("-") or "all"


def _part(file: Path) -> tuple[int, int]:
    """The number of the part, from 0, and of how many; a whole file is 0 of 1."""
    match = _PART.fullmatch(_ENDINGS.sub("", file.name))
    return (int(match["number"]), int(match["total"])) if match else (0, 1)


def _check(split: str, files: Sequence[Path]) -> None:
    _, total = _part(files[0])
    seen: dict[int, Path] = {}
    for file in files:
        number, of = _part(file)
        if of != total or number in seen:
            raise CorpusError(
                f"{seen.get(number, files[0])} and {file} would both be the split {split!r}, and rows could be in it "
                f"twice. Move one of them away, rename it, or give the path of one file."
            )
        if number >= total:
            raise CorpusError(f"{file} is no part of {total}: parts are counted from 0. Rename it.")
        seen[number] = file
    missing = next((number for number in range(total) if number not in seen), None)
    if missing is not None:
        raise CorpusError(
            f"{files[0].parent}: the split {split!r} has {len(files):,} of {total:,} parts: "
            f"{split}-{missing:05d}-of-{total:05d} is missing. Fetch it, or give the path of one file."
        )

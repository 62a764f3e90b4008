"""The files of a table: which there are, and which of them are a split together."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ecopipe.datasets.folders import is_folder, list_folder
from ecopipe.storage import files
from ecopipe.storage.retries import without_credentials
from ecopipe.vocabulary.errors import CorpusError

_ENDINGS = re.compile(r"(\.(csv|tsv|jsonl|ndjson|json|parquet|txt|gz))+$", re.IGNORECASE)
_PART = re.compile(r"(?P<split>.+?)-(?P<number>\d+)-of-(?P<total>\d+)")


def find_files(path: str, endings: tuple[str, ...]) -> list[str]:
    """The file, or those of the folder and of its ``data/`` that have one of the endings, by split and part.

    Args:
        path: A path or a URL.
        endings: In lower case.

    Raises:
        CorpusError: There are none, a part of a split is missing, or two files would be the same part of a split.
    """
    if not files.exists(path):
        raise CorpusError(f"{shown(path)} does not exist. Check the path.")
    if not is_folder(path):
        return [path]
    names = [name for name in list_folder(path, 2) if "/" not in name or name.startswith("data/")]
    found = [files.join(path, name) for name in names if name.lower().endswith(endings)]
    if not found:
        held = ", ".join(sorted(names)[:8]) or "nothing"
        raise CorpusError(f"{shown(path)} holds no file that ends in {' or '.join(endings)}. It holds: {held}.")
    splits: dict[str, list[str]] = {}
    for file in sorted(found, key=lambda file: (split_of(file), _part(file), file)):
        splits.setdefault(split_of(file), []).append(file)
    for split, parts in splits.items():
        _check(split, parts)
    return [file for parts in splits.values() for file in parts]


def shown(path: str) -> str:
    """A path or URL as messages show it."""
    return without_credentials(path) if files.is_url(path) else path


def split_of(file: str) -> str:
    """The split that a file is, or is a part of: ``train`` for ``train.csv.gz`` and ``train-00000-of-00002.csv``."""
    stem = _ENDINGS.sub("", files.base_name(file))
    match = _PART.fullmatch(stem)
    return re.sub(r"[^\w-]+", "-", match["split"] if match else stem).strip("-") or "all"


def _part(file: str) -> tuple[int, int]:
    """The number of the part, from 0, and of how many; a whole file is 0 of 1."""
    match = _PART.fullmatch(_ENDINGS.sub("", files.base_name(file)))
    return (int(match["number"]), int(match["total"])) if match else (0, 1)


def _check(split: str, parts: Sequence[str]) -> None:
    _, total = _part(parts[0])
    seen: dict[int, str] = {}
    for file in parts:
        number, of = _part(file)
        if of != total or number in seen:
            raise CorpusError(
                f"{seen.get(number, parts[0])} and {file} would both be the split {split!r}, and rows could be in it "
                f"twice. Move one of them away, rename it, or give the path of one file."
            )
        if number >= total:
            raise CorpusError(f"{file} is no part of {total}: parts are counted from 0. Rename it.")
        seen[number] = file
    missing = next((number for number in range(total) if number not in seen), None)
    if missing is not None:
        raise CorpusError(
            f"{files.parent(parts[0])}: the split {split!r} has {len(parts):,} of {total:,} parts: "
            f"{split}-{missing:05d}-of-{total:05d} is missing. Fetch it, or give the path of one file."
        )

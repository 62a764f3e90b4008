"""Folders of WebDataset tars: finding, indexing and verifying them."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow.compute as pc
from zlib_ng.zlib_ng import crc32

from ecopipe.formats import index as index_format
from ecopipe.formats import tar as tar_format
from ecopipe.formats.index import IndexFile, IndexWriter, Row, digest_rows
from ecopipe.formats.index_arrays import of_texts
from ecopipe.formats.measures import measure
from ecopipe.storage import files, remote
from ecopipe.vocabulary import errors
from ecopipe.vocabulary.json_text import parse_json_object

Progress = Callable[[int], None]
"""Called with the number of bytes done since the last call."""


DESCRIPTION = "dataset.json"
MOST_BYTES = 1 << 24
"""Bytes of a dataset.json at most; what is larger is none."""


def silent(_bytes: int) -> None:
    """No progress is shown."""


def find_tars(path: str) -> list[str]:
    """The tars that a folder, a file or a glob pattern names, sorted.

    Raises:
        ShardError: There are none; the message names what is there instead.
    """
    if any(mark in path for mark in "*?[") and not files.exists(path):
        found = [name for name in files.find(path) if name.endswith(".tar")]
        if not found:
            raise errors.ShardError(f"{path}: no .tar file matches. Check the pattern.")
        return found
    if not files.exists(path):
        raise errors.ShardError(
            f"{path}: there is no such file or folder. Check the path, or shard a corpus to it first."
        )
    if not files.is_folder(path):
        if path.endswith((".tar.gz", ".tgz", ".tar.zst", ".tar.xz", ".tar.bz2")):
            raise errors.ShardError(
                f"{path}: is compressed; its samples cannot be read at random. Decompress it first."
            )
        if not path.endswith(".tar"):
            raise errors.ShardError(f"{path}: is no .tar file. Name tars, or a folder of tars.")
        return [path]
    found = tars_in(path)
    if found:
        return found
    splits = sorted(files.parent(name) for name in tars_in(path, below="*/"))
    if splits:
        choices = ", ".join(dict.fromkeys(splits))
        raise errors.ShardError(f"{path}: holds no tars itself, but its folders do. Choose one or more of: {choices}.")
    raise errors.ShardError(f"{path}: the folder holds no .tar files. Shard a corpus to it, or check the path.")


def tars_in(folder: str, below: str = "") -> list[str]:
    """The tars that a folder holds, sorted; those of its folders with ``below="*/"``."""
    return files.find(files.join(_literal(folder), f"{below}*.tar"))


def _literal(path: str) -> str:
    """A path as a pattern that matches it alone."""
    return path if files.is_url(path) else glob.escape(path)


def index_path(folder: str) -> str:
    """Where the index of a folder lies: beside the tars, or in the user's cache if the folder cannot be written."""
    beside = files.join(folder, index_format.FILE_NAME)
    if files.exists(beside) or (not files.is_url(folder) and os.access(folder or ".", os.W_OK)):
        return beside
    cache = os.environ.get("ECOPIPE_CACHE") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "ecopipe"
    )
    absolute = folder if files.is_url(folder) else os.path.abspath(folder)
    return os.path.join(cache, "index", hashlib.blake2b(absolute.encode(), digest_size=12).hexdigest() + ".arrow")


def scan_rows(path: str, progress: Progress = silent) -> tuple[int, list[Row]]:
    """The size of a tar, and an index row for each of its samples. Reads the whole tar.

    Raises:
        ShardError: The tar is damaged, or a member's header is.
    """
    rows, done = [], 0
    try:
        opened_tar = files.open_binary(path)
    except OSError as error:
        raise errors.ShardError(f"{path}: cannot be read: {error.strerror or error}. Check the file.") from error
    with opened_tar as file:
        for entry in tar_format.scan(file, path):
            try:
                measures = measure(entry.payloads)
            except ValueError as error:
                raise errors.ShardError(
                    f"{path}: sample {entry.key!r}: {error}. Mend the sample, or leave it out."
                ) from error
            rows.append(Row(entry.key, entry.members, measures))
            end = max(member.offset + member.size for member in entry.members)
            progress(end - done)
            done = end
    size = files.size_of(path)
    progress(size - done)
    return size, rows


def index_folder(folder: str, tars: Sequence[str], progress: Progress = silent) -> str:
    """Indexes some tars of one folder.

    What the folder's index says of its other tars is kept, and so are the corpus's own columns (speaker, rating, ...)
    of tars that hold what they held.

    Returns:
        The path of the index.
    """
    target = index_path(folder)
    names = {files.base_name(path): path for path in tars}
    with contextlib.ExitStack() as stack:
        old = stack.enter_context(opened(target)) if files.exists(target) else None
        numbers = {} if old is None else {shard.name: number for number, shard in enumerate(old.shards)}
        kept = [name for name in numbers if name not in names and files.exists(files.join(folder, name))]
        temporary = stack.enter_context(remote.published(target))
        writer = IndexWriter(temporary, extras=old.extras if old else None, made_by=old.made_by if old else "")
        try:
            for name in sorted([*names, *kept]):
                number = numbers.get(name)
                if name in names:
                    size, rows = scan_rows(names[name], progress)
                    writer.add(name, size, rows if old is None or number is None else _with_extras(rows, old, number))
                elif old is not None and number is not None:
                    writer.add_table(old.shards[number], old.read(number, 0, old.shards[number].rows))
        except BaseException:
            writer.abandon()
            raise
        writer.finish()
    return target


def _with_extras(rows: list[Row], old: IndexFile, number: int) -> list[Row]:
    """Rows with the corpus's own columns of the old index, if the shard holds what it held."""
    extras = old.read(number, 0, old.shards[number].rows, ("key", *old.extras)).to_pylist()
    known = {row.pop("key"): row for row in extras}
    merged = [Row(row.key, row.members, {**row.measures, **known.get(row.key, {})}) for row in rows]
    return merged if digest_rows(merged) == old.shards[number].digest else rows


def index_tars(tars: Sequence[str], progress: Progress = silent) -> list[str]:
    """Indexes tars, folder by folder; the paths of the indexes."""
    return [index_folder(folder, names, progress) for folder, names in by_folder(tars).items()]


def by_folder(tars: Sequence[str]) -> dict[str, list[str]]:
    """Tars by the folder that holds them."""
    folders: dict[str, list[str]] = {}
    for path in tars:
        folders.setdefault(files.parent(path), []).append(path)
    return folders


def open_index(path: str) -> IndexFile:
    """An index by path or URL."""
    return IndexFile(path, files.open_binary(path) if files.is_url(path) else None)


@contextlib.contextmanager
def opened(path: str) -> Iterator[IndexFile]:
    """An index, open for the length of a with block."""
    index = open_index(path)
    try:
        yield index
    finally:
        index.close()


def not_indexed(paths: Sequence[str]) -> list[str]:
    """Tars that paths name and that no index lists yet."""
    return unlisted(by_folder([tar for path in paths for tar in find_tars(path)]))


def unlisted(folders: Mapping[str, Sequence[str]]) -> list[str]:
    """Tars, given by the folder that holds them, that no index lists yet."""
    found = []
    for folder, tars in folders.items():
        target = index_path(folder)
        listed = of_texts(())
        if files.exists(target):
            with opened(target) as index:
                listed = index.shards.table["name"].combine_chunks()
        known = pc.is_in(of_texts(map(files.base_name, tars)), value_set=listed)
        found += [tar for tar, is_known in zip(tars, known.to_pylist(), strict=True) if not is_known]
    return found


def check_members(path: str, key: str, members: Sequence[Mapping[str, Any]], payloads: Sequence[bytes]) -> None:
    """Compares what was read of a sample with the CRC-32s of its index row.

    Raises:
        ShardError: A member is not what was indexed.
    """
    for member, payload in zip(members, payloads, strict=True):
        if crc32(payload) != member["crc32"]:
            raise errors.ShardError(
                f"{path}: sample {key!r} member {member['extension']!r} is not what was indexed (its CRC-32 differs): "
                "the shard was damaged or replaced. Restore it, or run 'ecopipe index' on it."
            )


def described(folder: str) -> dict[str, Any]:
    """What the dataset.json of a folder says; empty if there is none that can be read."""
    path = files.join(folder, DESCRIPTION)
    if not files.exists(path):
        return {}
    with files.open_binary(path) as file:
        data = file.read(MOST_BYTES + 1)
    try:
        return parse_json_object(data) if len(data) <= MOST_BYTES else {}
    except ValueError:
        return {}


@dataclass(frozen=True)
class Problem:
    """One thing that verifying found: the shard, the sample and member (empty for a shard), and what is wrong."""

    shard: str
    key: str
    extension: str
    what: str


@dataclass
class Verified:
    """What verifying did: counts, and the problems found."""

    shards: int = 0
    samples: int = 0
    members: int = 0
    bytes: int = 0
    problems: list[Problem] = field(default_factory=list)


def indexed_folders(path: str) -> list[str]:
    """Folders at or one below ``path`` that hold an index or tars."""
    if not files.exists(path):
        raise errors.ShardError(f"{path}: there is no such folder. Check the path.")
    if not files.is_folder(path):
        raise errors.ShardError(f"{path}: is a file. Give the folder that holds the shards.")
    here = []
    for pattern in (index_format.FILE_NAME, "*.tar", f"*/{index_format.FILE_NAME}", "*/*.tar"):
        here += [files.parent(name) for name in files.find(files.join(_literal(path), pattern))]
    if not here:
        raise errors.ShardError(f"{path}: holds no shards. Give a folder that 'ecopipe shard' or 'ecopipe index' made.")
    return sorted(set(here))


def verify_folder(folder: str, progress: Progress = silent) -> Verified:
    """Compares every member of every shard of a folder with the CRC-32 that the index holds."""
    result = Verified()
    target = index_path(folder)
    if not files.exists(target):
        raise errors.IndexFileError(f"{folder}: holds tars and no index. Run 'ecopipe index {folder}/*.tar' first.")
    present = {files.base_name(path): path for path in tars_in(folder)}
    with opened(target) as index:
        for number, info in enumerate(index.shards):
            path = present.pop(info.name, None)
            if path is None:
                result.problems.append(Problem(files.join(folder, info.name), "", "", "the shard is missing"))
                continue
            _verify_shard(path, index, number, result, progress)
    for path in present.values():
        result.problems.append(Problem(path, "", "", "the shard is not in the index"))
    return result


def _verify_shard(path: str, index: IndexFile, number: int, result: Verified, progress: Progress) -> None:
    info = index.shards[number]
    size = files.size_of(path)
    if size != info.size:
        what = "it is truncated" if size < info.size else "it was replaced"
        result.problems.append(Problem(path, "", "", f"holds {size:,} bytes, the index says {info.size:,}: {what}"))
    result.shards += 1
    result.bytes += size
    done = 0
    with files.open_binary(path) as file:
        for start in range(0, info.rows, index_format.BATCH_ROWS):
            rows = index.read(number, start, min(start + index_format.BATCH_ROWS, info.rows))
            for key, members in zip(rows["key"].to_pylist(), rows["members"].to_pylist(), strict=True):
                result.samples += 1
                for member in members:
                    result.members += 1
                    if member["offset"] + member["size"] > size:
                        continue  # the shard is truncated, which is one problem, not one for each lost member
                    if wrong := _verify_member(file, member):
                        result.problems.append(Problem(path, key, member["extension"], wrong))
                    progress(member["offset"] + member["size"] - done)
                    done = member["offset"] + member["size"]
    progress(size - done)


def _verify_member(file: Any, member: Mapping[str, int]) -> str:
    file.seek(member["offset"] - tar_format.BLOCK)
    if (told := tar_format.header_size(file.read(tar_format.BLOCK))) != member["size"]:
        return "has a damaged header" if told is None else f"has {told:,} bytes, the index says {member['size']:,}"
    data = file.read(member["size"])
    if len(data) != member["size"]:
        return f"ends after {len(data):,} of {member['size']:,} bytes"
    if (crc := crc32(data)) != member["crc32"]:
        return f"has CRC-32 {crc:08x}, the index says {member['crc32']:08x}"
    return ""

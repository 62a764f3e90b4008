"""The utterances that every loader gets, and what lies between them and the disk.

``files`` holds one FLAC each, under a key; every loader's own format is made of these files. A small corpus is repeated
under other keys until there is enough of it: the same bytes again, each in its own place on the disk.
"""

from __future__ import annotations

import json
import os
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

RATE_HZ = 16_000
SHARDS = 8

BATCH = 32
"""Utterances in a batch of a loader that counts them: some 240 s of LibriSpeech, before padding."""

BATCH_S = 416.0
"""Padded seconds in a batch of a loader that buckets by length, at most."""


def make_files(source: Path, folder: Path, copies: int) -> dict[str, Any]:
    """Writes the utterances of a LibriSpeech tree, or of WebDataset tars, as files; says what they are.

    Raises:
        SystemExit: There is no FLAC.
    """
    folder.mkdir(parents=True)
    count = size = 0
    for key, data in _utterances(source):
        for copy in range(copies):
            (folder / f"{key.replace('/', '-')}-c{copy:03d}.flac").write_bytes(data)
        count, size = count + 1, size + len(data)
    if not count:
        raise SystemExit(f"{source}: no FLAC found; give a LibriSpeech tree, or a folder of WebDataset tars with flac")
    return {"utterances": count * copies, "bytes": size * copies, "copies": copies, "source": source.name}


def _utterances(source: Path) -> Iterator[tuple[str, bytes]]:
    tars = sorted(source.glob("*.tar"))
    for path in tars:
        with tarfile.open(path) as tar:
            for member in tar:
                if member.name.endswith(".flac"):
                    file = tar.extractfile(member)
                    if file is not None:
                        yield member.name.removesuffix(".flac"), file.read()
    for path in [] if tars else sorted(source.rglob("*.flac")):
        yield path.stem, path.read_bytes()


def files_of(folder: Path) -> list[Path]:
    """The files, in an order that mixes speakers and copies, but is the same for all."""
    return sorted((folder / "files").iterdir(), key=lambda path: zlib.crc32(path.name.encode()))


def dealt(folder: Path) -> Iterator[tuple[int, list[Path]]]:
    """The files of each shard."""
    files = files_of(folder)
    for shard in range(SHARDS):
        yield shard, files[shard::SHARDS]


def make_tars(folder: Path, out: Path) -> None:
    """Plain WebDataset tars."""
    out.mkdir(parents=True)
    for shard, files in dealt(folder):
        with tarfile.open(out / f"part-{shard:06d}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for path in files:
                tar.add(path, path.name, filter=_plain)


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = ""
    return member


def make_parquet(folder: Path, out: Path) -> None:
    """Parquet files with a column of bytes, uncompressed: FLAC is compressed already."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    out.mkdir(parents=True)
    for shard, files in dealt(folder):
        table = pa.table({"key": [path.stem for path in files], "flac": [path.read_bytes() for path in files]})
        pq.write_table(table, out / f"part-{shard:06d}.parquet", compression="none", row_group_size=32)


def drop_from_cache(folder: Path) -> None:
    """Writes what is not written yet, and asks the system to forget the files' pages (POSIX_FADV_DONTNEED)."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)


class Sum:
    """What was delivered, whatever its order and batches: utterances, samples, and the sum of their CRC-32 as int16."""

    def __init__(self) -> None:
        self.utterances = self.frames = self.crcs = 0

    def add(self, audio: Any, lengths: Any) -> None:
        """Takes a batch.

        Raises:
            ValueError: A row is not zero behind its end.
        """
        for row, length in zip(np.asarray(audio), np.asarray(lengths).tolist(), strict=True):
            if row[length:].any():
                raise ValueError("a padded batch is not zero behind the end of a row")
            values = row[:length] if row.dtype == np.int16 else np.rint(row[:length] * 32768).astype(np.int16)
            self.utterances, self.frames = self.utterances + 1, self.frames + length
            self.crcs = (self.crcs + zlib.crc32(values.tobytes())) % 2**64

    def figures(self) -> dict[str, int]:
        """The three numbers."""
        return {"utterances": self.utterances, "frames": self.frames, "crcs": self.crcs}


def truth(folder: Path) -> dict[str, int]:
    """The sum of the files themselves, by libsndfile; kept beside them."""
    kept = folder / "truth.json"
    if not kept.exists():
        import soundfile

        found = Sum()
        for path in files_of(folder):
            audio = soundfile.read(path, dtype="int16")[0]
            found.add(audio[None], [len(audio)])
        kept.write_text(json.dumps(found.figures()))
    figures: dict[str, int] = json.loads(kept.read_text())
    return figures

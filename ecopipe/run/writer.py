"""Writing shards: a corpus's samples into tars of bounded size, with their index, published whole or not at all."""

from __future__ import annotations

import contextlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from ecopipe.datasets.corpus import Corpus, RawSample
from ecopipe.formats import index as index_format
from ecopipe.formats.index import IndexWriter, Row
from ecopipe.formats.measures import measure
from ecopipe.formats.tar import TarWriter, sample_size
from ecopipe.storage.publish import publish_file, publish_folder
from ecopipe.vocabulary.errors import ConfigError, CorpusError, IndexFileError, OutputError, nearest

MAX_BYTES = 256 * 2**20
"""Bytes of a shard, by default: large enough for sequential reading, small enough to move and to shuffle."""

SUMMED = ("duration_s", "tokens", "chars")
"""Measures that a summary adds up."""

DESCRIPTION = "dataset.json"
MADE_BY = "ecopipe shard"

Progress = Callable[[int, int], None]
"""Called with (samples, bytes) written since the last call."""


@dataclass
class SplitSummary:
    """What was written of one split."""

    samples: int = 0
    shards: int = 0
    bytes: int = 0
    totals: dict[str, float] = field(default_factory=dict)
    labels: dict[str, int] = field(default_factory=dict)


class ShardWriter:
    """Writes samples into ``{prefix}-{number:06d}.tar`` files of one folder, and an index beside them.

    Args:
        folder: An existing folder.
        prefix: Beginning of the tars' names.
        max_bytes: A shard is closed before a sample that would take it over so many bytes. One larger sample makes a
            shard of its own.
        max_count: Samples per shard at most.
        extras: Columns of the index beside the measures: name -> Arrow type alias.
    """

    def __init__(
        self,
        folder: Path,
        prefix: str,
        *,
        max_bytes: int = MAX_BYTES,
        max_count: int | None = None,
        extras: Mapping[str, str] | None = None,
    ) -> None:
        if max_bytes < 1 or (max_count is not None and max_count < 1):
            raise ConfigError(f"shard: limits must be at least 1, got max_bytes={max_bytes}, max_count={max_count}.")
        self._folder, self._prefix = folder, prefix
        self._max_bytes, self._max_count = max_bytes, max_count
        self._index = IndexWriter(folder / index_format.FILE_NAME, extras=extras, made_by=MADE_BY)
        self._file: BinaryIO | None = None
        self._tar: TarWriter | None = None
        self._rows: list[Row] = []
        self._keys: set[str] = set()
        self._labels: Counter[int] = Counter()
        self.summary = SplitSummary()

    def add(self, sample: RawSample) -> int:
        """Appends a sample and returns its bytes in the tar.

        Raises:
            CorpusError: A member's header is damaged; the key holds a dot, or is another sample's in the shard.
        """
        if "." in sample.key.rpartition("/")[2] or sample.key in self._keys:
            raise CorpusError(
                f"sample {sample.key!r}: the key holds a dot, or another sample has it. Rename the sample."
            )
        try:
            measures = measure(sample.members)
        except ValueError as error:
            raise CorpusError(f"sample {sample.key!r}: {error}. Fetch its file again, or leave it out.") from error
        size = sample_size(sample.key, sample.members)
        full = self._tar is not None and self._tar.position + size > self._max_bytes
        if full or (self._max_count is not None and len(self._rows) >= self._max_count):
            self._close_shard()
        tar = self._tar or self._open_shard()
        before = tar.position
        members = tar.add(sample.key, sample.members)
        self._keys.add(sample.key)
        self._rows.append(Row(sample.key, members, {**measures, **sample.extras}))
        self._count(measures)
        return tar.position - before

    def _count(self, measures: Mapping[str, Any]) -> None:
        self.summary.samples += 1
        for name in SUMMED:
            if measures.get(name) is not None:
                self.summary.totals[name] = self.summary.totals.get(name, 0) + measures[name]
        if measures.get("label") is not None:
            self._labels[measures["label"]] += 1

    def _name(self) -> str:
        return f"{self._prefix}-{self.summary.shards:06d}.tar"

    def _open_shard(self) -> TarWriter:
        self._file = open(self._folder / self._name(), "wb")  # noqa: SIM115 - closed by _close_shard or abandon
        self._tar = TarWriter(self._file)
        return self._tar

    def _close_shard(self) -> None:
        if self._tar is None or self._file is None:
            return
        self._tar.finish()
        self._file.close()
        self._index.add(self._name(), self._tar.position, self._rows)
        self.summary.shards += 1
        self.summary.bytes += self._tar.position
        self._file, self._tar, self._rows, self._keys = None, None, [], set()

    def finish(self) -> SplitSummary:
        """Closes the last shard and the index."""
        self._close_shard()
        self._index.finish()
        self.summary.labels = {str(label): count for label, count in sorted(self._labels.items())}
        return self.summary

    def abandon(self) -> None:
        """Closes the files of an unfinished run; their folder is to be thrown away."""
        if self._file is not None:
            with contextlib.suppress(OSError):  # what is still to be written has no room, perhaps
                self._file.close()
            self._file = None
        self._index.abandon()


def write_corpus(
    corpus: Corpus,
    out: str | Path,
    *,
    splits: Iterable[str] | None = None,
    max_bytes: int = MAX_BYTES,
    max_count: int | None = None,
    overwrite: bool = False,
    source: str = "",
    progress: Callable[[str, int], Progress] | None = None,
) -> dict[str, SplitSummary]:
    """Shards a corpus: ``out/SPLIT/SPLIT-000000.tar ...``, an index in each split's folder, and ``out/dataset.json``.

    Args:
        corpus: What to shard.
        out: The folder of the dataset; made if it is not there.
        splits: Some splits only.
        max_bytes: Bytes per shard at most.
        max_count: Samples per shard at most.
        overwrite: Replace splits that are there already. Only folders that hold nothing but shards are replaced.
        source: What the corpus was read from, for dataset.json.
        progress: Called with (split, samples in it); gives what is called as samples are written.

    Returns:
        What was written, by split.

    Raises:
        OutputError: A split is there already, or the place cannot be written.
        CorpusError: A sample is damaged, or its key cannot be that of a WebDataset. Splits that are finished stay; the
            unfinished one leaves nothing.
    """
    out = Path(out)
    known = read_description(out)
    if known.get("name", corpus.name) != corpus.name:
        raise OutputError(f"{out}: holds the shards of {known['name']}. Choose another place for {corpus.name}.")
    chosen = list(splits) if splits else list(corpus.splits())
    for split in chosen:
        if split not in corpus.splits():
            raise ConfigError(f"shard: {corpus.name} has no split {split!r} here. {nearest(split, corpus.splits())}")
    missing = [split for split in chosen if not (out / split).exists()]
    for split in chosen:
        check_replaceable(out / split, overwrite=overwrite, missing=missing)
    written = {}
    for split in chosen:
        note = progress(split, corpus.count(split)) if progress else _silent
        replace = overwrite and split not in missing
        check = partial(_check_own, name=out / split, prefix=split)
        with publish_folder(out / split, replace=replace, check=check) as folder:
            writer = ShardWriter(folder, split, max_bytes=max_bytes, max_count=max_count, extras=corpus.columns)
            try:
                for sample in corpus.samples(split):
                    note(1, writer.add(sample))
                written[split] = writer.finish()
            except BaseException:
                writer.abandon()
                raise
        _describe(out, corpus, source, split, written[split])
    return written


def _silent(_samples: int, _bytes: int) -> None:
    """No progress is shown."""


def check_replaceable(folder: Path, *, overwrite: bool, missing: Sequence[str] = ()) -> None:
    """Refuses to write to a folder that is there, unless it may be overwritten and holds nothing but shards.

    Raises:
        OutputError: Says what is in the way.
    """
    if not folder.exists():
        return
    if not overwrite:
        rest = f", write what is missing with {' '.join(f'--split {split}' for split in missing)}" if missing else ""
        raise OutputError(f"{folder}: already exists. Replace it with --overwrite{rest}, or choose another place.")
    if not folder.is_dir():
        raise OutputError(f"{folder}: is a file. Move it away, or choose another place.")
    _check_own(folder, name=folder, prefix=folder.name)


def _check_own(folder: Path, *, name: Path, prefix: str) -> None:
    """Refuses a folder that holds anything but an index and the shards that ecopipe wrote with it."""
    foreign = sorted({path.name for path in folder.iterdir()} - _made_by_ecopipe(folder, prefix))
    if foreign:
        found = repr(foreign[0])
        raise OutputError(f"{name}: holds {found}, which ecopipe did not make, and is not replaced. Move it away.")


def _made_by_ecopipe(folder: Path, prefix: str) -> set[str]:
    """The names in a folder that an index of ours accounts for: the shards that were written with it, and itself."""
    path = folder / index_format.FILE_NAME
    if not path.is_file():
        return set()
    try:
        index = index_format.IndexFile(str(path))
    except IndexFileError:
        return set()
    pattern = re.compile(re.escape(prefix) + r"-\d{6}\.tar")
    names = {shard.name for shard in index.shards if index.made_by == MADE_BY and pattern.fullmatch(shard.name)}
    index.close()
    return {path.name, *names}


def read_description(out: Path) -> dict[str, Any]:
    """The dataset.json of a folder; an empty description if there is none.

    Raises:
        OutputError: The file is damaged.
    """
    path = out / DESCRIPTION
    if not path.exists():
        return {"splits": {}}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise OutputError(f"{path}: is no readable JSON ({error}). Move it away; it is written anew.") from error
    return found if isinstance(found, dict) else {"splits": {}}


def _describe(out: Path, corpus: Corpus, source: str, split: str, summary: SplitSummary) -> None:
    known = read_description(out)
    described = {
        "name": corpus.name,
        "version": corpus.version,
        "source": source,
        "classes": list(corpus.classes),
        "splits": {**known.get("splits", {}), split: asdict(summary)},
    }
    with publish_file(out / DESCRIPTION) as temporary:
        temporary.write_text(json.dumps(described, indent=2, sort_keys=True) + "\n", encoding="utf-8")

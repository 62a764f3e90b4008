"""``dataset.json``: what a dataset holds, how it was made, and what may be replaced of it."""

from __future__ import annotations

import contextlib
import fcntl
import importlib.metadata
import json
import os
import platform
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ecopipe.datasets import shards
from ecopipe.datasets.corpus import Corpus
from ecopipe.formats import index as index_format
from ecopipe.sharding.planning import ShardPlan
from ecopipe.sharding.staging import QUARANTINE
from ecopipe.sharding.tasks import Done
from ecopipe.sharding.versions import library_versions
from ecopipe.sharding.writer import MADE_BY, SplitSummary
from ecopipe.storage import files, remote
from ecopipe.storage.publish import explained
from ecopipe.vocabulary.errors import IndexFileError, OutputError
from ecopipe.vocabulary.json_text import parse_json_object

FILE_NAME = shards.DESCRIPTION


class Description:
    """The dataset.json of a folder or URL."""

    def __init__(self, out: str, told: dict[str, Any]) -> None:
        self._out, self._told = out, told

    @classmethod
    def read(cls, out: str) -> Description:
        """What lies there; an empty description if nothing does.

        Raises:
            OutputError: The file is damaged.
        """
        return cls(out, read_description(out))

    def check_name(self, name: str) -> None:
        """Refuses to put two corpora into one place.

        Raises:
            OutputError: Another corpus is there.
        """
        if (known := self._told.get("name", name)) != name:
            raise OutputError(f"{self._out}: holds the shards of {known}. Choose another place for {name}.")

    def holds(self, split: str, fingerprint: str) -> bool:
        """Whether a split was finished by this plan, and is there."""
        told = self._told["splits"].get(split, {})
        if told.get("provenance", {}).get("fingerprint") != fingerprint:
            return False
        folder = files.join(self._out, split)
        return all(
            files.exists(files.join(folder, name)) for name in (index_format.FILE_NAME, *told["provenance"]["digests"])
        )

    def difference(self, split: str, settings: Mapping[str, Any]) -> str:
        """In which setting a split that is there was made otherwise; empty if that is not known."""
        told = self._told["splits"].get(split, {}).get("provenance", {})
        if not set(settings) <= set(told):
            return ""
        from ecopipe.pipeline.identity import first_difference  # it brings torch, which sharding does without

        was, now = {name: told[name] for name in settings}, json.loads(json.dumps(settings))
        for one in (was, now):
            one["limits"] = dict.fromkeys((*was["limits"], *now["limits"])) | one["limits"]
        return first_difference(was, now) or "none; the corpus has changed"

    def summary(self, split: str) -> SplitSummary:
        """What was written of a split."""
        told = dict(self._told["splits"][split])
        told.pop("provenance")
        return SplitSummary(**told)

    def enter(
        self,
        corpus: Corpus,
        source: str,
        plan: ShardPlan,
        done: Sequence[Done],
        summary: SplitSummary,
        settings: Mapping[str, Any],
    ) -> None:
        """Writes down a split that is finished. There is no clock in it: the same run gives the same bytes.

        Args:
            corpus: What was sharded.
            source: What it was read from.
            plan: The plan of the split.
            done: What its tasks wrote.
            summary: The sum of it.
            settings: That decided what was written, as JSON.
        """
        provenance = {
            "ecopipe": importlib.metadata.version("ecopipe"),
            "python": platform.python_version(),
            "libraries": library_versions() if settings["recipe"] else {},
            "source": source,
            **settings,
            "fingerprint": plan.fingerprint,
            "digests": {one.shard.name: one.shard.digest for one in done},
            "sha256": {one.shard.name: one.shard.sha256 for one in done if one.shard.sha256} or None,
        }
        with _alone(self._out):
            self._write(corpus, source, {plan.split: {**asdict(summary), "provenance": provenance}})

    def _write(self, corpus: Corpus, source: str, entry: Mapping[str, Any]) -> None:
        self._told = {
            "name": corpus.name,
            "version": corpus.version,
            "source": source,
            "classes": list(corpus.classes),
            "splits": {
                **read_description(self._out)["splits"],
                **entry,
            },
        }
        text = json.dumps(self._told, indent=2, sort_keys=True) + "\n"
        with remote.published(files.join(self._out, FILE_NAME)) as local:
            local.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def _alone(out: str) -> Iterator[None]:
    """For the length of a with block no other run changes what a local dataset.json says of other splits."""
    if files.is_url(out):
        yield
        return
    with explained(Path(out)):
        folder = os.open(out, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # not every file system has locks
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def read_description(out: str) -> dict[str, Any]:
    """The dataset.json of a folder or URL; an empty description if there is none.

    Raises:
        OutputError: The file is damaged.
    """
    path = files.join(out, FILE_NAME)
    if not files.exists(path):
        return {"splits": {}}
    try:
        with files.open_binary(path) as file:
            found = parse_json_object(file.read())
        splits = found.setdefault("splits", {})
        if not all(isinstance(told.get("provenance", {}), dict) for told in splits.values()):
            raise ValueError("what it tells of the splits is of another shape")
        return found
    except (ValueError, AttributeError, OSError) as error:
        raise OutputError(f"{path}: is no readable JSON ({error}). Move it away; it is written anew.") from error


def check_replaceable(out: str, split: str, *, overwrite: bool, missing: Sequence[str] = (), differs: str = "") -> None:
    """Refuses to write to a split that is there, unless it may be overwritten and holds nothing but shards.

    Args:
        out: The dataset.
        split: The split.
        overwrite: Whether it may be replaced.
        missing: Splits that are not there, for the message.
        differs: In what the one that is there was made otherwise, for the message.

    Raises:
        OutputError: Says what is in the way.
    """
    place = files.join(out, split)
    if files.is_url(out):
        if files.exists(files.join(place, index_format.FILE_NAME)):
            raise OutputError(
                f"{place}: already exists. What lies in an object store is not replaced: remove it, or choose another "
                "place."
            )
        return
    folder = Path(place)
    if not folder.exists():
        return
    if not folder.is_dir():
        raise OutputError(f"{folder}: is a file. Move it away, or choose another place.")
    check_own(folder, name=folder, prefix=folder.name)
    if not overwrite:
        rest = f", write what is missing with {' '.join(f'--split {split}' for split in missing)}" if missing else ""
        made = f" (other settings: {differs})" if differs else ""
        raise OutputError(
            f"{folder}: already exists{made}. Replace it with --overwrite{rest}, or choose another place."
        )


def check_own(folder: Path, *, name: Path, prefix: str) -> None:
    """Refuses a folder that holds anything but an index and the shards that ecopipe wrote with it.

    Raises:
        OutputError: Names what was found.
    """
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
    ours = index.made_by == MADE_BY
    names = {shard.name for shard in index.shards if ours and pattern.fullmatch(shard.name)}
    index.close()
    return {path.name, *names, *([QUARANTINE] if ours else [])}

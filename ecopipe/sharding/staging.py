"""Where shards lie while a split is unfinished, so that a run that was killed goes on where it was.

A local split is collected in the hidden folder ``.ecopipe-unfinished-SPLIT`` beside its final place, and renamed when
it is whole. What an object store holds cannot be renamed: there shards are put under their final names, and the index,
without which they are no dataset, comes last.
"""

from __future__ import annotations

import abc
import contextlib
import fcntl
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ecopipe.formats import index as index_format
from ecopipe.storage import files, remote
from ecopipe.storage.publish import PREFIX, explained, put_in_place, sweep, umask
from ecopipe.vocabulary.errors import OutputError
from ecopipe.vocabulary.json_text import parse_json_object

UNFINISHED = f"{PREFIX}unfinished"
QUARANTINE = "quarantine.jsonl"
"""The list of the samples that were left out of a split, in its folder."""

_PLAN = "plan.json"
_LOCK = "lock"


class Staging(abc.ABC):
    """The unfinished shards of one split. It may be pickled: tasks use it in other processes.

    ``where`` is the final place of the split.
    """

    def __init__(self, where: str, split: str) -> None:
        self.where, self.split = where, split

    def shard_name(self, task: int) -> str:
        """The tar of a task."""
        return f"{self.split}-{task:06d}.tar"

    def index_name(self, task: int) -> str:
        """The index of a task's shard."""
        return f"{task:06d}.arrow"

    @abc.abstractmethod
    def begun(self, fingerprint: str) -> contextlib.AbstractContextManager[None]:
        """For the length of a with block nobody else writes here.

        Raises:
            OutputError: Somebody does, or what lies here belongs to another plan.
        """

    @abc.abstractmethod
    def is_begun(self, fingerprint: str) -> bool:
        """Whether what is seen from here is this plan's unfinished work."""

    @abc.abstractmethod
    def workplace(self, task: int) -> contextlib.AbstractContextManager[Path]:
        """A local folder for what a task makes; it is removed."""

    @abc.abstractmethod
    def keep(self, task: int, folder: Path, done: Mapping[str, Any]) -> None:
        """Takes the shard and the index that a task made; the task counts as done once this returns."""

    def settle(self, task: int) -> None:  # noqa: B027 - what was put to a URL is settled
        """Waits until the shard of a task that is done is on the disk."""

    @abc.abstractmethod
    def kept(self) -> dict[int, Mapping[str, Any]]:
        """What was kept of each task that is done."""

    @abc.abstractmethod
    def read_index(self, task: int) -> contextlib.AbstractContextManager[Path]:
        """The index of a task that is done, as a local file."""

    @abc.abstractmethod
    def finish(self, index: Path, quarantine: Path | None) -> None:
        """Publishes the split with its index. What was kept of its tasks stays known until :meth:`clear`."""

    @abc.abstractmethod
    def is_published(self, fingerprint: str) -> bool:
        """Whether this plan's split was published by a run that ended before it could :meth:`clear`."""

    @abc.abstractmethod
    def clear(self) -> None:
        """Removes what is not needed any more, once the split is published and described."""

    def tidy(self, fingerprint: str) -> None:
        """Clears what a run left that ended between describing the split and :meth:`clear`."""
        if self.is_published(fingerprint):
            self.clear()

    def _is_other(self, told: str, fingerprint: str) -> bool:
        """Whether what a plan's file tells is of another plan, or not to be read."""
        try:
            return bool(parse_json_object(told).get("fingerprint") != fingerprint)
        except ValueError:
            return True

    def _refuse(self, remedy: str) -> OutputError:
        return OutputError(
            f"{self.where}: an unfinished run wrote here with other settings, or of another corpus. Go on with its "
            f"own command, or {remedy}."
        )


class LocalStaging(Staging):
    """Of a split in a local or shared folder.

    Args:
        place: The final folder.
        replace: Put it in the place of a folder that is there.
        check: Called with the folder that is about to be replaced; may refuse by raising.
    """

    def __init__(self, place: Path, *, replace: bool = False, check: Callable[[Path], None] | None = None) -> None:
        super().__init__(str(place), place.name)
        self._place, self._replace, self._check = place, replace, check
        self._root = place.with_name(f"{UNFINISHED}-{place.name}")

    def __reduce__(self) -> tuple[Any, ...]:
        return LocalStaging, (self._place,)  # tasks do not publish

    @property
    def _shards(self) -> Path:
        return self._root / "shards"

    @property
    def _tasks(self) -> Path:
        return self._root / "tasks"

    @contextlib.contextmanager
    def begun(self, fingerprint: str) -> Iterator[None]:
        with explained(self._place):
            self._root.mkdir(parents=True, exist_ok=True)
        with explained(self._place), open(self._root / _LOCK, "w") as lock:
            try:
                fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # unlike flock's, no child of a fork holds it
            except (BlockingIOError, PermissionError):
                raise OutputError(
                    f"{self._place}: another run is writing it. Wait for it, or write to another place."
                ) from None
            except OSError:
                pass  # this file system has no locks
            sweep(self._place)
            self._enter(fingerprint)
            try:
                yield
            finally:
                if self._tasks.exists() and not any(self._tasks.iterdir()):  # nothing that a later run could use
                    shutil.rmtree(self._root, ignore_errors=True)

    def _enter(self, fingerprint: str) -> None:
        plan = self._root / _PLAN
        if self.is_published(fingerprint):
            return
        if plan.exists() and not self.is_begun(fingerprint):
            if not self._replace:
                raise self._refuse("begin anew with --overwrite")
            plan.unlink()
        if not plan.exists():  # without it nobody knows whose these are
            for left in (self._tasks, self._shards):
                if left.exists():
                    shutil.rmtree(left)
        for folder in (self._shards, self._tasks):
            folder.mkdir(exist_ok=True)
        for left in self._root.iterdir():
            if left.is_dir() and left.name.startswith("task-"):  # of tasks that were killed
                shutil.rmtree(left, ignore_errors=True)
        if not plan.exists():
            _write(plan, json.dumps({"fingerprint": fingerprint}))

    def is_begun(self, fingerprint: str) -> bool:
        plan = self._root / _PLAN
        return plan.is_file() and not self._is_other(plan.read_text(encoding="utf-8", errors="replace"), fingerprint)

    def is_published(self, fingerprint: str) -> bool:
        if self._shards.exists() or not self.is_begun(fingerprint):
            return False
        return 0 < len(list(self._tasks.glob("*.json"))) == len(self.kept())

    @contextlib.contextmanager
    def workplace(self, task: int) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(
            prefix=f"task-{task:06d}-", dir=self._root, ignore_cleanup_errors=True
        ) as made:
            yield Path(made)

    def keep(self, task: int, folder: Path, done: Mapping[str, Any]) -> None:
        os.chmod(folder / self.shard_name(task), 0o666 & ~umask())
        os.replace(folder / self.shard_name(task), self._shards / self.shard_name(task))
        os.replace(folder / self.index_name(task), self._tasks / self.index_name(task))
        _write(self._tasks / f"{task:06d}.json", json.dumps(done))

    def settle(self, task: int) -> None:
        with open(self._shards / self.shard_name(task), "rb") as shard:
            os.fsync(shard.fileno())

    def kept(self) -> dict[int, Mapping[str, Any]]:
        found: dict[int, Mapping[str, Any]] = {}
        folder = self._shards if self._shards.exists() else self._place  # renamed as it was published
        for path in sorted(self._tasks.glob("*.json")):
            told = _done(path.read_bytes())
            if told is None:
                continue
            shard = folder / self.shard_name(told["task"])
            if not shard.is_file() or shard.stat().st_size != told["shard"]["size"]:
                continue
            if (self._tasks / self.index_name(told["task"])).is_file():
                found[told["task"]] = told
        return found

    @contextlib.contextmanager
    def read_index(self, task: int) -> Iterator[Path]:
        yield self._tasks / self.index_name(task)

    def finish(self, index: Path, quarantine: Path | None) -> None:
        with explained(self._place):
            os.replace(index, self._shards / index_format.FILE_NAME)
            if quarantine is not None:
                os.replace(quarantine, self._shards / QUARANTINE)
            else:
                (self._shards / QUARANTINE).unlink(missing_ok=True)
            put_in_place(self._shards, self._place, replace=self._replace, check=self._check)

    def clear(self) -> None:
        going = self._place.with_name(f"{PREFIX}{secrets.token_hex(4)}-{self._place.name}")  # a sweep removes it too
        with contextlib.suppress(OSError):
            os.rename(self._root, going)
            shutil.rmtree(going, ignore_errors=True)

    def tidy(self, fingerprint: str) -> None:
        super().tidy(fingerprint)
        with contextlib.suppress(OSError):  # nothing has to be written here
            sweep(self._place)


class RemoteStaging(Staging):
    """Of a split at a URL. There are no locks: two runs of one plan write the same bytes."""

    def __init__(self, url: str) -> None:
        super().__init__(url.rstrip("/"), files.base_name(url))

    @property
    def _root(self) -> str:
        return files.join(self.where, UNFINISHED)

    def _marker(self, task: int) -> str:
        return files.join(self._root, f"{task:06d}.json")

    @contextlib.contextmanager
    def begun(self, fingerprint: str) -> Iterator[None]:
        plan = files.join(self._root, _PLAN)
        if not files.exists(plan):
            _write_text(plan, json.dumps({"fingerprint": fingerprint}))
        elif self._is_other(_read_text(plan), fingerprint):
            raise self._refuse(f"remove {self._root}")
        yield

    def is_begun(self, fingerprint: str) -> bool:
        plan = files.join(self._root, _PLAN)
        return files.exists(plan) and not self._is_other(_read_text(plan), fingerprint)

    def is_published(self, fingerprint: str) -> bool:
        return files.exists(files.join(self.where, index_format.FILE_NAME)) and self.is_begun(fingerprint)

    @contextlib.contextmanager
    def workplace(self, task: int) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix=f"ecopipe-task-{task:06d}-") as made:
            yield Path(made)

    def keep(self, task: int, folder: Path, done: Mapping[str, Any]) -> None:
        remote.put_file(folder / self.shard_name(task), files.join(self.where, self.shard_name(task)))
        remote.put_file(folder / self.index_name(task), files.join(self._root, self.index_name(task)))
        _write_text(self._marker(task), json.dumps(done))

    def kept(self) -> dict[int, Mapping[str, Any]]:
        found: dict[int, Mapping[str, Any]] = {}
        for marker in files.find(files.join(self._root, "*.json")):
            if (told := _done(_read_text(marker))) is not None:
                found[told["task"]] = told
        return found

    @contextlib.contextmanager
    def read_index(self, task: int) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="ecopipe-index-") as folder:
            local = Path(folder) / self.index_name(task)
            remote.filesystem(self.where)[
                0
            ].invalidate_cache()  # its listing may be older than what another process put
            with files.open_binary(files.join(self._root, self.index_name(task))) as stored, open(local, "wb") as file:
                shutil.copyfileobj(stored, file)
            yield local

    def finish(self, index: Path, quarantine: Path | None) -> None:
        if quarantine is not None:
            remote.put_file(quarantine, files.join(self.where, QUARANTINE))
        remote.put_file(index, files.join(self.where, index_format.FILE_NAME))

    def clear(self) -> None:
        plan = files.join(self._root, _PLAN)  # last: while it is there, the next run goes on with this
        for left in files.find(files.join(self._root, "*")):
            if files.base_name(left) != _PLAN:
                remote.remove(left)
        if files.exists(plan):
            remote.remove(plan)


def _write(path: Path, text: str) -> None:
    """Writes a small file whole or not at all; one that a crash of the machine damages is made anew."""
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}.new")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def _read_text(url: str) -> str:
    with files.open_binary(url) as file:
        return file.read().decode()


def _write_text(url: str, text: str) -> None:
    with remote.published(url) as local:
        local.write_text(text, encoding="utf-8")


def _done(text: str | bytes) -> dict[str, Any] | None:
    """What the file of a finished task tells; None of another file, or a damaged one: its shard is written anew."""
    try:
        told = parse_json_object(text)
        return told if told["task"] >= 0 and told["shard"]["size"] >= 0 else None
    except (ValueError, KeyError, TypeError):
        return None

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
from ecopipe.storage.publish import PREFIX, explained, put_in_place, sweep
from ecopipe.vocabulary.errors import OutputError

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

    @abc.abstractmethod
    def kept(self) -> dict[int, Mapping[str, Any]]:
        """What was kept of each task that is done."""

    @abc.abstractmethod
    def read_index(self, task: int) -> contextlib.AbstractContextManager[Path]:
        """The index of a task that is done, as a local file."""

    @abc.abstractmethod
    def finish(self, index: Path, quarantine: Path | None) -> None:
        """Publishes the split with its index."""

    def _check_plan(self, told: str, fingerprint: str) -> None:
        if json.loads(told).get("fingerprint") != fingerprint:
            raise OutputError(
                f"{self.where}: an unfinished run wrote here with other settings, or of another corpus. Go on with its "
                "own command, or begin anew with --overwrite."
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
        if plan.exists():
            try:
                self._check_plan(plan.read_text(encoding="utf-8"), fingerprint)
            except (OutputError, ValueError):
                if not self._replace:
                    raise
                for left in (plan, self._shards, self._tasks):
                    shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)
        for folder in (self._shards, self._tasks):
            folder.mkdir(exist_ok=True)
        for left in self._root.iterdir():
            if left.is_dir() and left.name.startswith("task-"):  # of tasks that were killed
                shutil.rmtree(left, ignore_errors=True)
        if not plan.exists():
            _write(plan, json.dumps({"fingerprint": fingerprint}))

    def is_begun(self, fingerprint: str) -> bool:
        plan = self._root / _PLAN
        return plan.is_file() and json.loads(plan.read_text(encoding="utf-8")).get("fingerprint") == fingerprint

    @contextlib.contextmanager
    def workplace(self, task: int) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(
            prefix=f"task-{task:06d}-", dir=self._root, ignore_cleanup_errors=True
        ) as made:
            yield Path(made)

    def keep(self, task: int, folder: Path, done: Mapping[str, Any]) -> None:
        os.chmod(folder / self.shard_name(task), 0o666 & ~_umask())
        os.replace(folder / self.shard_name(task), self._shards / self.shard_name(task))
        os.replace(folder / self.index_name(task), self._tasks / self.index_name(task))
        _write(self._tasks / f"{task:06d}.json", json.dumps(done))

    def kept(self) -> dict[int, Mapping[str, Any]]:
        found = {}
        for path in sorted(self._tasks.glob("*.json")):
            told = json.loads(path.read_text(encoding="utf-8"))
            shard = self._shards / told["shard"]["name"]
            if shard.is_file() and shard.stat().st_size == told["shard"]["size"]:
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
            put_in_place(self._shards, self._place, replace=self._replace, check=self._check)
            shutil.rmtree(self._root, ignore_errors=True)


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
        if files.exists(plan):
            self._check_plan(_read_text(plan), fingerprint)
        else:
            _write_text(plan, json.dumps({"fingerprint": fingerprint}))
        yield

    def is_begun(self, fingerprint: str) -> bool:
        plan = files.join(self._root, _PLAN)
        return files.exists(plan) and json.loads(_read_text(plan)).get("fingerprint") == fingerprint

    @contextlib.contextmanager
    def workplace(self, task: int) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix=f"ecopipe-task-{task:06d}-") as made:
            yield Path(made)

    def keep(self, task: int, folder: Path, done: Mapping[str, Any]) -> None:
        remote.put_file(folder / self.shard_name(task), files.join(self.where, self.shard_name(task)))
        remote.put_file(folder / self.index_name(task), files.join(self._root, self.index_name(task)))
        _write_text(self._marker(task), json.dumps(done))

    def kept(self) -> dict[int, Mapping[str, Any]]:
        found = {}
        for marker in files.find(files.join(self._root, "*.json")):
            told = json.loads(_read_text(marker))
            if "task" in told:
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
        for left in files.find(files.join(self._root, "*")):
            remote.remove(left)


def _write(path: Path, text: str) -> None:
    """Writes a small file whole or not at all."""
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}.new")
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _read_text(url: str) -> str:
    with files.open_binary(url) as file:
        return file.read().decode()


def _write_text(url: str, text: str) -> None:
    with tempfile.TemporaryDirectory(prefix="ecopipe-") as folder:
        local = Path(folder) / "text"
        local.write_text(text, encoding="utf-8")
        remote.put_file(local, url)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask

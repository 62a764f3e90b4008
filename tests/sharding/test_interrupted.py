"""Runs that are killed before any of their changes to the file system, and what the same call makes of it."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ecopipe.datasets.corpus import RawSample
from ecopipe.datasets.shards import verify_folder
from ecopipe.pipeline.bad_samples import BadSamples
from ecopipe.sharding.description import Description
from ecopipe.sharding.limits import Limits
from ecopipe.sharding.write import write_corpus
from ecopipe.storage import files
from ecopipe.vocabulary.errors import CorpusError, OutputError

from .test_write import start, tree, wait_for
from .texts import Texts

FORK = multiprocessing.get_context("fork")


def write(out: Path, *, overwrite: bool, told: list[Any] | None = None) -> None:
    write_corpus(
        Texts(4), out, splits=["train"], limits=Limits(max_count=2), overwrite=overwrite,
        progress=lambda *begun: (told if told is not None else []).append(begun) or (lambda *_: None),
    )  # fmt: skip


def killed_before(change: int, function: Callable[[], None]) -> bool:
    """Whether a function was killed before its ``change``-th rename or removal, in a process of its own."""

    def run() -> None:
        left = change

        def deadly(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any, **settings: Any) -> Any:
                nonlocal left
                left -= 1
                if not left:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*arguments, **settings)

            return call

        for name in ("replace", "rename", "unlink", "mkdir", "rmdir"):
            setattr(os, name, deadly(name, getattr(os, name)))
        function()
        os._exit(0)

    process = FORK.Process(target=run)
    process.start()
    process.join(60)
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


@pytest.mark.parametrize("overwrite", [False, True])
def test_killed_before_any_change_the_same_call_goes_on(tmp_path: Path, overwrite: bool) -> None:
    write(tmp_path / "good", overwrite=False)
    good = tree(tmp_path / "good")
    write_corpus(Texts(3), tmp_path / "old", splits=["train"])
    old = tree(tmp_path / "old" / "train")
    change = 0
    while True:
        change += 1
        out = tmp_path / str(change)
        if overwrite:
            shutil.copytree(tmp_path / "old", out)
        if not killed_before(change, lambda out=out: write(out, overwrite=overwrite)):
            break
        places = [path for path in out.glob("*train") if path.is_dir() and "unfinished" not in path.name]
        places += out.glob(".ecopipe-old-*")
        new = {name.removeprefix("train/"): digest for name, digest in good.items() if name.startswith("train/")}
        if overwrite:
            assert any(tree(place) in (old, new) for place in places), change
        was_done = len(list(out.glob(".ecopipe-unfinished-train/tasks/*.json")))
        told: list[Any] = []
        write(out, overwrite=overwrite, told=told)
        assert tree(out) == good, change
        if was_done and told:
            assert told[0][2] == 2 * was_done, change
        assert sorted(path.name for path in out.iterdir()) == ["dataset.json", "train"], change
    assert change > 20


def test_two_splits_are_written_at_once(tmp_path: Path) -> None:
    gate = FORK.Barrier(2)

    def run(split: str) -> None:
        gate.wait(30)
        write_corpus(Texts(2), tmp_path / "out", splits=[split])

    for _ in range(4):
        both = [FORK.Process(target=run, args=(split,)) for split in ("test", "train")]
        for process in both:
            process.start()
        for process in both:
            process.join(60)
        assert [process.exitcode for process in both] == [0, 0]
        assert sorted(write_corpus(Texts(2), tmp_path / "out")) == ["test", "train"]
        shutil.rmtree(tmp_path / "out")


def test_too_many_bad_samples_stay_too_many_when_the_run_is_gone_on_with(tmp_path: Path) -> None:
    bad = tuple(range(0, 22, 2))
    for _ in range(3):
        with pytest.raises(CorpusError, match=r"11 of [48]0 samples are bad, over max_share 0.01"):
            write_corpus(
                Texts(80, bad=bad), tmp_path, splits=["train"], bad_samples=BadSamples("skip"),
                limits=Limits(max_count=40),
            )  # fmt: skip
    written = write_corpus(
        Texts(80, bad=bad), tmp_path, splits=["train"], bad_samples=BadSamples("skip", max_share=0.5),
        limits=Limits(max_count=40),
    )  # fmt: skip
    assert written["train"].bad == 11


def test_what_was_left_out_before_is_an_error_where_bad_samples_are(tmp_path: Path) -> None:
    corpus = Texts(40, bad=(3, 34))
    with pytest.raises(CorpusError, match="over max_share"):
        write_corpus(
            corpus, tmp_path, splits=["train"], limits=Limits(max_count=10),
            bad_samples=BadSamples("skip", max_share=0.0015),
        )  # fmt: skip
    with pytest.raises(CorpusError, match="train-003"):
        write_corpus(corpus, tmp_path, splits=["train"], limits=Limits(max_count=10))


class Twins(Texts):
    """Two samples have one key, in different shards."""

    def key(self, split: str, place: int) -> str:
        return super().key(split, 2 if place == 17 else place)


def test_a_key_that_is_there_twice_is_a_bad_sample(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"sample 'train-002': another sample has this key.*Rename"):
        write_corpus(Twins(20), tmp_path / "a", splits=["train"], limits=Limits(max_count=5))
    for shuffle in (False, True):
        out = tmp_path / str(shuffle)
        written = write_corpus(
            Twins(20), out, splits=["train"], limits=Limits(max_count=5), bad_samples=BadSamples("skip"),
            shuffle=shuffle, workers=2,
        )  # fmt: skip
        assert (written["train"].samples, written["train"].bad) == (19, 1)
        assert '"train-002"' in (out / "train" / "quarantine.jsonl").read_text()
        assert verify_folder(str(out / "train")).problems == []


class Unreadable(Texts):
    """A sample's file cannot be read, and its reader lets the system's error through."""

    def sample(self, split: str, place: int) -> RawSample:
        if place == 4:
            raise PermissionError(13, "Permission denied", "source/4.txt")
        return super().sample(split, place)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_of_the_source_is_not_blamed_on_the_output(tmp_path: Path, workers: int) -> None:
    with pytest.raises(CorpusError, match=r"source/4.txt cannot be read: Permission denied"):
        write_corpus(Unreadable(20), tmp_path / "a", splits=["train"], workers=workers)
    written = write_corpus(
        Unreadable(20), tmp_path / "b", splits=["train"], workers=workers, bad_samples=BadSamples("skip")
    )
    assert (written["train"].samples, written["train"].bad) == (19, 1)


DEAF = """
import sys
from pathlib import Path
from ecopipe.datasets.corpus import RawSample
from ecopipe.sharding.description import Description
from ecopipe.sharding.limits import Limits
from ecopipe.sharding.write import write_corpus
from tests.sharding.texts import Texts

class Deaf(Texts):
    def sample(self, split: str, place: int) -> RawSample:
        try:
            return super().sample(split, place)
        except BaseException:  # as a callback from C does
            return RawSample(self.key(split, place), {"txt": b"interrupted"}, {"speaker": 0})

write_corpus(Deaf(200, wait_s=0.05), sys.argv[1], splits=["train"], limits=Limits(max_count=5))
"""


def test_an_interrupt_is_heard_whatever_reads_the_samples(tmp_path: Path) -> None:
    process = start(DEAF, tmp_path / "a")
    wait_for(lambda: any(tmp_path.glob("a/.ecopipe-unfinished-train/tasks/*.json")))
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert b"KeyboardInterrupt" in told and process.returncode != 0
    assert not (tmp_path / "a" / "train").exists()
    assert list((tmp_path / "a" / ".ecopipe-unfinished-train").glob("task-*")) == []


def test_output_inside_of_the_source_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "a.txt").write_text("text")
    (tmp_path / "link").symlink_to(source)
    for out in (source / "out", tmp_path / "link" / "out", source):
        command = [sys.executable, "-m", "ecopipe", "shard", "folder", str(source), str(out)]
        ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert (ended.returncode, "lies in the source" in ended.stderr) == (2, True)
        assert os.listdir(source) == ["a.txt"]


def test_a_run_to_an_object_store_that_ended_before_it_said_so_is_gone_on_with(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    url = "memory://interrupted/texts"
    with monkeypatch.context() as patch:
        patch.setattr(Description, "enter", stop)
        with pytest.raises(KeyboardInterrupt):
            write_corpus(Texts(9), url, splits=["train"], limits=Limits(max_count=3))
    assert write_corpus(Texts(9), url, splits=["train"], limits=Limits(max_count=3))["train"].samples == 9
    assert not files.find(f"{url}/train/.ecopipe-unfinished/*")
    with pytest.raises(OutputError, match="already exists"):
        write_corpus(Texts(9), url, splits=["train"], limits=Limits(max_count=4))

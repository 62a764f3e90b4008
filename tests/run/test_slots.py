"""Batches in memory that worker and consumer share: used again, and never while somebody looks at it."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ecopipe.pipeline.pipeline import Pipeline
from ecopipe.run import slots
from ecopipe.run.slots import Borrower, Lender
from ecopipe.run.transport import pack, unpack
from ecopipe.stages.collate import Collate
from ecopipe.stages.foreign import Map
from ecopipe.stages.image import DecodeImage
from ecopipe.stages.plan import Batch, Shuffle
from ecopipe.stages.source import TarShards

from .test_columns import as_is, write

pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="slots are memfds")

SIZE = 2**18


class Both:
    """A worker and its consumer in one process."""

    def __init__(self) -> None:
        self.lender, self.borrower = Lender(), Borrower()
        self.new = 0

    def sent(self, value: Any) -> Any:
        descriptor = pack(value, self.lender)
        for news in self.lender.news():
            self.new += news.descriptor is not None
            self.borrower.learn(*news)
        return unpack(descriptor, self.borrower)


def filled(number: int, size: int = SIZE) -> torch.Tensor:
    return torch.full((size,), number, dtype=torch.uint8)


def maps() -> int:
    return Path("/proc/self/maps").read_text().count("memfd:ecopipe")


def test_memory_is_used_again_and_arrives_as_it_was_sent():
    both = Both()
    for number in range(20):
        come = both.sent({"a": filled(number), "b": torch.arange(SIZE).reshape(2, -1).T, "small": filled(1, 10)})
        assert torch.equal(come["a"], filled(number)) and come["small"].tolist() == [1] * 10
        assert torch.equal(come["b"], torch.arange(SIZE).reshape(2, -1).T)
        assert come["a"].data_ptr() % 64 == 0
        come["a"] += 1  # writable
    assert both.new <= 4


@pytest.mark.parametrize("kept", ["tensor", "view", "array", "row of an array"])
def test_what_is_held_is_not_written_to(kept):
    both, held = Both(), []
    for number in range(100):
        come = both.sent(filled(number))
        views = {"tensor": come, "view": come[7:8], "array": come.numpy(), "row of an array": come.numpy()[9:10]}
        held.append(views[kept])
        del come, views
    assert [int(one[0]) for one in held] == list(range(100))
    assert len(both.lender._slots) <= slots.MOST and len(both.borrower._slots) <= slots.MOST


def test_what_was_held_for_long_gives_its_memory_back_to_the_system():
    before = maps()
    both = Both()
    held = [both.sent(filled(number)) for number in range(100)]
    assert maps() - before >= 100
    del held
    gc.collect()
    for number in range(3):
        assert both.sent(filled(number))[0] == number
    assert maps() - before <= 2 * (slots._IDLE + 2)
    del both
    gc.collect()
    assert maps() == before


def test_an_array_is_sent_without_a_copy_once():
    both = Both()
    array = both.lender.empty(SIZE)
    assert array is not None
    array[:] = 5
    first = both.sent(torch.from_numpy(array))
    array[0] = 6
    assert first[0] == 6  # the same memory
    second = both.sent(torch.from_numpy(array))
    array[0] = 7
    assert second[0] == 6 and first[0] == 7
    del first, second
    again = [both.lender.empty(SIZE) for _ in range(3)]
    assert all(other.ctypes.data != array.ctypes.data for other in again if other is not None)  # it is still held here
    at = array.ctypes.data
    del array, again
    now = [both.lender.empty(SIZE) for _ in range(4)]
    assert at in {other.ctypes.data for other in now if other is not None}


def test_two_views_of_an_array_are_two_values():
    both = Both()
    array = both.lender.empty(SIZE)
    assert array is not None
    array[:] = 1
    one, two = both.sent([torch.from_numpy(array), torch.from_numpy(array).view(2, -1)])
    one[0] = 9
    assert two[0, 0] == 1


def test_a_value_with_more_arrays_than_there_are_slots():
    both = Both()
    for _ in range(2):
        come = both.sent([filled(number) for number in range(slots.MOST + 20)])
        assert [int(one[-1]) for one in come] == list(range(slots.MOST + 20))


def test_what_cannot_be_packed_leaves_no_slot_held(monkeypatch):
    both = Both()

    def fail(*_: Any) -> None:
        raise OSError("no room")

    with monkeypatch.context() as patch:
        patch.setattr("ecopipe.run.transport._write", fail)
        for _ in range(3):
            with pytest.raises(OSError, match="no room"):
                pack(filled(1), both.lender)
    assert len(both.lender._slots) == 1
    assert both.sent(filled(2))[5] == 2


def test_without_more_files_values_go_as_without_slots(monkeypatch):
    both = Both()
    monkeypatch.delattr(os, "memfd_create")
    assert both.lender.empty(SIZE) is None
    assert torch.equal(both.sent(filled(3)), filled(3)) and not both.new


def test_what_a_forked_child_may_hold_is_not_used_again():
    both = Both()
    come = both.sent(filled(1)).numpy()  # torch's threads are not there in a child
    read, write_ = os.pipe()
    child = os.fork()
    if not child:
        os.close(write_)
        os.read(read, 1)
        os._exit(0 if (come == 1).all() else 1)
    os.close(read)
    del come
    later = [both.sent(filled(number)) for number in range(2, 8)]
    os.write(write_, b"1")
    os.close(write_)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert [int(one[0]) for one in later] == list(range(2, 8))


def test_a_child_that_lets_go_does_not_give_back_what_its_parent_holds():
    both = Both()
    come = both.sent(filled(1))
    child = os.fork()
    if not child:
        del come
        gc.collect()
        os._exit(0)
    os.waitpid(child, 0)
    assert [int(both.sent(filled(number))[0]) for number in range(2, 8)] == list(range(2, 8))
    assert int(come.sum()) == SIZE


# -- with workers ------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return large(tmp_path / "shards")


def large(folder: Path) -> Path:
    """Images whose batches of 7 are worth a slot."""
    from . import test_columns

    pixels = np.random.default_rng(1).integers(0, 256, (60, 96, 80, 3), dtype=np.uint8)
    small, test_columns.PIXELS = test_columns.PIXELS, pixels
    try:
        return write(folder, "planar")
    finally:
        test_columns.PIXELS = small


def pipeline(folder: Path, *, by_columns: bool = True) -> Pipeline:
    slow = [] if by_columns else [Map(as_is, field="image")]
    collate = Collate("image", target="label", layout="stack")
    return Pipeline(TarShards(str(folder)), Shuffle(), Batch(7), DecodeImage(), *slow, collate)


def copies(batches: Iterator[Any]) -> list[torch.Tensor]:
    return [batch["image"].clone() for batch in batches]


@pytest.mark.parametrize(
    ("context", "by_columns"), [("fork", True), ("fork", False), ("forkserver", True), ("spawn", True)]
)
def test_batches_that_are_kept_stay_as_they_were(folder, context, by_columns):
    pipe = pipeline(folder, by_columns=by_columns)
    with pipe.loader() as loader:
        expected = [copies(iter(loader)) for _ in range(3)]
    workers = 2 if context == "fork" else 1  # each of the others imports torch anew
    with pipe.loader(workers=workers, multiprocessing_context=context) as loader:
        held = [[batch["image"] for batch in loader] for _ in range(3)]
    for epoch, kept in zip(expected, held, strict=True):
        assert len(epoch) == len(kept) and all(map(torch.equal, epoch, kept))


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_slots_do_not_grow_in_number(folder):
    with pipeline(folder).loader(workers=1) as loader:
        for _ in range(10):
            for batch in loader:
                assert batch["image"].shape[1:] == (3, 96, 80)
        (worker,) = loader._pool._workers
        assert 1 <= len(worker.slots._slots) <= slots._IDLE + 2


def test_two_loaders_and_killed_workers_do_not_write_to_what_is_held(folder):
    pipe = pipeline(folder)
    with pipe.loader() as loader:
        expected = copies(iter(loader))
    with pipe.loader(workers=1) as one, pipe.loader(workers=1) as two:
        held: list[tuple[torch.Tensor, torch.Tensor]] = []
        for number, batches in enumerate(zip(one, two, strict=True)):
            held.append((batches[0]["image"], batches[1]["image"]))
            if number % 3 == 0:
                os.kill(one._pool.pids[0], signal.SIGKILL)
    for image, pair in zip(expected, held, strict=True):
        assert torch.equal(image, pair[0]) and torch.equal(image, pair[1])
    before = maps()
    del held, pair, batches
    gc.collect()
    assert maps() < before

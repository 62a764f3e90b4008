"""Pieces on threads: each once, on as many as torch has, in the mode of the caller; errors come back."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from ecopipe.signal.threads import each


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_each_piece_once_and_torch_keeps_its_threads():
    done, threads = [], set()
    lock = threading.Lock()

    def work(piece):
        with lock:
            done.append(piece)
            threads.add(threading.current_thread().name)
        assert torch.get_num_threads() == 1
        assert not torch.is_grad_enabled()

    for _ in range(3):
        each(work, range(0, 100, 5))
    assert sorted(done) == sorted([*range(0, 100, 5)] * 3)
    assert all(name.startswith("ecopipe-signal") for name in threads)
    assert torch.get_num_threads() == 2
    with ThreadPoolExecutor(1) as later:
        assert later.submit(torch.get_num_threads).result() == 2


@pytest.mark.usefixtures("two_threads")
def test_errors_and_modes_come_through():
    def fails(piece):
        raise ValueError(f"piece {piece}")

    with pytest.raises(ValueError, match="piece 0"):
        each(fails, range(4))
    with torch.inference_mode():
        made = torch.zeros(8)

        def add(piece):
            made[piece] += 1

        each(add, range(8))
    assert made.tolist() == [1.0] * 8


def test_one_thread_or_one_piece_stays_here():
    here = []
    each(lambda piece: here.append(threading.current_thread() is threading.main_thread()), [7])
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        each(lambda piece: here.append(threading.current_thread() is threading.main_thread()), range(3))
    finally:
        torch.set_num_threads(before)
    assert here == [True] * 4


@pytest.mark.usefixtures("two_threads")
def test_a_fork_has_threads_of_its_own():
    each(lambda piece: None, range(4))
    child = os.fork()
    if child == 0:
        found = []
        each(found.append, range(6))
        os._exit(0 if sorted(found) == list(range(6)) else 1)
    for _ in range(300):
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            break
        threading.Event().wait(0.1)
    else:
        os.kill(child, 9)
        os.waitpid(child, 0)
        pytest.fail("the child hangs")
    assert os.waitstatus_to_exitcode(status) == 0

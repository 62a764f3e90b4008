"""Work in pieces on several threads, each piece in one of them.

torch spreads each operation over its threads and waits for all of them, dozens of times for a batch: on a machine whose
cores have other work too, every wait is for the slowest. Here a thread that has to wait for its core holds up nothing
but its own piece.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch


def each(work: Callable[[int], None], pieces: Sequence[int]) -> None:
    """Calls ``work`` for each of some pieces, on as many threads as torch has: ``torch.set_num_threads`` holds.

    Operations within a piece run on one thread, without gradients and without autocast.
    """
    threads = torch.get_num_threads()
    inference = torch.is_inference_mode_enabled()  # of this thread alone

    def one(piece: int) -> None:
        with torch.inference_mode(inference), torch.no_grad():
            work(piece)

    if threads == 1 or len(pieces) < 2:
        for piece in pieces:
            one(piece)
    else:
        list(_pool(os.getpid(), threads).map(one, pieces))


@functools.lru_cache(maxsize=2)
def _pool(_process: int, threads: int) -> ThreadPoolExecutor:
    """Threads on which torch's operations are not spread; for each process its own, since a fork has none."""
    started = threading.Barrier(threads)
    pool = ThreadPoolExecutor(threads, "ecopipe-signal", initializer=_alone)
    list(pool.map(lambda _: started.wait(), range(threads)))
    torch.set_num_threads(threads)  # what threads begin with that are made later: the initializers had set it to 1
    return pool


def _alone() -> None:
    torch.get_num_threads()  # a thread takes over torch's number once, at its first operation: let that be past
    torch.set_num_threads(1)

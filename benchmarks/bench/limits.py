"""What bounds every loader of speech here: the decoders alone, from memory; copying what they give; and ``tar``."""

from __future__ import annotations

import multiprocessing
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.bench import corpus, decoders

WAYS = ("dr_flac, threads", "dr_flac, processes", "soundfile, threads", "soundfile, processes", "memcpy", "tar")
PARALLEL = (1, 2)
LONGEST = 40 * corpus.RATE_HZ
"""Frames of the buffer that dr_flac decodes into; an utterance of LibriSpeech has fewer."""


def run(task: dict[str, Any]) -> dict[str, Any]:
    """Utterances a second of one way."""
    folder, way, seconds = Path(task["folder"]), task["way"], task["seconds"]
    files = corpus.files_of(folder)
    if way == "tar":
        return {"rate": _tar(sorted((folder / "tars").glob("*.tar")), len(files), seconds)}
    payloads = [path.read_bytes() for path in files]
    if way == "memcpy":
        return {"rate": _copies(corpus.truth(folder), seconds)}
    name, kind = way.split(", ")
    return {"rate": _decoded(payloads, name, kind, task["workers"], seconds)}


def _decoder(name: str) -> Callable[[bytes], Any]:
    if name != "dr_flac":
        return decoders.BY_NAME[name]
    from ecopipe.formats import dr_flac

    into = np.empty(LONGEST, dtype=np.float32)
    return lambda data: dr_flac.read_into(data, into)


def _decoded(payloads: list[bytes], name: str, kind: str, parallel: int, seconds: float) -> float:
    _decoder(name)(payloads[0])  # what is wrong is said here, not awaited for ever
    context = multiprocessing.get_context("fork")
    Worker: Any = threading.Thread if kind == "threads" else context.Process
    barrier: Any = (threading if kind == "threads" else context).Barrier(parallel)
    told: Any = context.Queue()

    def work(number: int) -> None:
        decode, count = _decoder(name), 0
        decode(payloads[0])
        barrier.wait()
        began = time.perf_counter()
        while (taken := time.perf_counter() - began) < seconds:
            decode(payloads[(number + count * parallel) % len(payloads)])
            count += 1
        told.put(count / taken)

    workers = [Worker(target=work, args=(number,)) for number in range(parallel)]
    for worker in workers:
        worker.start()
    rates = [told.get() for _ in workers]
    for worker in workers:
        worker.join()
    return float(sum(rates))


def _copies(truth: dict[str, int], seconds: float) -> float:
    source = np.ones((8, LONGEST), dtype=np.float32)
    target, count, began = np.empty_like(source), 0, time.perf_counter()
    while (taken := time.perf_counter() - began) < seconds:
        np.copyto(target, source)
        count += 1
    return count * source.size / taken / (truth["frames"] / truth["utterances"])


def _tar(tars: list[Path], utterances: int, seconds: float) -> float:
    epochs, began = 0, time.perf_counter()
    while (taken := time.perf_counter() - began) < seconds or not epochs:
        for path in tars:
            with open("/dev/null", "wb") as nothing:
                subprocess.run(["tar", "-xOf", str(path)], stdout=nothing, check=True)
        epochs += 1
    return epochs * utterances / taken

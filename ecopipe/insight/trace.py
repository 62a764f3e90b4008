"""A recording as Chrome trace events, which Perfetto and chrome://tracing open; and a loader's counters for others."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ecopipe.run.gauge import Delivery, Recording
from ecopipe.storage.publish import publish_file
from ecopipe.vocabulary.errors import ConfigError

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

MAIN, CONSUMER = 1, 2
"""The tracks of the consumer's process: the loader, and the consumer."""

MEANINGS = {
    "batches_total": "Batches that were handed out.",
    "samples_total": "Samples that were handed out.",
    "wait_seconds_total": "Seconds that the consumer waited for batches.",
    "consumer_seconds_total": "Seconds that the consumer worked between batches.",
    "cache_hits_total": "Shards that were in the cache.",
    "cache_misses_total": "Shards that were not in the cache.",
    "cache_evictions_total": "Shards removed from the cache.",
    "cache_bytes_fetched_total": "Bytes fetched into the cache.",
    "cache_bytes_read_through_total": "Bytes read past the cache.",
    "workers": "Worker processes.",
    "threads": "Threads that make batches, of each worker or of this process.",
    "epoch": "The epoch that the loader is in.",
}
"""What each of ``loader.metrics()`` is, for Prometheus."""


def events(recording: Recording) -> list[dict[str, Any]]:
    """Trace events: a track for each worker, or each of its threads, or of those of the consumer's process; one for the
    loader and one for the consumer; and an arrow for each batch that another thread made.

    Times are microseconds since the recording began. The stages of a batch stand one after the other below it, each
    with all of its samples: how long each took is true, its place within the batch is not.
    """
    main = os.getpid()
    found = [_named("process_name", main, 0, "consumer's process"), _named("thread_name", main, MAIN, "loader")]
    found.append(_named("thread_name", main, CONSUMER, "consumer"))
    beside = [one.times for one in recording.deliveries if one.times and recording.is_beside(one.times)]
    for number, pid in enumerate(dict.fromkeys(times.pid for times in beside if times.pid != main), 1):
        found.append(_named("process_name", pid, 0, f"worker {number}"))
    for pid, thread in dict.fromkeys((times.pid, times.thread) for times in beside):
        found.append(_named("thread_name", pid, thread, "batches"))
    for order, one in enumerate(recording.deliveries):
        is_beside = one.times is not None and recording.is_beside(one.times)
        found += _of_batch(one, order, main, recording.began_ns, is_beside)
    return found


def _of_batch(one: Delivery, order: int, main: int, zero: int, is_beside: bool) -> Iterator[dict[str, Any]]:
    name, times = f"batch {one.number}", one.times
    about = {"epoch": one.epoch, "samples": one.samples, "bytes": one.bytes}
    taken = max(one.got_ns, one.asked_ns)
    if times is not None:
        pid, track = times.pid, times.thread if is_beside else MAIN
        yield _slice(name, pid, track, times.began_ns - zero, times.wall_ns, about)
        at = times.began_ns
        for stage, tally in times.stages.items():
            more = {"calls": tally.wall.count, "cpu_ms": tally.cpu_ns / 1e6, "summed": True}
            lasted = min(tally.wall.total_ns, max(times.ended_ns - at, 0))
            yield _slice(stage, pid, track, at - zero, lasted, more)
            at += tally.wall.total_ns
        if is_beside:
            flow = {"name": "batch", "cat": "batch", "id": order}
            yield {**flow, "ph": "s", "pid": pid, "tid": track, "ts": (times.ended_ns - zero) / 1e3 - 1e-3}
            yield {**flow, "ph": "f", "bp": "e", "pid": main, "tid": CONSUMER, "ts": (one.delivered_ns - zero) / 1e3}
    yield _slice("wait", main, CONSUMER, one.asked_ns - zero, one.delivered_ns - one.asked_ns, {"for": name})
    at = taken
    for stage, tally in one.device.items():
        yield _slice(stage, main, MAIN, at - zero, tally.wall.total_ns, {"batch": one.number})
        at += tally.wall.total_ns
    if one.released_ns > one.delivered_ns:
        yield _slice(name, main, CONSUMER, one.delivered_ns - zero, one.released_ns - one.delivered_ns, about)


def _named(what: str, pid: int, tid: int, name: str) -> dict[str, Any]:
    return {"name": what, "ph": "M", "pid": pid, "tid": tid, "args": {"name": name}}


def _slice(name: str, pid: int, tid: int, begin_ns: int, lasted_ns: int, about: dict[str, Any]) -> dict[str, Any]:
    times = {"ts": begin_ns / 1e3, "dur": max(lasted_ns, 0) / 1e3}
    return {"name": name, "cat": "ecopipe", "ph": "X", "pid": pid, "tid": tid, **times, "args": about}


def write_trace(recording: Recording, path: Path) -> None:
    """Writes the events as one JSON file, whole or not at all."""
    with publish_file(path) as temporary:
        document = {"traceEvents": events(recording), "displayTimeUnit": "ms"}
        temporary.write_text(json.dumps(document), encoding="utf-8")


def prometheus(metrics: Mapping[str, float], labels: Mapping[str, str] | None = None) -> str:
    """What ``loader.metrics()`` gives, in Prometheus' text format.

    Args:
        metrics: Names and values; a name that ends in ``_total`` is a counter, any other a gauge.
        labels: Names and values that every line bears, such as the rank.

    Raises:
        ConfigError: A label's name is none that Prometheus takes.

    >>> print(prometheus({"batches_total": 3.0}, {"rank": "0"}), end="")
    # HELP ecopipe_batches_total Batches that were handed out.
    # TYPE ecopipe_batches_total counter
    ecopipe_batches_total{rank="0"} 3.0
    """
    for label in labels or ():
        if not re.fullmatch(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*", label):
            raise ConfigError(
                f"prometheus: {label!r} is no name of a label. Use letters, digits and underscores, with no digit and "
                "no two underscores at the beginning."
            )
    told = ",".join(f'{name}="{_escaped(value)}"' for name, value in (labels or {}).items())
    lines = []
    for name, value in metrics.items():
        full = "ecopipe_" + re.sub(r"[^a-zA-Z0-9_]", "_", name)
        kind = "counter" if name.endswith("_total") else "gauge"
        meaning = MEANINGS.get(name, f"{name} of an ecopipe loader.").replace("\\", "\\\\").replace("\n", "\\n")
        lines += [f"# HELP {full} {meaning}", f"# TYPE {full} {kind}"]
        lines += [f"{full}{{{told}}} {value}" if told else f"{full} {value}"]
    return "".join(f"{line}\n" for line in lines)


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def to_tensorboard(writer: SummaryWriter, metrics: Mapping[str, float], step: int) -> None:
    """Enters what ``loader.metrics()`` gives as scalars of a step, under ``ecopipe/``."""
    for name, value in metrics.items():
        writer.add_scalar(f"ecopipe/{name}", value, step)

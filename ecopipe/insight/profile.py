"""A profile of a loader: what limits it, at what rate, and what would change it; as words and as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ecopipe.insight import profile_words
from ecopipe.insight.predictions import PLAN, Model
from ecopipe.insight.profile_model import calibration, measured_rate, model_of, steady
from ecopipe.pipeline.pipeline import Pipeline
from ecopipe.run.gauge import Delivery, Gauge, Recording
from ecopipe.vocabulary.errors import DataError
from ecopipe.vocabulary.meters import Histogram, Tally, cores

FORMAT = 1
"""Version of the JSON document."""

CLEAR = 1.05
"""What limits, or what would help, is told from a gain of so much on."""

DRAWN = 2000
"""Batches that the document lists, for charts: the last ones."""

PREFETCHES = (1, 2, 4, 8)
CONSUMERS_MS = (0, 10, 100)


class Profile:
    """A recording of a loader that goes on until :meth:`stop`, or until its ``with`` is left::

        with loader.profile() as profile:
            for batch in itertools.islice(loader, 200):
                train(batch)
        print(profile.words())

    Asking it for anything ends the recording, inside the ``with`` as well: :attr:`model`, :meth:`as_json` and
    :meth:`words` call :meth:`stop`.

    What is delivered does not change. Batches that were on their way when it began are not looked at; it holds 20,000.

    Args:
        recording: Where to; it begins at once.
        pipeline: Of which loader.
        gauge: What records.

    Raises:
        ConfigError: A profile of this loader goes on already.
    """

    def __init__(self, recording: Recording, pipeline: Pipeline, gauge: Gauge) -> None:
        self.recording, self._pipeline, self._gauge = gauge.start(recording), pipeline, gauge

    def __enter__(self) -> Profile:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Ends the recording. A second time it does nothing."""
        if self._gauge.recording is self.recording:
            self._gauge.stop()

    @property
    def model(self) -> Model:
        """What predicts: the measured costs of each batch. Ends the recording."""
        self.stop()
        return model_of(self.recording)

    def as_json(self) -> dict[str, Any]:
        """Everything as one JSON document. Ends the recording. Times are in the unit of their names; the keys:

        ``run``: what was measured. ``limit``: the part whose absence would bring most. ``stages``: a row each, in the
        order of the way. ``queues``: how long tasks waited for a worker, and batches for the consumer. ``workers``: a
        row each. ``predictions``: samples per second under other settings. ``batches``, ``lengths``: for charts.

        All rates that are predicted stand in proportion to what was measured: they are what the model says, times
        ``run.samples_per_s`` / ``limit.modelled_per_s``, which is what it says of the settings of the run.

        Raises:
            DataError: Too little was recorded.
        """
        self.stop()
        if len(self.recording.deliveries) < 3 or not (found := steady(self.recording)):
            count = len(self.recording.deliveries)
            raise DataError(
                f"profile: {count} {'batch was' if count == 1 else 'batches were'} recorded; at least 3 are wanted. "
                "Take more inside its 'with' (from the shell: with a larger --seconds), or make them smaller."
            )
        model = model_of(self.recording)
        scale = calibration(model, self.recording)
        free = _headroom(model, self.recording, scale)
        document = {
            "format": FORMAT,
            "settings": {
                "workers": self.recording.workers, "threads": self.recording.threads,
                "prefetch": self.recording.prefetch, "beside": self.recording.beside,
                "device": str(self.recording.device), "cores": cores(),
                "stages": [stage.label for stage in self._pipeline.stages],
            },
            "run": _run(self.recording, found),
            "limit": _limit(model, self.recording, scale, free),
            "stages": _stages(self.recording, found, free),
            "queues": _queues(found),
            "transfer": _transfer(self.recording, found),
            "workers": _workers(self.recording),
            "predictions": _predictions(model, self.recording, scale, free, self._pipeline.threads_alone),
            "batches": _batches(self.recording),
            "lengths": _lengths(self.recording.deliveries),
        }  # fmt: skip
        return {**document, "words": profile_words.told(document)}

    def words(self) -> str:
        """What limits, and what would change it, in sentences. Ends the recording.

        Raises:
            DataError: Too little was recorded.
        """
        return "\n".join(self.as_json()["words"])


def _run(recording: Recording, found: list[Delivery]) -> dict[str, Any]:
    rate = measured_rate(found)
    samples = sum(one.samples for one in found)
    waited = sum(one.delivered_ns - one.asked_ns for one in found)
    worked = sum(max(one.released_ns - one.delivered_ns, 0) for one in found[:-1])
    measured = [one for one in recording.deliveries if one.lengths is not None]
    padded = sum(one.padded_length for one in measured)
    idle = [one.gpu_idle for one in found if one.gpu_idle is not None]
    begin = recording.deliveries[0]
    return {
        "batches": len(recording.deliveries),
        "samples": sum(one.samples for one in recording.deliveries),
        "wall_s": round((recording.ended_ns - recording.began_ns) / 1e9, 4),
        "steady_batches": len(found),
        "samples_per_s": round(rate, 2),
        "batches_per_s": round(rate * len(found) / samples, 3),
        "waiting_share": round(waited / max(waited + worked, 1), 4),
        "consumer_ms": round(worked / max(len(found) - 1, 1) / 1e6, 4),
        "starved_share": round(_starved(recording, found), 4),
        "gpu_dry_share": round(sum(idle) / len(idle), 4) if idle else None,
        "first_batch_s": round((begin.delivered_ns - recording.first_ask_ns) / 1e9, 4),
        "padding_fraction": round(1 - sum(int(one.lengths.sum()) for one in measured) / padded, 6) if padded else None,
        "batch_bytes": round(sum(one.bytes for one in found) / len(found)),
        "main_rss_bytes": recording.rss_bytes,
        "main_cpu_share": round(recording.process_cpu_ns / max(recording.ended_ns - recording.began_ns, 1), 4),
    }


def _starved(recording: Recording, found: list[Delivery]) -> float:
    """Of the time that threads took to make batches, the part in which no core was free for them.

    The consumer's counts, from asking to having, where it makes them itself: else it waits there for the others.
    """
    spans = [
        (one.times.starved_ns, one.times.wall_ns)
        if one.times is not None and recording.is_beside(one.times)
        else (one.starved_ns, one.delivered_ns - one.asked_ns)
        for one in found
    ]
    return min(sum(starved for starved, _ in spans) / max(sum(wall for _, wall in spans), 1), 1.0)


def _headroom(model: Model, recording: Recording, scale: float) -> dict[str, float]:
    """Samples per second if a part cost nothing, which makes nothing slower."""
    now = model.rate(recording.workers, recording.prefetch, threads=recording.threads)
    found = model.headroom(recording.workers, recording.prefetch, recording.threads)
    return {name: scale * max(rate, now) for name, rate in found.items()}


def _limit(model: Model, recording: Recording, scale: float, free: Mapping[str, float]) -> dict[str, Any]:
    name = max(free, key=lambda name: free[name])
    now = model.rate(recording.workers, recording.prefetch, threads=recording.threads)
    gain = free[name] / max(scale * now, 1e-9)
    return {
        "name": name, "clear": gain >= CLEAR, "modelled_per_s": round(now, 2), "without_per_s": round(free[name], 2),
    }  # fmt: skip


def _stages(recording: Recording, found: list[Delivery], free: Mapping[str, float]) -> list[dict[str, Any]]:
    """A row for each part: where it runs, and what it took."""
    worker: dict[str, Tally] = {}
    main: dict[str, Tally] = {PLAN: Tally()}
    for one in found:
        for name, tally in (one.times.stages if one.times else {}).items():
            worker.setdefault(name, Tally()).merge(tally)
        for name, tally in one.device.items():
            main.setdefault(name, Tally()).merge(tally)
        main[PLAN].merge(one.plan)
    samples = sum(one.samples for one in found)
    total = sum(tally.wall.total_ns for tally in [*worker.values(), *main.values()]) or 1
    place = "worker" if recording.workers else "main"
    on = "gpu" if recording.device.type == "cuda" else "main"
    rows = []
    for name, tally, where in [
        *((name, tally, place) for name, tally in worker.items()),
        *((name, tally, "main" if name == PLAN else on) for name, tally in main.items()),
    ]:
        seconds = tally.wall.total_ns / 1e9
        rows.append({
            "name": name,
            "where": where,
            "per": "batch" if tally.wall.count <= 2 * len(found) + 2 else "sample",
            "items": samples,
            "items_per_s": round(samples / seconds, 2) if seconds else None,
            "self_s": round(seconds, 6),
            "cpu_s": round(min(tally.cpu_ns / 1e9, 1e9), 6),
            "share": round(tally.wall.total_ns / total, 4),
            "bytes_in": round(tally.bytes_in),
            "bytes_out": round(tally.bytes_out),
            "without_per_s": round(free[name], 2) if name in free else None,
            **tally.wall.figures(),
        })  # fmt: skip
    return rows


def _queues(found: list[Delivery]) -> dict[str, Any]:
    before, after = Histogram(), Histogram()
    before.add_all(max(one.times.began_ns - one.times.issued_ns, 1) for one in found if one.times)
    after.add_all(max(one.got_ns - one.times.ended_ns, 1) for one in found if one.times)
    return {"before_worker": before.figures(), "before_consumer": after.figures()}


def _transfer(recording: Recording, found: list[Delivery]) -> dict[str, Any]:
    packed, unpacked = Histogram(), Histogram()
    if recording.workers:
        packed.add_all(one.times.pack_ns for one in found if one.times and one.times.pack_ns)
        unpacked.add_all(one.times.unpack_ns for one in found if one.times)
    else:
        packed.add_all(pack for pack, _ in recording.tried)
        unpacked.add_all(unpack for _, unpack in recording.tried)
    return {"tried_only": not recording.workers, "pack": packed.figures(), "unpack": unpacked.figures()}


def _workers(recording: Recording) -> list[dict[str, Any]]:
    rows = []
    times = [one.times for one in recording.deliveries if one.times is not None]
    for pid in dict.fromkeys(one.pid for one in times):
        mine = [one for one in times if one.pid == pid]
        threads = len({one.thread for one in mine})
        span = max(max(one.ended_ns for one in mine) - min(one.began_ns for one in mine), 1)
        rows.append({
            "pid": pid,
            "batches": len(mine),
            "threads": threads,
            "busy_share": round(sum(one.wall_ns for one in mine) / span / threads, 4),
            "cpu_share": round(sum(one.cpu_ns for one in mine) / span, 4),
            "starved_share": round(sum(one.starved_ns for one in mine) / span / threads, 4),
            "rss_bytes": max(one.rss_bytes for one in mine),
        })  # fmt: skip
    return rows


def _predictions(
    model: Model, recording: Recording, scale: float, free: Mapping[str, float], threads_alone: bool
) -> dict[str, dict[str, float]]:
    """Samples per second under other settings, all else as it was: see :mod:`ecopipe.insight.predictions`.

    Of several threads nothing is told of ``workers``: in what they took, waiting for the interpreter's lock looks like
    any waiting.
    """
    workers, prefetch, threads = recording.workers, recording.prefetch, recording.threads
    most = max(4, workers, cores())
    counts = [0, 1, 2, *range(3, min(most, 16) + 1), *(count for count in (24, 32, 48, 64) if count <= most)]

    def rate(workers: int, prefetch: int, threads: int, consumer_s: float | None = None) -> float:
        return round(scale * model.rate(workers, prefetch, threads=threads, consumer_s=consumer_s), 2)

    slower = {str(ms): rate(workers, prefetch, threads, ms / 1e3) for ms in CONSUMERS_MS}
    found = {
        "without": {name: round(value, 2) for name, value in free.items()},
        # a quick consumer gets at least what a slow one does
        "consumer_ms": {ms: max(list(slower.values())[at:]) for at, ms in enumerate(slower)},
    }
    if threads < 2:
        found["workers"] = {
            str(count): rate(count, prefetch, threads if count == workers else 0)
            for count in sorted({*counts, workers})
        }
    if not recording.beside and threads_alone:
        found["threads"] = {str(count): rate(0, prefetch, count) for count in range(1, cores() + 1)}
    if recording.beside:
        found["prefetch"] = {str(count): rate(workers, count, threads) for count in PREFETCHES}
    return found


def _batches(recording: Recording) -> list[dict[str, Any]]:
    rows = []
    for one in recording.deliveries[-DRAWN:]:
        times = one.times
        true = int(one.lengths.sum()) if one.lengths is not None else 0
        rows.append({
            "epoch": one.epoch,
            "number": one.number,
            "at_s": round((one.delivered_ns - recording.began_ns) / 1e9, 6),
            "samples": one.samples,
            "bytes": one.bytes,
            "waited_ms": round((one.delivered_ns - one.asked_ns) / 1e6, 4),
            "consumer_ms": round(max(one.released_ns - one.delivered_ns, 0) / 1e6, 4),
            "pid": times.pid if times else None,
            "thread": times.thread if times else None,
            "made_ms": round(times.wall_ns / 1e6, 4) if times else None,
            "task_waited_ms": round((times.began_ns - times.issued_ns) / 1e6, 4) if times else None,
            "batch_waited_ms": round((one.got_ns - times.ended_ns) / 1e6, 4) if times else None,
            "padding": round(1 - true / one.padded_length, 5) if one.padded_length else None,
        })  # fmt: skip
    return rows


def _lengths(deliveries: list[Delivery]) -> dict[str, Any] | None:
    """The histogram of the true lengths, in the unit of the batch's ``lengths``: 40 bins of one width."""
    measured = [one.lengths for one in deliveries if one.lengths is not None and len(one.lengths)]
    if not measured:
        return None
    counts, edges = np.histogram(np.concatenate(measured), bins=40)
    return {"edges": [round(float(edge), 3) for edge in edges], "counts": counts.tolist()}

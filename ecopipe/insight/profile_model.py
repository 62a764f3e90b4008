"""From what was recorded to what can be predicted: the costs of each batch, part by part."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace

from ecopipe.insight.predictions import CONSUMER, PLAN, Cost, Model, Step, slope
from ecopipe.run.gauge import Delivery, Recording
from ecopipe.run.metering import BatchTimes
from ecopipe.vocabulary.meters import cores

REST = "rest of the worker"
DELIVER = "deliver"

MESSAGE_S = 150e-6
"""Seconds of the consumer's process for the messages of a batch, where no worker was there to measure it."""


ENOUGH = 8
"""Deliveries from which on their rate is compared with the modelled one."""

LEAST_REACHED = 0.5


def steady(recording: Recording) -> list[Delivery]:
    """The deliveries after the start: without those that were on their way before the first could be taken, and those
    whose tasks were issued before the recording."""
    found = [one for one in recording.deliveries if one.times is not None]
    first = max(1, recording.workers * recording.prefetch)
    return found[first:] if len(found) >= first + 4 else found[1:] if len(found) > 4 else found


def measured_rate(deliveries: Sequence[Delivery]) -> float:
    """Samples per second of some deliveries."""
    return slope([one.delivered_ns / 1e9 for one in deliveries], [one.samples for one in deliveries])


def model_of(recording: Recording) -> Model:
    """The measured batches of a recording as a model. It has no steps if nothing was delivered."""
    model = _ideal(recording)
    found = steady(recording)
    modelled = model.rate(recording.workers, recording.prefetch)
    if len(found) < ENOUGH or not modelled:
        return model
    return replace(model, reached=min(max(measured_rate(found) / modelled, LEAST_REACHED), 1.0))


def _ideal(recording: Recording) -> Model:
    deliveries = steady(recording)
    steps = [_step(one, recording) for one in deliveries]
    if not recording.workers:
        sent = min((packed for packed, _ in recording.tried), default=0) / 1e9
        received = min((unpacked for _, unpacked in recording.tried), default=0) / 1e9
        return Model(tuple(steps), cores(), Cost(sent), Cost(received + MESSAGE_S))
    sent = _mean([one.times.pack_ns for one in deliveries if one.times and one.times.pack_ns]) / 1e9
    received = _mean([_rest_ns(one, recording) for one in deliveries]) / 1e9
    return Model(tuple(steps), cores(), Cost(sent), Cost(received))


def _mean(values: Sequence[float]) -> float:
    return statistics.fmean(values) if values else 0.0


def _step(one: Delivery, recording: Recording) -> Step:
    worker = worker_costs(one.times) if one.times else {}
    main = {PLAN: Cost.measured(one.plan.wall.total_ns / 1e9, one.plan.cpu_ns / 1e9)}
    if recording.device.type != "cuda":  # there they run beside the consumer
        for name, tally in one.device.items():
            main[name] = Cost.measured(tally.wall.total_ns / 1e9, tally.cpu_ns / 1e9)
    if not recording.workers:
        main[DELIVER] = Cost(_rest_ns(one, recording) / 1e9)
    busy = max(one.released_ns - one.delivered_ns, 0) / 1e9
    cpu = min(one.consumer_cpu_ns / 1e9, busy)
    main[CONSUMER] = Cost(cpu, busy - cpu)
    return Step(one.samples, worker, main)


def worker_costs(times: BatchTimes) -> dict[str, Cost]:
    """What the stages of a batch took where it was made, and the rest. Waiting for a core is taken out of those that
    compute."""
    cpu_ns = {name: tally.cpu_ns for name, tally in times.stages.items()}
    wall_ns = {name: float(tally.wall.total_ns) for name, tally in times.stages.items()}
    cpu_ns[REST] = max(times.cpu_ns - sum(cpu_ns.values()), 0.0)
    wall_ns[REST] = max(times.wall_ns - sum(wall_ns.values()), 0.0)
    cpu_ns[REST] = min(cpu_ns[REST], wall_ns[REST])
    computed = sum(cpu_ns.values()) or 1.0
    return {
        name: Cost.measured(wall_ns[name] / 1e9, cpu / 1e9, times.starved_ns * cpu / computed / 1e9)
        for name, cpu in cpu_ns.items()
    }


def _rest_ns(one: Delivery, recording: Recording) -> float:
    """What the consumer's thread computed to get a batch, beside what is counted elsewhere."""
    elsewhere = one.plan.cpu_ns
    if recording.device.type != "cuda":
        elsewhere += sum(min(tally.cpu_ns, tally.wall.total_ns) for tally in one.device.values())
    if not recording.workers and one.times is not None:
        elsewhere += one.times.cpu_ns
    return max(one.cpu_ns - elsewhere, 0.0)

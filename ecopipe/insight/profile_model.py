"""From what was recorded to what can be predicted: the costs of each batch, part by part."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from ecopipe.insight.predictions import CONSUMER, DELIVER, PLAN, TRANSFER, Cost, Model, Step, slope
from ecopipe.run.gauge import Delivery, Recording
from ecopipe.run.metering import BatchTimes

REST = "rest of the worker"

PER_BATCH = (PLAN, DELIVER, REST, TRANSFER)
"""Parts that are paid once for each batch; all others grow with what it holds."""

BUDGETS = (0.5, 2.0, 4.0)
"""Times as much in a batch, of which it is told what that would give."""

MESSAGE_S = 150e-6
"""Seconds of the consumer's process for the messages of a batch, where no worker was there to measure it."""

LATENCY_S = 300e-6
"""Seconds after which a message wakes a process, where none was there to measure it."""

MOST_STEPS = 1000
"""Batches of a long recording that the model keeps, one of every so many: each prediction goes through all of them."""

ENOUGH = 4
"""Batches from which on what lies between them is told by the clock."""


def steady(recording: Recording) -> list[Delivery]:
    """The deliveries after the start: without those that were on their way before the first could be taken, and those
    whose tasks were issued before the recording."""
    found = [one for one in recording.deliveries if one.times is not None]
    first = max(1, recording.beside * recording.prefetch)
    return found[first:] if len(found) >= first + 4 else found[1:] if len(found) > 4 else found


def measured_rate(deliveries: Sequence[Delivery]) -> float:
    """Samples per second of some deliveries."""
    return slope([one.delivered_ns / 1e9 for one in deliveries], [one.samples for one in deliveries])


def calibration(model: Model, recording: Recording) -> float:
    """What was measured, divided by what the model says of the same settings: other predictions times this are in
    proportion to what was measured. 1 if too little was recorded."""
    found = steady(recording)
    now = model.rate(recording.workers, recording.prefetch, threads=recording.threads)
    return measured_rate(found) / now if len(found) > 1 and now > 0 else 1.0


def model_of(recording: Recording) -> Model:
    """The measured batches of a recording as a model. It has no steps if nothing was delivered.

    Waiting for a core is taken out of what was measured as far as the recorded threads took the cores from one another,
    which the simulation shows, since it does so again. The rest was others' doing, and stays.
    """
    found = steady(recording)
    measured = sum(_starved_ns(one, recording) for one in found) / 1e9 / max(len(found), 1)
    if not recording.beside or measured <= 0:
        return _with(recording, found, 0.0)
    alone = _with(recording, found, 1.0).run(recording.workers, recording.prefetch, threads=recording.threads)
    return _with(recording, found, min(alone.starved_s / measured, 1.0))


def _starved_ns(one: Delivery, recording: Recording) -> int:
    """What making and taking a batch waited for a core, in all threads."""
    made = one.times.starved_ns + one.times.between_starved_ns if one.times and recording.is_beside(one.times) else 0
    return made + one.starved_ns + one.consumer_starved_ns


def _with(recording: Recording, deliveries: Sequence[Delivery], own: float) -> Model:
    """The model, if such a share of the waiting for cores was the recorded threads' own doing."""
    staged = _staged([one.times for one in deliveries if one.times])
    each = -(-len(deliveries) // MOST_STEPS) or 1
    steps = tuple(_step(one, recording, own, staged) for one in deliveries[::each])
    if not recording.workers:
        sent = min((packed for packed, _ in recording.tried), default=0) / 1e9
        received = min((unpacked for _, unpacked in recording.tried), default=0) / 1e9
        return Model(steps, recording.cores, Cost(sent), Cost(received + MESSAGE_S), LATENCY_S, LATENCY_S)
    sending, asking_s = _between(deliveries, own)
    receiving, answering_s = _received(deliveries, recording, own)
    return Model(steps, recording.cores, sending, receiving, asking_s, answering_s)


def _between(deliveries: Sequence[Delivery], own: float) -> tuple[Cost, float]:
    """What a worker does from one batch to the next that waits for it already; and the seconds that a task takes to
    come to one that waits for it."""
    busy: list[tuple[int, BatchTimes]] = []
    idle: list[int] = []
    last: dict[tuple[int, int], BatchTimes] = {}
    for times in sorted((one.times for one in deliveries if one.times), key=lambda times: times.began_ns):
        before = last.get((times.pid, times.thread))
        last[times.pid, times.thread] = times
        if before is None:
            continue
        if times.issued_ns <= before.ended_ns:
            busy.append((times.began_ns - before.ended_ns, times))
        elif times.issued_ns > before.ended_ns + before.pack_ns:
            idle.append(times.began_ns - times.issued_ns)
    asking_s = max(statistics.fmean(idle) / 1e9, 0.0) if len(idle) >= ENOUGH else LATENCY_S
    cpu_s = _mean([one.times.between_cpu_ns for one in deliveries if one.times]) / 1e9
    if any(times.thread != one.thread for times in last.values() for one in last.values() if one.pid == times.pid):
        cpu_s += _mean([times.pack_ns for _, times in busy]) / 1e9  # another thread of the worker sends
    if len(busy) < ENOUGH:
        return Cost(cpu_s), asking_s
    starved_s = own * _mean([times.between_starved_ns for _, times in busy]) / 1e9
    wall_s = max(_mean([gap for gap, _ in busy]) / 1e9, 0.0)
    return Cost.measured(wall_s, min(cpu_s, wall_s), starved_s), asking_s


def _received(deliveries: Sequence[Delivery], recording: Recording, own: float) -> tuple[Cost, float]:
    """What the consumer's process does to receive a batch that is there, and to hand it over; and the seconds that a
    batch takes to come to a consumer that waits for it."""
    came = [(one, one.times.ended_ns + one.times.pack_ns) for one in deliveries if one.times]
    there = [one.wait_ns for one, at in came if at < one.asked_ns]
    cpu_s = _mean([_rest_ns(one, recording) for one in deliveries]) / 1e9
    after_s = _mean([_after_ns(one) for one in deliveries]) / 1e9
    wall_s = _mean(there) / 1e9 if len(there) >= ENOUGH else max(cpu_s - after_s, 0.0)
    starved_s = own * _main_starved_ns(deliveries) * wall_s / 1e9
    late = [one.got_ns - at - one.plan.wall.total_ns for one, at in came if at >= one.asked_ns]
    answering_s = max(_mean(late) / 1e9 - wall_s, 0.0) if len(late) >= ENOUGH else LATENCY_S
    whole_s = wall_s + after_s
    return Cost.measured(whole_s, min(cpu_s, whole_s), min(starved_s, wall_s)), answering_s


def _main_starved_ns(deliveries: Sequence[Delivery]) -> float:
    """Of each second of the consumer's process on its way to a batch, the ns without a core."""
    spent = sum(one.delivered_ns - one.asked_ns for one in deliveries) / 1e9
    return sum(one.starved_ns for one in deliveries) / spent if spent > 0 else 0.0


def _after_ns(one: Delivery) -> int:
    """What was done with a batch after it had come, beside the device stages."""
    device = sum(tally.wall.total_ns for tally in one.device.values())
    return max(one.delivered_ns - one.got_ns - device, 0)


def _mean(values: Sequence[float]) -> float:
    return statistics.fmean(values) if values else 0.0


def _staged(made: Sequence[BatchTimes]) -> float:
    """The part of the time of batches that their stages took, where some of their samples stand for the others."""
    some = [times for times in made if times.is_sampled]
    stages = sum(tally.wall.total_ns for times in some for tally in times.stages.values())
    return min(stages / max(sum(times.wall_ns for times in some), 1), 1.0)


def _step(one: Delivery, recording: Recording, own: float, staged: float) -> Step:
    worker = worker_costs(one.times, own, staged) if one.times else {}
    computed = one.cpu_ns or 1
    main = {}
    parts = {PLAN: one.plan}
    if recording.device.type != "cuda":  # there they run beside the consumer
        parts |= one.device
    for name, tally in parts.items():
        starved = own * one.starved_ns * min(tally.cpu_ns / computed, 1.0) if recording.beside else 0.0
        main[name] = Cost.measured(tally.wall.total_ns / 1e9, tally.cpu_ns / 1e9, starved / 1e9)
    if not recording.workers:
        wall_s, cpu_s = _delivered_ns(one, recording) / 1e9, _rest_ns(one, recording) / 1e9
        main[DELIVER] = Cost.measured(wall_s, min(cpu_s, wall_s))
    busy = max(one.released_ns - one.delivered_ns, 0) / 1e9
    cpu = min(one.consumer_cpu_ns / 1e9, busy)
    main[CONSUMER] = Cost.measured(busy, cpu, own * one.consumer_starved_ns / 1e9)
    return Step(one.samples, worker, main)


def _delivered_ns(one: Delivery, recording: Recording) -> float:
    """Without workers: from asking to having, what nothing else accounts for."""
    device = sum(tally.wall.total_ns for tally in one.device.values()) if recording.device.type != "cuda" else 0
    if recording.beside:
        return _after_ns(one)
    made = one.times.wall_ns if one.times else 0
    return max(one.delivered_ns - one.asked_ns - one.plan.wall.total_ns - made - device, 0)


def worker_costs(times: BatchTimes, own: float = 1.0, staged: float = 1.0) -> dict[str, Cost]:
    """What the stages of a batch took where it was made, and the rest; such a share of the waiting for a core is taken
    out of those that compute.

    Of a batch of which some samples stand for the others, which may be longer or shorter ones, the stages together took
    the part ``staged`` of its time: that of all such batches.
    """
    measured = sum(tally.wall.total_ns for tally in times.stages.values())
    part = staged * times.wall_ns / max(measured, 1) if times.is_sampled else 1.0
    cpu_ns = {name: part * tally.cpu_ns for name, tally in times.stages.items()}
    wall_ns = {name: part * tally.wall.total_ns for name, tally in times.stages.items()}
    cpu_ns[REST] = max(times.cpu_ns - sum(cpu_ns.values()), 0.0)
    wall_ns[REST] = max(times.wall_ns - sum(wall_ns.values()), 0.0)
    cpu_ns[REST] = min(cpu_ns[REST], wall_ns[REST])
    computed = sum(cpu_ns.values()) or 1.0
    return {
        name: Cost.measured(wall_ns[name] / 1e9, cpu / 1e9, own * times.starved_ns * cpu / computed / 1e9)
        for name, cpu in cpu_ns.items()
    }


def _rest_ns(one: Delivery, recording: Recording) -> float:
    """What the consumer's thread computed to get a batch, beside what is counted elsewhere."""
    elsewhere = one.plan.cpu_ns
    if recording.device.type != "cuda":
        elsewhere += sum(min(tally.cpu_ns, tally.wall.total_ns) for tally in one.device.values())
    if one.times is not None and not recording.is_beside(one.times):
        elsewhere += one.times.cpu_ns
    return max(one.cpu_ns - elsewhere, 0.0)

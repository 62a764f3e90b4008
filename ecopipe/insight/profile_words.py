"""The sentences of a profile, from its JSON document."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ecopipe.insight.predictions import CONSUMER, DELIVER, PLAN, TRANSFER
from ecopipe.insight.profile_model import REST

HELPS = 1.05
"""A setting is recommended if it gives so much more."""

STARVED = 0.2
"""Waiting for a core is told from such a share of the work on."""

EXPLAINED = {
    PLAN: "plan: choosing the samples of each batch, in the consumer's process",
    DELIVER: "deliver: what the consumer's process does to hand a batch over, beside its stages",
    TRANSFER: "transfer: packing batches in the workers, and receiving them in the consumer's process",
    REST: "the rest: what is done for a batch where it is made, outside of its stages",
}
"""Parts that no stage is, where one is named as what limits."""

SPOKEN = {REST: "the rest of making a batch", CONSUMER: "the consumer"}
"""Parts that are called by other names in sentences."""


def told(document: Mapping[str, Any]) -> list[str]:
    """What limits, how long the consumer waits, and what would change it: a sentence or two each."""
    found = [_limit(document), _waiting(document), _workers(document)]
    found += [_mode(document["settings"]), _prefetch(document), _budget(document)]
    found += [_codec(row, document["run"]) for row in document.get("codecs", [])]
    return [sentence for sentence in found if sentence]


def rate(value: float) -> str:
    """Samples per second, with three digits.

    >>> rate(412.3), rate(98234.0), rate(3.14159)
    ('412', '98,234', '3.14')
    """
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _limit(document: Mapping[str, Any]) -> str:
    limit, run = document["limit"], document["run"]
    workers = _makers(document["settings"])
    now, without = rate(run["samples_per_s"]), rate(limit["without_per_s"])
    name = SPOKEN.get(limit["name"], limit["name"])
    explained = f" ({EXPLAINED[limit['name']]}.)" if limit["name"] in EXPLAINED else ""
    if not limit["clear"]:
        return f"Nothing limits alone: {now} samples/s with {workers}; without {name} it would be {without}.{explained}"
    if limit["name"] == CONSUMER:
        return f"The consumer limits: {now} samples/s with {workers}, of {without} that the pipeline could give."
    begin = name[:1].upper() + name[1:] if limit["name"] in SPOKEN else name
    return f"{begin} limits: {now} samples/s with {workers}, of {without} if it cost nothing.{explained}"


def _waiting(document: Mapping[str, Any]) -> str:
    run, settings = document["run"], document["settings"]
    text = f"{run['waiting_share']:.0%} of the consumer's time is waiting for data."
    if run["gpu_dry_share"] is not None:
        text += f" The GPU had nothing left to do at {run['gpu_dry_share']:.0%} of the hand-overs."
    if run["starved_share"] >= STARVED:
        text += f" {run['starved_share']:.0%} of the work was waiting for a core: "
        sharing = f"{_makers(settings)}, the training process and other programs share {_cores(settings)}."
        text += sharing if settings["beside"] else "other programs took it."
    return text


def _workers(document: Mapping[str, Any]) -> str:
    predicted = document["predictions"].get("workers")
    if predicted is None:
        return "What workers would give is told by a profile without threads, or measured by 'ecopipe tune'."
    shown = [count for count in ("0", "1", "2", "4", "8", "16", "32", "64") if count in predicted]
    told = ", ".join(f"{count}: {rate(predicted[count])}" for count in shown)
    cores, beside = _cores(document["settings"]), _threads(document)
    best = max(predicted.values())
    fewest = next(count for count, value in predicted.items() if value >= best / HELPS)
    now = document["run"]["samples_per_s"]
    if now >= best / HELPS:
        advice = "more workers would not help"
    else:
        advice = f"{_count(int(fewest))} would give about {rate(predicted[fewest])} samples/s"
    free = ", if cores are free for them" if document["run"]["starved_share"] >= STARVED else ""
    return f"On {cores} {advice} (samples/s by workers{free}: {told}{beside})."


def _threads(document: Mapping[str, Any]) -> str:
    """What threads of the consumer's process would give at most: what they hold the interpreter's lock is not known."""
    predicted = document["predictions"].get("threads", {})
    if not predicted:
        return ""
    count, value = max(predicted.items(), key=lambda one: one[1])
    threads = "1 thread" if count == "1" else f"{count} threads"
    return f"; with {threads} at most {rate(value)}"


def _cores(settings: Mapping[str, Any]) -> str:
    return f"{settings['cores']} core{'s' * (settings['cores'] > 1)}"


def _makers(settings: Mapping[str, Any]) -> str:
    """How many workers and threads make the batches."""
    threads = settings.get("threads", 0)
    told = f"{threads} thread{'s' * (threads > 1)}" if threads else ""
    if not settings["workers"]:
        return told or _count(0)
    return _count(settings["workers"]) + (f" of {told}" if threads > 1 else "")


def _prefetch(document: Mapping[str, Any]) -> str:
    predicted = document["predictions"].get("prefetch", {})
    now = document["run"]["samples_per_s"]
    better = [(count, value) for count, value in predicted.items() if value > now * HELPS]
    if not better:
        return ""
    count, value = better[0]
    return f"prefetch={count} would give about {rate(value)} samples/s."


def _codec(row: Mapping[str, Any], run: Mapping[str, Any]) -> str:
    if row["samples_per_s"] is None or row["samples_per_s"] <= run["samples_per_s"] * HELPS:
        return ""
    return (
        f"Storing {row['to']} instead of {row['of']} would give about {rate(row['samples_per_s'])} samples/s at "
        f"{row['disk']:.2g}x the disk."
    )


def _budget(document: Mapping[str, Any]) -> str:
    """The budget that would give most, if it gives more."""
    now = document["run"]["samples_per_s"]
    better = [row for row in document.get("budgets", []) if row["samples_per_s"] > now * HELPS]
    if not better:
        return ""
    row = max(better, key=lambda row: row["samples_per_s"])
    value = rate(row["value"]) if row["value"] != round(row["value"]) else f"{row['value']:.0f}"
    padding = ""
    if row["padding"] or row["padding_now"]:
        padding = f", with {row['padding']:.1%} of padding instead of {row['padding_now']:.1%}"
    return (
        f"{row['setting']}={value} would give about {rate(row['samples_per_s'])} samples/s{padding}, if the consumer's "
        "step grows as the batch does."
    )


def _mode(settings: Mapping[str, Any]) -> str:
    """Whether making batches leaves the thread that trains alone."""
    if settings["workers"]:
        return "Batches are made in worker processes, which leave the training process's interpreter lock alone."
    if settings.get("threads"):
        return (
            "Batches are made in threads of the training process, which share its interpreter lock with the training "
            "loop; workers leave it alone."
        )
    return "Batches are made in the thread that trains, one after the other with its steps; workers leave it alone."


def _count(workers: int) -> str:
    return "no workers" if not workers else "1 worker" if workers == 1 else f"{workers} workers"

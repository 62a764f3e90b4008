"""Bad samples as they are met: listed, counted, and too many of them an error."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

from ecopipe.pipeline.bad_samples import SHARE_OVER, BadSamples
from ecopipe.storage.publish import explained
from ecopipe.vocabulary.errors import DataError
from ecopipe.vocabulary.sample import Fault, Place

MOST_TOLD = 10
"""Bad samples that a loader warns of one by one; all are counted, and listed in the quarantine file."""

_log = logging.getLogger("ecopipe")


class Quarantine:
    """Counts the bad samples of a loader against its policy's limits, and lists them.

    Args:
        policy: The limits.
        path: A file to append to, one JSON object a line: ``key``, ``shard``, ``stage``, ``error``, ``substitute`` (the
            key that came instead, or null), ``epoch``, ``batch``, ``position``, ``step``, ``rank``, ``repeat``. All
            ranks and restarts may write to one file on a local disk. None: no list.

    Raises:
        OutputError: The file cannot be written.
    """

    def __init__(self, policy: BadSamples, path: str | Path | None) -> None:
        self._policy = policy
        self._path = None if path is None else Path(path)
        self.seen = 0
        self.bad = 0
        self._in_a_row = 0
        if self._path is not None:
            with explained(self._path):
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._append(b"")

    def enter(self, place: Place) -> None:
        """Takes in a batch that is about to be handed out.

        Raises:
            DataError: There are more bad samples than the policy allows.
            OutputError: The list cannot be written.
        """
        count = len(place.shards)
        self.seen += count
        if not place.faults:
            self._in_a_row = 0
            return
        lines = [json.dumps(_described(place, fault), ensure_ascii=False) + "\n" for fault in place.faults]
        self._append("".join(lines).encode())
        faults = {fault.position: fault for fault in place.faults}
        for position in range(count):
            fault = faults.get(position)
            if fault is None:
                self._in_a_row = 0
                continue
            self.bad += 1
            self._in_a_row += 1
            self._tell(fault)
            if self._in_a_row > self._policy.max_consecutive:
                raise self._too_many(f"{self._in_a_row} in a row, over max_consecutive", fault)
        if self.bad > self._policy.max_share * max(self.seen, SHARE_OVER):
            raise self._too_many(f"{self.bad:,} of {self.seen:,} samples, over max_share", place.faults[-1])

    def _append(self, data: bytes) -> None:
        if self._path is None:
            return
        with explained(self._path):
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
            try:
                if os.write(descriptor, data) < len(data):
                    raise OSError("only a part of a line could be written")
            finally:
                os.close(descriptor)

    def _tell(self, fault: Fault) -> None:
        if self.bad > MOST_TOLD:
            return
        done = "left out" if fault.substitute is None else f"replaced by {fault.substitute!r}"
        more = "; further ones are not told" if self.bad == MOST_TOLD else ""
        _log.warning("bad sample %r in %s, %s: %s: %s%s", fault.key, fault.shard, done, fault.stage, fault.reason, more)

    def _too_many(self, what: str, fault: Fault) -> DataError:
        limit = self._policy.max_consecutive if "consecutive" in what else self._policy.max_share
        listed = "" if self._path is None else f" All are listed in {self._path}."
        return DataError(
            f"bad samples: {what} {limit}. The last is {fault.key!r} in {fault.shard}: {fault.stage}: {fault.reason}"
            f"{'' if fault.reason.endswith('.') else '.'}{listed} The state before this batch is good: mend the "
            "shards, or raise the limit in bad_samples, and go on from it."
        )


def _described(place: Place, fault: Fault) -> dict[str, object]:
    return {
        "key": fault.key,
        "shard": fault.shard,
        "stage": fault.stage,
        "error": fault.reason,
        "substitute": fault.substitute,
        "epoch": place.epoch,
        "batch": place.number,
        "position": fault.position,
        "step": place.step,
        "rank": place.rank,
        "repeat": place.repeat,
    }

"""Comparing what came with what should have come, in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ecopipe.testing.report import listed

Batches = Sequence[Sequence[str]]


def account(delivered: Sequence[str], expected: Sequence[str]) -> str:
    """What is lost, repeated or unknown; empty if each key came as often as it is expected.

    >>> account(["a", "b", "b"], ["a", "b", "c"])
    '1 of 3 samples lost (c), 1 repeated (b)'
    """
    counts, known = Counter(delivered), Counter(expected)
    lost = sorted(known - counts)
    repeated = sorted(key for key in counts - known if key in known)
    strange = sorted(counts.keys() - known.keys())
    found = ((lost, "lost"), (repeated, "repeated"), (strange, "unknown"))
    parts = [f"{len(keys)} {word} ({listed(keys)})" for keys, word in found if keys]
    if not parts:
        return ""
    first, _, rest = parts[0].partition(" ")
    return ", ".join([f"{first} of {len(known)} samples {rest}", *parts[1:]])


def difference(got: Batches, wanted: Batches) -> str:
    """How the batches that came differ from those that should have; empty if they are the same, in the same order.

    >>> difference([["b"], ["a"]], [["a"], ["b"]])
    'the same 2 samples in another order, from batch 1 on'
    >>> difference([["a"], ["c"]], [["a"], ["b"]])
    'of the 2 samples due 1 lost and 1 repeated'
    """
    if list(map(list, got)) == list(map(list, wanted)):
        return ""
    flat, want = _flat(got), _flat(wanted)
    if not flat:
        return f"nothing comes of the {len(want)} samples due"
    if flat == want:
        return f"the same order, cut into {len(got)} batches instead of {len(wanted)}"
    lost, extra = Counter(want) - Counter(flat), Counter(flat) - Counter(want)
    if not lost and not extra:
        first = next(i for i, (a, b) in enumerate(zip(got, wanted, strict=False), 1) if list(a) != list(b))
        return f"the same {len(want)} samples in another order, from batch {first} on"
    counts = [f"{found.total()} {word}" for found, word in ((lost, "lost"), (extra, "repeated")) if found]
    return f"of the {len(want)} samples due {' and '.join(counts)}"


def _flat(batches: Batches) -> list[str]:
    return [key for batch in batches for key in batch]

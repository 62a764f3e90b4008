"""Items of an iterable that can be read only in its order, planned window by window while it streams.

A window is a table with a row per item: its key, the numbers in it, and the item itself, pickled. So what follows
(planning, workers, ledger) treats its rows as it treats those of an index.
"""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa

from ecopipe.plan.blocks import Lane, Rows, Slice
from ecopipe.vocabulary.errors import ConfigError, DataError, StateError

ITEM = "ecopipe_item"
"""The column that holds the item, pickled."""

_MEMBERS = pa.list_(pa.struct([("extension", pa.string()), ("crc32", pa.uint32())]))


_RESERVED = {"key", "shard", "path", "members", ITEM}


class OpenedItems:
    """An iterable being read in windows. It reads as :class:`ecopipe.plan.shards.Shards` does.

    Args:
        make: Gives the iterable: a ``torchdata.nodes`` node, or anything that ``iter`` takes.
        window: Items of a window.
        key: The field that names an item; items without it are numbered.
        measure: Further numbers of an item, by name.
        label: What errors and the ledger call it.
        identity: What the iterable is, in words.
    """

    def __init__(
        self,
        make: Callable[[], Any],
        window: int,
        key: str,
        measure: Callable[[Mapping[str, Any]], Mapping[str, float]] | None,
        label: str,
        identity: str,
    ) -> None:
        self.window = window
        self.rows = 0  # not known
        self.fingerprint = hashlib.blake2b(identity.encode(), digest_size=16).hexdigest()
        self._make, self._key, self._measure, self._label = make, key, measure, label
        self._whole = make()
        self.is_node = all(hasattr(self._whole, name) for name in ("reset", "get_state"))
        self._names = {"duration_s"}
        self._untouched = True  # nothing but the first window was read
        self._begin(None)
        first = self.read([Slice(0, 0, window)])
        self.columns = {name for name in first.column_names if first[name].null_count < len(first)} - {
            ITEM,
            "members",
            "path",
        }
        self.fields = self.columns | {name for row in first[ITEM].to_pylist()[:100] for name in pickle.loads(row)}
        if not first.num_rows:
            raise DataError(f"{label}: the iterable holds no items.")

    @property
    def parts(self) -> dict[str, OpenedItems]:
        """The sources of these rows by name: this one."""
        return {"": self}

    def begin_epoch(self, ended: Any = None) -> None:
        """Goes to the beginning of the next epoch; ``ended`` is the state at the end of the one before."""
        if self._untouched and ended is None:
            return
        if self.is_node and ended is not None:
            self._begin(ended)
            for _ in self._items:  # torchdata's rule: what has come to its end begins the next epoch at reset()
                pass
        self._begin(None)

    def go_to(self, number: int, saved: Any) -> None:
        """Goes to the window with that number, before which the iterable had a saved state."""
        self._begin(saved)
        if self.is_node and saved is not None:
            self._next = number
        while self._next < number:  # an iterable without a state is read again up to there
            self._advance()

    def _begin(self, saved: Any) -> None:
        self.windows: float = float("inf")
        self._tables: dict[int, pa.Table] = {}
        self._states: dict[int, Any] = {}
        self._next, self._untouched = 0, saved is None
        if self.is_node:
            self._whole.reset(saved)
            self._items: Iterator[Any] = self._whole
        else:
            made = self._make()
            if not isinstance(made, Iterable):
                raise ConfigError(f"Items: make gave {made!r}, which is no iterable. Give a function that makes one.")
            self._items = iter(made)

    def read(self, slices: list[Slice], columns: tuple[str, ...] | None = None) -> pa.Table:
        """The rows of a window."""
        number = slices[0].start // self.window
        if number not in self._tables and number < self._next:
            raise RuntimeError(f"{self._label}: window {number} has passed; one iteration at a time.")
        while number not in self._tables:
            self._advance()
        return self._tables[number]

    def state_at(self, number: int) -> Any:
        """The iterable's state before one of the last windows, or at its end; None where it has none."""
        return self._states.get(number)

    def state_at_end(self) -> Any:
        """The iterable's state after its last item; None where it has none."""
        return self._states.get(self._next)

    def _advance(self) -> None:
        number = self._next
        if self.is_node:
            self._states[number] = self._state()
        items = [self._as_fields(item) for item in islice(self._items, self.window)]
        self._tables[number] = self._table(items, number * self.window)
        self._next += 1
        self._untouched = self._untouched and number == 0
        if len(items) < self.window:
            self.windows = self._next
            if self.is_node:
                self._states[self._next] = self._state()
        for kept in (self._tables, self._states):
            kept.pop(number - 2, None)

    def _state(self) -> Any:
        found = self._whole.state_dict() if hasattr(self._whole, "state_dict") else self._whole.get_state()
        try:
            if odd := _odd_key(found):
                raise TypeError(f"a dict has the key {odd!r}, which is no text")
            return json.loads(json.dumps(found))
        except (TypeError, ValueError) as error:
            raise StateError(
                f"{self._label}: the state of the node is not JSON ({error}), so it cannot be resumed exactly. Use "
                "nodes whose get_state gives numbers, text, lists and dicts."
            ) from error

    @staticmethod
    def _as_fields(item: Any) -> dict[str, Any]:
        return dict(item) if isinstance(item, Mapping) else {"value": item}

    def _table(self, items: list[dict[str, Any]], first: int) -> pa.Table:
        numbers: list[dict[str, Any]] = [
            {
                name: value
                for name, value in item.items()
                if isinstance(value, int | float | np.number) and name not in _RESERVED
            }
            | self._measured(item)
            for item in items
        ]
        self._names.update(name for row in numbers for name in row)
        columns: dict[str, Any] = {
            "key": pa.array([str(item.get(self._key, first + at)) for at, item in enumerate(items)], pa.string()),
            "shard": pa.array([self._label] * len(items), pa.string()),
            "path": pa.array([self._label] * len(items), pa.string()),
            "members": pa.array([[]] * len(items), _MEMBERS),
            **{name: pa.array([row.get(name) for row in numbers], pa.float64()) for name in sorted(self._names)},
            ITEM: pa.array([self._pickled(item) for item in items], pa.large_binary()),
        }
        return pa.table(columns)

    def _measured(self, item: dict[str, Any]) -> dict[str, float]:
        if self._measure is None:
            return {}
        found = {name: value for name, value in dict(self._measure(item)).items() if value is not None}
        for name, value in found.items():
            if name in _RESERVED or not isinstance(value, int | float | np.number):
                raise DataError(
                    f"{self._label}: measure gave {name!r}: {value!r}. Give numbers, under names other than "
                    f"{', '.join(sorted(_RESERVED))}."
                )
        return found

    def _pickled(self, item: dict[str, Any]) -> bytes:
        try:
            return pickle.dumps(item)
        except Exception as error:
            raise DataError(
                f"{self._label}: an item cannot be sent to a worker ({type(error).__name__}: {error}). Give items of "
                "numbers, text, arrays and tensors."
            ) from error

    def close(self) -> None:
        """Lets go of the iterable."""
        self._tables, self._states = {}, {}
        self._items = iter(())


def _odd_key(value: Any) -> Any:
    """A key of a dict in a state that is no text, and would come back from JSON as text."""
    if isinstance(value, Mapping):
        odd = next((key for key in value if not isinstance(key, str)), None)
        return odd if odd is not None else next(filter(None, map(_odd_key, value.values())), None)
    return next(filter(None, map(_odd_key, value)), None) if isinstance(value, list | tuple) else None


class ItemsLane(Lane):
    """The one lane of items: a block is a window."""

    def __init__(self, opened: OpenedItems) -> None:
        self._opened = opened

    @property
    def blocks(self) -> float:
        """Windows; infinite until the end has been seen."""
        return self._opened.windows

    def block(self, number: int) -> list[Slice]:
        """The window, as a slice of the items."""
        return [Slice(0, number * self._opened.window, (number + 1) * self._opened.window)]

    def order(self, number: int) -> Rows:
        """The items as they come."""
        return np.arange(self._opened.read(self.block(number)).num_rows, dtype=np.int64)

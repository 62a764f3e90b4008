"""A pipeline as a node of ``torchdata.nodes``, to be composed with torchdata's own."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ecopipe.pipeline.pipeline import Pipeline
from ecopipe.vocabulary.errors import MissingDependency
from ecopipe.vocabulary.sample import Batch

if TYPE_CHECKING:
    from ecopipe.run.loader import Loader

try:
    from torchdata.nodes import BaseNode
except ImportError as _absent:
    _reason = str(_absent)

    class BaseNode:  # type: ignore[no-redef]
        """Stands in where torchdata is not installed, and says so when it is needed."""

        def __init__(self) -> None:
            raise MissingDependency(
                f"LoaderNode: torchdata.nodes cannot be imported ({_reason}). "
                "Install it: pip install 'ecopipe[torchdata]'."
            )


class LoaderNode(BaseNode):  # type: ignore[misc]
    """The batches of a pipeline as a ``torchdata.nodes`` node: ``next`` gives a batch, the state is the loader's.

    ::

        node = LoaderNode(pipe, workers=2, seed=1)
        loader = torchdata.nodes.Loader(torchdata.nodes.Prefetcher(node, prefetch_factor=2))
        for epoch in range(3):
            for batch in loader:
                ...
                state = loader.state_dict()

    ``reset(state)`` goes on where a state was taken; at the end of an epoch, with the next one. ``reset()`` begins an
    epoch, each time the next one. That is the rule among torchdata's nodes, and holds after an epoch that was left
    half-way too (which ecopipe's own loader begins again), because a node above this one may have read ahead of its
    consumer by any number of batches.

    Args:
        pipeline: What to deliver.
        settings: Those of :class:`ecopipe.run.loader.Loader`: ``workers``, ``seed``, ``device``, ``rank``, ...

    Raises:
        MissingDependency: torchdata is not installed.
    """

    def __init__(self, pipeline: Pipeline, **settings: Any) -> None:
        super().__init__()
        self._pipeline, self._settings = pipeline, settings
        self._loader: Loader | None = None
        self._batches: Iterator[tuple[Batch, dict[str, Any]]] = iter(())
        self._epoch: int | None = None
        self._state: dict[str, Any] = {}
        self._lock = threading.Lock()  # a Prefetcher's thread that is slow to end may still be in next() at a reset()

    def reset(self, initial_state: dict[str, Any] | None = None) -> None:
        """Begins the next epoch (at first the loader's), or goes on from a state; opens the loader when it is not.

        Raises:
            StateError: The state does not belong to this pipeline, its shards or its seed.
        """
        super().reset(initial_state)
        with self._lock:
            if self._loader is None:
                self._loader = self._pipeline.loader(**self._settings)
            if initial_state is not None:
                self._resume(self._loader, initial_state)
                return
            if self._epoch is not None:
                self._loader.set_epoch(self._epoch + 1)
            self._begin(self._loader)

    def _resume(self, loader: Loader, state: dict[str, Any]) -> None:
        loader.load_state_dict(state)
        self._begin(loader)
        first = next(self._batches, None)
        if first is not None:
            self._batches = itertools.chain([first], self._batches)
        else:  # torchdata's Loader would go on with the next epoch too, but give this state out all through it (0.11)
            self._begin(loader)

    def _begin(self, loader: Loader) -> None:
        self._epoch, self._state = loader.epoch, loader.state_dict()
        self._batches = _with_states(loader)

    def next(self) -> Batch:
        """The next batch; StopIteration at the end of the epoch."""
        with self._lock:
            batch, self._state = next(self._batches)
            return batch

    def get_state(self) -> dict[str, Any]:
        """The loader's state after the last batch; at the end of an epoch still that after its last batch."""
        return self._state

    def close(self) -> None:
        """Ends the workers and closes the files; a later ``reset`` opens them again."""
        with self._lock:
            if self._loader is not None:
                self._loader.close()
            self._loader, self._batches = None, iter(())


def _with_states(loader: Loader) -> Iterator[tuple[Batch, dict[str, Any]]]:
    for batch in loader:
        yield batch, loader.state_dict()

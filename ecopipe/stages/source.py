"""Where the samples of a pipeline come from: shards, or a mixture of several sets of shards."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, cast, get_args

from ecopipe.datasets.shards import Progress, silent
from ecopipe.plan.items import OpenedItems
from ecopipe.plan.mixed import MixedShards
from ecopipe.plan.mixture import Stop
from ecopipe.plan.shards import Shards, open_shards
from ecopipe.stages.foreign import identity
from ecopipe.stages.stage import fits, hints_of
from ecopipe.vocabulary.errors import ConfigError, nearest

LANES = 1
BLOCK_ROWS = 16384


@dataclass(frozen=True)
class TarShards:
    """WebDataset tars with an index beside them; tars without one are indexed the first time they are seen.

    Args:
        path: A folder of tars, one tar, or a glob pattern; a path or a URL that fsspec knows; or several of these, in a
            list.
        lanes: Independent streams of shards that take turns in giving a batch. More lanes let ranks read fewer shards
            each, fewer lanes let blocks be larger for their memory. Part of the order: never a matter of the machine.
        block_rows: Samples that are shuffled and bucketed together within a lane. Planning holds one block per lane.
        name: What a ``Mix`` and the ledger call it; the last part of the path unless given.

    The path is not part of the pipeline's identity: what the shards hold is, through the index.
    """

    path: str | tuple[str, ...] = field(metadata={"identity": False})
    lanes: int = field(default=LANES, kw_only=True)
    block_rows: int = field(default=BLOCK_ROWS, kw_only=True)
    name: str = field(default="", kw_only=True, metadata={"identity": False})

    def __post_init__(self) -> None:
        if isinstance(self.path, os.PathLike):
            object.__setattr__(self, "path", os.fspath(self.path))
        elif isinstance(self.path, list | tuple):
            several = (os.fspath(path) if isinstance(path, os.PathLike) else path for path in self.path)
            object.__setattr__(self, "path", tuple(several))
        _check_types(self)
        if not self.path or not all(self.paths):
            raise ConfigError("TarShards: path is empty. Give a folder of tars.")
        _check_blocks("TarShards", self.lanes, self.block_rows)

    @property
    def paths(self) -> tuple[str, ...]:
        """The paths as a tuple."""
        return (self.path,) if isinstance(self.path, str) else self.path

    @property
    def label(self) -> str:
        """The name, or the last part of the first path."""
        return self.name or self.paths[0].rstrip("/").rpartition("/")[2]

    @property
    def shard_paths(self) -> tuple[str, ...]:
        """The paths of all shards that will be opened."""
        return self.paths

    def open(self, progress: Progress = silent, *, tolerant: bool = False) -> Shards:
        """Opens the index of the shards.

        Args:
            progress: Told of the bytes of what has to be indexed first.
            tolerant: Open shards that are missing or truncated too: their samples fail one by one when they are read.

        Raises:
            ShardError: A shard is missing, or is not the one that was indexed.
            IndexFileError: An index is damaged, or of another version.
        """
        return open_shards(self.paths, progress, tolerant=tolerant)


@dataclass(frozen=True)
class Mix:
    """Several sources, mixed by weight, row by row: what a pipeline's plan stages see is the mixture.

    >>> Mix((TarShards("shards/clean"), TarShards("shards/other")), weights=(3, 1), by="duration_s", stop="cycle")

    Of any first n rows of a lane each source has its share to within a few rows: the order is that of Sainte-Laguë's
    method, and nothing is drawn. ``Shuffle`` shuffles each source, then mixes, then shuffles within blocks; ``Where``
    comes after the mixture, so weights count what the sources hold. Weights may change at an epoch's border: by a row
    of weights for each epoch, or by loading a state that was taken between two epochs into a pipeline with others.

    Args:
        sources: The sources; their ``lanes`` and ``block_rows`` are set here instead.
        weights: One for each source, at least 0 and not all 0; or a row of them for each epoch, the last row for all
            further ones.
        by: What the weights are shares of: ``"samples"``, or a measure such as ``"duration_s"`` (hours of audio). Then
            a row counts as its source's mean.
        stop: When an epoch ends. ``"first"``: when a source has no more samples; what others have left is not
            delivered. ``"all"``: when none has, each sample exactly once; a source that has none left drops out.
            ``"cycle"``: when each source was delivered whole; those that end sooner begin again, shuffled anew.
            ``"forever"``: never.
        lanes: As of ``TarShards``.
        block_rows: As of ``TarShards``.
    """

    sources: tuple[TarShards, ...]
    weights: tuple[float, ...] | tuple[tuple[float, ...], ...] = field(kw_only=True)
    stop: Stop = field(kw_only=True)
    by: str = field(default="samples", kw_only=True)
    lanes: int = field(default=LANES, kw_only=True)
    block_rows: int = field(default=BLOCK_ROWS, kw_only=True)

    def __post_init__(self) -> None:
        if not isinstance(self.sources, Sequence) or isinstance(self.sources, str):
            raise ConfigError("Mix: sources must be one or more TarShards, in a list.")
        object.__setattr__(self, "sources", tuple(self.sources))
        object.__setattr__(self, "weights", _numbers(self.weights))
        if not self.sources or not all(isinstance(source, TarShards) for source in self.sources):
            raise ConfigError("Mix: sources must be one or more TarShards.")
        labels = [source.label for source in self.sources]
        if twice := sorted({label for label in labels if labels.count(label) > 1}):
            raise ConfigError(f"Mix: two sources are called {twice[0]!r}. Give them names: TarShards(..., name='...').")
        if any((source.lanes, source.block_rows) != (LANES, BLOCK_ROWS) for source in self.sources):
            raise ConfigError("Mix: lanes and block_rows of a source in it have no meaning. Set them on the Mix.")
        if self.stop not in get_args(Stop):
            raise ConfigError(f"Mix: unknown stop {self.stop!r}. {nearest(str(self.stop), get_args(Stop))}")
        self._check_weights()
        _check_types(self)
        _check_blocks("Mix", self.lanes, self.block_rows)

    def _check_weights(self) -> None:
        if not isinstance(self.weights, tuple):
            raise ConfigError(f"Mix: weights must be a sequence of numbers, got {self.weights!r}.")
        several = [isinstance(row, tuple) for row in self.weights]
        if any(several) and not all(several):
            raise ConfigError("Mix: weights are numbers, or a row of numbers for each epoch, not both.")
        for row in self.weights if any(several) else (self.weights,):
            numbers = cast("Sequence[float]", row)
            if len(numbers) != len(self.sources):
                raise ConfigError(f"Mix: got {len(numbers)} weights for {len(self.sources)} sources. Give each one.")
            if not all(0 <= weight < math.inf for weight in numbers) or not any(numbers):
                raise ConfigError(f"Mix: weights must be at least 0 and not all 0, got {list(numbers)}.")

    def weights_in(self, epoch: int) -> tuple[float, ...]:
        """The weights of an epoch."""
        first = self.weights[0]
        row = self.weights[min(epoch, len(self.weights) - 1)] if isinstance(first, tuple) else self.weights
        return tuple(cast("Sequence[float]", row))

    @property
    def label(self) -> str:
        """The names of the sources."""
        return " + ".join(source.label for source in self.sources)

    @property
    def shard_paths(self) -> tuple[str, ...]:
        """The paths of all shards that will be opened."""
        return tuple(path for source in self.sources for path in source.paths)

    def open(self, progress: Progress = silent, *, tolerant: bool = False) -> MixedShards:
        """Opens the sources, as one set of shards.

        Raises:
            ShardError: A shard is missing, or is not the one that was indexed.
            IndexFileError: An index is damaged, or of another version.
        """
        return MixedShards({source.label: source.open(progress, tolerant=tolerant) for source in self.sources})


@dataclass(frozen=True)
class Items:
    """Items of an iterable that can be read only in order: a ``torchdata.nodes`` node, a generator, a database cursor.

    It is planned window by window while it streams: ``Where``, ``Shuffle`` and ``Bucket`` see one window at a time, on
    the numbers that items hold. Every rank reads all of it and takes its own batches, so do not split it by rank. A
    node is resumed from its own state, which must be JSON; any other iterable is read again up to the place, and must
    give the same items each time. An epoch is what it gives until its end; it has no length beforehand.

    Args:
        make: Gives the iterable; called once for a node, which is ``reset()`` for each epoch, else for each epoch.
            Items are dicts; any other becomes ``{"value": item}``.
        window: Items that are planned together, and held.
        key: The field that names an item; items without it are numbered.
        measure: Further numbers of an item, for plan stages: ``lambda item: {"tokens": len(item["text"].split())}``.
        name: What errors and the ledger call it.
    """

    make: Callable[[], Any]
    window: int = field(default=4096, kw_only=True)
    key: str = field(default="key", kw_only=True)
    measure: Callable[[Mapping[str, Any]], Mapping[str, float]] | None = field(default=None, kw_only=True)
    name: str = field(default="items", kw_only=True, metadata={"identity": False})
    lanes: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if not callable(self.make):
            raise ConfigError(f"Items: make must be a function that gives the iterable, got {self.make!r}.")
        _check_types(self)
        if self.window < 1:
            raise ConfigError(f"Items: window must be at least 1, got {self.window}.")

    @property
    def label(self) -> str:
        """The name."""
        return self.name

    @property
    def shard_paths(self) -> tuple[str, ...]:
        """No shards are opened."""
        return ()

    def open(self, progress: Progress = silent, *, tolerant: bool = False) -> OpenedItems:
        """Makes the iterable and reads the first window, for the fields that it holds.

        Raises:
            DataError: It holds no items.
            StateError: It is a node whose state is not JSON.
        """
        return OpenedItems(self.make, self.window, self.key, self.measure, self.name, identity(self.make))


Source = TarShards | Mix | Items


def _numbers(weights: Any) -> Any:
    """Weights as floats, so that 3 and 3.0 are one identity."""
    if hasattr(weights, "tolist"):  # an array, or a number of numpy
        weights = weights.tolist()
    if isinstance(weights, Sequence) and not isinstance(weights, str):
        return tuple(_numbers(weight) for weight in weights)
    if isinstance(weights, bool) or not isinstance(weights, int | float):
        raise ConfigError(f"Mix: weights must be a sequence of numbers, or one for each epoch, got {weights!r} in it.")
    return float(weights)


def _check_types(source: Source) -> None:
    """Refuses the first setting that is not of its type."""
    hints = hints_of(type(source))
    for item in dataclasses.fields(source):
        value = getattr(source, item.name)
        if not fits(value, hints[item.name]):
            told = f"{item.name} = {value!r} has the wrong type; it takes {item.type}"
            raise ConfigError(f"{type(source).__name__}: {told}.")


def _check_blocks(what: str, lanes: int, block_rows: int) -> None:
    if lanes < 1:
        raise ConfigError(f"{what}: lanes must be at least 1, got {lanes}.")
    if block_rows < 1:
        raise ConfigError(f"{what}: block_rows must be at least 1, got {block_rows}.")

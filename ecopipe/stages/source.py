"""Where the samples of a pipeline come from."""

from __future__ import annotations

from dataclasses import dataclass, field

from ecopipe.datasets.shards import Progress
from ecopipe.plan.shards import Shards, open_shards
from ecopipe.vocabulary.errors import ConfigError


@dataclass(frozen=True)
class TarShards:
    """WebDataset tars with an index beside them; tars without one are indexed the first time they are seen.

    Args:
        path: A folder of tars, one tar, or a glob pattern; a path or a URL that fsspec knows; or several of these.
        lanes: Independent streams of shards that take turns in giving a batch. More lanes let ranks read fewer shards
            each, fewer lanes let blocks be larger for their memory. Part of the order: never a matter of the machine.
        block_rows: Samples that are shuffled and bucketed together within a lane. Planning holds one block per lane.

    The path is not part of the pipeline's identity: what the shards hold is, through the index.
    """

    path: str | tuple[str, ...] = field(metadata={"identity": False})
    lanes: int = field(default=1, kw_only=True)
    block_rows: int = field(default=16384, kw_only=True)

    def __post_init__(self) -> None:
        if not isinstance(self.path, str):
            object.__setattr__(self, "path", tuple(str(path) for path in self.path))
        if not self.path or not all(self.paths):
            raise ConfigError("TarShards: path is empty. Give a folder of tars.")
        if self.lanes < 1:
            raise ConfigError(f"TarShards: lanes must be at least 1, got {self.lanes}.")
        if self.block_rows < 1:
            raise ConfigError(f"TarShards: block_rows must be at least 1, got {self.block_rows}.")

    @property
    def paths(self) -> tuple[str, ...]:
        """The paths as a tuple."""
        return (self.path,) if isinstance(self.path, str) else self.path

    def open(self, progress: Progress | None = None) -> Shards:
        """Opens the index of the shards.

        Raises:
            ShardError: A shard is missing, or is not the one that was indexed.
            IndexFileError: An index is damaged, or of another version.
        """
        return open_shards(self.paths, progress) if progress else open_shards(self.paths)

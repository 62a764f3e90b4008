"""The loader under other people's checkpoints and trainers, for real: torch, Lightning, Accelerate."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.stateful import Stateful

from ecopipe.pipeline.pipeline import Pipeline
from ecopipe.run.loader import Loader
from ecopipe.stages.foreign import Map
from ecopipe.vocabulary.errors import StateError
from ecopipe.vocabulary.sample import Batch

from ..laws import Seen, seen, trace
from .test_loader import images


@pytest.fixture
def pipeline(shards: Path) -> Pipeline:
    return images(shards, size=16)  # four batches an epoch


def take(batches: Iterator[Batch], count: int) -> list[Seen]:
    return [seen(next(batches)) for _ in range(count)]


# torch


def test_a_state_goes_through_torch_save_and_load(pipeline: Pipeline, tmp_path: Path) -> None:
    with Loader(pipeline) as loader:
        assert isinstance(loader, Stateful)
        take(iter(loader), 2)
        torch.save({"model": {}, "loader": loader.state_dict()}, tmp_path / "all.pt")
    with Loader(pipeline) as loader:
        loader.load_state_dict(torch.load(tmp_path / "all.pt", weights_only=True)["loader"])
        assert [seen(batch) for batch in loader] == trace(pipeline)[2:]


def job(rank: int, shards: Path, folder: Path) -> None:
    """Rank 0, 1 or 2 of three jobs on one distributed checkpoint: by 2 ranks, then by 3, then by 1."""
    pipeline = images(shards)
    for number, (world_size, steps) in enumerate([(2, 2), (3, 1), (1, 1)]):
        if rank >= world_size:
            continue
        meet = f"file://{folder}/meet{number}"
        torch.distributed.init_process_group("gloo", init_method=meet, rank=rank, world_size=world_size)
        weight = torch.full((3,), float(number))
        with Loader(pipeline) as loader:
            state = {"model": {"weight": weight}, "loader": loader}
            if number:
                dcp.load(state, checkpoint_id=folder / f"saved{number - 1}")
                assert weight.tolist() == [number - 1.0] * 3
            weight.fill_(number)
            batches = iter(loader)
            delivered = take(batches, steps)
            dcp.save(state, checkpoint_id=folder / f"saved{number}")
        (folder / f"{number}.{rank}").write_bytes(pickle.dumps(delivered))
        torch.distributed.destroy_process_group()


def test_torchs_distributed_checkpoint_resumes_on_other_ranks(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    torch.multiprocessing.spawn(job, (shards, tmp_path), nprocs=3)
    delivered = []
    for number, world_size in enumerate([2, 3, 1]):
        ranks = [pickle.loads((tmp_path / f"{number}.{rank}").read_bytes()) for rank in range(world_size)]
        delivered += [batch for step in zip(*ranks, strict=True) for batch in step]
    assert delivered == trace(images(shards))


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_torchs_distributed_checkpoint_of_another_pipeline_is_refused(shards: Path, tmp_path: Path) -> None:
    """It loads value by value into what the loader's own state_dict() gave, and leaves what that does not have."""
    with Loader(images(shards)) as loader:
        dcp.save({"loader": loader}, checkpoint_id=tmp_path / "longer")
    mapped = images(shards, Map(torch.flip, field="image", kwargs={"dims": [2]}))
    with Loader(mapped) as loader, pytest.raises(Exception, match="belongs to another pipeline") as caught:
        dcp.load({"loader": loader}, checkpoint_id=tmp_path / "longer")
    print(caught.value)
    with Loader(images(shards, size=4)) as loader, pytest.raises(StateError, match="size was 8 and is 4"):
        dcp.load({"loader": loader}, checkpoint_id=tmp_path / "longer")

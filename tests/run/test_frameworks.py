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
from ecopipe.stages.collate import Collate
from ecopipe.stages.foreign import Map
from ecopipe.stages.plan import Batch as BatchStage
from ecopipe.stages.plan import Shuffle
from ecopipe.stages.source import Items
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
    torch.set_num_threads(1)  # OpenMP's threads of the parent are not here
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
    torch.multiprocessing.start_processes(job, (shards, tmp_path), nprocs=3, start_method="fork")
    delivered = []
    for number, world_size in enumerate([2, 3, 1]):
        ranks = [pickle.loads((tmp_path / f"{number}.{rank}").read_bytes()) for rank in range(world_size)]
        delivered += [batch for step in zip(*ranks, strict=True) for batch in step]
    assert delivered == trace(images(shards))


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_torchs_distributed_checkpoint_of_another_pipeline_is_refused(shards: Path, tmp_path: Path) -> None:
    """It loads value by value into what the loader's own state_dict() gave, and leaves out what is not there."""
    flipped = images(shards, Map(torch.flip, field="image", kwargs={"dims": [2]}))
    for number, (saved, other, difference) in enumerate(
        (
            (images(shards), images(shards, size=4), "size was 8 and is 4"),
            (flipped, images(shards), "stage was 'Map' and is 'Collate'"),
            (images(shards), flipped, "stage was 'Collate' and is 'Map'"),
        )
    ):
        with Loader(saved) as loader:
            dcp.save({"loader": loader}, checkpoint_id=tmp_path / str(number))
        with Loader(other) as loader, pytest.raises(StateError, match=f"belongs to another pipeline: .*{difference}"):
            dcp.load({"loader": loader}, checkpoint_id=tmp_path / str(number))


def node() -> Any:
    nodes = pytest.importorskip("torchdata.nodes", reason="torchdata is not installed")
    return nodes.IterableWrapper([{"image": torch.full((2,), number)} for number in range(40)])


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_torchs_distributed_checkpoint_holds_the_state_of_a_node(tmp_path: Path) -> None:
    pipeline = Pipeline(Items(node, window=16), Shuffle(), BatchStage(4), Collate("image", layout="stack"))
    with Loader(pipeline) as loader:
        take(iter(loader), 7)
        dcp.save({"loader": loader}, checkpoint_id=tmp_path / "saved")
    with Loader(pipeline) as loader:
        dcp.load({"loader": loader}, checkpoint_id=tmp_path / "saved")
        assert [seen(batch) for batch in loader] == trace(pipeline)[7:]


# Lightning


@pytest.fixture
def fit(tmp_path: Path) -> Callable[..., list[Seen]]:
    """Trains under Lightning, and gives what was trained on; ``settings`` are those of its Trainer."""
    lightning = pytest.importorskip("lightning.pytorch", reason="lightning is not installed")

    class Module(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self, lose_at: int | None) -> None:
            super().__init__()
            self.layer, self.trained, self.lose_at = torch.nn.Linear(1, 1), list[Seen](), lose_at

        def training_step(self, batch: Batch, _number: int) -> torch.Tensor:
            if self.global_step == self.lose_at:
                raise RuntimeError("the power is gone")
            self.trained.append(seen(batch))
            return self.layer(batch["targets"][:1].float()).sum()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    def fit(
        pipeline: Pipeline,
        *,
        workers: int = 0,
        lose_at: int | None = None,
        save: dict[str, Any] | None = None,
        load: Path | None = None,
        **settings: Any,
    ) -> list[Seen]:
        saving = [] if save is None else [lightning.callbacks.ModelCheckpoint(tmp_path, save_top_k=-1, **save)]
        trainer = lightning.Trainer(
            accelerator="cpu",
            logger=False,
            callbacks=saving,
            enable_checkpointing=bool(saving),
            enable_progress_bar=False,
            enable_model_summary=False,
            **settings,
        )
        module = Module(lose_at)
        with Loader(pipeline, workers=workers) as loader:
            if lose_at is None:
                trainer.fit(module, loader, ckpt_path=load)
            else:
                with pytest.raises(RuntimeError, match="the power is gone"):
                    trainer.fit(module, loader, ckpt_path=load)
        return module.trained

    return fit


quiet = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
"""What Lightning and Accelerate warn of at import and about few workers is not ours to mend."""


def saved(folder: Path) -> list[tuple[int, Path]]:
    """The steps and files of Lightning's checkpoints, in order."""
    return sorted((int(path.stem.rpartition("step=")[2]), path) for path in folder.glob("*.ckpt"))


@quiet
@pytest.mark.parametrize("limits", [{"max_epochs": 3}, {"max_steps": 11}])
def test_lightning_resumes_from_every_step(
    pipeline: Pipeline, tmp_path: Path, fit: Callable[..., list[Seen]], limits: dict[str, int]
) -> None:
    expected = trace(pipeline, epochs=3)[: limits.get("max_steps")]
    assert fit(pipeline, save={"every_n_train_steps": 1}, **limits) == expected
    checkpoints = saved(tmp_path)
    assert [step for step, _ in checkpoints] == list(range(1, len(expected) + 1))
    for step, path in checkpoints[:9]:
        assert fit(pipeline, load=path, **limits) == expected[step:], f"after step {step}"


@quiet
def test_lightning_resumes_from_the_end_of_an_epoch(
    pipeline: Pipeline, tmp_path: Path, fit: Callable[..., list[Seen]]
) -> None:
    expected = trace(pipeline, epochs=3)
    assert fit(pipeline, save={"save_on_train_epoch_end": True}, max_epochs=3) == expected
    checkpoints = saved(tmp_path)
    assert [step for step, _ in checkpoints] == [4, 8, 12]
    for step, path in checkpoints:
        assert fit(pipeline, load=path, max_epochs=3) == expected[step:], f"after step {step}"


@quiet
@pytest.mark.parametrize("workers", [0, 2])
def test_lightning_takes_each_sample_once_over_a_crash(
    pipeline: Pipeline, tmp_path: Path, fit: Callable[..., list[Seen]], workers: int
) -> None:
    first = fit(pipeline, workers=workers, save={"every_n_train_steps": 3}, lose_at=7, max_epochs=2)
    step, path = saved(tmp_path)[-1]
    assert (step, len(first)) == (6, 7)
    rest = fit(pipeline, workers=workers, load=path, max_epochs=2)
    assert first[:step] + rest == trace(pipeline, epochs=2)


@quiet
def test_lightning_takes_the_loader_as_it_is(
    pipeline: Pipeline, tmp_path: Path, fit: Callable[..., list[Seen]]
) -> None:
    expected = trace(pipeline, epochs=3)
    assert fit(pipeline, save={"save_on_train_epoch_end": True}, max_epochs=3) == expected
    for step, path in saved(tmp_path):
        assert fit(pipeline, load=path, max_epochs=3) == expected[step:], f"after step {step}"


# Accelerate


@quiet
@pytest.mark.parametrize("workers", [0, 2])
def test_accelerate_saves_and_loads_the_loader(pipeline: Pipeline, tmp_path: Path, workers: int) -> None:
    accelerate = pytest.importorskip("accelerate", reason="accelerate is not installed")

    def train(loader: Loader, steps: int, load: Path | None = None) -> tuple[list[Seen], float]:
        accelerator = accelerate.Accelerator(cpu=True)
        layer = torch.nn.Linear(1, 1)
        with torch.no_grad():
            layer.weight.fill_(1.0)
        model, optimizer = accelerator.prepare(layer, torch.optim.SGD(layer.parameters(), lr=0.1))
        assert accelerator.prepare(loader) is loader  # only a DataLoader of torch is changed
        accelerator.register_for_checkpointing(loader)
        if load is not None:
            accelerator.load_state(load)
        delivered: list[Seen] = []
        while len(delivered) < steps:
            for batch in loader:
                accelerator.backward(model(torch.ones(1, 1)).sum())
                optimizer.step()
                optimizer.zero_grad()
                delivered.append(seen(batch))
                if len(delivered) == steps:
                    break
        accelerator.save_state(tmp_path / str(loader.epoch) / str(loader.state_dict()["batch"]))
        return delivered, float(layer.weight)

    expected = trace(pipeline, epochs=3)
    for steps, place in ((3, "0/3"), (4, "0/4"), (6, "1/2")):
        with Loader(pipeline, workers=workers) as loader:
            first, weight = train(loader, steps)
        with Loader(pipeline, workers=2 - workers) as loader:
            rest, after = train(loader, 12 - steps, load=tmp_path / place)
        assert first + rest == expected
        assert after == pytest.approx(weight - 0.1 * (12 - steps))

"""A training, as torchrun starts it on every rank: it checkpoints, says what it was handed, and kills itself when told.

``elastic_job.py PLAN.json``. It is run by test_elastic.py.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed

import ecopipe
from ecopipe.insight.digest import Digest
from ecopipe.run.loader import Loader


def main() -> None:
    plan = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    out = Path(plan["out"])
    pipeline = ecopipe.load(out / "pipeline.toml")
    with Loader(
        pipeline, workers=plan["workers"], seed=3, ledger=out / "ledger", quarantine=out / "bad.jsonl"
    ) as loader:
        train(loader, plan, out)
    torch.distributed.destroy_process_group()


def train(loader: Loader, plan: dict[str, Any], out: Path) -> None:
    """Every rank makes every step with the others; after some, rank 0 saves."""
    checkpoint = ecopipe.Checkpoint(out / "loader.json", loader)
    checkpoint.load()
    rank, world_size = loader.rank, loader.world_size
    log = out / f"attempt{plan['attempt']:03}-rank{rank}.jsonl"
    steps = 0
    with log.open("w") as said:
        while loader.epoch < plan["epochs"]:
            for batch in loader:
                digest = Digest()
                digest.add(batch)
                place = batch.place
                assert place is not None
                line = [place.epoch, place.number, place.step, place.repeat, batch["keys"], digest.hexdigest()]
                said.write(json.dumps(line) + "\n")
                said.flush()
                steps += 1
                if steps == plan["kill_worker_at"] and rank == 0 and loader.worker_pids:
                    os.kill(loader.worker_pids[0], signal.SIGKILL)
                together = torch.tensor([1.0, float(place.step)])
                torch.distributed.all_reduce(together)  # a rank without a batch would hang all of them here
                assert together.tolist() == [world_size, world_size * place.step]
                if steps == plan["kill_at"] and plan["moment"] == "before" and rank == plan["victim"] % world_size:
                    os.kill(os.getpid(), signal.SIGKILL)
                if steps % plan["save_every"] == 0:
                    checkpoint.save()
                if steps == plan["kill_at"] and plan["moment"] == "after" and rank == plan["victim"] % world_size:
                    os.kill(os.getpid(), signal.SIGKILL)
    (out / f"finished-rank{rank}").touch()


if __name__ == "__main__":
    main()

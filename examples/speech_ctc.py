"""Speech recognition with CTC on LibriSpeech shards: on one process or many, and resumed at any step on any number.

    python examples/speech_ctc.py shards/librispeech/train-clean-100 --out runs/ctc
    torchrun --nproc-per-node 2 examples/speech_ctc.py shards/librispeech/train-clean-100 --out runs/ctc

Kill it, and start it again with the same --out, on as many ranks as you like: it goes on with the next batch. What the
ranks took is in runs/ctc/ledger: ``ecopipe audit runs/ctc/ledger --index shards/librispeech/train-clean-100``.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import ctc_loss
from torch.nn.parallel import DistributedDataParallel

from ecopipe import (
    CMVN,
    Bucket,
    Collate,
    DecodeAudio,
    LogMel,
    Pipeline,
    Shuffle,
    SpecAugment,
    Speed,
    TarShards,
    TokenizeCharacters,
)

HOP, SUBSAMPLING = 160, 4


def pipeline(shards: str, batch_s: float) -> Pipeline:
    """int16 audio to normalised, masked log-mel features; transcripts to characters that fit their frames."""
    return Pipeline(
        TarShards(shards),
        Shuffle(),
        Bucket("duration_s", max_padded=batch_s),
        DecodeAudio(dtype="int16"),
        Speed((0.9, 1.0, 1.1)),
        TokenizeCharacters(),
        Collate("audio", target="tokens", length_dtype="int32", target_dtype="int32", label_stride=HOP * SUBSAMPLING),
        LogMel(hop_length=HOP),
        CMVN(),
        SpecAugment.preset("LB", fill="zero"),
        bad_samples="substitute",
    )


class Recogniser(nn.Module):
    """Two convolutions that keep every fourth frame, an LSTM, and a layer that gives characters."""

    def __init__(self, bands: int = 80, width: int = 192, characters: int = 29) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv1d(bands, width, 5, stride=2, padding=2), nn.ReLU(),
            nn.Conv1d(width, width, 5, stride=2, padding=2), nn.ReLU(),
        )  # fmt: skip
        self.lstm = nn.LSTM(width, width, num_layers=2, batch_first=True, bidirectional=True)
        self.out = nn.Linear(2 * width, characters)

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        made = self.convolutions(features.transpose(1, 2)).transpose(1, 2)
        return self.out(self.lstm(made)[0]).log_softmax(-1), (lengths + SUBSAMPLING - 1) // SUBSAMPLING


def save(path: Path, state: dict[str, object]) -> None:
    """Model, optimizer and the loader's place in one file, which is whole or the last one."""
    torch.save(state, path.with_suffix(".new"))
    os.replace(path.with_suffix(".new"), path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", help="a split that 'ecopipe shard librispeech' wrote")
    parser.add_argument("--out", type=Path, required=True, help="where the checkpoint and the ledger go")
    parser.add_argument("--batch-s", type=float, default=200.0, help="padded seconds of audio in a batch")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--steps", type=int, help="stop after so many steps of this run")
    parser.add_argument("--save-every", type=int, default=100, help="steps")
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()

    together = "RANK" in os.environ
    cuda = torch.cuda.is_available()
    if together:
        dist.init_process_group("nccl" if cuda else "gloo")
    device = torch.device(f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if cuda else "cpu")
    torch.manual_seed(0)
    model: nn.Module = Recogniser().to(device)
    if together:
        model = DistributedDataParallel(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    given.out.mkdir(parents=True, exist_ok=True)
    checkpoint = given.out / "checkpoint.pt"

    with pipeline(given.shards, given.batch_s).loader(
        workers=given.workers, device=device, ledger=given.out / "ledger"
    ) as loader:
        if checkpoint.exists():
            state = torch.load(checkpoint, map_location=device)
            (model.module if together else model).load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
            loader.load_state_dict(state["loader"])
            print(f"rank {loader.rank}: resumed in epoch {loader.epoch}", flush=True)
        done = 0
        while loader.epoch < given.epochs and done != given.steps:
            for batch in loader:
                emissions, lengths = model(batch["features"], batch["lengths"])
                loss = ctc_loss(
                    emissions.transpose(0, 1), batch["targets"], lengths, batch["target_lengths"], zero_infinity=True
                )
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), 5.0)
                optimizer.step()
                done += 1
                place = batch.place
                print(f"rank {loader.rank} epoch {place.epoch} step {place.step}: loss {loss.item():.3f}", flush=True)
                if loader.rank == 0 and (done % given.save_every == 0 or done == given.steps):
                    inner = model.module if together else model
                    save(
                        checkpoint,
                        {
                            "model": inner.state_dict(),
                            "optimizer": optimizer.state_dict(),
                            "loader": loader.state_dict(),
                        },
                    )
                if done == given.steps:
                    break
    if together:
        dist.barrier()
        dist.destroy_process_group()


if __name__ == "__main__":
    main()

"""Feeds a wav2vec 2.0 model for recognition: normalised 16 kHz audio with true lengths, bucketed, and its CTC loss.

    python examples/wav2vec2.py shards/librispeech/train-clean-100 --steps 200 --device cuda

The model is torchaudio's; ``--pretrained`` takes the weights of its bundle WAV2VEC2_ASR_BASE_960H where they can be
fetched, otherwise they are random. ``--size tiny`` is for trying it out on a CPU.
"""

from __future__ import annotations

import argparse
import itertools

import torch
from torch.nn.functional import ctc_loss
from torchaudio.models import Wav2Vec2Model, wav2vec2_model
from torchaudio.pipelines import WAV2VEC2_ASR_BASE_960H

import ecopipe
from ecopipe import Bucket, Collate, DecodeAudio, NormalizeAudio, Pipeline, Resample, Shuffle, TarShards

CHARACTERS = 29  # the blank and those of TokenizeCharacters: space, apostrophe, A to Z
SIZES = {"tiny": (32, 2, 2, 64), "base": (768, 12, 12, 3072)}  # width, layers, heads, width within a layer


def pipeline(shards: str, batch_s: float) -> Pipeline:
    """Audio as the model was trained on it, and transcripts as numbers."""
    return Pipeline(
        TarShards(shards),
        Shuffle(),
        Bucket("duration_s", max_padded=batch_s),
        DecodeAudio(),
        Resample(16000),
        NormalizeAudio(),
        ecopipe.TokenizeCharacters(),
        Collate("audio", target="tokens"),
    )


def build(size: str, pretrained: bool) -> Wav2Vec2Model:
    """The model, and a layer that gives characters."""
    if pretrained:
        model: Wav2Vec2Model = WAV2VEC2_ASR_BASE_960H.get_model()
        model.aux = torch.nn.Linear(768, CHARACTERS)
        return model
    width, layers, heads, inner = SIZES[size]
    return wav2vec2_model(
        extractor_mode="group_norm",
        extractor_conv_layer_config=None,
        extractor_conv_bias=False,
        encoder_embed_dim=width,
        encoder_projection_dropout=0.0,
        encoder_pos_conv_kernel=32,
        encoder_pos_conv_groups=4,
        encoder_num_layers=layers,
        encoder_num_heads=heads,
        encoder_attention_dropout=0.0,
        encoder_ff_interm_features=inner,
        encoder_ff_interm_dropout=0.0,
        encoder_dropout=0.0,
        encoder_layer_norm_first=False,
        encoder_layer_drop=0.0,
        aux_num_out=CHARACTERS,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", help="a split of LibriSpeech that 'ecopipe shard librispeech' wrote")
    parser.add_argument("--size", choices=SIZES, default="base")
    parser.add_argument("--pretrained", action="store_true")
    parser.add_argument("--batch-s", type=float, default=120.0, help="padded seconds of audio in a batch")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--lr", type=float, default=1e-3)
    given = parser.parse_args()
    torch.manual_seed(0)
    model = build(given.size, given.pretrained).to(given.device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=given.lr)
    with pipeline(given.shards, given.batch_s).loader(workers=given.workers, device=given.device) as loader:
        batches = itertools.chain.from_iterable(loader for _ in itertools.count())
        for step, batch in enumerate(itertools.islice(batches, given.steps)):
            emissions, lengths = model(batch["audio"], batch["lengths"])
            loss = ctc_loss(
                emissions.float().log_softmax(-1).transpose(0, 1), batch["targets"], lengths, batch["target_lengths"],
                zero_infinity=True,
            )  # fmt: skip
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            print(f"step {step}: loss {loss.item():.3f}, audio {list(batch['audio'].shape)}", flush=True)


if __name__ == "__main__":
    main()

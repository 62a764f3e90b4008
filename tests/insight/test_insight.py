from __future__ import annotations

import numpy as np
import pytest
import torch

from ecopipe.insight.digest import Digest
from ecopipe.insight.summary import StreamSummary
from ecopipe.pipeline.pipeline import Pipeline
from ecopipe.stages.collate import Collate
from ecopipe.stages.plan import Batch as ByCount
from ecopipe.stages.source import TarShards
from ecopipe.stages.spectral import LogMel
from ecopipe.vocabulary.randomness import Chance
from ecopipe.vocabulary.sample import Batch, Place


def batch(number: int = 0, **fields: object) -> Batch:
    return Batch({"keys": ["a", "b"], **fields}, place=Place(1, number, ("s", "t"), 3, False, 4.5))


def digest(*batches: Batch) -> str:
    state = Digest()
    for one in batches:
        state.add(one)
    return state.hexdigest()


def test_the_digest_sees_order_keys_names_dtypes_shapes_and_bytes() -> None:
    x = torch.arange(6, dtype=torch.int32)
    variants = [
        digest(batch(x=x), batch(x=x + 1)),
        digest(batch(x=x + 1), batch(x=x)),
        digest(batch(x=x), batch(y=x + 1)),
        digest(batch(x=x), batch(x=(x + 1).float())),
        digest(batch(x=x), batch(x=(x + 1).view(2, 3))),
        digest(batch(x=x), Batch({"keys": ["a", "c"], "x": x + 1})),
        digest(batch(x=x)),
        digest(batch(x=x), batch(x=torch.tensor(1))),
        digest(batch(x=[np.arange(5000)])),
        digest(batch(x=[np.where(np.arange(5000) == 2500, 0, np.arange(5000))])),
        digest(batch(x=x), batch(x=torch.ones(2, dtype=torch.bfloat16))),
    ]
    assert len(set(variants)) == len(variants)
    assert digest(batch(x=x.view(2, 3).t().contiguous().t())) == digest(batch(x=x.view(2, 3)))


def test_the_summary_counts_what_came() -> None:
    summary = StreamSummary()
    summary.add(batch(lengths=torch.tensor([2, 4]), tokens=torch.zeros(2, 4, dtype=torch.int64)))
    summary.add(batch(lengths=torch.tensor([1, 3]), offsets=torch.tensor([0, 1]), tokens=torch.zeros(4)))
    summary.finish()
    figures = summary.figures()
    assert (figures["samples"], figures["batches"], figures["tokens"], figures["audio_s"]) == (4, 2, 10, 9.0)
    assert figures["padding_fraction"] == pytest.approx(1 - 10 / 12, abs=1e-6)
    assert figures["first_batch"] == {"lengths": "int64 [2]", "tokens": "int64 [2, 4]"}
    assert 0 <= figures["first_batch_s"] <= figures["wall_s"]


def test_what_a_stage_fills_up_is_padding() -> None:
    whisper = LogMel.preset("whisper")
    pipeline = Pipeline(TarShards("x"), ByCount(2), Collate("audio"), whisper)
    audio = {"audio": torch.zeros(2, 48_000), "lengths": torch.tensor([48_000, 24_000]), "rate_hz": 16_000}
    features = whisper.apply(batch(**audio), Chance(0, 0, "LogMel"))
    assert features["lengths"].tolist() == [3000, 3000]
    summary = StreamSummary.of(pipeline)
    summary.add(features)  # 4.5 s of the index in twice 30 s
    assert summary.figures()["padding_fraction"] == pytest.approx(1 - 4.5 / 60)
    plain = StreamSummary.of(Pipeline(TarShards("x"), ByCount(2), Collate("audio"), LogMel()))
    plain.add(LogMel().apply(batch(**audio), Chance(0, 0, "LogMel")))
    assert plain.figures()["padding_fraction"] == pytest.approx(1 - (301 + 151) / 602, abs=1e-6)

from __future__ import annotations

import numpy as np
import pytest
import torch

from ecopipe.insight.digest import Digest
from ecopipe.insight.summary import StreamSummary
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

import pickle

import pytest
import torch

from ecopipe.vocabulary.sample import Batch, Place, Sample


def test_a_sample_is_not_changed_by_making_another() -> None:
    sample = Sample("k", {"a": 1, "b": 2}, shard="s.tar")
    more = sample.with_fields(a=3, c=4)
    assert dict(sample) == {"a": 1, "b": 2}
    assert dict(more) == {"a": 3, "b": 2, "c": 4}
    assert (more.key, more.shard) == ("k", "s.tar")
    assert dict(more.without("a", "nothing")) == {"b": 2, "c": 4}
    with pytest.raises(TypeError):
        sample["a"] = 5  # type: ignore[index]


def test_a_batch_keeps_its_place_through_pickle_and_moves() -> None:
    batch = Batch({"x": torch.ones(2), "keys": ["a", "b"]}, place=Place(1, 7, ("s", "s")))
    for other in (pickle.loads(pickle.dumps(batch)), batch.to("cpu"), batch.with_fields(y=1), batch.without("x")):
        assert other.place == batch.place
    assert batch.sample_keys == ["a", "b"]
    assert "x: torch.float32 [2]" in repr(batch)
    assert isinstance(batch, dict)

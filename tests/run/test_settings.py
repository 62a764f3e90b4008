"""Settings of a loader that are of another type are refused in words, before anything is opened."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ecopipe.pipeline.pipeline import Pipeline
from ecopipe.run import settings
from ecopipe.run.loader import Loader
from ecopipe.stages.collate import Collate
from ecopipe.stages.plan import Batch
from ecopipe.stages.source import TarShards
from ecopipe.vocabulary.errors import ConfigError

NOWHERE = Pipeline(TarShards("there/is/none"), Batch(2), Collate("x"))

WRONG = [
    ({"workers": "2"}, "loader: workers must be a whole number, got '2'."),
    ({"workers": True}, "loader: workers must be a whole number, got True."),
    ({"workers": 1.5}, "loader: workers must be a whole number, got 1.5."),
    ({"seed": "x"}, "loader: seed must be a whole number, got 'x'."),
    ({"epoch": None}, "loader: epoch must be a whole number, got None."),
    ({"rank": "0", "world_size": 2}, "loader: rank must be a whole number, got '0'."),
    ({"rank": 0, "world_size": 2.0}, "loader: world_size must be a whole number, got 2.0."),
    ({"prefetch": [2]}, "loader: prefetch must be a whole number, got [2]."),
    ({"prefetch": 0}, "loader: prefetch must be at least 1, got 0."),
    ({"timeout_s": "300"}, "loader: timeout_s must be a number of seconds, got '300'."),
    ({"timeout_s": float("nan")}, "loader: timeout_s must be a number of seconds, got nan."),
    ({"timeout_s": -1}, "loader: timeout_s must be at least 0, got -1."),
    ({"device": 0}, "loader: device must be the name of a device, such as 'cuda', or a torch.device, got 0."),
    ({"tail": ["drop"]}, "loader: unknown tail ['drop']. Did you mean 'drop'? Known: drop, repeat."),
    ({"verify": None}, "loader: unknown verify None. Known: crc, off."),
    ({"multiprocessing_context": 3}, "loader: unknown multiprocessing_context 3. Known: "),
    ({"ledger": 3}, "loader: ledger must be a folder, got 3."),
    ({"quarantine": 3}, "loader: quarantine must be a file, got 3."),
]


@pytest.mark.parametrize(("given", "message"), WRONG)
def test_what_is_of_another_type_is_refused_by_the_loader(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        NOWHERE.loader(**given)
    assert str(caught.value).startswith(message)


def test_what_is_no_pipeline_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"loader: pipeline must be a Pipeline, got 'imdb.toml'\."):
        Loader("imdb.toml")  # type: ignore[arg-type]


def test_an_epoch_of_another_type_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"loader: epoch must be a whole number, got '1'\."):
        settings.check(epoch="1")


def test_numbers_of_numpy_and_what_is_not_given_are_fine() -> None:
    settings.check(workers=np.int64(2), seed=np.uint32(7), timeout_s=np.float32(1), rank=None, world_size=None)
    settings.check(multiprocessing_context=None, ledger=None, quarantine=None, seed=-1, shards=object())

"""A loader's counters in Prometheus' text format."""

from __future__ import annotations

import re

import pytest

from ecopipe.insight.trace import MEANINGS, prometheus
from ecopipe.run.loader import Loader
from ecopipe.storage.cache import Counters
from ecopipe.vocabulary.errors import ConfigError

from .waiting import Times


def test_each_counter_has_its_meaning_and_its_type_before_its_value() -> None:
    told = prometheus({"batches_total": 3.0, "epoch": 1.0, "odd\nname": 2.0}, {"job": 'a "b"\n', "rank": "0"})
    assert told.splitlines() == [
        "# HELP ecopipe_batches_total Batches that were handed out.",
        "# TYPE ecopipe_batches_total counter",
        'ecopipe_batches_total{job="a \\"b\\"\\n",rank="0"} 3.0',
        "# HELP ecopipe_epoch The epoch that the loader is in.",
        "# TYPE ecopipe_epoch gauge",
        'ecopipe_epoch{job="a \\"b\\"\\n",rank="0"} 1.0',
        "# HELP ecopipe_odd_name odd\\nname of an ecopipe loader.",
        "# TYPE ecopipe_odd_name gauge",
        'ecopipe_odd_name{job="a \\"b\\"\\n",rank="0"} 2.0',
    ]
    assert prometheus({"epoch": 1.0}).splitlines()[-1] == "ecopipe_epoch 1.0"
    assert prometheus({"epoch": 1.0}).endswith("\n")


@pytest.mark.parametrize("label", ["", "0rank", "local-rank", "a b", "rank\n", "__name__", "größe", "a:b"])
def test_a_name_that_is_none_of_a_label_is_refused(label: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"prometheus: {label!r} is no name of a label. Use letters")):
        prometheus({"epoch": 1.0}, {"rank": "0", label: "1"})


def test_every_counter_of_a_loader_has_a_meaning() -> None:
    with Loader(Times(0, 1, 1, (0.0,), (), 0.0).pipeline(1)) as loader:
        names = set(loader.metrics())
    assert names | {f"cache_{name}_total" for name in Counters().figures()} == set(MEANINGS)

"""Windows of one text: the legacy iterator's, by a small implementation of its own, and the laws, over real tars."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from ecopipe.pipeline.bad_samples import BadSamples
from ecopipe.pipeline.pipeline import Pipeline
from ecopipe.plan.parts import START, STOP, WHOLE
from ecopipe.stages.bptt import BPTT, CollateBPTT
from ecopipe.stages.foreign import Map
from ecopipe.stages.plan import Batch, Shuffle
from ecopipe.stages.source import TarShards
from ecopipe.stages.text import TokenizeCharacters, TokenizeWhitespace
from ecopipe.vocabulary.errors import ConfigError, SampleError
from ecopipe.vocabulary.randomness import Chance
from ecopipe.vocabulary.sample import Sample

from .. import laws
from ..insight.trainings import Training
from .tars import write_documents

WORDS = (40, 0, 7, 120, 1, 33, 64, 5, 90, 0, 18, 200, 3)
EOS = 1


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirteen documents of 581 words in three tars."""
    return write_documents(tmp_path_factory.mktemp("text") / "shards", WORDS)


def pipeline(corpus: Path, *, lanes: int = 1, block_rows: int = 1000, shuffle: bool = True, **collate: Any) -> Pipeline:
    return Pipeline(
        TarShards(str(corpus), lanes=lanes, block_rows=block_rows),
        *([Shuffle()] if shuffle else []),
        BPTT(columns=4, length=9, extra=1),
        TokenizeWhitespace(),
        CollateBPTT("tokens", eos_token=EOS, **collate),
    )


def legacy(text: list[int], batch_size: int, bptt_len: int, pad: int) -> list[tuple[list[Any], list[Any]]]:
    """The batches of torchtext's legacy BPTTIterator over a text: (text, target), each [T][B]."""
    height = math.ceil(len(text) / batch_size)
    text = text + [pad] * (height * batch_size - len(text))
    data = [[text[column * height + row] for column in range(batch_size)] for row in range(height)]
    found = []
    for at in range(0, height - 1, bptt_len):
        size = min(bptt_len, height - at - 1)
        found.append((data[at : at + size], data[at + 1 : at + 1 + size]))
    return found


def texts() -> dict[str, list[int]]:
    """The tokens of every document, with the token behind it."""
    words = {f"d{n:02}": " ".join(f"w{n}x{word}" for word in range(count)) for n, count in enumerate(WORDS)}
    return {key: [*TokenizeWhitespace().encode(text).tolist(), EOS] for key, text in words.items()}


def test_one_lane_and_one_block_are_the_legacy_epoch(corpus: Path) -> None:
    of = texts()
    text = [token for key in sorted(of) for token in of[key]]
    made = list(pipeline(corpus, shuffle=False, pad_value=3, batch_first=False))
    assert [(one["tokens"].tolist(), one["targets"].tolist()) for one in made] == legacy(text, 4, 9, 3)
    assert len(made) == 17 and made[-1]["tokens"].shape[0] < 9
    assert [one["continues"] for one in made] == [False] + [True] * 16
    assert [one["window"] for one in made] == list(range(17))
    first = list(pipeline(corpus, shuffle=False, pad_value=3))
    assert all(torch.equal(a["tokens"].t(), b["tokens"]) for a, b in zip(made, first, strict=True))
    assert first[0]["tokens"].is_contiguous() and first[0]["tokens"].dtype == torch.int64


@pytest.mark.parametrize(("lanes", "block_rows"), [(1, 1000), (2, 4), (3, 2)])
def test_every_stream_is_the_legacy_epoch_of_each_of_its_blocks(corpus: Path, lanes: int, block_rows: int) -> None:
    """And in another order in another epoch."""
    of = texts()
    orders = []
    with pipeline(corpus, lanes=lanes, block_rows=block_rows, ignore_value=-100).loader(workers=1) as loader:
        for _ in range(2):
            blocks: defaultdict[int, list[list[Any]]] = defaultdict(list)
            for batch in loader:
                assert batch["continues"] == (batch["window"] > 0)
                if not batch["continues"]:
                    blocks[batch["stream"]].append([])
                mine = blocks[batch["stream"]][-1]
                assert batch["window"] == len(mine)
                mine.append(batch)
            assert set(blocks) == set(range(lanes))
            seen: Counter[str] = Counter()
            for block in (block for stream in blocks.values() for block in stream):
                order = _order(block)
                seen.update(order)
                text = [token for key in order for token in of[key]]
                if len(text) <= 4:  # where the legacy iterator gives nothing
                    assert len(block) == 1 and block[0]["tokens"][: (len(text) + 1) // 2, 0].tolist() == text[::2]
                    continue
                found = [(one["tokens"].t().tolist(), one["targets"].t().tolist()) for one in block]
                expected = legacy(text, 4, 9, 0)
                assert [tokens for tokens, _ in found] == [tokens for tokens, _ in expected]
                masked = [[[0 if t == -100 else t for t in row] for row in target] for _, target in found]
                assert masked == [target for _, target in expected]
            assert seen == dict.fromkeys(of, 1)
            orders.append([key for stream in sorted(blocks) for block in blocks[stream] for key in _order(block)])
    assert orders[0] != orders[1]


def _order(block: list[Any]) -> list[str]:
    """The documents of a block in the order of its text: row by row, and window by window in a row."""
    rows: list[list[str]] = [[], [], [], []]
    for batch in block:
        starts = np.cumsum([0, *(batch["tokens"].shape[1] + 1 for _ in range(4))])
        at = 0
        for key, (start, stop) in zip(batch["keys"], batch["parts"], strict=True):
            row = min(int(np.searchsorted(starts, at, side="right")) - 1, 3)
            rows[row].append(key)
            at += stop - start
    return list(dict.fromkeys(chain.from_iterable(rows)))


def plan(lengths: list[int], columns: int, length: int) -> tuple[pa.Table, list[np.ndarray]]:
    keys = [f"k{n}" for n in range(len(lengths))]
    block = pa.table({"key": keys, "shard": ["s"] * len(keys), "tokens": pa.array(lengths, pa.int32())})
    stage = BPTT(columns=columns, length=length)
    parts = stage.parts(block, np.arange(len(keys)), (5, 2))
    made = parts.table(block, {"key", "tokens"})
    batches = stage.apply(made, np.arange(len(parts)), Chance(0, 0, "x"), (5, 2))
    return made, batches if len(parts) else []


@given(st.lists(st.integers(0, 40), min_size=1, max_size=20), st.integers(1, 9), st.integers(1, 12))
@example([0, 0, 1], 3, 5)
@example([0], 2, 2)
@example([5, 0, 5, 0], 5, 1)
def test_every_window_holds_what_the_legacy_iterator_gives(lengths: list[int], columns: int, length: int) -> None:
    table, batches = plan(lengths, columns, length)
    total = sum(lengths)
    starts = np.cumsum([0, *lengths])
    rows = table.to_pylist()
    assert {row["key"] for row in rows} == {f"k{n}" for n in range(len(lengths))}
    found = []
    for number, batch in enumerate(batches):
        width = rows[batch[0]]["window_length"] + 1
        window = [[-1] * width for _ in range(columns)]
        for row in (rows[at] for at in batch.tolist()):
            assert (row["stream"], row["window"], row["window_rows"]) == (5, number, columns)
            document = int(row["key"][1:])
            assert row[WHOLE] == lengths[document] and 0 <= row[START] <= row[STOP] <= row[WHOLE]
            for offset in range(row[STOP] - row[START]):
                assert window[row["window_row"]][row["window_at"] + offset] == -1
                window[row["window_row"]][row["window_at"] + offset] = int(starts[document]) + row[START] + offset
        found.append(window)
    height = max(math.ceil(total / columns), 2)
    text = [*range(total), *[-1] * (height * columns - total)]
    inputs = Counter(token for window in found for row in window for token in row[:-1])
    del inputs[-1]
    assert set(inputs.values()) <= {1}
    if total > columns:
        expected = legacy(text, columns, length, -1)
        assert [np.transpose(window)[:-1].tolist() for window in found] == [tokens for tokens, _ in expected]
        assert [np.transpose(window)[1:].tolist() for window in found] == [targets for _, targets in expected]
    else:
        assert len(found) == 1 and [t for row in found[0] for t in row if t >= 0] == list(range(total))


PIPELINES = {
    "one": lambda corpus: pipeline(corpus),
    "lanes": lambda corpus: pipeline(corpus, lanes=3, block_rows=3, ignore_value=-100, pad_value=7),
}


@pytest.mark.parametrize("name", PIPELINES)
@pytest.mark.parametrize(
    "law",
    [
        laws.law_1_workers_have_no_say,
        laws.law_2_ranks_interleave,
        laws.law_3_resume_is_exact,
        laws.law_6_no_stage_changes_its_input,
        laws.law_6_stages_are_values,
    ],
    ids=lambda law: law.__name__,
)
def test_laws(law, name: str, corpus: Path) -> None:  # type: ignore[no-untyped-def]
    law(PIPELINES[name](corpus))


@pytest.mark.parametrize("name", PIPELINES)
def test_the_ledger_proves_every_stretch(corpus: Path, tmp_path: Path, name: str) -> None:
    training = Training(PIPELINES[name](corpus), tmp_path / "ledger")
    states = training.run(2, steps=4)
    training.run(3, state=states[4], epochs=2)
    report = training.audit(epochs=2)
    assert report.problems == []
    assert all(epoch.exact == epoch.samples > 13 for epoch in report.epochs)


def test_as_many_ranks_as_lanes_keep_their_streams(corpus: Path) -> None:
    for rank in range(3):
        with pipeline(corpus, lanes=3, block_rows=3).loader(rank=rank, world_size=3) as loader:
            streams = [batch["stream"] for batch in loader]
        assert streams[:3] == [rank] * 3


def test_a_skipped_document_leaves_its_places_empty(corpus: Path) -> None:
    whole = {batch.place.number: batch for batch in pipeline(corpus, shuffle=False)}  # type: ignore[union-attr]
    broken = pipeline(corpus, shuffle=False, ignore_value=-100)
    stages = [stage for stage in broken.stages if not isinstance(stage, TokenizeWhitespace)]
    stages[1:1] = [TokenizeWhitespace(), Map(_refuse, into=("seen",))]
    policy = BadSamples("skip", max_share=1.0, max_consecutive=1000)
    lost = 0
    for batch in Pipeline(broken.source, *stages, bad_samples=policy):
        assert batch.place is not None
        other = whole[batch.place.number]
        faults = {fault.key for fault in batch.place.faults}
        assert faults <= {"d05"} and "d05" not in batch["keys"]
        assert batch["tokens"].shape == other["tokens"].shape
        same = batch["tokens"] == other["tokens"]
        assert bool(same.all()) == (not faults)
        assert (batch["tokens"][~same] == 0).all()
        lost += int((~same).sum())
    assert 33 <= lost <= 34


def _refuse(sample: Sample) -> dict[str, Any]:
    if sample.key == "d05":
        raise ValueError("broken")
    return {"seen": 1}


CALLS: list[str] = []


def _count(sample: Sample) -> dict[str, Any]:
    CALLS.append(sample.key)
    return {"seen": 1}


def test_a_document_is_tokenized_once_for_the_windows_that_follow_each_other(corpus: Path) -> None:
    CALLS.clear()
    made = pipeline(corpus, shuffle=False)
    stages = [*made.stages[:2], Map(_count, into=("seen",)), *made.stages[2:]]
    assert sum(1 for _ in Pipeline(made.source, *stages)) == 17
    assert Counter(CALLS) == {f"d{n:02}": 1 for n in range(13)}


def test_a_count_of_another_tokenizer_is_told(corpus: Path) -> None:
    made = Pipeline(
        TarShards(str(corpus)),
        BPTT(columns=4, extra=1),
        TokenizeCharacters(alphabet="wx0123456789 "),
        CollateBPTT("tokens", eos_token=EOS),
    )
    with pytest.raises(SampleError) as caught:
        list(made)
    assert str(caught.value) == (
        "CollateBPTT: sample 'd00' in 00000.tar: it has 230 tokens, and 41 were planned; index with the same "
        "tokenizer, and count an eos_token by extra=1 where the measure does not"
    )
    without = Pipeline(TarShards(str(corpus)), BPTT(columns=4), TokenizeWhitespace(), made.collate)
    with pytest.raises(SampleError, match="it has 41 tokens, and 40 were planned"):
        list(without)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BPTT(columns=0), "BPTT: columns must be a positive int, got 0"),
        (lambda: BPTT(columns=2, length=0), "BPTT: length must be a positive int, got 0"),
        (lambda: BPTT(columns=2, extra=-1), "BPTT: extra must be at least 0, got -1."),
        (lambda: CollateBPTT("window"), "CollateBPTT: the field 'window' has a name that the batch needs for its own"),
        (
            lambda: Pipeline(TarShards("x"), BPTT(columns=2), TokenizeWhitespace(), _Other("tokens")),
            "Pipeline: BPTT plans parts counted in tokens, and no stage cuts them out: each would be the whole "
            "sample. Put CollatePacked or CollateBPTT behind it.",
        ),
        (
            lambda: Pipeline(
                TarShards("x"), BPTT(columns=2), TokenizeWhitespace(), CollateBPTT("tokens"), bad_samples="substitute"
            ),
            "Pipeline: BPTT gives each token its place, where no other sample can stand in. Use bad_samples='skip'",
        ),
    ],
)
def test_what_cannot_work_is_refused(make, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ConfigError) as caught:
        make()
    assert str(caught.value).startswith(message)


class _Other(CollateBPTT):
    """A collate stage that cuts nothing."""

    def parts_in(self) -> str:
        return ""


def test_windows_must_have_been_planned(corpus: Path) -> None:
    with pytest.raises(ConfigError, match="Pipeline: CollateBPTT needs 'stream', which the sample does not hold"):
        Pipeline(TarShards(str(corpus)), Batch(4), TokenizeWhitespace(), CollateBPTT("tokens")).loader()
    with pytest.raises(ValueError, match="a batch of no samples"):
        CollateBPTT("tokens").apply([])
    fields = dict.fromkeys(("stream", "window", "window_row", "window_at"), 0) | {"window_rows": 1, "window_length": 2}
    with pytest.raises(ConfigError, match="CollateBPTT: no window was planned for sample 'a'. Put BPTT before it."):
        CollateBPTT("tokens").apply([Sample("a", {"tokens": np.arange(3), **fields})])

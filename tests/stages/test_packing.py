"""Documents packed into rows, and joined to a stream."""

from __future__ import annotations

import math
import shutil
import tarfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from ecopipe.formats.text import basic_english, decode_utf8
from ecopipe.pipeline.bad_samples import BadSamples
from ecopipe.pipeline.pipeline import Pipeline
from ecopipe.stages.foreign import Map
from ecopipe.stages.packing import CollatePacked, CollateStream, Pack, first_fit_decreasing, next_fit
from ecopipe.stages.plan import Batch, Shuffle
from ecopipe.stages.source import TarShards
from ecopipe.stages.stage import Rows
from ecopipe.stages.text import TokenizeBasicEnglish, TokenizeWhitespace
from ecopipe.vocabulary.errors import ConfigError, SampleError
from ecopipe.vocabulary.randomness import Chance
from ecopipe.vocabulary.sample import Sample

from .. import laws
from ..conftest import real
from ..insight.trainings import Training
from .tars import write_documents

CHANCE, PLACE = Chance(0, 0, "Pack"), (0, 0)
LENGTHS = st.lists(st.integers(0, 64), min_size=1, max_size=200)


def block(lengths: list[int | None]) -> pa.Table:
    keys = [f"k{row}" for row in range(len(lengths))]
    return pa.table({"key": keys, "shard": ["s.tar"] * len(keys), "tokens": lengths})


def documents(*lengths: int) -> list[Sample]:
    """Documents a, b, ...: that of number n (from 1) holds n * 100, n * 100 + 1, ..."""
    return [
        Sample("abcdefghijklmnop"[at], {"tokens": np.arange(length) + 100 * (at + 1)}, shard="s.tar")
        for at, length in enumerate(lengths)
    ]


@given(LENGTHS)
def test_first_fit_decreasing_is_what_its_name_says(lengths: list[int]) -> None:
    left: list[int] = []
    expected = np.empty(len(lengths), dtype=np.int64)
    for at in np.argsort(-np.array(lengths), kind="stable"):
        row = next((row for row, room in enumerate(left) if room >= lengths[at]), len(left))
        if row == len(left):
            left.append(64)
        left[row] -= lengths[at]
        expected[at] = row
    np.testing.assert_array_equal(first_fit_decreasing(np.array(lengths), 64), expected)


@given(LENGTHS, st.integers(1, 9), st.randoms(use_true_random=False))
@example([0, 0, 64], 1, Random(0))
def test_the_rows_that_were_planned_are_found_again_and_never_more(lengths: list[int], rows: int, chance: Any) -> None:
    order = np.random.default_rng(0).permutation(len(lengths)).astype(np.int64)
    planned = first_fit_decreasing(np.array(lengths)[order], 64)
    row_of = dict(zip(order.tolist(), planned.tolist(), strict=True))
    batches = Pack(length=64, rows=rows).apply(block(list(lengths)), order, CHANCE, PLACE)
    assert sorted(int(row) for batch in batches for row in batch) == list(range(len(lengths)))
    assert [len({row_of[int(at)] for at in batch}) for batch in batches[:-1]] == [rows] * (len(batches) - 1)
    for batch in batches:
        found, starts = next_fit(np.array(lengths)[batch], 64)
        wanted = [row_of[int(at)] for at in batch]
        assert [a == b for a, b in pairwise(found.tolist())] == [a == b for a, b in pairwise(wanted)]
        assert len(set(wanted)) <= rows
        full = np.array(lengths)[batch] > 0  # an empty document behind a full row begins where the next one does
        assert (starts // 64 <= found)[full].all()
        fewer = [at for at in batch.tolist() if chance.random() < 0.7]
        if fewer:
            shorter = np.array(lengths)[fewer] // chance.choice([1, 2])
            assert next_fit(shorter, 64)[0][-1] <= found[-1]


def test_after_a_shuffle_rows_and_their_members_are_in_another_order() -> None:
    table = block([20, 20, 20, 30, 30, 30, 10, 10, 10, 34, 34, 34] * 20)
    orders = [Chance(0, epoch, "Shuffle").draws("x").permutation(table.num_rows) for epoch in range(2)]
    first, second = (Pack(length=64, rows=4).apply(table, order, CHANCE, PLACE) for order in orders)
    assert len(first) == len(second) > 10
    assert [batch.tolist() for batch in first] != [batch.tolist() for batch in second]
    assert {tuple(sorted(batch)) for batch in first}.isdisjoint(tuple(sorted(batch)) for batch in second)
    rows = Pack(length=64).apply(table, orders[0], CHANCE, PLACE)
    longest = [max(table["tokens"][int(row)].as_py() for row in batch) for batch in rows]
    assert longest != sorted(longest, reverse=True)


@pytest.mark.parametrize(
    ("stage", "lengths", "message"),
    [
        (
            Pack(length=8),
            [3, 9],
            "Pack: sample 'k1' in s.tar: has tokens 9, over the 8 of a row. Set too_long='split', or "
            "'truncate' here and in CollatePacked, or leave long documents out with Where('tokens', at_most=8).",
        ),
        (Pack(length=8, extra=1), [3, 8], "has tokens 8, over the 7 of a row."),
        (Pack(length=8), [3, None], "sample 'k1' in s.tar: has no tokens. Leave it out with Where, or index again."),
    ],
)
def test_what_cannot_be_planned_is_named(stage: Pack, lengths: list[int | None], message: str) -> None:
    with pytest.raises(SampleError) as caught:
        stage.apply(block(lengths), np.array([1, 0]), CHANCE, PLACE)
    assert message in str(caught.value)


def test_planned_lengths_are_truncated_and_have_their_extra() -> None:
    table = block([20, 3, 4, 0])
    rows: Rows = np.arange(4)
    stage = Pack(length=8, too_long="truncate")
    assert [batch.tolist() for batch in stage.apply(table, rows, CHANCE, PLACE)] == [[0, 3], [1, 2]]
    stage = Pack(length=8, too_long="truncate", extra=1)
    assert [batch.tolist() for batch in stage.apply(table, rows, CHANCE, PLACE)] == [[0], [1], [2, 3]]
    assert stage.apply(table, rows[:0], CHANCE, PLACE) == []


def test_a_measure_of_other_than_whole_numbers_is_refused() -> None:
    table = block([1]).append_column("duration_s", pa.array([1.5]))
    with pytest.raises(ConfigError, match="Pack: duration_s holds double, which counts no tokens"):
        Pack("duration_s", length=8).apply(table, np.array([0]), CHANCE, PLACE)


def test_a_packed_batch() -> None:
    made = CollatePacked("tokens", length=6, next_tokens=True, pad_value=7).apply(documents(3, 2, 4, 0, 6))
    assert made.sample_keys == list("abcde")
    assert made["tokens"].tolist() == [
        [100, 101, 102, 200, 201, 7],
        [300, 301, 302, 303, 7, 7],
        [500, 501, 502, 503, 504, 505],
    ]
    assert made["positions"].tolist() == [[0, 1, 2, 0, 1, 0], [0, 1, 2, 3, 0, 1], [0, 1, 2, 3, 4, 5]]
    assert made["documents"].tolist() == [[1, 1, 1, 2, 2, 0], [1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]]
    assert made["targets"].tolist() == [
        [101, 102, -100, 201, -100, -100],
        [301, 302, 303, -100, -100, -100],
        [501, 502, 503, 504, 505, -100],
    ]
    assert made["lengths"].tolist() == [3, 2, 4, 0, 6]
    assert made["starts"].tolist() == [0, 3, 6, 10, 12]
    assert made["cu_seqlens"].tolist() == [0, 3, 5, 6, 10, 10, 12, 18]
    assert made["max_seqlen"] == 6
    for name in ("tokens", "positions", "documents", "targets", "lengths", "starts"):
        assert made[name].dtype == torch.int64
    assert made["cu_seqlens"].dtype == torch.int32
    assert set(made) == set(CollatePacked("tokens", length=6, next_tokens=True).gives())


def test_the_last_document_of_a_full_row_may_be_empty() -> None:
    made = CollatePacked("tokens", length=2).apply(documents(2, 0, 0))
    assert made["tokens"].shape == (1, 2)
    assert made["starts"].tolist() == [0, 2, 2]
    assert made["cu_seqlens"].tolist() == [0, 2, 2, 2]


def test_rows_that_never_change_in_number() -> None:
    stage = CollatePacked("tokens", length=4, rows=3)
    made = stage.apply(documents(4, 3))
    assert made["tokens"].tolist() == [[100, 101, 102, 103], [200, 201, 202, 0], [0, 0, 0, 0]]
    assert made["documents"][2].tolist() == [0, 0, 0, 0]
    assert made["cu_seqlens"].tolist() == [0, 4, 7, 8, 12]
    with pytest.raises(SampleError) as caught:
        stage.apply(documents(4, 3, 3, 3, 2))
    assert str(caught.value) == (
        "CollatePacked: sample 'd' in s.tar: its tokens fits in none of the 3 rows of 4: the 5 documents of its batch "
        "need 5. Do Pack's measure and extra count what tokens holds? Index with the same tokenizer, lower Pack's "
        "length, or leave rows out"
    )


def test_long_documents() -> None:
    with pytest.raises(SampleError) as caught:
        CollatePacked("tokens", length=4, eos_token=9).apply(documents(3, 4))
    assert str(caught.value) == (
        "CollatePacked: sample 'b' in s.tar: its tokens has 4 tokens, over the 3 of a row; set too_long='truncate', or "
        "leave it out with Where('tokens', at_most=3)"
    )
    made = CollatePacked("tokens", length=4, eos_token=9, too_long="truncate").apply(documents(3, 8, 1))
    assert made["tokens"].tolist() == [[100, 101, 102, 9], [200, 201, 202, 9], [300, 9, 0, 0]]
    assert made["lengths"].tolist() == [4, 4, 2]


def test_documents_of_several_dtypes_and_what_is_kept() -> None:
    given = [
        Sample("a", {"tokens": np.array([1, 2], np.uint16), "label": 1, "txt": "x"}),
        Sample("b", {"tokens": [3], "label": 0, "txt": "y"}),
    ]
    made = CollatePacked("tokens", length=4, keep=("label", "txt")).apply(given)
    assert made["tokens"].tolist() == [[1, 2, 3, 0]]
    assert made["label"].tolist() == [1, 0]
    assert made["txt"] == ["x", "y"]
    with pytest.raises(SampleError, match=r"'c'.*its tokens is float64 \[1\], not token numbers \[T\]"):
        CollatePacked("tokens", length=4).apply([*given, Sample("c", {"tokens": np.zeros(1)})])


def test_packed_attention_is_that_of_each_document_alone() -> None:
    """Both ways of keeping documents apart: the mask from ``documents``, and the segments of ``cu_seqlens``."""
    rng = np.random.default_rng(0)
    given = [
        Sample(str(n), {"tokens": rng.integers(1, 50, length)}) for n, length in enumerate([5, 3, 0, 7, 2, 8, 1, 4])
    ]
    made = CollatePacked("tokens", length=9, rows=5).apply(given)
    torch.manual_seed(0)
    table, place = torch.randn(50, 8, dtype=torch.float64), torch.randn(9, 8, dtype=torch.float64)
    attend = torch.nn.functional.scaled_dot_product_attention

    def embedded(tokens: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        return table[tokens] + place[positions]

    x = embedded(made["tokens"], made["positions"])
    apart = made["documents"][:, :, None] == made["documents"][:, None, :]
    masked = attend(x, x, x, attn_mask=apart & torch.ones(9, 9, dtype=torch.bool).tril()).flatten(0, 1)
    flat = x.flatten(0, 1)
    cut = [
        attend(*(flat[None, low:high],) * 3, is_causal=True)[0] for low, high in pairwise(made["cu_seqlens"].tolist())
    ]
    segments = torch.cat(cut)
    assert max(len(part) for part in cut) == made["max_seqlen"]
    for sample, start, length in zip(given, made["starts"].tolist(), made["lengths"].tolist(), strict=True):
        alone = embedded(torch.from_numpy(sample["tokens"]), torch.arange(length))[None]
        expected = attend(alone, alone, alone, is_causal=True)[0]
        torch.testing.assert_close(masked[start : start + length], expected)
        torch.testing.assert_close(segments[start : start + length], expected)


@given(LENGTHS)
def test_positions_and_bounds_agree(lengths: list[int]) -> None:
    """Where positions are 0 a segment begins: from them alone transformers derives ``cu_seqlens``."""
    given = [Sample(str(n), {"tokens": np.ones(length, np.int64)}) for n, length in enumerate(lengths)]
    made = CollatePacked("tokens", length=64).apply(given)
    begins = torch.nonzero(made["positions"].flatten() == 0).flatten().tolist()
    assert sorted(set(made["cu_seqlens"].tolist())) == [*begins, made["positions"].numel()]
    assert int((made["documents"] > 0).sum()) == sum(lengths) == int(made["lengths"].sum())


def packed(shards: Path, **settings: Any) -> Pipeline:
    return Pipeline(
        TarShards(str(shards / "imdb" / "train"), lanes=2, block_rows=24),
        Shuffle(),
        Pack(length=160, rows=3, too_long="truncate", extra=1),
        TokenizeBasicEnglish(),
        CollatePacked("tokens", length=160, too_long="truncate", eos_token=1, next_tokens=True, keep=("label",)),
        **settings,
    )


def stream(shards: Path) -> Pipeline:
    return Pipeline(
        TarShards(str(shards / "imdb" / "train"), lanes=2, block_rows=24),
        Shuffle(),
        Batch(7),
        TokenizeBasicEnglish(),
        CollateStream("tokens", columns=4, eos_token=1),
    )


@pytest.mark.parametrize("make", [packed, stream])
@pytest.mark.parametrize(
    "law",
    [
        laws.law_1_workers_have_no_say,
        laws.law_2_ranks_interleave,
        laws.law_3_resume_is_exact,
        laws.law_4_exactly_once,
        laws.law_6_no_stage_changes_its_input,
        laws.law_6_stages_are_values,
    ],
)
def test_laws(make: Callable[[Path], Pipeline], law: Callable[[Pipeline], None], shards: Path) -> None:
    law(make(shards))


def texts(pipe: Pipeline) -> dict[str, list[int]]:
    found = {}
    for batch in pipe:
        flat = batch["tokens"].flatten()
        for key, start, length in zip(batch["keys"], batch["starts"], batch["lengths"], strict=True):
            found[key] = flat[start : start + length].tolist()
    return found


def test_law_5_a_document_is_the_same_in_any_row(shards: Path) -> None:
    pipe = packed(shards)
    alone = Pipeline(pipe.source, Batch(1), *pipe.stages[2:])
    assert texts(pipe) == texts(alone)
    assert len(texts(pipe)) == 60


def test_the_plan_holds_on_real_tars(shards: Path) -> None:
    batches = list(packed(shards))
    assert all(batch["tokens"].shape[1:] == (160,) for batch in batches)
    assert all(batch["tokens"].shape[0] <= 3 for batch in batches)
    assert sum(batch["tokens"].shape[0] == 3 for batch in batches) >= len(batches) - 4  # lanes x blocks end with one


@pytest.mark.parametrize("policy", ["skip", "substitute"])
def test_bad_documents_do_not_break_a_pack(shards: Path, tmp_path: Path, policy: str) -> None:
    """Real damage in real tars: what is left is where it was, and no batch is larger for what was left out."""
    folder = Path(shutil.copytree(shards / "imdb" / "train", tmp_path / "train"))
    bad = damage(folder)
    pipe = packed(tmp_path)
    whole = {batch.place.number: batch for batch in packed(shards)}
    pipe = Pipeline(
        TarShards(str(folder), lanes=2, block_rows=24), *pipe.stages,
        bad_samples=BadSamples(policy, max_share=1.0),  # type: ignore[arg-type]
    )  # fmt: skip
    faults = 0
    for batch in pipe:
        assert batch.place is not None
        planned = whole.pop(batch.place.number)
        good = [key for key in planned["keys"] if key not in bad]
        kept = [key for key in batch["keys"] if key in good]
        assert kept[: len(good)] == good if policy == "skip" else [key for key in good if key in kept] == good
        if policy == "skip":
            assert len(batch["tokens"]) <= len(planned["tokens"])
        else:
            assert len(batch["keys"]) == len(planned["keys"])
        faults += len(batch.place.faults)
    assert not whole
    assert faults == len(bad) > 3


def damage(folder: Path) -> set[str]:
    """Changes the first byte of every seventh review; gives their keys."""
    keys = set()
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            members = [member for member in tar.getmembers() if member.name.endswith(".txt")]
        with path.open("r+b") as file:
            for member in members[::7]:
                file.seek(member.offset_data)
                byte = file.read(1)
                file.seek(member.offset_data)
                file.write(bytes([byte[0] ^ 1]))
                keys.add(member.name.removesuffix(".txt"))
    return keys


def twice(tokens: np.ndarray) -> np.ndarray:
    """Another tokenizer than that of the index."""
    return np.repeat(tokens, 2)


def test_counts_of_another_tokenizer(shards: Path) -> None:
    """With a fixed number of rows an error that names a sample and the remedy; without, more rows, and none lost."""
    stages = [
        TarShards(str(shards / "imdb" / "train")), Pack(length=1024, rows=1), TokenizeBasicEnglish(),
        Map(twice, field="tokens"),
    ]  # fmt: skip
    with pytest.raises(SampleError, match=r"its tokens fits in none of the 1 rows of 1024.*Index with the same token"):
        list(Pipeline(*stages, CollatePacked("tokens", length=1024, rows=1)))
    batches = list(Pipeline(*stages, CollatePacked("tokens", length=1024)))
    assert sum(len(batch["keys"]) for batch in batches) == 60
    assert max(len(batch["tokens"]) for batch in batches) > 1


def test_at_most_1_percent_of_packed_imdb_is_padding() -> None:
    """Rows of 1,024 tokens; all of the real reviews that are there, cut where they are longer."""
    lengths = []
    with tarfile.open(real("aclImdb_v1.tar.gz")) as archive:
        for member in archive:
            if member.isfile() and member.name.split("/")[1:3] in (["train", "pos"], ["train", "neg"]):
                lengths.append(len(basic_english(decode_utf8(archive.extractfile(member).read()))))  # type: ignore[union-attr]
    assert len(lengths) >= 5000
    table = block(list(lengths))
    for rows in (1, 8):
        stage = Pack(length=1024, rows=rows, too_long="truncate")
        batches = stage.apply(table, np.arange(len(lengths)), CHANCE, PLACE)
        true, size = np.minimum(lengths, 1024), 0
        for batch in batches:
            size += int(next_fit(true[batch], 1024)[0][-1] + 1) * 1024
        assert 1 - true.sum() / size < 0.01


SPLIT = (40, 0, 7, 120, 1, 33, 64, 5, 90, 0, 18, 200, 3, 63, 65)


@pytest.fixture(scope="module")
def long_documents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fifteen documents of up to 200 words in three tars."""
    return write_documents(tmp_path_factory.mktemp("documents") / "shards", SPLIT)


def split(corpus: Path, lanes: int = 2) -> Pipeline:
    """Rows of 64 tokens, each document with one behind it."""
    return Pipeline(
        TarShards(str(corpus), lanes=lanes, block_rows=6),
        Shuffle(),
        Pack(length=64, rows=3, too_long="split", extra=1),
        TokenizeWhitespace(),
        CollatePacked("tokens", length=64, rows=3, eos_token=1, next_tokens=True),
    )


@given(LENGTHS, st.integers(1, 20), st.integers(0, 1))
def test_long_documents_are_split_into_full_rows_and_a_rest(lengths: list[int], length: int, extra: int) -> None:
    stage = Pack(length=length, too_long="split", extra=extra)
    table = block(list(lengths))
    parts = stage.parts(table, np.arange(len(lengths))[::-1], PLACE)
    assert parts is not None
    made = parts.table(table, {"key", "tokens"})
    batches = stage.apply(made, np.arange(len(parts)), CHANCE, PLACE)
    assert sorted(int(row) for batch in batches for row in batch) == list(range(len(parts)))
    covered: dict[int, list[int]] = {at: [] for at in range(len(lengths))}
    for row, part in zip(parts.rows.tolist(), made.to_pylist(), strict=True):
        assert part["tokens"] == part["part_stop"] - part["part_start"] <= length
        assert part["part_whole"] == lengths[row] + extra
        covered[row] += range(part["part_start"], part["part_stop"])
    assert covered == {at: list(range(count + extra)) for at, count in enumerate(lengths)}
    assert len(parts) == sum(max(math.ceil((count + extra) / length), 1) for count in lengths)
    assert all(sum(made["tokens"].to_numpy()[batch]) <= length for batch in batches)


def test_every_token_of_a_split_document_comes_once_and_has_the_next_one_as_its_target(long_documents: Path) -> None:
    texts = {
        f"d{n:02}": [
            *TokenizeWhitespace().encode(" ".join(f"w{n}x{word}" for word in range(count))).tolist(), 1
        ]
        for n, count in enumerate(SPLIT)
    }  # fmt: skip
    found: dict[str, dict[int, int]] = {key: {} for key in texts}
    for batch in split(long_documents):
        assert batch["tokens"].shape == (3, 64)
        flat, targets, positions = (batch[name].flatten().tolist() for name in ("tokens", "targets", "positions"))
        rows = zip(batch["keys"], batch["parts"], batch["starts"].tolist(), batch["lengths"].tolist(), strict=True)
        for key, (start, stop), at, length in rows:
            assert length == stop - start and positions[at : at + length] == list(range(length))
            assert targets[at : at + length] == [*texts[key], -100][start + 1 : stop + 1]
            for place in range(length):
                assert start + place not in found[key]
                found[key][start + place] = flat[at + place]
    assert {key: [tokens[at] for at in range(len(tokens))] for key, tokens in found.items()} == texts


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
def test_laws_of_split_documents(law: Callable[[Pipeline], None], long_documents: Path) -> None:
    law(split(long_documents))


def test_the_ledger_proves_every_part_of_a_document(long_documents: Path, tmp_path: Path) -> None:
    training = Training(split(long_documents), tmp_path / "ledger")
    training.run(2, epochs=2)
    report = training.audit(epochs=2)
    assert report.problems == []
    parts = sum(max(math.ceil((count + 1) / 64), 1) for count in SPLIT)
    assert [epoch.exact for epoch in report.epochs] == [parts, parts]


def test_a_split_document_must_have_the_tokens_that_were_planned(long_documents: Path) -> None:
    source, shuffle, pack, tokenize, _ = (split(long_documents).source, *split(long_documents).stages)
    with pytest.raises(SampleError, match="tokens, and .* were planned; index with the same tokenizer, and count an"):
        list(Pipeline(source, shuffle, pack, tokenize, CollatePacked("tokens", length=64)))
    message = "Pipeline: Pack plans parts counted in tokens, and no stage cuts them out"
    with pytest.raises(ConfigError, match=message):
        Pipeline(source, pack, tokenize, CollateStream("tokens", columns=2))


def legacy_bptt(text: list[int], batch_size: int, bptt_len: int, pad: int) -> list[tuple[list[Any], list[Any]]]:
    """The windows of torchtext's legacy BPTTIterator over one text: (text, target), each [T][B]."""
    height = math.ceil(len(text) / batch_size)
    text = text + [pad] * (height * batch_size - len(text))
    data = [[text[column * height + row] for column in range(batch_size)] for row in range(height)]
    steps = math.ceil((height - 1) / bptt_len)
    return [
        (data[at : min(at + bptt_len, height - 1)], data[at + 1 : min(at + bptt_len, height - 1) + 1])
        for at in range(0, steps * bptt_len, bptt_len)
    ]


@pytest.mark.parametrize(("columns", "window"), [(1, 5), (4, 3), (5, 100), (7, 1)])
@pytest.mark.parametrize("eos", [None, 9])
def test_a_stream_is_that_of_the_legacy_iterator(columns: int, window: int, eos: int | None) -> None:
    given = documents(5, 0, 7, 1, 20)
    text = [int(token) for one in given for token in [*one["tokens"], *([] if eos is None else [eos])]]
    made = CollateStream("tokens", columns=columns, eos_token=eos, pad_value=3, batch_first=False).apply(given)
    found = zip(made["tokens"].split(window), made["targets"].split(window), strict=True)
    assert [(text.tolist(), target.tolist()) for text, target in found] == legacy_bptt(text, columns, window, 3)
    assert set(made) == {"keys", "tokens", "targets"}
    batch_first = CollateStream("tokens", columns=columns, eos_token=eos, pad_value=3).apply(given)
    assert torch.equal(batch_first["tokens"], made["tokens"].t())
    assert torch.equal(batch_first["targets"], made["targets"].t())
    assert batch_first["tokens"].is_contiguous()
    assert batch_first["tokens"].untyped_storage().nbytes() == batch_first["tokens"].nbytes


def test_a_corpus_in_one_batch_is_the_legacy_epoch(shards: Path) -> None:
    source = TarShards(str(shards / "imdb" / "train"))
    (batch,) = Pipeline(source, Batch(1000), TokenizeBasicEnglish(), CollateStream("tokens", columns=6, eos_token=1))
    (padded,) = Pipeline(source, Batch(1000), TokenizeBasicEnglish(), CollateStream("tokens", columns=1, eos_token=1))
    text = [int(padded["tokens"][0, 0]), *padded["targets"][0].tolist()]
    windows = zip(batch["tokens"].split(35, 1), batch["targets"].split(35, 1), strict=True)
    found = [(tokens.t().tolist(), targets.t().tolist()) for tokens, targets in windows]
    assert found == legacy_bptt(text, 6, 35, 0)
    assert len(batch["keys"]) == 60


def test_a_stream_of_too_little() -> None:
    assert CollateStream("tokens", columns=4).apply(documents(3))["tokens"].shape == (4, 0)
    assert CollateStream("tokens", columns=4).apply(documents(0))["targets"].shape == (4, 0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Pack(length=0), "Pack: length must be a positive int, got 0"),
        (lambda: Pack(length=8, rows=0), "Pack: rows must be a positive int, got 0"),
        (lambda: Pack(length=8, extra=-1), "Pack: extra must be at least 0, got -1"),
        (lambda: Pack(length=8, too_long="cut"), "Pack: unknown too_long 'cut'. Known: error, split, truncate."),
        (
            lambda: CollatePacked("x", length=8, too_long="split"),
            "CollatePacked: unknown too_long 'split'. Known: error, truncate.",
        ),
        (lambda: Pack(length=1.5), "Pack: length = 1.5 has the wrong type; it takes int"),
        (lambda: CollatePacked("x", length=0), "CollatePacked: length must be a positive int, got 0"),
        (lambda: CollatePacked("x", length=8, rows=0), "CollatePacked: rows must be a positive int, got 0"),
        (lambda: CollatePacked("positions", length=8), "CollatePacked: the field 'positions' has a name that the"),
        (lambda: CollatePacked("x", length=8, keep=("x",)), "CollatePacked: the field 'x' is the input and need"),
        (lambda: CollateStream("x", columns=0), "CollateStream: columns must be a positive int, got 0"),
        (lambda: CollateStream("x", columns=1, keep="label"), "CollateStream: keep must be a list of fields"),
    ],
)
def test_wrong_settings(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make()
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("stage", [CollatePacked("x", length=4), CollateStream("x", columns=1)])
def test_no_samples(stage: CollatePacked | CollateStream) -> None:
    with pytest.raises(ValueError, match="a batch of no samples"):
        stage.apply([])

"""Batches of samples."""

from __future__ import annotations

import pickle
import re
from itertools import pairwise

import numpy as np
import pytest
import torch

from ecopipe.pipeline.bad_samples import BadSamples
from ecopipe.pipeline.pipeline import Pipeline
from ecopipe.stages.audio import DecodeAudio
from ecopipe.stages.collate import Collate
from ecopipe.stages.plan import Batch as BatchStage
from ecopipe.stages.source import TarShards
from ecopipe.stages.spectral import LogMel
from ecopipe.stages.text import TokenizeBasicEnglish, TokenizeCharacters
from ecopipe.vocabulary.errors import ConfigError, SampleError
from ecopipe.vocabulary.sample import Sample


def samples(*arrays, **fields):
    """Samples a, b, c, ... with ``x``, and further fields given as lists."""
    return [
        Sample("abcdefgh"[at], {"x": array, **{name: values[at] for name, values in fields.items()}}, shard="s.tar")
        for at, array in enumerate(arrays)
    ]


def same(found, expected, dtype=None):
    assert isinstance(found, torch.Tensor)
    assert dtype is None or found.dtype == dtype
    np.testing.assert_array_equal(found.numpy(), np.asarray(expected))


@pytest.mark.parametrize("dtype", [np.int16, np.float32, np.int64, np.uint8, np.float64])
def test_pad(dtype):
    made = Collate("x", pad_value=7).apply(samples(*(np.arange(n).astype(dtype) for n in (2, 0, 3))))
    assert set(made) == {"keys", "x", "lengths"}
    assert made.sample_keys == ["a", "b", "c"]
    same(made["x"], [[0, 1, 7], [7, 7, 7], [0, 1, 2]], torch.from_numpy(np.zeros(0, dtype)).dtype)
    same(made["lengths"], [2, 0, 3], torch.int64)


def test_pad_of_matrices():
    made = Collate("x").apply(samples(np.ones((1, 2), np.float32), np.ones((2, 2), np.float32)))
    same(made["x"], [[[1, 1], [0, 0]], [[1, 1], [1, 1]]], torch.float32)
    same(made["lengths"], [1, 2])


def test_all_empty():
    made = Collate("x").apply(samples(np.zeros(0, np.int64), np.zeros(0, np.int64)))
    assert made["x"].shape == (2, 0)


def test_stack():
    made = Collate("x", layout="stack").apply(samples(*np.arange(24, dtype=np.uint8).reshape(2, 3, 2, 2)))
    assert set(made) == {"keys", "x"}
    same(made["x"], np.arange(24).reshape(2, 3, 2, 2), torch.uint8)


def test_stack_of_numbers():
    same(Collate("x", layout="stack").apply(samples(1, 2))["x"], [1, 2])


def test_flat():
    made = Collate("x", layout="flat").apply(samples(np.array([5, 6]), np.array([], np.int64), np.array([7])))
    assert set(made) == {"keys", "x", "lengths", "offsets"}
    same(made["x"], [5, 6, 7], torch.int64)
    same(made["lengths"], [2, 0, 1], torch.int64)
    same(made["offsets"], [0, 2, 2], torch.int64)


def test_flat_is_what_an_embedding_bag_takes():
    made = Collate("x", layout="flat").apply(samples(np.array([1, 2]), np.array([], np.int64), np.array([3])))
    bag = torch.nn.EmbeddingBag(4, 2, mode="sum")
    with torch.no_grad():
        bag.weight[:] = torch.arange(8).view(4, 2)
        same(bag(made["x"], made["offsets"]), [[6, 8], [0, 0], [6, 7]])


@pytest.mark.parametrize(
    ("targets", "expected", "dtype"),
    [
        ([1, 0], [1, 0], torch.int64),
        ([np.int32(1), np.int32(0)], [1, 0], torch.int64),
        ([True, False], [1, 0], torch.int64),
        ([0.5, 1.5], [0.5, 1.5], torch.float32),
    ],
)
def test_targets_that_are_numbers(targets, expected, dtype):
    made = Collate("x", target="y").apply(samples(np.zeros(1), np.zeros(1), y=targets))
    same(made["targets"], expected, dtype)
    assert "target_lengths" not in made


def test_targets_that_are_sequences():
    made = Collate("x", target="y", target_pad_value=-1).apply(
        samples(np.zeros(1), np.zeros(1), y=[np.array([3]), np.array([4, 5])])
    )
    same(made["targets"], [[3, -1], [4, 5]], torch.int64)
    same(made["target_lengths"], [1, 2], torch.int64)


def test_keep():
    fields = {
        "count": [1, np.int16(2)],
        "share": [1, 0.5],
        "flag": [True, False],
        "text": ["A", "B"],
        "null": [1, None],
        "wave": [np.zeros(1), np.zeros(2)],
    }
    made = Collate("x", keep=list(fields)).apply(samples(np.zeros(1), np.zeros(1), **fields))
    same(made["count"], [1, 2], torch.int64)
    same(made["share"], [1, 0.5], torch.float64)
    same(made["flag"], [True, False], torch.bool)
    assert made["text"] == ["A", "B"]
    assert made["null"] == [1, None]
    assert [len(wave) for wave in made["wave"]] == [1, 2]


def audio(*rates):
    return [
        Sample(key, {"audio": np.zeros(3, np.int16), "rate_hz": rate}) for key, rate in zip("abc", rates, strict=False)
    ]


def test_rate_of_audio_is_one_int():
    made = Collate("audio").apply(audio(16000, np.int32(16000)))
    assert made["rate_hz"] == 16000
    assert type(made["rate_hz"]) is int
    assert made["audio"].dtype == torch.int16


def test_audio_that_carries_no_rate():
    assert "rate_hz" not in Collate("audio").apply([Sample("a", {"audio": np.zeros(1)})])


def test_audio_of_two_rates_is_refused():
    with pytest.raises(SampleError) as caught:
        Collate("audio").apply(audio(16000, 8000))
    assert str(caught.value) == (
        "Collate: sample 'b': its audio has 8000 Hz, and that of 'a' 16000 Hz; put Resample before Collate"
    )


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf, 2e6, -1e30])
def test_audio_that_is_not_finite_or_enormous_is_refused(wrong):
    audio = np.linspace(-1, 1, 100, dtype=np.float32)
    broken = audio.copy()
    broken[40:] = wrong
    samples = [Sample("a", {"audio": audio, "rate_hz": 8000}), Sample("b", {"audio": broken, "rate_hz": 8000})]
    with pytest.raises(SampleError, match=rf"'b'.*its audio holds {re.escape(format(wrong, 'g'))} at place 40 of 100"):
        Collate("audio").apply(samples)
    loud = Sample("c", {"audio": np.full(100, 1e6, np.float32), "rate_hz": 8000})
    assert Collate("audio").apply([loud])["audio"].isfinite().all()


def test_the_batch_owns_its_memory():
    array = np.arange(3)
    made = Collate("x").apply(samples(array))
    array[:] = 9
    same(made["x"], [[0, 1, 2]])


def test_other_byte_orders():
    for layout in ("pad", "stack", "flat"):
        made = Collate("x", layout=layout).apply(samples(np.arange(3, dtype=">i4")))
        same(made["x"].flatten(), [0, 1, 2], torch.int32)


def test_tensors_are_taken_as_arrays():
    same(Collate("x").apply(samples(torch.ones(1), torch.ones(2)))["x"], [[1, 0], [1, 1]], torch.float32)


ONE, TWO = np.zeros(1, np.float32), np.zeros(2, np.float32)


@pytest.mark.parametrize(
    ("stage", "given", "key", "reason"),
    [
        (Collate("z"), samples(ONE), "a", "no field 'z'; it has x"),
        (Collate("x", target="y"), [*samples(ONE, y=[1]), Sample("q", {"x": ONE})], "q", "no field 'y'; it has x"),
        (Collate("x", keep=("y",)), [*samples(ONE, y=[1]), Sample("q", {"x": ONE})], "q", "no field 'y'; it has x"),
        (Collate("x", target="y"), samples(ONE, ONE, y=[1, None]), "b", "its y is null"),
        (Collate("x"), samples(b"RIFF"), "a", "its x is bytes, not an array; decode it before"),
        (Collate("x"), samples({"a": 1}), "a", "its x is dict, not an array of numbers"),
        (Collate("x"), samples(ONE, np.zeros(1)), "b", "its x is float64, and that of 'a' float32"),
        (Collate("x"), samples(1, 2), "a", "its x is one number, and layout 'pad' needs an array"),
        (
            Collate("x", layout="stack"),
            samples(ONE, ONE, TWO),
            "c",
            "its x has shape [2], and that of 'a' [1]; make them equal, or set layout='pad'",
        ),
        (
            Collate("x"),
            samples(np.zeros((2, 3)), np.zeros((2, 4))),
            "b",
            "its x has shape [2, 4], and that of 'a' [2, 3]",
        ),
        (Collate("x"), samples(ONE, np.zeros((1, 1), np.float32)), "b", "its x has shape [1, 1], and that of 'a' [1]"),
        (
            Collate("x", target="y"),
            samples(ONE, ONE, y=[1, np.array([1])]),
            "b",
            "its y has shape [1], and that of 'a' []",
        ),
    ],
)
def test_errors_name_the_sample(stage, given, key, reason):
    with pytest.raises(SampleError) as caught:
        stage.apply(given)
    assert (caught.value.stage, caught.value.key, caught.value.reason) == ("Collate", key, reason)
    assert caught.value.shard in ("s.tar", "")


def test_no_samples():
    with pytest.raises(ValueError, match="a batch of no samples"):
        Collate("x").apply([])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Collate("x", layout="stacked"),
            "unknown layout 'stacked'. Did you mean 'stack'? Known: flat, pad, stack.",
        ),
        (lambda: Collate("x", keep="label"), "keep must be a list of fields, got 'label'"),
        (lambda: Collate("x", keep=3), "keep must be a list of fields, got 3"),
        (lambda: Collate("x", keep=("a", "b", "a")), "keep names the field 'a' twice; name it once"),
        (
            lambda: Collate("lengths"),
            "the field 'lengths' has a name that the batch needs for its own; rename it before",
        ),
        (
            lambda: Collate("x", keep=("keys",)),
            "the field 'keys' has a name that the batch needs for its own; rename it",
        ),
        (lambda: Collate("x", keep=("x",)), "the field 'x' is the input and need not be kept"),
        (lambda: Collate("audio", keep=("rate_hz",)), "rate_hz comes with audio and need not be kept"),
    ],
)
def test_wrong_settings(make, message):
    with pytest.raises(ConfigError) as caught:
        make()
    assert str(caught.value).startswith(f"Collate: {message}")


def legacy_field(texts, *, fix_length, init, eos, pad_first, truncate_first, batch_first, pad=0):
    """What torchtext's legacy Field makes of token numbers: rows of numbers, and their lengths."""
    extra = [[] if token is None else [token] for token in (init, eos)]
    room = max(map(len, texts)) if fix_length is None else fix_length - len(extra[0]) - len(extra[1])
    rows, lengths = [], []
    for text in texts:
        cut = list(text[-room:] if truncate_first else text[:room])
        row, padding = extra[0] + cut + extra[1], [pad] * max(room - len(text), 0)
        rows.append(padding + row if pad_first else row + padding)
        lengths.append(len(row))
    return np.array(rows) if batch_first else np.array(rows).T, lengths


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("pad_first", [False, True])
@pytest.mark.parametrize(("init", "eos"), [(None, None), (2, None), (None, 3), (2, 3)])
@pytest.mark.parametrize(("fixed", "truncate_first"), [(None, False), (3, False), (3, True), (20, True), (20, False)])
def test_the_idioms_of_the_legacy_field(batch_first, pad_first, init, eos, fixed, truncate_first):
    texts = [np.arange(10, 10 + n) for n in (4, 0, 1, 3, 25)]
    expected, lengths = legacy_field(
        texts, fix_length=fixed, init=init, eos=eos, pad_first=pad_first, truncate_first=truncate_first,
        batch_first=batch_first,
    )  # fmt: skip
    made = Collate(
        "x", fixed_length=fixed, init_token=init, eos_token=eos, pad_first=pad_first, truncate_first=truncate_first,
        batch_first=batch_first,
    ).apply(samples(*texts))  # fmt: skip
    same(made["x"], expected, torch.int64)
    same(made["lengths"], lengths, torch.int64)
    assert made["x"].is_contiguous()


def test_fixed_length_of_audio_and_of_matrices():
    made = Collate("audio", fixed_length=2).apply(
        [Sample(key, {"audio": np.arange(n, dtype=np.int16)}) for key, n in zip("ab", (3, 1), strict=True)]
    )
    same(made["audio"], [[0, 1], [0, 0]], torch.int16)
    same(made["lengths"], [2, 1])
    made = Collate("x", fixed_length=2, batch_first=False, pad_first=True).apply(
        samples(np.ones((1, 3)), np.ones((4, 3)))
    )
    same(made["x"], [[[0, 0, 0], [1, 1, 1]], [[1, 1, 1], [1, 1, 1]]])


def test_room_for_nothing_but_the_marks():
    made = Collate("x", fixed_length=2, init_token=8, eos_token=9, truncate_first=True).apply(samples(np.arange(5)))
    same(made["x"], [[8, 9]])


def test_marks_in_a_flat_batch():
    made = Collate("x", layout="flat", init_token=8, eos_token=9).apply(samples(np.array([5]), np.array([], np.int64)))
    same(made["x"], [8, 5, 9, 8, 9], torch.int64)
    same(made["offsets"], [0, 3], torch.int64)


def test_marks_need_numbers_of_tokens():
    with pytest.raises(SampleError) as caught:
        Collate("x", eos_token=1).apply(samples(np.zeros(2)))
    assert caught.value.reason == "its x is float64 [2], not token numbers [T]"


def test_the_input_is_not_changed_by_marks_and_cuts():
    text = np.arange(5)
    Collate("x", fixed_length=3, init_token=7).apply(samples(text))
    assert text.tolist() == [0, 1, 2, 3, 4]


def test_int32_for_losses():
    given = samples(np.zeros(9, np.float32), np.zeros(8, np.float32), y=[np.array([1, 2]), np.array([3])])
    made = Collate("x", target="y", length_dtype="int32", target_dtype="int32").apply(given)
    same(made["lengths"], [9, 8], torch.int32)
    same(made["target_lengths"], [2, 1], torch.int32)
    same(made["targets"], [[1, 2], [3, 0]], torch.int32)
    logits = torch.zeros(9, 2, 5).log_softmax(-1)
    loss = torch.nn.functional.ctc_loss(logits, made["targets"], made["lengths"], made["target_lengths"])
    assert loss.isfinite()
    assert Collate("x", target="y").apply(given)["target_lengths"].dtype == torch.int64
    assert Collate("x", layout="flat", length_dtype="int32").apply(given)["lengths"].dtype == torch.int32


@pytest.mark.parametrize("labels", [[1, 2, 3], [1, 1], [2, 2, 3], [1, 1, 1], []])
@pytest.mark.parametrize("frames", [0, 3, 7, 11, 12, 16, 20])
def test_a_label_that_is_longer_than_its_outputs_is_refused_where_its_ctc_loss_is_infinite(labels, frames):
    stage = Collate("audio", target="y", label_stride=4)
    given = [
        Sample("a", {"audio": np.zeros(40, np.int16), "y": np.array([1])}),
        Sample("b", {"audio": np.zeros(frames, np.int16), "y": np.array(labels, dtype=np.int64)}, shard="s.tar"),
    ]
    outputs = frames // 4
    loss = torch.nn.functional.ctc_loss(
        torch.zeros(10, 1, 5).log_softmax(-1), torch.tensor([labels]), [outputs], [len(labels)], reduction="sum"
    )
    if loss.isfinite():
        assert stage.apply(given)["target_lengths"].tolist() == [1, len(labels)]
        return
    with pytest.raises(SampleError) as caught:
        stage.apply(given)
    repeats = sum(a == b for a, b in pairwise(labels))
    assert caught.value.key == "b"
    assert caught.value.reason == (
        f"its y needs {len(labels) + repeats} outputs ({len(labels)} labels, and {repeats} blanks between equal ones), "
        f"and its audio of {frames} gives {outputs} at label_stride 4; set bad_samples='skip' to leave such samples "
        "out, or subsample less"
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fixed_length": 3, "layout": "flat"}, "fixed_length is for layout 'pad', and layout is 'flat'"),
        ({"pad_first": True, "layout": "stack"}, "pad_first is for layout 'pad', and layout is 'stack'"),
        ({"batch_first": False, "layout": "flat"}, "batch_first=False is for layout 'pad', and layout is 'flat'"),
        ({"eos_token": 1, "layout": "stack"}, "init_token and eos_token are for layouts 'pad' and 'flat', and layout"),
        ({"fixed_length": 0}, "fixed_length must be at least 1, got 0"),
        ({"fixed_length": 1, "init_token": 0, "eos_token": 1}, "fixed_length must be at least 2, got 1"),
        ({"truncate_first": True}, "truncate_first needs fixed_length: nothing else is truncated"),
        ({"label_stride": 0, "target": "y"}, "label_stride must be a positive int, got 0"),
        ({"label_stride": 4}, "label_stride compares the input with a target: give target, and do not stack"),
        ({"length_dtype": "int16"}, "unknown length_dtype 'int16'. Did you mean 'int64'? Known: int32, int64."),
        ({"target_dtype": "int8"}, "unknown target_dtype 'int8'."),
        ({"eos_token": "</s>"}, "eos_token = '</s>' has the wrong type; it takes int | None"),
    ],
)
def test_wrong_legacy_settings(settings, message):
    with pytest.raises(ConfigError) as caught:
        Collate("x", **settings)
    assert str(caught.value).startswith(f"Collate: {message}")


def test_the_legacy_iterator_keeps_its_last_short_batch(shards):
    pipe = Pipeline(
        TarShards(str(shards / "imdb" / "train")), BatchStage(25), TokenizeBasicEnglish(),
        Collate("tokens", target="label", fixed_length=20, batch_first=False),
    )  # fmt: skip
    sizes = [tuple(batch["tokens"].shape) for batch in pipe]
    assert sizes == [(20, 25), (20, 25), (20, 10)]


def test_labels_that_do_not_fit_are_skipped_alone(shards):
    stages = [DecodeAudio(dtype="int16"), TokenizeCharacters()]
    corpus = TarShards(str(shards / "librispeech" / "train-clean-100"))
    strides = {}  # the greatest at which each utterance's labels fit
    for batch in Pipeline(corpus, BatchStage(6), *stages, Collate("audio", target="tokens")):
        for row, key in enumerate(batch["keys"]):
            labels = batch["targets"][row, : batch["target_lengths"][row]]
            strides[key] = int(batch["lengths"][row]) // (len(labels) + int((labels[1:] == labels[:-1]).sum()))
    stride = sorted(strides.values())[12]
    good = [key for key, greatest in strides.items() if greatest >= stride]
    assert 0 < len(good) < 24
    made = Pipeline(
        corpus, BatchStage(6), *stages, Collate("audio", target="tokens", label_stride=stride),
        bad_samples=BadSamples("skip", max_share=1.0),
    )  # fmt: skip
    batches = list(made)
    assert [key for batch in batches for key in batch["keys"]] == good
    assert sum(len(batch.place.faults) for batch in batches) == 24 - len(good)


def test_a_batch_of_features_is_what_rnnt_loss_takes(shards):
    """Three int32 tensors, the lengths in frames; and no label longer than what eight frames each leave of them."""
    torchaudio = pytest.importorskip("torchaudio")
    made = Pipeline(
        TarShards(str(shards / "librispeech" / "train-clean-100")), BatchStage(4), DecodeAudio(), TokenizeCharacters(),
        Collate("audio", target="tokens", length_dtype="int32", target_dtype="int32", label_stride=8 * 160),
        LogMel(), bad_samples=BadSamples("skip", max_share=1.0),
    )  # fmt: skip
    batch = next(iter(made))
    outputs = batch["lengths"] // 8
    assert (outputs >= batch["target_lengths"]).all()
    assert len(outputs)
    logits = torch.zeros(len(outputs), int(outputs.max()), int(batch["target_lengths"].max()) + 1, 30)
    loss = torchaudio.functional.rnnt_loss(logits, batch["targets"], outputs, batch["target_lengths"], blank=0)
    assert loss.isfinite()


def test_fields():
    stage = Collate("audio", target="tokens", keep=["speaker"])
    assert stage.needs() == ("audio", "tokens", "speaker")
    assert stage.gives() == ("keys", "audio", "lengths", "rate_hz", "targets", "speaker")
    assert Collate("x", layout="stack").gives() == ("keys", "x")
    assert Collate("x", layout="flat").gives() == ("keys", "x", "lengths", "offsets")
    assert stage == Collate("audio", target="tokens", keep=("speaker",))
    assert pickle.loads(pickle.dumps(stage)) == stage

"""Batches of samples."""

from __future__ import annotations

import pickle
import re

import numpy as np
import pytest
import torch

from ecopipe.stages.collate import Collate
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


def test_fields():
    stage = Collate("audio", target="tokens", keep=["speaker"])
    assert stage.needs() == ("audio", "tokens", "speaker")
    assert stage.gives() == ("keys", "audio", "lengths", "rate_hz", "targets", "speaker")
    assert Collate("x", layout="stack").gives() == ("keys", "x")
    assert Collate("x", layout="flat").gives() == ("keys", "x", "lengths", "offsets")
    assert stage == Collate("audio", target="tokens", keep=("speaker",))
    assert pickle.loads(pickle.dumps(stage)) == stage

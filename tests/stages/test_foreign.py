"""Functions and modules of others as stages."""

from __future__ import annotations

import copy
import functools
import pickle
import random
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from torch import nn

from ecopipe.stages.foreign import Map, OnDevice, Settings, identity, seeded
from ecopipe.stages.stage import ANY
from ecopipe.vocabulary.errors import ConfigError, MissingDependency
from ecopipe.vocabulary.randomness import Chance
from ecopipe.vocabulary.sample import Batch, Place, Sample

CHANCE = Chance(3, 1, "test")


def double(value):
    return value * 2


def scale(value, factor=1):
    return value * factor


def spoil(value):
    value[:] = 0
    return value


def draw(value):
    return value * 0 + random.random() + np.random.random() + torch.rand(()).item()


def lengths(sample, extra=0):
    return {"length": len(sample["audio"]) + extra, "twice": 2 * sample["audio"]}


class Noise(nn.Module):
    def forward(self, x):
        return x + torch.rand_like(x)


class Spoil(nn.Module):
    def forward(self, x):
        return x.zero_()


def sample(key="a", dtype=np.float32):
    return Sample(key, {"audio": np.arange(4, dtype=dtype), "label": 5})


def batch(number=0, epoch=0):
    return Batch(
        {"keys": ["a", "b"], "features": torch.arange(8.0).view(2, 4), "lengths": None}, place=Place(epoch, number)
    )


# -- what is done -------------------------------------------------------------------------------------------------


def test_function_on_a_field():
    stage = Map(double, field="audio")
    assert stage.apply(sample(), CHANCE)["audio"].tolist() == [0, 2, 4, 6]
    assert (stage.needs(), stage.gives(), stage.takes_away()) == (("audio",), ("audio",), ())


def test_into_another_field():
    stage = Map(scale, field="audio", into="loud", kwargs={"factor": 3})
    made = stage.apply(sample(), CHANCE)
    assert (made["loud"].tolist(), made["audio"].tolist()) == ([0, 3, 6, 9], [0, 1, 2, 3])
    assert stage.gives() == ("loud",)


def test_function_on_the_whole_sample():
    stage = Map(lengths, into=["length", "twice"], kwargs={"extra": 10})
    made = stage.apply(sample(), CHANCE)
    assert (made["length"], made["twice"].tolist(), made["label"]) == (14, [0, 2, 4, 6], 5)
    assert (stage.needs(), stage.gives()) == ((ANY,), ("length", "twice"))


@pytest.mark.parametrize(
    ("fn", "got"),
    [(lambda s: {"other": 1}, "a mapping of other"), (lambda s: 5, "5"), (lambda s: {}, "a mapping of nothing")],
)
def test_function_that_returns_something_else(fn, got):
    with pytest.raises(ValueError, match=f"must return a mapping of x, and returned {got}$"):
        Map(fn, into="x").apply(sample(), CHANCE)


def test_missing_field():
    with pytest.raises(ValueError, match="no field 'image'; it has audio, label"):
        Map(double, field="image").apply(sample(), CHANCE)


@pytest.mark.parametrize("dtype", [np.float32, np.int16])
def test_module_on_a_field_takes_a_tensor_and_gives_an_array(dtype):
    class Check(nn.Module):
        def forward(self, x):
            assert isinstance(x, torch.Tensor)
            return x + 1

    given = sample(dtype=dtype)
    given["audio"].flags.writeable = False  # as arrays of shared memory are
    made = Map(Check(), field="audio").apply(given, CHANCE)["audio"]
    assert isinstance(made, np.ndarray)
    assert made.dtype == dtype
    assert made.tolist() == [1, 2, 3, 4]


def test_module_with_weights_leaves_no_graph():
    made = Map(nn.Linear(4, 2), field="audio").apply(sample(), CHANCE)["audio"]
    assert made.shape == (2,)
    assert not OnDevice(nn.Linear(4, 2)).apply(batch(), CHANCE)["features"].requires_grad


def test_torchaudio_by_name():
    pytest.importorskip("torchaudio.transforms", reason="torchaudio is not installed")
    stage = Map("torchaudio.transforms.Vol", field="audio", kwargs={"gain": 0.25})
    given = Sample("a", {"audio": np.array([0.5, -1.0], np.float32)})
    assert stage.apply(given, CHANCE)["audio"].tolist() == [0.125, -0.25]


def test_torchvision_by_name():
    v2 = pytest.importorskip("torchvision.transforms.v2", reason="torchvision is not installed")
    image = np.random.default_rng(0).integers(0, 256, (3, 32, 32), dtype=np.uint8)
    stage = Map("torchvision.transforms.v2.RandomCrop", field="image", kwargs={"size": [8, 8]})
    assert stage.kwargs == {"size": (8, 8)}
    made = [stage.apply(Sample(key, {"image": image}), CHANCE)["image"] for key in "aab"]
    assert made[0].shape == (3, 8, 8)
    assert np.array_equal(made[0], made[1])
    assert not np.array_equal(made[0], made[2])
    device = OnDevice("torchvision.transforms.v2.CenterCrop", field="image", kwargs={"size": 8})
    images = torch.from_numpy(image)[None]
    assert torch.equal(device.apply(Batch({"keys": ["a"], "image": images}), CHANCE)["image"], v2.CenterCrop(8)(images))


def test_on_device():
    stage = OnDevice(scale, into="louder", kwargs={"factor": 2.0})
    given = batch()
    made = stage.apply(given, CHANCE)
    assert torch.equal(made["louder"], given["features"] * 2)
    assert made.place == given.place
    assert (stage.needs(), stage.gives()) == (("features",), ("louder",))


def test_on_device_needs_a_tensor():
    with pytest.raises(ConfigError, match="OnDevice: the batch's lengths is NoneType, not a tensor"):
        OnDevice(double, field="lengths").apply(batch(), CHANCE)


def test_what_foreign_code_changes_in_place_is_a_copy():
    for fn in (spoil, Spoil()):
        given = sample()
        assert Map(fn, field="audio").apply(given, CHANCE)["audio"].tolist() == [0, 0, 0, 0]
        assert given["audio"].tolist() == [0, 1, 2, 3]
        on_device = batch()
        assert not OnDevice(fn).apply(on_device, CHANCE)["features"].any()
        assert torch.equal(on_device["features"], batch()["features"])
    given = sample()
    Map(lambda s: {"x": spoil(s["audio"])}, into="x").apply(given, CHANCE)
    assert given["audio"].tolist() == [0, 1, 2, 3]


def test_modules_are_copied_to_the_device_once(monkeypatch):
    module = nn.Linear(4, 4)
    copies = []
    monkeypatch.setattr(copy, "deepcopy", lambda thing, _copy=copy.deepcopy: copies.append(1) or _copy(thing))
    stage = OnDevice(module)
    for _ in range(3):
        stage.apply(batch(), CHANCE)
    assert len(copies) == 1


# -- what is drawn ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fn", [draw, Noise()])
def test_draws_depend_on_the_key_alone(fn):
    stage = Map(fn, field="audio")
    first = stage.apply(sample("a"), CHANCE)["audio"]
    assert not np.array_equal(stage.apply(sample("b"), CHANCE)["audio"], first)
    assert np.array_equal(stage.apply(sample("a"), CHANCE)["audio"], first)
    for other in (Chance(4, 1, "test"), Chance(3, 2, "test"), Chance(3, 1, "other")):
        assert not np.array_equal(stage.apply(sample("a"), other)["audio"], first)


@pytest.mark.parametrize("fn", [draw, Noise()])
def test_draws_on_device_depend_on_the_place_in_the_epoch(fn):
    stage = OnDevice(fn)
    first = stage.apply(batch(0), CHANCE)["features"]
    assert not torch.equal(stage.apply(batch(1), CHANCE)["features"], first)
    assert torch.equal(stage.apply(batch(0), CHANCE)["features"], first)


def test_generators_get_their_states_back():
    def states():
        kind, keys, *rest = np.random.get_state()
        return random.getstate(), kind, keys.tobytes(), tuple(rest), torch.get_rng_state().numpy().tobytes()

    random.gauss(0, 1)  # which keeps half of a pair
    before = states()
    Map(draw, field="audio").apply(sample(), CHANCE)
    OnDevice(Noise()).apply(batch(), CHANCE)
    with pytest.raises(ZeroDivisionError):
        Map(lambda value: draw(value) / 0 + 1 // 0, field="label").apply(sample(), CHANCE)
    assert states() == before


def test_draws_in_threads_do_not_mix():
    stage = Map(draw, field="audio")
    keys = [f"k{n}" for n in range(200)]
    expected = {key: stage.apply(sample(key), CHANCE)["audio"][0] for key in keys}
    found = {}

    def work(mine):
        for key in mine:
            found[key] = stage.apply(sample(key), CHANCE)["audio"][0]

    threads = [threading.Thread(target=work, args=(keys[at::4],)) for at in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == expected


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_draws_on_cuda():
    torch.cuda.manual_seed(1)
    before = torch.cuda.get_rng_state()
    made = [OnDevice(Noise()).apply(batch(n).without("lengths").to("cuda"), CHANCE)["features"] for n in (0, 0, 1)]
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])
    assert torch.equal(torch.cuda.get_rng_state(), before)


def test_seeds_differ():
    made = []
    for seed in (0, 1, 2**32, 2**63 - 1):
        with seeded(seed):
            made.append((random.random(), torch.rand(()).item()))
    assert len(set(made)) == 4


# -- what it is ---------------------------------------------------------------------------------------------------


def made_of(factor):
    return lambda value: value * factor


@pytest.mark.parametrize(
    ("one", "another"),
    [
        (lambda: double, lambda: scale),
        (lambda: made_of(1), lambda: made_of(2)),
        (lambda: lambda value: value + 1, lambda: lambda value: value + 2),
        (lambda: lambda value: value.min(), lambda: lambda value: value.max()),
        (lambda: functools.partial(scale, factor=1), lambda: functools.partial(scale, factor=2)),
        (lambda: nn.Dropout(0.1), lambda: nn.Dropout(0.2)),
        (lambda: "torchaudio.transforms.Vol", lambda: "torchaudio.transforms.Fade"),
        (lambda: Settings(a=1).get, lambda: Settings(a=2).get),
    ],
)
@pytest.mark.parametrize("kind", [Map, OnDevice])
def test_equality_and_identity(kind, one, another):
    first, same, other = (kind(make(), field="audio") for make in (one, one, another))
    assert first == same
    assert hash(first) == hash(same)
    assert first.identity == same.identity == identity(first.fn)
    assert first != other
    assert first.identity != other.identity
    assert first != kind(one(), field="image")
    assert first != kind(one(), field="audio", name="second")
    assert " at 0x" not in repr(first) + first.identity


def test_map_is_not_on_device():
    assert Map(double, field="features") != OnDevice(double)


def test_identity_in_words():
    assert identity(double) == f"{__name__}:double"
    assert identity(print) == "builtins:print"
    assert identity(nn.ReLU()) == "torch.nn.modules.activation:ReLU()"
    assert identity("torchaudio.transforms.Vol") == "torchaudio.transforms.Vol"


def test_weights_are_part_of_the_identity():
    torch.manual_seed(0)
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    assert OnDevice(first) != OnDevice(second)
    assert OnDevice(first) == OnDevice(copy.deepcopy(first))
    assert identity(nn.Linear(2, 2).to(torch.bfloat16)).startswith("torch.nn.modules.linear:Linear(")


def test_identity_is_the_same_in_another_process():
    code = (
        "from ecopipe.stages.foreign import identity\n"
        "def outer(k):\n    return lambda v: v in {'a', 'b', 'c'} or [x * k for x in v]\n"
        "print(identity(outer(2)))"
    )
    made = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": seed}
        ).stdout
        for seed in "12"  # which order the set in two ways
    }
    assert len(made) == 1


@pytest.mark.parametrize(
    "stage",
    [
        Map(double, field="audio"),
        Map("torchaudio.transforms.Vol", field="audio", kwargs={"gain": 0.5}),
        Map(lengths, into=("length", "twice")),
        Map(nn.Linear(2, 2), field="audio"),
        OnDevice(functools.partial(scale, factor=2), kwargs={"deep": {"list": [1, [2]]}}),
        OnDevice("torchvision.transforms.v2.CenterCrop", field="image", into="crop", kwargs={"size": 8}),
    ],
    ids=["function", "name", "whole", "module", "partial", "device"],
)
def test_pickled_and_copied(stage):
    for other in (pickle.loads(pickle.dumps(stage)), copy.deepcopy(stage)):
        assert other == stage
        assert hash(other) == hash(stage)
        assert repr(other) == repr(stage)


def test_repr():
    stage = Map("torchaudio.transforms.Vol", field="audio", kwargs={"gain": 0.5})
    assert repr(stage) == "Map('torchaudio.transforms.Vol', field='audio', kwargs={'gain': 0.5})"
    assert repr(OnDevice(double)) == f"OnDevice({__name__}:double)"


def test_settings():
    settings = Settings({"b": [1, {"c": [2]}]}, a=1)
    assert settings == {"a": 1, "b": (1, {"c": (2,)})}
    assert hash(settings) == hash(Settings(a=1, b=(1, {"c": (2,)})))
    for change in (lambda: settings.update(a=2), lambda: settings.pop("a"), lambda: settings.clear()):
        with pytest.raises(TypeError, match="the settings of a stage cannot be changed; make another stage"):
            change()
    with pytest.raises(TypeError, match="cannot be changed"):
        settings["a"] = 2


# -- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["os.system", "torchaudio.transforms", "torchaudio.functional.gain", "Vol", "",
                                  "torchaudio.transforms._x", "torchvision.transforms.RandomCrop",
                                  "torchaudio.transforms.Vol.forward", "torchaudio.transforms.Vol\n"])  # fmt: skip
@pytest.mark.parametrize("kind", [Map, OnDevice])
def test_other_names(kind, name):
    with pytest.raises(ConfigError, match=f"^{kind.__name__}: .* cannot be given by name; only a class of torchaudio"):
        kind(name, field="audio")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Map(5, field="x"), "Map: fn must be a function, a torch.nn.Module or a dotted name, got 5"),
        (lambda: Map(double), "Map: without field, into must name the fields that fn returns, for the stages behind"),
        (lambda: Map(double, field="x", into=["y"]), r"Map: with field, into must be one name, got \['y'\]"),
        (lambda: Map(nn.ReLU(), into="x"), "Map: a module or a dotted name works on one field; set field"),
        (
            lambda: OnDevice(nn.ReLU(), kwargs={"a": 1}),
            "OnDevice: kwargs are for a function or a dotted name; a module",
        ),
        (
            lambda: OnDevice(double, kwargs={"a": [1, {"b": None}]}),
            "OnDevice: kwargs may hold str, int, float, bool, lists and dicts of them, got NoneType; bind other values",
        ),
    ],
)
def test_wrong_settings(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_names_that_are_not_there():
    pytest.importorskip("torchaudio.transforms", reason="torchaudio is not installed")
    with pytest.raises(
        ConfigError, match=r"torchaudio.transforms has no class 'MelSpectogram'. Did you mean 'MelSpectrogram'"
    ):
        Map("torchaudio.transforms.MelSpectogram", field="audio").apply(sample(), CHANCE)
    with pytest.raises(ConfigError, match=r"torchaudio.transforms.Vol cannot be made with {'loud': 1}: .*loud"):
        Map("torchaudio.transforms.Vol", field="audio", kwargs={"loud": 1}).apply(sample(), CHANCE)


@pytest.mark.parametrize("package", ["torchaudio", "torchvision"])
def test_missing_package_is_said_in_one_sentence(monkeypatch, package):
    name = {"torchaudio": "torchaudio.transforms.Spectrogram", "torchvision": "torchvision.transforms.v2.Pad"}[package]
    module = name.rpartition(".")[0]
    stage = Map(name, field="audio", kwargs={"absent": package})  # naming it needs no package
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingDependency) as caught:
        stage.apply(sample(), CHANCE)
    assert str(caught.value) == f"{name!r} needs {package}. Install it: pip install {package}"


def test_stages_are_imported_without_torchaudio_and_torchvision():
    code = (
        "import sys; sys.modules['torchaudio'] = sys.modules['torchvision'] = None\n"
        "from ecopipe.stages import audio, collate, foreign, image, spectral, text"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

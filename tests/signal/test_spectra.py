"""Spectra by the fast transform and by products alone, each against a plain definition in float64."""

from __future__ import annotations

import itertools
import math
import shutil

import numpy as np
import pytest
import torch

from ecopipe.signal.dense import Dense
from ecopipe.signal.framing import Framing
from ecopipe.signal.mel import cosines
from ecopipe.signal.spectra import MelBands, Recipe, spectra, transform
from ecopipe.signal.windows import window

from .test_framing import by_definition

LENGTHS = (400, 5, 0, 1234, 60)


def signals(dtype="float32"):
    rng = np.random.default_rng(0)
    made = [(0.3 * rng.standard_normal(n)).clip(-1, 1).astype(np.float32) for n in LENGTHS]
    return [torch.from_numpy(np.rint(x * 32767).astype(np.int16) if dtype == "int16" else x) for x in made]


def padded(given, wider=33):
    rubbish = math.nan if given[0].dtype == torch.float32 else 12345
    audio = torch.full((len(given), max(map(len, given)) + wider), rubbish, dtype=given[0].dtype)
    for row, signal in zip(audio, given, strict=True):
        row[: len(signal)] = signal
    return audio, torch.tensor([len(signal) for signal in given])


def definition(signal, recipe):
    """Energies float64 [frames, width] and log energies [frames]: frames, numpy.fft, filters, each in its own line."""
    framing = recipe.framing
    audio = signal.double().numpy() / (32768 if signal.dtype == torch.int16 else 1)
    if framing.preemphasis and framing.preemphasis_of == "signal":
        audio = np.append(audio[:1], audio[1:] - framing.preemphasis * audio[:-1])
    frames = by_definition(audio, framing)
    if framing.remove_dc:
        frames = frames - frames.mean(axis=1, keepdims=True)
    least = max(recipe.floor, recipe.energy_floor)
    energy = np.log(np.maximum((frames**2).sum(axis=1), least))
    if framing.preemphasis and framing.preemphasis_of == "frame":
        frames = frames - framing.preemphasis * np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
    frames = frames * window(framing.window, framing.length)
    if recipe.energy == "windowed":
        energy = np.log(np.maximum((frames**2).sum(axis=1), least))
    if not len(frames):
        return np.empty((0, recipe.width)), energy
    found = np.abs(np.fft.rfft(frames, n=framing.n_fft)) ** recipe.power
    if recipe.bands:
        found = found @ recipe.bands.filters(framing.n_fft)
    return found, energy


BANDS = MelBands(16000, 6, 100.0, 7000.0, "slaney", "slaney")
RECIPES = [
    Recipe(Framing(64, 16, 64), log="none"),
    Recipe(Framing(64, 16, 64, drop_last=True), power=1.0, log="none"),
    Recipe(Framing(25, 10, 32, "povey", "inside", "mirror", preemphasis=0.97, preemphasis_of="frame", remove_dc=True),
           bands=MelBands(16000, 5, 20.0, 8000.0, "kaldi"), log="none", energy="raw"),
    Recipe(Framing(24, 10, 32, "povey", "middle", "mirror", preemphasis=0.97, preemphasis_of="frame", scale=32768.0),
           bands=MelBands(16000, 5, 20.0, 8000.0, "kaldi"), log="none", energy="windowed", energy_floor=1.0),
    Recipe(Framing(40, 16, 64, "hann_symmetric", edge="zero", preemphasis=0.97), bands=BANDS, log="none"),
    Recipe(Framing(64, 100, 64, pad_to=1000), bands=BANDS, log="none"),
    Recipe(Framing(33, 7, 64, "hamming", "middle", "reflect"), bands=BANDS, log="none", power=1.0),
    Recipe(Framing(1, 1, 16), bands=None, log="none"),
]  # fmt: skip


@pytest.mark.parametrize("recipe", RECIPES, ids=range(len(RECIPES)))
@pytest.mark.parametrize("dtype", ["float32", "int16"])
def test_by_definition(recipe, dtype):
    given = signals(dtype)
    fast, slow = spectra(given, recipe), Dense(recipe)(*padded(given))
    assert slow.isfinite().all()
    for number, signal in enumerate(given):
        expected, energy = definition(signal, recipe)
        count = recipe.framing.frames(len(signal))
        assert fast.counts[number] == count == len(expected)
        bound = 1e-6 * expected.max(initial=1e-30)
        begin, extra = fast.starts[number], int(recipe.energy != "none")
        np.testing.assert_allclose(fast.rows[begin : begin + count].numpy(), expected, rtol=1e-5, atol=bound)
        np.testing.assert_allclose(slow[number, :count, extra:].numpy(), expected, rtol=1e-9, atol=1e-6 * bound)
        if extra:
            np.testing.assert_allclose(fast.energy[begin : begin + count].numpy(), energy, atol=1e-5)
            np.testing.assert_allclose(slow[number, :count, 0].numpy(), energy, atol=1e-9)


@pytest.mark.parametrize(("log", "guard"), [*itertools.product(("ln", "log10", "db"), ("clamp", "add"))])
def test_logarithms(log, guard):
    recipe = Recipe(Framing(64, 16, 64), bands=BANDS, log=log, floor=1e-3, guard=guard)
    energies, _ = definition(signals()[0], recipe)
    kept = np.maximum(energies, 1e-3) if guard == "clamp" else energies + 1e-3
    expected = {"ln": np.log(kept), "log10": np.log10(kept), "db": 10 * np.log10(kept)}[log]
    np.testing.assert_allclose(spectra(signals()[:1], recipe).flat().numpy(), expected, atol=2e-5)
    np.testing.assert_allclose(Dense(recipe)(*padded(signals()[:1], 0))[0].numpy(), expected, atol=1e-9)


@pytest.mark.parametrize("length", [16, 25, 64])
def test_the_transform_in_halves_is_the_whole_one(length):
    cosine, sine = transform(Framing(length, 8, 64), torch.device("cpu"))
    frame = torch.randn(3, length, dtype=torch.float64)
    half = (length + 1) // 2
    before, behind = frame[:, :half], frame.flip(1)[:, :half]
    power = ((before + behind) @ cosine).square() + ((before - behind) @ sine).square()
    torch.testing.assert_close(power, torch.fft.rfft(frame, n=64).abs().square())


def test_a_compiler_takes_the_dense_one_whole():
    recipe = RECIPES[2]
    audio, lengths = padded(signals())
    compiled = torch.compile(Dense(recipe), fullgraph=True, dynamic=False, backend="aot_eager")
    torch.testing.assert_close(compiled(audio, lengths), Dense(recipe)(audio, lengths))


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:.*script_method.*:DeprecationWarning")
@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="inductor needs a C++ compiler")
def test_compiled_to_machine_code():
    recipe = RECIPES[4]
    audio, lengths = padded(signals())
    compiled = torch.compile(Dense(recipe), fullgraph=True, dynamic=False)
    torch.testing.assert_close(compiled(audio, lengths), Dense(recipe)(audio, lengths))


def test_cosines_are_orthonormal_and_liftered():
    basis = cosines(20, 20)
    np.testing.assert_allclose(basis.T @ basis, np.eye(20), atol=1e-12)
    np.testing.assert_allclose(cosines(20, 3, 22.0)[:, 1], basis[:, 1] * (1 + 11 * np.sin(np.pi / 22)))


def test_no_signals():
    made = spectra([], RECIPES[0])
    assert made.flat().shape == (0, 33)
    assert made.padded(0).shape == (0, 0, 33)

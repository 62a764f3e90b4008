"""The fused kernels: against the float64 reference, under Triton's interpreter; compiled; and on a GPU where one is."""

from __future__ import annotations

import importlib.util
import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ecopipe.signal import kernels
from ecopipe.signal.dense import Dense
from ecopipe.signal.framing import Framing
from ecopipe.signal.kernels import Normal
from ecopipe.signal.spectra import MelBands, Recipe
from ecopipe.vocabulary.errors import ConfigError

with_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not there")

MEL = MelBands(16000, 20, 0.0, 8000.0)
PLAIN = Recipe(Framing(400, 160, 400), bands=MEL)
KALDI = Recipe(
    Framing(
        400, 160, 512, window="povey", placing="middle", edge="mirror", scale=32768.0, preemphasis=0.97,
        preemphasis_of="frame", remove_dc=True,
    ),
    bands=MelBands(16000, 23, 20.0, 8000.0, "kaldi"), floor=1.1920929e-07, energy="raw",
)  # fmt: skip
NEMO = Recipe(
    Framing(320, 160, 512, window="hann_symmetric", edge="zero", preemphasis=0.97),
    bands=MelBands(16000, 20, 0.0, 8000.0, "slaney", "slaney"), floor=2.0**-24, guard="add",
)  # fmt: skip
WHISPER = Recipe(Framing(400, 160, 400, drop_last=True, pad_to=2000), bands=MEL, log="log10")


@pytest.fixture(scope="module")
def interpreter() -> Iterator[ProcessPoolExecutor]:
    """A process of its own: triton decides when it is imported whether its functions are interpreted."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            assert pool.submit(_available).result()
            yield pool


def _available() -> bool:
    torch.set_num_threads(1)
    return kernels.available(torch.device("cpu"))


def _called(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    made = getattr(kernels, name)(*(_tensors(arg) for arg in args), **{k: _tensors(v) for k, v in kwargs.items()})
    return str(made.dtype), made.float().numpy()


def _tensors(value: Any) -> Any:
    """Arrays as tensors: in a buffer that belongs to torch, since numpy's may be read-only."""
    if isinstance(value, tuple):
        return tuple(_tensors(one) for one in value)
    return torch.tensor(value) if isinstance(value, np.ndarray) else value


def _arrays(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_arrays(one) for one in value)
    return value.numpy() if isinstance(value, Tensor) else value


def _run(pool: ProcessPoolExecutor, name: str, *args: Any, **kwargs: Any) -> Tensor:
    arrays = tuple(_arrays(arg) for arg in args), {k: _arrays(v) for k, v in kwargs.items()}
    dtype, made = pool.submit(_called, name, *arrays).result(timeout=120)
    assert dtype == str(kwargs.get("out_dtype", torch.float32))
    return torch.from_numpy(made)


class Fused:
    """The kernels by their interpreter."""

    def __init__(self, pool: ProcessPoolExecutor) -> None:
        self.pool = pool

    def log_mel(self, audio: Tensor, lengths: Tensor, recipe: Recipe, **kwargs: Any) -> Tensor:
        return _run(self.pool, "log_mel", audio, lengths, recipe, **kwargs)

    def finish(self, features: Tensor, lengths: Tensor, normal: Normal, **kwargs: Any) -> Tensor:
        return _run(self.pool, "finish", features, lengths, normal, **kwargs)


@pytest.fixture
def fused(interpreter: ProcessPoolExecutor) -> Fused:
    return Fused(interpreter)


def _batch(*lengths: int, dtype: torch.dtype = torch.float32, rubbish: bool = True) -> tuple[Tensor, Tensor]:
    """Noise with a tone and an offset; what lies behind a sample's end is NaN, or int16's greatest."""
    generator = torch.Generator().manual_seed(sum(lengths))
    true = torch.tensor(lengths)
    audio = 0.1 * torch.randn(len(lengths), max(lengths, default=0), generator=generator)
    audio += 0.2 * torch.sin(torch.arange(audio.shape[1]) * 0.3) + 0.05
    if dtype == torch.int16:
        audio = (audio.clamp(-1, 0.999) * 32768).to(torch.int16)
    if rubbish:
        behind = torch.arange(audio.shape[1]) >= true[:, None]
        audio = audio.masked_fill(behind, torch.nan if dtype == torch.float32 else 32767)
    return audio, true


def _expected(audio: Tensor, lengths: Tensor, recipe: Recipe, pad_value: float = 0.0) -> Tensor:
    """float64, by the reference."""
    made = Dense(recipe)(audio, lengths)
    behind = torch.arange(made.shape[1]) >= recipe.framing.frames_of(lengths)[:, None]
    return made.masked_fill(behind[:, :, None], pad_value)


def _assert_close(found: Tensor, audio: Tensor, lengths: Tensor, recipe: Recipe) -> None:
    """Each energy within 3e-6 of itself (1.5e-5 if it is read off its logarithm), beside the noise of float32.

    That lies at 2e-7, 134 dB below the greatest amplitude of the frame; amplitudes of a band add up.
    """
    columns = int(recipe.energy != "none")
    logarithms = _expected(audio, lengths, recipe)
    torch.testing.assert_close(found[:, :, :columns].double(), logarithms[:, :, :columns], rtol=2e-6, atol=2e-6)
    expected = _expected(audio, lengths, replace(recipe, log="none", energy="none"))
    greatest = expected.amax(dim=2, keepdim=True) if expected.numel() else expected
    energy, share = found[:, :, columns:].double(), 3e-6
    if recipe.log != "none":
        true = (torch.arange(found.shape[1]) < recipe.framing.frames_of(lengths)[:, None])[:, :, None]
        guarded = expected.clamp_min(recipe.floor) if recipe.guard == "clamp" else expected + recipe.floor
        unit = {"ln": 1.0, "log10": np.log(10), "db": np.log(10) / 10}[recipe.log]
        expected, energy, share = guarded * true, (energy * unit).exp() * true, 1.5e-5
    power = recipe.power
    noise = (2e-7 if power == 2 else 1e-6) * greatest ** (1 / power)
    bound = (1 + share) * (expected ** (1 / power) + noise) ** power - expected
    off = ((energy - expected).abs() / bound.clamp_min(1e-300)).nan_to_num(torch.inf)
    assert not off.numel() or off.max() <= 1, off.amax(dim=(1, 2))


RECIPES = {
    "plain": PLAIN,
    "kaldi": KALDI,
    "nemo": NEMO,
    "whisper": WHISPER,
    "kaldi, frames inside": replace(KALDI, framing=replace(KALDI.framing, placing="inside"), energy="windowed"),
    "kaldi, zeros": replace(KALDI, framing=replace(KALDI.framing, edge="zero"), energy_floor=1.0),
    "middle, reflect": replace(PLAIN, framing=Framing(400, 160, 400, placing="middle")),
    "centered, mirror": replace(PLAIN, framing=Framing(400, 160, 400, edge="mirror")),
    "signal pre-emphasis, reflect, pad_to": replace(
        WHISPER, framing=Framing(400, 160, 400, preemphasis=0.97, pad_to=1500)
    ),
    "no log": replace(PLAIN, log="none"),
    "db": replace(PLAIN, log="db", guard="add", floor=1e-5),
    "magnitude": replace(PLAIN, power=1.0, log="none"),
    "power 1.5": replace(PLAIN, power=1.5, log="none"),
    "odd window": replace(PLAIN, framing=Framing(321, 160, 400, window="hamming"), log="none"),
    "odd n_fft": replace(PLAIN, framing=Framing(351, 100, 375), log="none"),
    "other divisors": replace(PLAIN, framing=Framing(240, 80, 240, window="blackman"), log="none"),
    "small n_fft": replace(PLAIN, bands=MelBands(8000, 8, 0.0, 4000.0), framing=Framing(50, 20, 64), log="none"),
    "hop above length": replace(PLAIN, framing=Framing(200, 250, 256), log="none"),
    "80 bands": replace(PLAIN, bands=MelBands(16000, 80, 0.0, 8000.0, "slaney", "slaney")),
    "spectrum": replace(PLAIN, bands=None, log="none"),
    "spectrum of 512, and energy": replace(KALDI, bands=None, log="none"),
    "spectrum of 375": replace(PLAIN, bands=None, log="none", framing=Framing(375, 125, 375)),
}


@with_triton
class TestLogMel:
    @pytest.mark.parametrize("name", RECIPES)
    def test_it_is_the_reference(self, fused: Fused, name: str) -> None:
        recipe = RECIPES[name]
        audio, lengths = _batch(3700, 2222, 800, 401, 400, 399, 161, 7, 1, 0)
        found = fused.log_mel(audio, lengths, recipe)
        assert found.isfinite().all()
        _assert_close(found, audio, lengths, recipe)

    @pytest.mark.parametrize(("placing", "edge"), list(itertools.product(["centered", "inside"], ["reflect", "zero"])))
    @pytest.mark.parametrize("preemphasis_of", ["signal", "frame"])
    def test_int16(self, fused: Fused, placing: Any, edge: Any, preemphasis_of: Any) -> None:
        framing = Framing(
            400, 160, 400, placing=placing, edge=edge, preemphasis=0.97, preemphasis_of=preemphasis_of, remove_dc=True
        )
        recipe = replace(PLAIN, framing=framing)
        audio, lengths = _batch(2500, 1234, 90, 0, dtype=torch.int16)
        _assert_close(fused.log_mel(audio, lengths, recipe), audio, lengths, recipe)

    def test_ieee(self, fused: Fused) -> None:
        audio, lengths = _batch(1700, 800)
        _assert_close(fused.log_mel(audio, lengths, PLAIN, precision="ieee"), audio, lengths, PLAIN)

    def test_a_quiet_tone_beside_a_loud_offset(self, fused: Fused) -> None:
        """The tone is 100 dB below; TF32 alone, with 2**-11, would lose it at 66 dB."""
        audio = (0.9 + 0.9e-5 * torch.sin(torch.arange(3200) * 2 * torch.pi * 0.25))[None]
        lengths = torch.tensor([3200])
        recipe = replace(PLAIN, bands=None, log="db")
        found, expected = fused.log_mel(audio, lengths, recipe), _expected(audio, lengths, recipe)
        inner = slice(3, -3)  # where nothing is reflected
        assert (found[0, inner, 100] - expected[0, inner, 100]).abs().max() < 0.1

    @pytest.mark.parametrize("recipe", [PLAIN, KALDI, WHISPER], ids=["plain", "kaldi", "whisper"])
    def test_silence_is_the_floor(self, fused: Fused, recipe: Recipe) -> None:
        found = fused.log_mel(torch.zeros(1, 3000), torch.tensor([3000]), recipe)
        assert torch.unique(found).numel() == 1 and found.isfinite().all()

    def test_without_samples_and_without_frames(self, fused: Fused) -> None:
        assert fused.log_mel(torch.zeros(0, 500), torch.zeros(0, dtype=torch.int64), PLAIN).shape == (0, 4, 20)
        recipe = RECIPES["kaldi, frames inside"]
        assert fused.log_mel(torch.zeros(2, 399), torch.tensor([399, 0]), recipe).shape == (2, 0, 24)
        assert fused.log_mel(torch.zeros(2, 0), torch.tensor([0, 0]), PLAIN).shape == (2, 1, 20)

    def test_more_frames_and_the_value_behind(self, fused: Fused) -> None:
        audio, lengths = _batch(3200, 500)
        found = fused.log_mel(audio, lengths, KALDI, frames=40, pad_value=-7.5)
        assert found.shape == (2, 40, 24)
        assert (found[0, 20:] == -7.5).all() and (found[1, 3:] == -7.5).all()
        assert torch.equal(found[:, :20], fused.log_mel(audio, lengths, KALDI, pad_value=-7.5))

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_other_dtypes_are_the_same_numbers_rounded(self, fused: Fused, dtype: torch.dtype) -> None:
        audio, lengths = _batch(1700, 800)
        expected = fused.log_mel(audio, lengths, KALDI).to(dtype).float()
        found = fused.log_mel(audio, lengths, KALDI, out_dtype=dtype)
        # The interpreter cuts off where a GPU rounds to the nearest even number.
        assert ((found - expected).abs() <= expected.abs() * torch.finfo(dtype).eps).all()

    def test_nan_in_true_audio_is_seen_and_stays_in_its_frames(self, fused: Fused) -> None:
        audio, lengths = _batch(3200, 3200)
        expected = fused.log_mel(audio, lengths, KALDI)
        audio[0, 1600] = torch.nan
        found = fused.log_mel(audio, lengths, KALDI)
        spoilt = found.isnan().all(dim=2)
        assert spoilt[0].nonzero().flatten().tolist() == [9, 10] and not spoilt[1].any()
        assert torch.equal(found[~spoilt], expected[~spoilt])

    def test_affine_spans_and_fill(self, fused: Fused) -> None:
        audio, lengths = _batch(3700, 1700)
        mean, factor = torch.linspace(-3, 3, 24), torch.linspace(0.5, 2, 24)
        freq = torch.tensor([[[0, 2], [20, 24]], [[5, 5], [7, 9]]], dtype=torch.int32)
        time = torch.tensor([[[3, 6], [0, 0], [20, 23]], [[0, 1], [4, 40], [2, 2]]], dtype=torch.int32)
        plain = fused.log_mel(audio, lengths, KALDI)
        for fill in (None, torch.tensor([1.5, -2.0])):
            found = fused.log_mel(
                audio, lengths, KALDI, affine=(mean, factor), spans=(freq, time), fill=fill, pad_value=9.0
            )
            expected = (plain - mean) * factor
            for one in range(2):
                value = 0.0 if fill is None else float(fill[one])
                for begin, end in freq[one].tolist():
                    expected[one, :, begin:end] = value
                for begin, end in time[one].tolist():
                    expected[one, begin:end] = value
            expected[1, 11:] = 9.0
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
            assert torch.equal(found == 0, expected == 0)


@with_triton
class TestNothingDependsOnTheBatch:
    @pytest.mark.parametrize("recipe", [PLAIN, KALDI, NEMO, WHISPER], ids=["plain", "kaldi", "nemo", "whisper"])
    def test_alone_in_any_batch_with_any_padding_and_flat(self, fused: Fused, recipe: Recipe) -> None:
        audio, lengths = _batch(5300, 1999, 0, 640, 3001)
        counts = recipe.framing.frames_of(lengths).tolist()
        together = fused.log_mel(audio, lengths, recipe)
        order = torch.tensor([3, 4, 0, 2, 1])
        shuffled = fused.log_mel(audio[order].contiguous(), lengths[order], recipe)
        wider = torch.nn.functional.pad(audio, (0, 3777), value=torch.nan)
        padded = fused.log_mel(wider, lengths, recipe)
        pieces = [row[:length] for row, length in zip(audio, lengths.tolist(), strict=True)]
        gap = torch.full((3,), torch.nan)
        flat = torch.cat([part for piece in pieces for part in (gap, piece)])
        offsets = 3 + torch.cumsum(lengths + 3, 0) - (lengths + 3)
        from_flat = fused.log_mel(flat, lengths, recipe, offsets=offsets)
        starts = torch.tensor(counts).cumsum(0) - torch.tensor(counts)
        to_flat = fused.log_mel(flat, lengths, recipe, offsets=offsets, rows=starts, total=sum(counts))
        assert from_flat.shape[1] == max(counts) and len(to_flat) == sum(counts)
        for number, (piece, count, start) in enumerate(zip(pieces, counts, starts.tolist(), strict=True)):
            alone = fused.log_mel(piece[None], lengths[number : number + 1], recipe)[0]
            assert len(alone) == count
            place = order.tolist().index(number)
            for other in (together[number], shuffled[place], padded[number], from_flat[number], to_flat[start:]):
                assert torch.equal(other[:count], alone)

    @pytest.mark.parametrize(
        ("normal", "fill"),
        [
            (Normal(max_range=8.0, shift=4.0, factor=0.25), None),
            (Normal(mean=True, deviation=True, ddof=1, eps=1e-5), "mean"),
            (Normal(), "mean"),
        ],
    )
    def test_finishing(self, fused: Fused, normal: Normal, fill: Any) -> None:
        generator = torch.Generator().manual_seed(3)
        features, lengths = torch.randn(3, 70, 20, generator=generator), torch.tensor([70, 33, 0])
        for number, length in enumerate(lengths.tolist()):
            features[number, length:] = torch.nan
        spans = torch.tensor([[[2, 5]]] * 3, dtype=torch.int32), torch.tensor([[[30, 35]]] * 3, dtype=torch.int32)
        together = fused.finish(features, lengths, normal, spans=spans, fill=fill, pad_value=3.0)
        flat = torch.cat([features[number, :length] for number, length in enumerate(lengths.tolist())])
        rows = torch.tensor([0, 70, 103])
        from_flat = fused.finish(flat, lengths, normal, rows=rows, spans=spans, fill=fill)
        for number, (length, row) in enumerate(zip(lengths.tolist(), rows.tolist(), strict=True)):
            one = tuple(span[:1] for span in spans)
            alone = fused.finish(
                features[number : number + 1, : length + 5].contiguous(), lengths[number : number + 1], normal,
                spans=one, fill=fill, pad_value=3.0,
            )[0]  # fmt: skip
            assert torch.equal(together[number, :length], alone[:length])
            assert torch.equal(from_flat[row : row + length], alone[:length])
            assert (together[number, length:] == 3.0).all() and (alone[length:] == 3.0).all()


@with_triton
class TestFinish:
    FEATURES = 2 * torch.randn(2, 50, 24, generator=torch.Generator().manual_seed(5)) - 6
    LENGTHS = torch.tensor([50, 21])

    def test_mean_and_deviation(self, fused: Fused) -> None:
        normal = Normal(mean=True, deviation=True, ddof=1, eps=1e-5)
        found = fused.finish(self.FEATURES, self.LENGTHS, normal)
        for features, made, length in zip(self.FEATURES.double(), found, self.LENGTHS.tolist(), strict=True):
            true = features[:length]
            expected = (true - true.mean(dim=0)) / (true.std(dim=0, correction=1) + 1e-5)
            torch.testing.assert_close(made[:length].double(), expected, rtol=0, atol=3e-6)
            assert (made[length:] == 0).all()

    def test_a_column_that_does_not_vary_becomes_zero(self, fused: Fused) -> None:
        features = torch.full((1, 40, 3), -23.0)
        found = fused.finish(features, torch.tensor([40]), Normal(mean=True, deviation=True, eps=1e-8))
        assert (found == 0).all()

    def test_the_mean_only(self, fused: Fused) -> None:
        found = fused.finish(self.FEATURES, self.LENGTHS, Normal(mean=True))
        expected = self.FEATURES[1, :21] - self.FEATURES[1, :21].mean(dim=0)
        torch.testing.assert_close(found[1, :21], expected, rtol=0, atol=3e-6)

    def test_range_below_the_greatest(self, fused: Fused) -> None:
        found = fused.finish(self.FEATURES, self.LENGTHS, Normal(max_range=2.5, shift=4.0, factor=0.25))
        for features, made, length in zip(self.FEATURES, found, self.LENGTHS.tolist(), strict=True):
            true = features[:length]
            torch.testing.assert_close(made[:length], (torch.maximum(true, true.max() - 2.5) + 4) / 4)

    def test_masks_get_the_mean_of_what_is_normal(self, fused: Fused) -> None:
        spans = torch.tensor([[[1, 4]]] * 2, dtype=torch.int32), torch.tensor([[[0, 2]]] * 2, dtype=torch.int32)
        normal = Normal(max_range=2.5, shift=4.0, factor=0.25)
        plain = fused.finish(self.FEATURES, self.LENGTHS, normal)
        found = fused.finish(self.FEATURES, self.LENGTHS, normal, spans=spans, fill="mean")
        expected = plain.clone()
        for one, length in enumerate(self.LENGTHS.tolist()):
            mean = plain[one, :length].mean()
            expected[one, :length, 1:4] = mean
            expected[one, :2] = mean
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)

    def test_given_fill_and_dtype(self, fused: Fused) -> None:
        spans = torch.tensor([[[1, 4]]] * 2, dtype=torch.int32), torch.zeros(2, 0, 2, dtype=torch.int32)
        found = fused.finish(
            self.FEATURES, self.LENGTHS, Normal(), spans=spans, fill=torch.tensor([0.5, 2.0]), out_dtype=torch.bfloat16
        )
        assert (found[0, :, 1:4] == 0.5).all() and (found[1, :21, 1:4] == 2.0).all() and (found[1, 21:] == 0).all()
        torch.testing.assert_close(found[0, :, 4:], self.FEATURES[0, :, 4:], rtol=2**-7, atol=0)


class TestWhatIsRefused:
    def test_n_fft_without_divisors(self) -> None:
        recipe = replace(PLAIN, framing=Framing(401, 160, 401))
        assert not kernels.supports(recipe) and kernels.supports(PLAIN)
        with pytest.raises(ConfigError, match="cannot make a transform of n_fft = 401 samples: it must be the product"):
            kernels.log_mel(torch.zeros(1, 800), torch.tensor([800]), recipe)

    def test_audio_of_another_shape_or_dtype(self) -> None:
        lengths = torch.tensor([800])
        with pytest.raises(ValueError, match=r"contiguous, \[B, T\]; got float64 \[1, 800\]"):
            kernels.log_mel(torch.zeros(1, 800).double(), lengths, PLAIN)
        with pytest.raises(ValueError, match=r"\[sum T\], since there are offsets; got float32 \[1, 800\]"):
            kernels.log_mel(torch.zeros(1, 800), lengths, PLAIN, offsets=torch.tensor([0]))
        with pytest.raises(ValueError, match="rows and total belong together"):
            kernels.log_mel(torch.zeros(1, 800), lengths, PLAIN, rows=torch.tensor([0]))

    @pytest.mark.parametrize("wrong", [{"mean": True, "max_range": 8.0}, {"deviation": True}])
    def test_what_is_not_normal(self, wrong: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match="mean excludes max_range, shift and factor, and deviation needs mean"):
            Normal(**wrong)

    def test_the_cpu_without_the_interpreter(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("TRITON_INTERPRET", raising=False)
        assert not kernels.available(torch.device("cpu"))

    def test_triton_is_imported_by_need_only(self) -> None:
        code = "import sys, ecopipe, ecopipe.signal.kernels; sys.exit('triton' in sys.modules)"
        assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0


COMPILE = """
import sys, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
sys.path[:0] = {path!r}
from ecopipe.signal import fused, kernels
from tests.signal.test_kernels import KALDI, PLAIN, TYPES, FINISH, FINISH_TYPES
import torch

def compiled(kernel, types, constants):
    warps = constants.pop("num_warps")
    names = kernel.arg_names
    attrs = {{(names.index(name),): [["tt.divisibility", 16]] for name in types if types[name].startswith("*")}}
    source = ASTSource(
        fn=kernel, signature={{name: types.get(name, "constexpr") for name in names}},
        constexprs={{name: constants[name] for name in names if name not in types}}, attrs=attrs,
    )
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options={{"num_warps": warps}})

for recipe in (PLAIN, KALDI)[:{count}]:
    chosen = dict(FLAT=False, FLAT_OUT=False, AFFINE=True, FREQ=2, TIME=2, FILL=True, PRECISION="tf32x3")
    made = compiled(fused.log_mel_kernel, TYPES, kernels.settings(recipe, torch.int16) | chosen)
    assert len(made.asm["cubin"]) > 10000
    assert "wgmma.mma_async" in made.asm["ptx"] and ".tf32" in made.asm["ptx"]
    assert made.metadata.shared <= 160 * 1024, made.metadata.shared
for changed in {finish}:
    assert len(compiled(fused.finish_kernel, FINISH_TYPES, FINISH | changed).asm["cubin"]) > 2000
"""
TYPES = {
    "audio": "*i16", "lengths": "*i64", "offsets": "*i64", "out": "*bf16", "rows": "*i64", "freq_spans": "*i32",
    "time_spans": "*i32", "stride": "i32", "frames": "i32", "pad_value": "fp32",
}  # fmt: skip
TYPES |= dict.fromkeys(
    ("window", "outer", "turn", "inner", "middle", "filters", "middle_filters", "mean", "inv_std", "fill"), "*fp32"
)
FINISH_TYPES = {
    "features": "*fp32", "lengths": "*i64", "rows": "*i64", "out": "*bf16", "freq_spans": "*i32", "time_spans": "*i32",
    "fill": "*fp32", "frames": "i32", "pad_value": "fp32",
}  # fmt: skip
FINISH = {
    "COLUMNS": 80, "FLAT": False, "PEAK": True, "RANGE": 8.0, "SHIFT": 4.0, "SLOPE": 0.25, "MEAN": False,
    "DEVIATION": False, "DDOF": 1, "EPS": 1e-5, "FREQ": 2, "TIME": 2, "FILL": "mean", "BLOCK_F": 32, "BLOCK_C": 128,
    "num_warps": 4,
}  # fmt: skip


@with_triton
class TestCompiled:
    """For compute capability 9.0, ahead of time: what the interpreter takes is not always Triton."""

    def test_for_cuda(self, tmp_path: Any) -> None:
        self._compile(tmp_path, count=1, finish=[{}])

    @pytest.mark.long
    def test_more_of_them(self, tmp_path: Any) -> None:
        normal = {"PEAK": False, "MEAN": True, "DEVIATION": True, "FILL": "zero", "BLOCK_C": 32}
        self._compile(tmp_path, count=2, finish=[{}, normal, {"FLAT": True, "FILL": "given", "FREQ": 0, "TIME": 0}])

    def _compile(self, folder: Any, count: int, finish: list[dict[str, Any]]) -> None:
        code = COMPILE.format(path=sys.path, count=count, finish=finish)
        (folder / "compile.py").write_text(code, encoding="utf-8")
        env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
        env["TRITON_CACHE_DIR"] = str(folder / "cache")
        made = subprocess.run(
            [sys.executable, str(folder / "compile.py")], env=env, capture_output=True, text=True, timeout=600
        )
        assert made.returncode == 0, made.stderr[-3000:]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@with_triton
class TestOnTheGpu:
    @pytest.mark.parametrize("name", RECIPES)
    @pytest.mark.parametrize("precision", ["tf32x3", "ieee"])
    def test_it_is_the_reference(self, name: str, precision: Any) -> None:
        audio, lengths = _batch(16000, 2222, 800, 401, 400, 399, 161, 7, 1, 0)
        found = kernels.log_mel(audio.cuda(), lengths.cuda(), RECIPES[name], precision=precision).cpu()
        _assert_close(found, audio, lengths, RECIPES[name])

    @pytest.mark.parametrize("recipe", [PLAIN, KALDI, NEMO, WHISPER], ids=["plain", "kaldi", "nemo", "whisper"])
    def test_alone_and_in_a_batch(self, recipe: Recipe) -> None:
        audio, lengths = _batch(50000, 19999, 0, 640, 30010)
        normal = Normal(mean=True, deviation=True, ddof=1, eps=1e-5)
        counts = recipe.framing.frames_of(lengths).cuda()
        audio, lengths = audio.cuda(), lengths.cuda()
        together = kernels.finish(kernels.log_mel(audio, lengths, recipe), counts, normal)
        for number, (length, count) in enumerate(zip(lengths.tolist(), counts.tolist(), strict=True)):
            one = slice(number, number + 1)
            alone = kernels.log_mel(audio[one, :length].contiguous(), lengths[one], recipe)
            alone = kernels.finish(alone, counts[one], normal)
            assert torch.equal(together[number, :count], alone[0])

    def test_a_cuda_graph_captures_it_and_nothing_waits(self) -> None:
        audio, lengths = (one.cuda() for one in _batch(32000, 20000))
        counts = KALDI.framing.frames_of(lengths)
        spans = torch.zeros(2, 1, 2, dtype=torch.int32).cuda(), torch.zeros(2, 1, 2, dtype=torch.int32).cuda()

        def made() -> Tensor:
            features = kernels.log_mel(audio, lengths, KALDI)
            return kernels.finish(features, counts, Normal(mean=True), spans=spans, out_dtype=torch.bfloat16)

        expected = made()
        torch.cuda.set_sync_debug_mode("error")
        try:
            made()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            found = made()
        graph.replay()
        assert torch.equal(found, expected)
        audio.mul_(0.5)
        graph.replay()
        torch.cuda.synchronize()
        torch.testing.assert_close(found, expected, rtol=0, atol=0.1)

"""Triton kernels for :mod:`ecopipe.signal.kernels`; importing this module imports triton.

The Fourier transform of a frame of n_fft = N1 * N2 samples is made in two stages of small matrix products (Cooley and
Tukey, Math. Comp. 19, 1965): with n = N1 n2 + n1 and k = k2 + N2 k1, first over n2 for each n1, then a turn by
n1 k2 / n_fft, then over n1 for each k2. The frame is real, so k2 from 0 to N2 / 2 suffices: the other frequencies are
mirror images. If N2 is even, k2 = N2 / 2 is made apart: one column more would double the size of the first stage.

Frame f of a sample is always row f % BLOCK_F of its tile, and rows never meet, so that what is computed for it has
nothing to do with the batch. The tables are made by :func:`ecopipe.signal.kernels.tables`.
"""
# mypy: ignore-errors
# ruff: noqa: RUF005
# A kernel is no Python that a type checker can follow, and triton does not know (*values, value).

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _taken(line, found, wanted, PREEMPHASIS: tl.constexpr):
    """Samples ``found``, float32: 0 where not ``wanted``; nothing is loaded there."""
    value = tl.load(line + found, mask=wanted, other=0).to(tl.float32)
    if PREEMPHASIS != 0:
        value -= PREEMPHASIS * tl.load(line + found - 1, mask=wanted & (found >= 1), other=0).to(tl.float32)
    return value


@triton.jit
def _samples(line, at, wanted, length, whole, within, EDGE: tl.constexpr, PREEMPHASIS: tl.constexpr):
    """Samples ``at`` any places of a signal: by the edge rule; ``within``: all of them lie in the signal."""
    if within:
        value = _taken(line, at, wanted, PREEMPHASIS)
    else:
        found = at
        if EDGE != "zero":
            period = tl.maximum(2 * (whole - (1 if EDGE == "reflect" else 0)), 1)
            found = at % period
            found = tl.where(found < 0, found + period, found)
            found = tl.minimum(found, period - (0 if EDGE == "reflect" else 1) - found)
        value = _taken(line, found, wanted & (found >= 0) & (found < length), PREEMPHASIS)
    return value


@triton.jit
def _covered(place, spans, COUNT: tl.constexpr):
    """Whether places [n] lie in any of ``COUNT`` spans (begin, end)."""
    inside = place < 0
    for number in range(COUNT):
        inside |= (place >= tl.load(spans + 2 * number)) & (place < tl.load(spans + 2 * number + 1))
    return inside


@triton.jit
def _logarithm(value, LOG: tl.constexpr):
    if LOG == "none":
        return value
    elif LOG == "ln":
        return tl.log(value)
    elif LOG == "log10":
        return tl.log(value) * 0.4342944819032518
    else:
        return tl.log(value) * 4.342944819032518


@triton.jit
def _raised(power, POWER: tl.constexpr):
    """Energies to the power of POWER / 2."""
    if POWER == 2.0:
        return power
    elif POWER == 1.0:
        return tl.sqrt(power)
    else:
        return tl.exp2(tl.log2(power) * (POWER / 2))


@triton.jit
def _rounded(value):
    """float32 to the nearest of TF32: 11 bits. (A NaN may become another number; its remainder is still NaN.)"""
    return ((value.to(tl.int32, bitcast=True) + 4096) & -8192).to(tl.float32, bitcast=True)


@triton.jit
def _product(one, other, total, PRECISION: tl.constexpr):
    """``total`` and the matrix product. Triton's own "tf32x3" looks for NaN in each number, which takes longer."""
    if PRECISION == "tf32x3":
        one_rounded, other_rounded = _rounded(one), _rounded(other)
        total = tl.dot(one - one_rounded, other_rounded, total, input_precision="tf32")
        total = tl.dot(one_rounded, other - other_rounded, total, input_precision="tf32")
        total = tl.dot(one_rounded, other_rounded, total, input_precision="tf32")
    else:
        total = tl.dot(one, other, total, input_precision="ieee")
    return total


@triton.jit
def _weighed(power, filters, values, REACHED: tl.constexpr, QUARTER: tl.constexpr, COUNT: tl.constexpr,
             BLOCK_M: tl.constexpr, TILES_M: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """``values`` of all bands, in blocks, and what a quarter of the spectrum adds to those that it reaches."""
    made = ()
    rows = filters + (QUARTER * COUNT + tl.arange(0, COUNT))[:, None] * (TILES_M * BLOCK_M)
    for tile in tl.static_range(TILES_M):
        value = values[tile]
        if (REACHED >> (4 * tile + QUARTER)) & 1:
            weights = tl.load(rows + tile * BLOCK_M + tl.arange(0, BLOCK_M)[None, :])
            value = _product(power, weights, value, PRECISION)
        made = made + (value,)
    return made


@triton.jit
def _fill(lines, stored, with_what, ROWS: tl.constexpr, COLUMNS: tl.constexpr, COLUMNS_P: tl.constexpr):
    column = tl.arange(0, COLUMNS_P)[None, :]
    value = tl.full((ROWS, COLUMNS_P), 0.0, tl.float32) + with_what
    to = lines[:, None] + column
    tl.store(to, value.to(lines.dtype.element_ty), mask=stored[:, None] & (column < COLUMNS))


@triton.jit
def log_mel_kernel(
    audio, lengths, offsets, window, outer, turn, inner, middle, filters, middle_filters,
    out, rows, mean, inv_std, freq_spans, time_spans, fill,
    stride, frames, pad_value,
    LENGTH: tl.constexpr, HOP: tl.constexpr, FIRST: tl.constexpr, PAD_TO: tl.constexpr, EXTRA: tl.constexpr,
    ONE_MORE: tl.constexpr, EDGE: tl.constexpr, SCALE: tl.constexpr, OF_SIGNAL: tl.constexpr, OF_FRAME: tl.constexpr,
    REMOVE_DC: tl.constexpr, POWER: tl.constexpr, LOG: tl.constexpr, FLOOR: tl.constexpr, CLAMP: tl.constexpr,
    ENERGY: tl.constexpr, LEAST: tl.constexpr, WIDTH: tl.constexpr, COLUMNS: tl.constexpr, COLUMNS_P: tl.constexpr,
    N1: tl.constexpr, N1P: tl.constexpr, N2P: tl.constexpr, K2P: tl.constexpr, FLAT: tl.constexpr,
    FLAT_OUT: tl.constexpr, MIDDLE: tl.constexpr, AFFINE: tl.constexpr, FREQ: tl.constexpr, TIME: tl.constexpr,
    FILL: tl.constexpr, BLOCK_F: tl.constexpr, BLOCK_M: tl.constexpr, TILES_M: tl.constexpr, REACHED: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Features of ``BLOCK_F`` frames of one sample. Grid: (tiles of frames, B).

    ``audio`` int16 or float32 [B, stride], or [sum T] with ``offsets``; ``out`` [B, frames, COLUMNS], or
    [sum F, COLUMNS] with ``rows``; an energy is column 0.
    """
    sample = tl.program_id(1)
    length = tl.load(lengths + sample).to(tl.int32)
    whole = tl.maximum(length, PAD_TO)
    count = tl.maximum(whole + EXTRA, 0) // HOP + ONE_MORE
    first = tl.program_id(0) * BLOCK_F
    frame = first + tl.arange(0, BLOCK_F)
    true = frame < count
    stored = true & (frame < frames)
    if FLAT_OUT:
        row = tl.load(rows + sample).to(tl.int64)
    else:
        row = sample.to(tl.int64) * frames
        stored = frame < frames
    places = row + frame
    if first < count:
        line = audio + (tl.load(offsets + sample).to(tl.int64) if FLAT else sample.to(tl.int64) * stride)
        n1 = tl.arange(0, N1P)[:, None]
        n2 = tl.arange(0, N2P)[None, :]
        n = n2 * N1 + n1
        wanted = ((n1 < N1) & (n < LENGTH))[None, :, :] & true[:, None, None]
        begin = frame * HOP + FIRST
        at = begin[:, None, None] + n[None, :, :]
        within = (first * HOP + FIRST >= 0) & ((first + BLOCK_F - 1) * HOP + FIRST + LENGTH <= length)
        signal = _samples(line, at, wanted, length, whole, within, EDGE, OF_SIGNAL) * SCALE
        if REMOVE_DC:
            offset = tl.sum(tl.sum(signal, axis=2), axis=1)[:, None, None] / LENGTH
            signal = tl.where(wanted, signal - offset, 0.0)
        if ENERGY == "raw":
            square = tl.sum(tl.sum(signal * signal, axis=2), axis=1)
        if OF_FRAME != 0:
            earlier = begin[:, None, None] + tl.maximum(n - 1, 0)[None, :, :]
            before = _samples(line, earlier, wanted, length, whole, within, EDGE, OF_SIGNAL) * SCALE
            if REMOVE_DC:
                before = tl.where(wanted, before - offset, 0.0)
            signal -= OF_FRAME * before
        signal *= tl.load(window + tl.arange(0, N1P)[:, None] * N2P + n2)[None, :, :]
        if ENERGY == "windowed":
            square = tl.sum(tl.sum(signal * signal, axis=2), axis=1)

        if MIDDLE:  # before the rest, so that no register need hold the signal to the end
            sign = (1 - 2 * (tl.arange(0, N2P) % 2)).to(tl.float32)
            sums = tl.sum(signal * sign[None, None, :], axis=2)
            none = tl.zeros((BLOCK_F, N1P), tl.float32)
            by_k1 = tl.arange(0, N1P)[:, None] * N1P + tl.arange(0, N1P)[None, :]
            along = _product(sums, tl.load(middle + by_k1), none, PRECISION)
            across = _product(sums, tl.load(middle + N1P * N1P + by_k1), none, PRECISION)
            middle_power = _raised(along * along + across * across, POWER)
        by_k2 = tl.arange(0, N2P)[:, None] * K2P + tl.arange(0, K2P)[None, :]
        none = tl.zeros((BLOCK_F * N1P, K2P), tl.float32)
        flat = tl.reshape(signal, (BLOCK_F * N1P, N2P))
        real = _product(flat, tl.load(outer + by_k2), none, PRECISION)
        imag = _product(flat, tl.load(outer + N2P * K2P + by_k2), none, PRECISION)
        real = tl.reshape(real, (BLOCK_F, N1P, K2P))
        imag = tl.reshape(imag, (BLOCK_F, N1P, K2P))
        by_turn = tl.arange(0, N1P)[:, None] * K2P + tl.arange(0, K2P)[None, :]
        cosine = tl.load(turn + by_turn)[None, :, :]
        sine = tl.load(turn + N1P * K2P + by_turn)[None, :, :]
        turned = tl.permute(real * cosine - imag * sine, (0, 2, 1))
        imag = tl.permute(real * sine + imag * cosine, (0, 2, 1))
        real = tl.reshape(turned, (BLOCK_F * K2P, N1P))
        imag = tl.reshape(imag, (BLOCK_F * K2P, N1P))
        k1 = tl.arange(0, N1P)
        by_k1 = k1[:, None] * N1P + k1[None, :]
        cosine = tl.load(inner + by_k1)
        sine = tl.load(inner + N1P * N1P + by_k1)
        none = tl.zeros((BLOCK_F * K2P, N1P), tl.float32)
        along = _product(real, cosine, none, PRECISION)
        along = _product(-imag, sine, along, PRECISION)
        across = _product(real, sine, none, PRECISION)
        across = _product(imag, cosine, across, PRECISION)
        quarters = tl.reshape(_raised(along * along + across * across, POWER), (BLOCK_F, K2P, 2, 2, N1P // 4))
        even, odd = tl.split(tl.permute(quarters, (0, 1, 2, 4, 3)))
        first_of, third_of = tl.split(tl.permute(even, (0, 1, 3, 2)))
        second_of, fourth_of = tl.split(tl.permute(odd, (0, 1, 3, 2)))
        lowest = tl.reshape(first_of, (BLOCK_F, K2P * N1P // 4))
        low = tl.reshape(second_of, (BLOCK_F, K2P * N1P // 4))
        high = tl.reshape(third_of, (BLOCK_F, K2P * N1P // 4))
        highest = tl.reshape(fourth_of, (BLOCK_F, K2P * N1P // 4))

        in_time = _covered(frame, time_spans + sample.to(tl.int64) * (2 * TIME), TIME)
        filling = tl.load(fill + sample) if FILL else 0.0
        if ENERGY != "none":
            value = tl.log(tl.maximum(square, LEAST, tl.PropagateNan.ALL))
            if AFFINE:
                value = (value - tl.load(mean)) * tl.load(inv_std)
            masked = in_time | _covered(frame * 0, freq_spans + sample.to(tl.int64) * (2 * FREQ), FREQ)
            value = tl.where(true, tl.where(masked, filling, value), pad_value)
            tl.store(out + places * COLUMNS, value.to(out.dtype.element_ty), mask=stored)
        values = ()
        for _tile in tl.static_range(TILES_M):
            values = values + (tl.zeros((BLOCK_F, BLOCK_M), tl.float32),)
        values = _weighed(lowest, filters, values, REACHED, 0, K2P * N1P // 4, BLOCK_M, TILES_M, PRECISION)
        values = _weighed(low, filters, values, REACHED, 1, K2P * N1P // 4, BLOCK_M, TILES_M, PRECISION)
        values = _weighed(high, filters, values, REACHED, 2, K2P * N1P // 4, BLOCK_M, TILES_M, PRECISION)
        values = _weighed(highest, filters, values, REACHED, 3, K2P * N1P // 4, BLOCK_M, TILES_M, PRECISION)
        if MIDDLE:
            values = _weighed(middle_power, middle_filters, values, -1, 0, N1P, BLOCK_M, TILES_M, PRECISION)
        for tile in tl.static_range(TILES_M):
            m = tile * BLOCK_M + tl.arange(0, BLOCK_M)
            value = values[tile]
            if LOG != "none":
                value = tl.maximum(value, FLOOR, tl.PropagateNan.ALL) if CLAMP else value + FLOOR
            value = _logarithm(value, LOG)
            column = m + (COLUMNS - WIDTH)
            if AFFINE:
                centre = tl.load(mean + column, mask=m < WIDTH, other=0.0)
                factor = tl.load(inv_std + column, mask=m < WIDTH, other=0.0)
                value = (value - centre[None, :]) * factor[None, :]
            in_freq = _covered(column, freq_spans + sample.to(tl.int64) * (2 * FREQ), FREQ)
            masked = in_time[:, None] | in_freq[None, :]
            value = tl.where(true[:, None], tl.where(masked, filling, value), pad_value)
            to = out + places[:, None] * COLUMNS + column[None, :]
            tl.store(to, value.to(out.dtype.element_ty), mask=stored[:, None] & (m < WIDTH)[None, :])
    elif not FLAT_OUT:
        _fill(out + places * COLUMNS, stored, pad_value, BLOCK_F, COLUMNS, COLUMNS_P)


@triton.jit
def _features(lines, frame, column, count, COLUMNS: tl.constexpr, EMPTY: tl.constexpr):
    """float32 [frames, columns]: those of a sample, and ``EMPTY`` where it has none."""
    there = (frame < count)[:, None] & (column < COLUMNS)[None, :]
    at = lines + frame.to(tl.int64)[:, None] * COLUMNS + column[None, :]
    return tl.load(at, mask=there, other=EMPTY).to(tl.float32), there


@triton.jit
def _normal(value, least, mean, factor, PEAK: tl.constexpr, SHIFT: tl.constexpr, SLOPE: tl.constexpr):
    if PEAK:
        value = tl.maximum(value, least, tl.PropagateNan.ALL)
    return ((value + SHIFT) * SLOPE - mean[None, :]) * factor[None, :]


@triton.jit
def finish_kernel(
    features, lengths, rows, out, freq_spans, time_spans, fill, frames, pad_value,
    COLUMNS: tl.constexpr, FLAT: tl.constexpr, PEAK: tl.constexpr, RANGE: tl.constexpr, SHIFT: tl.constexpr,
    SLOPE: tl.constexpr, MEAN: tl.constexpr, DEVIATION: tl.constexpr, DDOF: tl.constexpr, EPS: tl.constexpr,
    FREQ: tl.constexpr, TIME: tl.constexpr, FILL: tl.constexpr, BLOCK_F: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """What needs a whole sample: one program makes a block of columns of one. Grid: (B, blocks of columns).

    Sums are made frame by frame in the same order whatever the batch.
    """
    sample = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    count = tl.load(lengths + sample).to(tl.int32)
    stop = frames
    row = sample * frames
    if FLAT:
        row = tl.load(rows + sample).to(tl.int64)
        stop = count
    lines, to = features + row * COLUMNS, out + row * COLUMNS
    frame = tl.arange(0, BLOCK_F)
    zero = tl.zeros((BLOCK_F, BLOCK_C), tl.float32)
    mean = tl.zeros((BLOCK_C,), tl.float32)
    factor = mean + 1.0
    least = 0.0
    if PEAK:
        most = zero - float("inf")
        begin = 0
        while begin < count:
            value, _there = _features(lines, begin + frame, column, count, COLUMNS, float("-inf"))
            most = tl.maximum(most, value, tl.PropagateNan.ALL)
            begin += BLOCK_F
        least = tl.max(tl.max(most, axis=1), axis=0) - RANGE
    if MEAN:
        total = zero
        begin = 0
        while begin < count:
            value, _there = _features(lines, begin + frame, column, count, COLUMNS, 0.0)
            total += value
            begin += BLOCK_F
        mean = tl.sum(total, axis=0) / tl.maximum(count, 1)
    if DEVIATION:
        total = zero
        begin = 0
        while begin < count:
            value, there = _features(lines, begin + frame, column, count, COLUMNS, 0.0)
            value = tl.where(there, value - mean[None, :], 0.0)
            total += value * value
            begin += BLOCK_F
        deviation = tl.sqrt(tl.sum(total, axis=0) / tl.maximum(count - DDOF, 1))
        factor = tl.where(deviation == 0, 0.0, 1 / (deviation + EPS))
    filling = 0.0
    if FILL == "mean":
        total = zero
        begin = 0
        while begin < count:
            value, there = _features(lines, begin + frame, column, count, COLUMNS, 0.0)
            total += tl.where(there, _normal(value, least, mean, factor, PEAK, SHIFT, SLOPE), 0.0)
            begin += BLOCK_F
        filling = tl.sum(tl.sum(total, axis=1), axis=0) / tl.maximum(count * COLUMNS, 1)
    if FILL == "given":
        filling = tl.load(fill + sample)
    in_freq = _covered(column, freq_spans + sample * (2 * FREQ), FREQ)
    begin = 0
    while begin < stop:
        value, there = _features(lines, begin + frame, column, count, COLUMNS, 0.0)
        value = _normal(value, least, mean, factor, PEAK, SHIFT, SLOPE)
        masked = _covered(begin + frame, time_spans + sample * (2 * TIME), TIME)[:, None] | in_freq[None, :]
        value = tl.where(there, tl.where(masked, filling, value), pad_value)
        at = to + (begin + frame).to(tl.int64)[:, None] * COLUMNS + column[None, :]
        stored = (begin + frame < stop)[:, None] & (column < COLUMNS)[None, :]
        tl.store(at, value.to(out.dtype.element_ty), mask=stored)
        begin += BLOCK_F

# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""FSQ against the rules of the official tokenizer, in float64 and by brute force."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nbp.nn.fsq import Fsq

OFFICIAL = (8, 8, 8, 5, 5, 5)


def quantize_number(z: float, levels: int) -> tuple[float, int]:
    """(value before rounding, digit) of one number."""
    half = (levels - 1) * (1 - 1e-3) / 2
    offset = 0.5 if levels % 2 == 0 else 0.0
    bounded = math.tanh(z + math.tan(offset / half)) * half - offset
    return bounded, round(bounded) + levels // 2  # Python rounds half to even


@pytest.mark.parametrize("levels", [OFFICIAL, (2, 3, 4, 7)])
def test_quantize_number_by_number(levels):
    z = np.random.default_rng(0).normal(size=(50, len(levels)), scale=2).astype(np.float32)
    z[0], z[1], z[2] = 0.0, 50.0, -50.0
    fsq = Fsq(levels)
    bounded, quantized = np.asarray(fsq.bound(z)), np.asarray(fsq.quantize(z))
    index = np.asarray(fsq.index(quantized))
    for row in range(len(z)):
        code, basis = 0, 1
        for channel, count in enumerate(levels):
            value, digit = quantize_number(float(z[row, channel]), count)
            assert 0 <= digit < count
            assert bounded[row, channel] == pytest.approx(value, abs=2e-6)
            if abs(value - math.floor(value) - 0.5) > 1e-5:  # else float32 may round otherwise
                wanted = (digit - count // 2) / (count // 2)
                assert quantized[row, channel] == pytest.approx(wanted, abs=1e-6)
            code += round(float(quantized[row, channel]) * (count // 2) + count // 2) * basis
            basis *= count  # channel 0 is the least significant
        assert index[row] == code


def test_official_constants():
    fsq = Fsq(OFFICIAL)
    assert (fsq.codes, fsq.channels) == (64000, 6)
    zero = np.asarray(fsq.bound(np.zeros((1, 6), np.float32)))[0]
    # tan, not atanh: the middle of an even channel is not exactly -0 but a little above.
    assert zero[0] == pytest.approx(math.tanh(0.143983) * 3.4965 - 0.5, abs=1e-5)
    assert zero[5] == 0.0
    one_step = np.eye(6, dtype=np.float32) / np.array([4, 4, 4, 2, 2, 2], np.float32)
    lowest = np.asarray(fsq.lookup(np.array([0])))
    np.testing.assert_array_equal(fsq.index(lowest + one_step), [1, 8, 64, 512, 2560, 12800])


@pytest.mark.parametrize("levels", [(2,), (3, 2), (4, 5, 3), (2, 3, 4, 5)])
def test_every_code_round_trips(levels):
    fsq = Fsq(levels)
    vectors = np.asarray(fsq.lookup(np.arange(fsq.codes)))
    np.testing.assert_array_equal(fsq.index(vectors), np.arange(fsq.codes))
    axes = [[(d - n // 2) / (n // 2) for d in range(n)] for n in reversed(levels)]
    expected = [point[::-1] for point in itertools.product(*axes)]
    np.testing.assert_allclose(vectors, expected, atol=1e-7)


def test_official_codes_round_trip():
    fsq = Fsq(OFFICIAL)
    codes = np.random.default_rng(1).integers(0, fsq.codes, (4, 5, 20))
    codes[0, 0, :2] = 0, fsq.codes - 1
    vectors = fsq.lookup(codes)
    assert vectors.shape == (4, 5, 20, 6)
    np.testing.assert_array_equal(fsq.index(vectors), codes)


def test_every_official_level_is_reached():
    z = np.linspace(-6, 6, 4001, dtype=np.float32)
    for channel, count in enumerate(OFFICIAL):
        values = np.asarray(Fsq(OFFICIAL).quantize(np.tile(z[:, None], 6)))[:, channel]
        assert len(np.unique(np.round(values * (count // 2)))) == count
        assert (np.diff(np.round(values * (count // 2))) >= 0).all()


def test_gradient_passes_straight_through_the_rounding():
    z = np.random.default_rng(2).normal(size=(5, 6)).astype(np.float32)
    weight = np.random.default_rng(3).normal(size=(5, 6)).astype(np.float32)
    gradient = jax.grad(lambda z: jnp.sum(Fsq(OFFICIAL).quantize(z) * weight))(jnp.asarray(z))
    for i, channel in np.ndindex(z.shape):
        count, x = OFFICIAL[channel], float(z[i, channel])
        up, down = quantize_number(x + 1e-5, count)[0], quantize_number(x - 1e-5, count)[0]
        slope = (up - down) / 2e-5 / (count // 2)
        assert gradient[i, channel] == pytest.approx(weight[i, channel] * slope, abs=1e-5)


@pytest.mark.parametrize("levels", [(), (8, 1)])
def test_senseless_levels_are_refused(levels):
    with pytest.raises(ValueError, match="each >= 2"):
        Fsq(levels)

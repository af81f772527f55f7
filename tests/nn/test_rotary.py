# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Rotation of pairs of channels against complex numbers in float64."""

import jax.numpy as jnp
import numpy as np
import pytest

from nbp.layout import LatentGrid, Opening, SequencePlan
from nbp.nn.rotary import make_frequencies, make_rotation, turn_angles, turn_pairs
from tests.models.toy import rotary_places, rotary_speeds


def test_the_axes_take_the_pairs_in_turn():
    found = make_frequencies(32)
    np.testing.assert_allclose(found.T, rotary_speeds(32))
    assert [int(axis) for axis in found.argmax(0)] == [0, 1, 2] * 5 + [0]
    assert (found.max(0)[:3] == 1).all(), "the fastest turn by a radian a step"
    assert 0.01 < found.max(0).min() < 0.03
    for width in (4, 7):
        with pytest.raises(ValueError, match=f"even width of 6 or more, not {width}"):
            make_frequencies(width)


@pytest.mark.parametrize(
    "block, opening, prompt, partition",
    [
        ((1, 1, 4), Opening("hybrid", 2), 1, "box"),
        ((1, 2, 2), Opening("bov"), 2, "strided"),
        ((1, 1, 4), Opening("prefix"), 0, "box"),
        ((2, 2, 1), Opening("hybrid"), 0, "box"),
    ],
)
def test_places_that_are_predicted_and_read(block, opening, prompt, partition):
    plan = SequencePlan(LatentGrid(2, 2, 4), block, opening, prompt, partition)
    np.testing.assert_array_equal(plan.rotary_coordinates, np.stack(rotary_places(plan)))


def test_a_row_reads_the_row_before_also_over_the_border_of_a_frame():
    plan = SequencePlan(LatentGrid(2, 2, 2), (1, 1, 2), Opening("bov"), 1)
    wanted, read = plan.rotary_coordinates.astype(float).tolist()
    assert wanted[0] == read[0] == [-1, 0.5, 0.5]
    assert wanted[1:3] == read[1:3] == [[0, 0, 0], [0, 0, 1]]  # special ids
    assert wanted[5:7] == [[1, 0, 0], [1, 0, 1]]
    assert read[5:7] == [[0, 1, 0], [0, 1, 1]]


def test_scores_are_those_of_complex_numbers_and_know_differences_alone():
    rng = np.random.default_rng(0)
    q, k = rng.normal(size=(2, 1, 5, 2, 12))
    wanted, read = rng.integers(0, 6, (2, 5, 3)).astype(float)
    angles = np.stack([wanted, read]) @ make_frequencies(12)

    def scores(later):
        shift = None if later is None else turn_angles(later, 12)
        rotation = make_rotation(jnp.asarray(angles, jnp.float32), 2, later=shift)
        turned = rotation.turn(jnp.asarray(q, jnp.float32), jnp.asarray(k, jnp.float32))
        columns = rotation.turn_columns(*(jnp.moveaxis(x, 1, 3) for x in (q, k)))
        for one, other in zip(turned, columns, strict=True):
            np.testing.assert_allclose(one, jnp.moveaxis(other, 3, 1), atol=1e-6)
        return np.einsum("bnkd,bmkd->bknm", *turned)

    one, other = (x[..., :6] + 1j * x[..., 6:] for x in (q, k))
    for head, places in enumerate((read, wanted)):
        apart = np.exp(1j * ((wanted[:, None] - places[None]) @ make_frequencies(12)))
        expected = np.einsum("ne,me,nme->nm", one[0, :, head], other[0, :, head].conj(), apart)
        np.testing.assert_allclose(scores(None)[0, head], expected.real, atol=1e-5)
        for later in (3, 40_000, 999_999):
            np.testing.assert_allclose(scores(later)[0, head], expected.real, atol=2e-3)


def test_angles_of_late_frames():
    for frames in (0, 5, 1023, 1024, 123_456):
        found = np.asarray(turn_angles(frames, 12), float)
        expected = frames * make_frequencies(12)[0]
        np.testing.assert_allclose(np.exp(1j * found), np.exp(1j * expected), atol=3e-4)


def test_half_precision_is_turned_in_float32():
    x = jnp.asarray(np.random.default_rng(1).normal(size=(7, 8)), jnp.bfloat16)
    angles = np.linspace(0, 3, 28).reshape(7, 4).astype(np.float32)
    found = turn_pairs(x, np.cos(angles), np.sin(angles), axis=-1)
    exact = turn_pairs(x.astype(jnp.float32), np.cos(angles), np.sin(angles), axis=-1)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found, exact.astype(jnp.bfloat16))

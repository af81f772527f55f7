# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Guidance and temperature that change from pass to pass: their values, and what they draw."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nbp.layout import LatentGrid, Opening
from nbp.sampling.filtering import Ramp, draw_tokens, guidance_weight
from nbp.sampling.generate import generate
from nbp.sampling.settings import SamplingConfig
from tests.models.toy import LABELS, draw_params, make_network, reference_logits

PASSES = 5


def test_ramps_reach_their_ends():
    def values(shape: Any) -> list[float]:
        return [float(Ramp(1.5, 0.5, shape).at(i, PASSES)) for i in range(PASSES)]

    assert values("constant") == [1.5] * 5
    np.testing.assert_allclose(values("linear"), [1.5, 1.25, 1.0, 0.75, 0.5])
    expected = [1.0 + 0.5 * math.cos(math.pi * i / 4) for i in range(PASSES)]
    np.testing.assert_allclose(values("cosine"), expected, atol=1e-6)
    assert Ramp(1.5, 0.5).at(0, 1) == 1.5, "a single pass has the start"


def test_guidance_grows_or_stays_and_keeps_to_its_passes():
    def weights(schedule: Any = "constant", start: float = 0.0, end: float = 1.0) -> list[float]:
        sampling = SamplingConfig(
            guidance=2.0, guidance_schedule=schedule, guidance_start=start, guidance_end=end
        )
        return [float(guidance_weight(sampling, i, PASSES)) for i in range(PASSES)]

    assert weights() == [2.0] * 5
    assert weights("ramp") == [0.0, 2.0, 4.0, 6.0, 8.0]
    assert weights("linear") == [0.0, 0.5, 1.0, 1.5, 2.0]
    np.testing.assert_allclose(weights("cosine"), [0, 0.29289, 1, 1.70711, 2], atol=1e-5)
    assert weights("constant", 0.4, 0.8) == [0.0, 0.0, 2.0, 2.0, 0.0]
    assert weights("linear", 0.0, 0.6) == [0.0, 0.5, 1.0, 0.0, 0.0]


@pytest.mark.parametrize("bounds", [(-0.1, 1.0), (0.5, 0.5), (0.0, 1.1), (math.nan, 1.0)])
def test_impossible_intervals_are_refused(bounds):
    with pytest.raises(ValueError, match="0 <= start < end <= 1"):
        SamplingConfig(guidance=1.0, guidance_start=bounds[0], guidance_end=bounds[1])


@pytest.mark.parametrize("end", [1e-4, -1.0])
def test_impossible_temperatures_are_refused(end):
    with pytest.raises(ValueError, match="temperature_end .* must be from 0.001"):
        SamplingConfig(temperature_end=end)


@pytest.mark.parametrize(
    "guidance",
    [
        {"guidance": 1.5, "guidance_schedule": "linear"},
        {"guidance": 1.5, "guidance_schedule": "cosine"},
        {"guidance": 2.0, "guidance_start": 0.3, "guidance_end": 0.7},
    ],
)
def test_scheduled_guidance_blends_two_full_passes(guidance):
    sampling = SamplingConfig(temperature=0.0, **guidance)
    network = make_network(LatentGrid(2, 2, 2), (1, 1, 2), Opening("bov"), prompt=1)
    params = draw_params(network, seed=3)
    prompt = np.random.default_rng(1).integers(0, LABELS, (2, 1), np.int32)
    plan, offset = network.plan, network.vocabulary.code_offset
    ids = np.zeros((2, plan.grid.size), int)
    for index in range(plan.passes()):
        conditional = reference_logits(network, params, ids, prompt)
        null = reference_logits(network, params, ids, prompt, null=True)
        t = float(guidance_weight(sampling, index, plan.passes()))
        new = slice(2 * index, 2 * index + 2)
        ids[:, new] = ((1 + t) * conditional - t * null)[:, new].argmax(-1) + offset

    @jax.jit
    def draw(params):
        return generate(
            network.bind(params),
            jax.random.key(0),
            jnp.arange(2),
            prompt=jnp.asarray(prompt),
            sampling=sampling,
        )

    np.testing.assert_array_equal(draw(params), ids - offset)


@pytest.mark.parametrize("shape, hottest", [("linear", 0), ("cosine", 0), ("linear", 2)])
def test_each_pass_draws_at_its_own_temperature(shape, hottest):
    """Three passes of one token whose logits are the same: the shares tell the temperature."""
    ends = (4.0, 0.25) if hottest == 0 else (0.25, 4.0)
    sampling = SamplingConfig(
        temperature=ends[0], temperature_end=ends[1], temperature_schedule=shape
    )
    logits = np.log(np.array([0.6, 0.3, 0.1]))
    count = 4_000
    rows = jnp.broadcast_to(jnp.asarray(logits, jnp.float32), (count, 1, 3))

    @jax.jit
    def draw(index, keys):
        return draw_tokens(sampling, keys, rows, index=index, passes=3)[:, 0]

    for index, middle in enumerate((ends[0], (ends[0] + ends[1]) / 2, ends[1])):
        share = np.exp(logits / middle) / np.exp(logits / middle).sum()
        drawn = draw(jnp.asarray(index), jax.random.split(jax.random.key(index), count))
        found = np.bincount(np.asarray(drawn), minlength=3) / count
        np.testing.assert_allclose(found, share, atol=4 * math.sqrt(0.25 / count))


def test_equal_ends_are_no_schedule():
    assert not SamplingConfig(temperature=0.8, temperature_end=0.8).scheduled
    assert SamplingConfig(temperature=0.8, temperature_end=0.9).scheduled

# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""bfloat16 compute stays near the float32 logits of the reference (docs/official_parity.md)."""

import dataclasses
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from tests.official_parity.comparison import Reader
from tests.official_parity.gpt_network import make_network, make_params, read_prompt
from tests.official_parity.runner import read_cases

MODELS = Path(__file__).parent.parent / "golden" / "models"
# As shares of the logits' standard deviation: root mean square, and the worst element.
MEAN_BOUND, WORST_BOUND = 0.02, 0.1


def errors(dtype) -> tuple[float, float]:
    """Root mean square and worst error of the logits of a golden case, in standard deviations."""
    (case,) = (c for c in read_cases(MODELS) if c["name"] == "gpt_hybrid_label_b4")
    with np.load(MODELS / case["file"]) as arrays:
        values = {name: arrays[name] for name in arrays.files}
    config, read = Reader("config", case["config"]), Reader("arrays", values)
    codes, prompt = read["z_indices"], read_prompt(config, read)
    network = make_network(config, codes.shape[1], prompt)
    network = dataclasses.replace(network, spec=dataclasses.replace(network.spec, dtype=dtype))
    logits = network.bind(make_params(network))(jnp.asarray(codes), jnp.asarray(prompt))
    expected = read["logits"][:, network.plan.prompt_length :]
    assert logits.dtype == jnp.float32
    assert logits.shape == expected.shape
    difference = np.abs(np.asarray(logits) - expected) / expected.std()
    return float(np.sqrt(np.mean(difference**2))), float(difference.max())


def test_bfloat16_logits_stay_within_the_stated_bound():
    mean, worst = errors(jnp.bfloat16)
    assert 1e-4 < mean < MEAN_BOUND  # below that it would not have been bfloat16
    assert worst < WORST_BOUND


def test_float32_is_far_nearer():
    assert errors(jnp.float32)[1] < 1e-4

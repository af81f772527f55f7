# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""tokamax's kernels lower for GPUs that are not here; our part of it is in `test_reference`."""

import logging
import re

import jax
import jax.extend.backend
import jax.numpy as jnp
import numpy as np
import pytest

from nbp.errors import ConfigError
from nbp.nn.attention.mosaic import MosaicAttention
from nbp.nn.transformer import Remat, make_policy
from tests.nn.devices import BLACKWELL, CAPABILITIES, HOPPER, Gpu, describe_gpu


def lower(monkeypatch, kind: str, dtype, *, width=96, masked=False, remat: Remat = "none") -> str:
    """Forward and backward pass over lengths that are no multiple of a tile."""
    gpu = Gpu(kind, CAPABILITIES[kind])
    monkeypatch.setattr(jax.extend.backend, "get_default_device", lambda: gpu)
    limits = np.minimum(np.arange(1, 302), 300)
    shape = jax.ShapeDtypeStruct((2, 301, 2, width), dtype)
    shown = jax.ShapeDtypeStruct((2, 301), jnp.bool_) if masked else None

    def run(q, k, v, weight, shown):
        attend = jax.checkpoint(
            lambda q, k, v: MosaicAttention()(q, k, v, limits, shown), policy=make_policy(remat)
        )
        out, pull = jax.vjp(attend, q, k, v)
        return out, pull(weight)

    with describe_gpu(kind):
        traced = jax.jit(run).trace(shape, shape, shape, shape, shown)
        return traced.lower(lowering_platforms=("cuda",)).as_text()


def count_kernels(text: str) -> int:
    return len(re.findall(r"custom_call @mosaic_gpu", text))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("kind", CAPABILITIES)
def test_they_lower_for_a_gpu_that_is_not_here(monkeypatch, caplog, kind, dtype, masked):
    with caplog.at_level(logging.WARNING):
        text = lower(monkeypatch, kind, dtype, masked=masked)
    generation = {HOPPER: "sm90", BLACKWELL: "sm100"}[kind]
    assert count_kernels(text) == 3  # forward, and two backward
    assert f"flash_attention_{generation}" in text
    assert not re.search(r"tensor<2x(?:1|2)x\d+x\d+xi1>", text)  # no mask of queries by keys
    assert not caplog.records


@pytest.mark.parametrize("remat, kernels", [("dots", 3), ("full", 4)])
def test_what_the_backward_pass_computes_again(monkeypatch, remat, kernels):
    """`dots` keeps what the kernel gave, `full` runs it again."""
    assert count_kernels(lower(monkeypatch, HOPPER, jnp.bfloat16, remat=remat)) == kernels


def test_heads_that_are_too_wide_for_a_gradient_are_one_line(monkeypatch):
    with pytest.raises(ConfigError, match="no gradient for heads of width 256.*or pallas"):
        lower(monkeypatch, BLACKWELL, jnp.bfloat16, width=256)
    assert count_kernels(lower(monkeypatch, HOPPER, jnp.bfloat16, width=256)) == 3

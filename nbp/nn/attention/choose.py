# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""The attention backends by name, and which one serves where."""

from typing import Any, Literal, assert_never

import jax.numpy as jnp

from nbp.errors import ConfigError
from nbp.nn.attention.reference import (
    AttentionBackend,
    dense_attention,
    prefix_attention,
    xla_attention,
)

Name = Literal["prefix", "xla", "dense", "pallas", "cudnn", "splash"]
# Backends that are kernels of one platform; the others run on all.
PLATFORMS = {"pallas": "gpu", "cudnn": "gpu", "splash": "tpu"}


def choose_attention(name: Name | Literal["auto"], platform: str) -> Name:
    """The backend that `auto` stands for on a platform (`cpu`, `gpu` or `tpu`).

    On GPUs the kernel that skips hidden tiles, not cuDNN, which skips none (docs/architecture.md).
    """
    if name != "auto":
        return name
    return {"gpu": "pallas", "tpu": "splash"}.get(platform, "prefix")  # type: ignore[return-value]


def make_attention_backend(
    name: Name | Literal["auto"], *, platform: str, dtype: Any
) -> AttentionBackend:
    """The backend of this name for a platform and a compute type.

    Raises ConfigError where it cannot serve.
    """
    name = choose_attention(name, platform)
    needed = PLATFORMS.get(name, platform)
    if needed != platform:
        raise ConfigError(
            f"generator.attention={name} runs on a {needed.upper()}, and this program is for a "
            f"{platform.upper()}: use auto, prefix, xla or dense"
        )
    match name:
        case "prefix":
            return prefix_attention
        case "xla":
            return xla_attention
        case "dense":
            return dense_attention
        case "pallas":
            from nbp.nn.attention.pallas import PallasAttention

            return PallasAttention()
        case "splash":
            from nbp.nn.attention.splash import SplashAttention

            return SplashAttention()
        case "cudnn":
            if jnp.dtype(dtype).itemsize != 2:
                raise ConfigError(
                    f"generator.attention=cudnn computes in half precision, not in {dtype}: use "
                    "auto, or --config.generator.dtype=bfloat16"
                )
            from nbp.nn.attention.cudnn import CudnnAttention

            return CudnnAttention()
        case _ as never:
            assert_never(never)
